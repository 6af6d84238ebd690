"""What can be known to go wrong before any long work: steps the model does not allow, unwise settings."""

from pathlib import Path
from tempfile import TemporaryDirectory

from kezuri.core.errors import ModelError
from kezuri.model.coupling import couple, protected_parameters
from kezuri.model.depth import find_blocks
from kezuri.prune.depth import count_blocks
from kezuri.recipe.prepare import Prepared
from kezuri.recipe.step import Resources, Step
from kezuri.recipe.steps.pcas import PcasLoop
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.prune_blocks import PruneBlocks
from kezuri.runtime.export import export_onnx

SHOWN = 5


def foresee(prepared: Prepared, resources: Resources) -> None:
    """Follows and exports the model as the run will, so that it does not fail after hours of training.

    Raises:
        ModelError: torch.export cannot follow the model (the line is named), nothing of it may be cut, or it
            has an operation that ONNX has not.
        UsageError: a layer to leave alone is not there, or more blocks are to go than may.
    """
    for step in prepared.recipe.steps:
        if isinstance(step, PruneBlocks):
            count_blocks(find_blocks(prepared.model, resources.example, protect=step.ignore), step.drop)
    for plan in _prunings(prepared):
        if plan.cuts:
            couplings = couple(prepared.model, resources.example, protect=plan.ignore)
            if not plan.candidates(couplings):
                rows = [f"{row.layer} ({row.reason})" for row in couplings.explain() if row.reason]
                more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
                raise ModelError(
                    f"no channel of {prepared.recipe.model.use} may be cut: "
                    f"{', '.join(rows[:SHOWN]) or 'it has no layer whose channels are known'}{more}"
                )
    with TemporaryDirectory() as folder:
        export_onnx(prepared.model, prepared.data.image_shape, Path(folder) / "model.onnx")


def check_ignored(prepared: Prepared) -> None:
    """Looks for the layers to leave alone.

    Raises:
        UsageError: one is not there; near names are listed.
    """
    for plan in _prunings(prepared):
        protected_parameters(prepared.model, plan.ignore)


def _prunings(prepared: Prepared) -> list[Prune]:
    plans = [step.as_prune() if isinstance(step, PcasLoop) else step for step in prepared.recipe.steps]
    return [plan for plan in plans if isinstance(plan, Prune)]


def warnings_of(prepared: Prepared) -> list[str]:
    """Settings that are allowed but known to fail, each with the reason."""
    said = [warning for step in prepared.recipe.steps for warning in step.warnings()]
    have, asked = len(prepared.data.train), max(map(batch_size, prepared.recipe.steps))
    if asked > have:
        said.append(f"batch_size {asked} is more than the {have} training images: an epoch is a single step")
    return said


def batch_size(step: Step) -> int:
    """Images a training step of this step takes."""
    plan = step.as_prune() if isinstance(step, PcasLoop) else step
    return int(plan.finetune.batch_size if isinstance(plan, Prune) else getattr(plan, "batch_size", 1))
