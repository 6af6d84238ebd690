"""Whatever a criterion needs to know, gathered: from a pass over data, or from gates trained on the model."""

from collections.abc import Sequence

import torch
from torch import nn

from kezuri.calibrate.run import Sample
from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.model.coupling import Coupling
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.criterion import Criterion
from kezuri.prune.evidence import Evidence, gather_evidence
from kezuri.prune.pcas import attention_evidence
from kezuri.train import Progress


def gather(
    model: nn.Module,
    criterion: Criterion,
    data: Data,
    *,
    couplings: Sequence[Coupling] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "auto",
    progress: Progress | None = None,
) -> dict[str, Evidence]:
    """The evidence a criterion needs; the model is left as it was.

    Args:
        model: the model to prune.
        criterion: says what it needs; if that is nothing, no data is looked at.
        data: its training part is used.
        couplings: whose channels may go; PCAS needs them to know where its gates belong, and passes over the
            blocked ones of a whole `couple(model, …)`. Others learn from them of weights that are not of
            linear layers and convolutions.
        batch_size, seed, device, progress: for gates that are trained.

    Raises:
        UsageError: PCAS without couplings.
        MissingEvidence: what the criterion needs cannot be gathered.
    """
    if not isinstance(criterion, Pcas):
        sample = Sample(seed=derive(seed, "calibration"))
        return gather_evidence(model, criterion, data.train, sample=sample, couplings=couplings or ())
    if not couplings:
        raise UsageError(
            "PCAS looks at channels: use the granularity 'channel', and pass couplings=couple(model, …)"
        )
    return attention_evidence(
        model,
        data,
        [coupling for coupling in couplings if coupling.reason is None],
        criterion,
        batch_size=batch_size,
        seed=seed,
        device=device,
        progress=progress,
    )
