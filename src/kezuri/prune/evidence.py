"""What calibration learnt about one weight."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kezuri.calibrate.collector import collectors
from kezuri.calibrate.run import Sample, collect
from kezuri.core.errors import MissingEvidence
from kezuri.model.families import Coupling

if TYPE_CHECKING:
    from kezuri.data import Part
    from kezuri.prune.criterion import Criterion


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about one weight beside its values; a part is None until collected.

    Outputs come first (dimension 0), also of weights that keep them elsewhere (transposed convolutions).

    Attributes:
        name: the weight's parameter name.
        taylor_weight: mean over batches of (w·∂L/∂w)², of the weight's shape.
        taylor_channel: the same of the sum over each output channel, (outputs,).
        taylor_gate: mean over batches of (∂L/∂g)² of a gate behind each channel's BatchNorm, (outputs,).
        fisher_weight: mean over images of (w·∂L/∂w)², of the weight's shape.
        fisher_channel: mean over images of (∂L/∂g)² of a gate behind each channel's BatchNorm, (outputs,).
        norm_scale: |γ| of the BatchNorm that reads the layer's output, (outputs,).
        map_rank: mean rank of the channel's feature map, (outputs,).
        input_norm: ℓ2 norm of the input channel, (outputs, inputs an output reads).
        gate: a statistic of the attention gate trained on the layer's output, (outputs,).
    """

    name: str = ""
    taylor_weight: Tensor | None = None
    taylor_channel: Tensor | None = None
    taylor_gate: Tensor | None = None
    fisher_weight: Tensor | None = None
    fisher_channel: Tensor | None = None
    norm_scale: Tensor | None = None
    map_rank: Tensor | None = None
    input_norm: Tensor | None = None
    gate: Tensor | None = None

    def require(self, part: str) -> Tensor:
        """The tensor of one part.

        Raises:
            MissingEvidence: it was not collected for this weight.
        """
        value: Tensor | None = getattr(self, part)
        if value is None:
            have = [f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) is not None]
            raise MissingEvidence(
                f"{self.name or 'a weight'} has no {part!r} evidence (has: {', '.join(have) or 'none'})"
                f"; {_WHY[part]}"
            )
        return value


_GRADIENT = "gather_evidence collects it for weights that the loss depends on"
_CALLED = (
    "gather_evidence collects it for layers that run as modules of their own; list the others under `ignore`"
)
_WHY = {
    "taylor_weight": _GRADIENT,
    "taylor_channel": _GRADIENT,
    "taylor_gate": _GRADIENT,
    "fisher_weight": _GRADIENT,
    "fisher_channel": _GRADIENT,
    "norm_scale": "gather_evidence collects it for layers whose output goes straight into a BatchNorm; "
    "list the others under `ignore`",
    "map_rank": _CALLED,
    "input_norm": _CALLED,
    "gate": "it comes from attention gates trained on the model, as the pcas step does",
}


def gather_evidence(
    model: nn.Module,
    criterion: "Criterion",
    part: "Part",
    *,
    sample: Sample | None = None,
    couplings: Iterable[Coupling] = (),
) -> dict[str, Evidence]:
    """Collects the evidence that a criterion needs, in one pass over sample data.

    Args:
        model: left as it was.
        criterion: says what it needs; if that is nothing, no data is looked at.
        part: training images.
        sample: how much of them and which; 20 batches of 64 images by default.
        couplings: whose channels may go; other parameters that write those (recurrent, loose) are learnt
            about as well, as far as the criterion needs nothing but gradients.

    Returns:
        evidence by weight name, for every convolution and linear layer and what the couplings add.

    Raises:
        MissingEvidence: what the criterion needs does not come from a pass over data.
    """
    if not criterion.needs:
        return {}
    if missing := sorted(criterion.needs - set(collectors)):
        raise MissingEvidence(
            f"no collector gives {missing[0]!r} (have: {', '.join(sorted(collectors))}); {_WHY[missing[0]]}"
        )
    listening = [collectors[name]() for name in sorted(criterion.needs)]
    others = {
        member.parameter: member.dim
        for coupling in couplings
        for member in reversed(coupling.members)  # of two dimensions, the first is the name's
        if member.role == "output"
    }
    learnt: Mapping[str, Mapping[str, Any]] = collect(
        model, part, listening, sample=sample or Sample(), others=others
    )
    return {name: Evidence(name=name, **parts) for name, parts in learnt.items()}
