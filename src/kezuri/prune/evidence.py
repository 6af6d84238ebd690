"""What calibration learnt about one weight."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kezuri.calibrate.collector import collectors
from kezuri.calibrate.run import Sample, collect
from kezuri.core.errors import MissingEvidence

if TYPE_CHECKING:
    from kezuri.data import Part
    from kezuri.prune.criterion import Criterion


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about one weight beside its values; a part is None until collected.

    Attributes:
        name: the weight's parameter name.
        taylor_weight: mean over batches of (w·∂L/∂w)², of the weight's shape.
        taylor_channel: the same of the sum over each output channel, (outputs,).
        norm_scale: |γ| of the BatchNorm that reads the layer's output, (outputs,).
        gate: a statistic of the attention gate trained on the layer's output, (outputs,).
    """

    name: str = ""
    taylor_weight: Tensor | None = None
    taylor_channel: Tensor | None = None
    norm_scale: Tensor | None = None
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


_WHY = {
    "taylor_weight": "gather_evidence collects it for layers that the loss depends on",
    "taylor_channel": "gather_evidence collects it for layers that the loss depends on",
    "norm_scale": "gather_evidence collects it for layers whose output goes straight into a BatchNorm; "
    "list the others under `ignore`",
    "gate": "it comes from attention gates trained on the model, as the pcas step does",
}


def gather_evidence(
    model: nn.Module, criterion: "Criterion", part: "Part", *, sample: Sample | None = None
) -> dict[str, Evidence]:
    """Collects the evidence that a criterion needs, in one pass over sample data.

    Args:
        model: left as it was.
        criterion: says what it needs; if that is nothing, no data is looked at.
        part: training images.
        sample: how much of them and which; 20 batches of 64 images by default.

    Returns:
        evidence by weight name, for every convolution and linear layer.

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
    learnt: Mapping[str, Mapping[str, Any]] = collect(model, part, listening, sample=sample or Sample())
    return {name: Evidence(name=name, **parts) for name, parts in learnt.items()}
