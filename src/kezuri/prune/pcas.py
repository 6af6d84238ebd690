"""The evidence PCAS asks for: attention statistics of every channel, from gates trained on the model."""

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.model.coupling import Coupling
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.evidence import Evidence
from kezuri.prune.gates import Gated
from kezuri.train import Hook, Progress, Training, fit
from kezuri.train.lr_schedules import Constant
from kezuri.train.optimizers import Adam

STATISTIC_IMAGES = 2000


def attention_evidence(
    model: nn.Module,
    data: Data,
    couplings: Sequence[Coupling],
    criterion: Pcas,
    *,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "auto",
    progress: Progress | None = None,
) -> dict[str, Evidence]:
    """Trains attention gates on the frozen model and averages what they say (Yamamoto & Maeno, 2018).

    Gates see training images only. The statistic is the mean factor over 2,000 of them, accumulated in
    float64, in evaluation mode.

    Args:
        model: left as it was: weights, BatchNorm statistics, modes and hooks.
        data: its training part is used.
        couplings: those whose channels may go.
        criterion: form of the gates and how they are trained.
        batch_size: images a step.
        seed: for the gates' first weights, coins and the order of the images.
        device: where to train.
        progress: told about the training.

    Returns:
        for every weight that produces channels of a coupling, `gate`: (outputs,), higher is kept.

    Raises:
        MissingEvidence: a coupling has no place for a gate.
        TrainingDiverged: the gates' loss stopped being finite.
    """
    generator = torch.Generator().manual_seed(derive(seed, "gates"))
    gated = Gated(model, couplings, form=criterion.gate, reduction=criterion.reduction, generator=generator)
    training = Training(
        epochs=criterion.epochs,
        lr=criterion.lr,
        batch_size=batch_size,
        optimizer=Adam(weight_decay=0.0),
        lr_schedule=Constant(),
        keep="last",
    )
    steps = max(1, round(criterion.epochs * len(data.train) / batch_size))
    with gated.attached():
        fit(
            gated,
            data,
            training,
            seed=derive(seed, "gates", "training"),
            device=device,
            parameters=gated.gates.parameters(),
            hooks=(_Guide(criterion, steps),),
            progress=progress,
        )
        means = _mean_openness(gated, data, batch_size=batch_size, seed=seed)
    return _spread(model, couplings, gated.places, means)


class _Guide(Hook):
    """What happens to gates while they train: β rises, and a budget asks some of them to close."""

    def __init__(self, criterion: Pcas, steps: int) -> None:
        self.criterion = criterion
        self.steps = steps
        self.progress = 0.0

    def before_forward(self, model: nn.Module, step: int) -> None:
        assert isinstance(model, Gated)
        self.progress = step / max(1, self.steps - 1)
        model.anneal(min(1.0, 0.1 + 0.9 * self.progress))

    def penalty(self, model: nn.Module) -> Tensor | None:
        if self.criterion.gate != "concrete":
            return None
        assert isinstance(model, Gated)
        target = 1 - (1 - self.criterion.budget) * min(1.0, 2 * self.progress)
        opened = torch.cat([openness.mean(dim=0) for openness in model.openness()]).mean()
        return self.criterion.pull * torch.relu(opened - target).square()


def _mean_openness(gated: Gated, data: Data, *, batch_size: int, seed: int) -> list[Tensor]:
    device = next(gated.parameters()).device
    gated.eval()
    totals: list[Tensor] = []
    images = 0
    stream = data.train.batches(batch_size, seed=derive(seed, "gates", "statistics"), device=device)
    for batch in islice(stream, -(-STATISTIC_IMAGES // batch_size)):
        with torch.inference_mode():
            gated(batch.images)
        count = len(batch.images)
        # a concrete gate answers once for the whole batch
        sums = [o.double().mean(dim=0) * count for o in gated.openness()]
        totals = sums if not totals else [total + one for total, one in zip(totals, sums, strict=True)]
        images += count
    return [(total / images).cpu() for total in totals]


def _spread(
    model: nn.Module, couplings: Sequence[Coupling], places: list[str], means: list[Tensor]
) -> dict[str, Evidence]:
    """The statistic of each coupling, laid over the outputs of every weight that produces its channels."""
    found: dict[str, Tensor] = {}
    parameters: Mapping[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for coupling in couplings:
        heard = [mean for place, mean in zip(places, means, strict=True) if place == coupling.name]
        statistic = torch.stack(heard).mean(dim=0)
        for member in coupling.members:
            if member.role != "output":
                continue
            outputs = parameters[member.parameter].shape[member.dim]
            gate = found.setdefault(member.parameter, torch.ones(outputs, dtype=torch.float64))
            gate[torch.from_numpy(member.positions)] = statistic[:, None]
    return {
        name: Evidence(name=name, gate=gate.float().to(parameters[name].device))
        for name, gate in found.items()
    }
