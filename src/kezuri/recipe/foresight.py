"""What can be known to go wrong before any long work: steps the model does not allow, unwise settings."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kezuri.core.errors import ModelError, UsageError
from kezuri.distillation.assistant import larger_student
from kezuri.distillation.teacher import glance_at_teacher
from kezuri.model.coupling import couple, protected_parameters
from kezuri.model.depth import find_blocks
from kezuri.prune.depth import count_blocks
from kezuri.quantization.layer_losses import LayerCosts
from kezuri.quantization.network import with_quantizers
from kezuri.recipe.parts import parts_in
from kezuri.recipe.prepare import Prepared
from kezuri.recipe.recipe import Recipe
from kezuri.recipe.requantizing import quantized_before
from kezuri.recipe.step import ModelState, Resources, Step, steps
from kezuri.recipe.steps.distill import Distill
from kezuri.recipe.steps.fixmatch import FixMatchTraining
from kezuri.recipe.steps.pcas import PcasLoop
from kezuri.recipe.steps.population import PopulationTraining
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.prune_blocks import PruneBlocks
from kezuri.recipe.steps.quantize import Quantize
from kezuri.recipe.steps.train import Train
from kezuri.recipe.teaching import Teaching
from kezuri.runtime.export import export_onnx

SHOWN = 5


@dataclass(frozen=True)
class Scene:
    """A step with what it will find, as far as that is known before anything is trained or cut.

    Attributes:
        step: as the recipe has it.
        before, after: the model, whole.
        resources: with the dense model, if it is known by then.
        trained, dense_trained: whether a step before this one trains the model before it; and whether one
            trains the dense model, as far as that is known.
    """

    step: Step
    before: ModelState
    after: ModelState
    resources: Resources
    trained: bool
    dense_trained: bool


def rehearse(prepared: Prepared, resources: Resources) -> list[Scene]:
    """Goes through the steps without doing them."""
    state, scenes = ModelState(prepared.model), []
    resources, trained, dense_trained = replace(resources, rehearsal=True), False, False
    for step in prepared.recipe.steps:
        if step.compresses and resources.dense is None:
            resources, dense_trained = replace(resources, dense=state), trained
        before = state
        if isinstance(step, Distill) and step.student is not None:
            state = step.student_of(state, resources)
        scenes.append(Scene(step, before, state, resources, trained, dense_trained))
        trained = trained or getattr(step, "epochs", None) != 0
    return scenes


def foresee(prepared: Prepared, resources: Resources) -> None:
    """Follows and exports the model as the run will, so that it does not fail after hours of training.

    Raises:
        ModelError: torch.export cannot follow the model (the line is named), nothing of it may be cut, or it
            has an operation that ONNX has not.
        GoalUnreachable: no choice of bits keeps a budget.
        UsageError: a layer to leave alone is not there, more blocks are to go than may, or a teacher is
            missing, does not fit, or is no better than chance and not trained by an earlier step.
        DataError: a class has fewer images than are to keep their label.
    """
    check_order(prepared.recipe)
    scenes = rehearse(prepared, replace(resources, device=torch.device("cpu")))
    for scene in scenes:
        _check_cutting(scene, prepared)
    check_trainings(prepared, resources)
    for model in {id(model): model for model in (scenes[0].before.model, scenes[-1].after.model)}.values():
        with TemporaryDirectory() as folder:
            export_onnx(model, prepared.data.image_shape, Path(folder) / "model.onnx")


def check_order(recipe: Recipe) -> None:
    """Refuses steps in an order that makes no sense, before any work.

    Raises:
        UsageError: names the two steps and says which order is right.
    """
    list(quantized_before(recipe))  # for what it refuses
    quantized = masked = None
    for number, step in enumerate(recipe.steps, start=1):
        name, plan = f"step {number} ({steps.name_of(step)})", _pruning(step)
        masks = isinstance(step, PopulationTraining) or (plan is not None and not plan.cuts)
        if quantized is not None and isinstance(step, Quantize):
            raise UsageError(f"{name} quantizes again what {quantized} has quantized: keep one of them")
        if masked is not None and (isinstance(step, PruneBlocks) or (plan is not None and plan.cuts)):
            raise UsageError(f"{name} cannot cut what {masked} has masked: cut first, then mask weights")
        if quantized is not None and isinstance(step, Train) and step.regularizer is not None:
            raise UsageError(
                f"{name} cannot make channels fade in what {quantized} has quantized: train with a "
                f"regularizer first, then cut, then quantize"
            )
        if isinstance(step, Distill) and step.student is not None:
            quantized = masked = None  # another model from here on
        quantized = name if isinstance(step, Quantize) else quantized
        masked = name if masks else masked


def _check_cutting(scene: Scene, prepared: Prepared) -> None:
    step, model, example = scene.step, scene.before.model, scene.resources.example
    if isinstance(step, PruneBlocks):
        count_blocks(find_blocks(model, example, protect=step.ignore), step.drop)
    if isinstance(step, Quantize):
        costs = LayerCosts.of_prepared(with_quantizers(model, (example,), step.scheme()))
        budget = step.budget
        if budget is not None and budget.metric != "latency" and scene.before is scene.resources.dense:
            budget.limit(costs)  # no step cuts the model before
    if isinstance(step, Train) and step.regularizer is not None and step.regularizer.coupled:
        step.regularizer.hook(model, couple(model, example))
    plan = _pruning(step)
    if plan is not None and plan.cuts:
        couplings = couple(model, example, protect=plan.ignore)
        if not plan.candidates(couplings):
            rows = [f"{row.layer} ({row.reason})" for row in couplings.explain() if row.reason]
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            raise ModelError(
                f"no channel of {(scene.before.spec or prepared.recipe.model.spec).ref} may be cut: "
                f"{', '.join(rows[:SHOWN]) or 'it has no layer whose channels are known'}{more}"
            )


def check_trainings(prepared: Prepared, resources: Resources) -> None:
    """Tries all that can be tried of the trainings without training.

    Raises:
        UsageError: there is no teacher, one does not fit, or one is no better than chance; a regularizer
            finds nothing to draw at; a population has more intervals than steps.
        DataError: a class has fewer images than are to keep their label.
    """
    scenes = rehearse(prepared, replace(resources, device=torch.device("cpu")))
    for scene in scenes:
        step, there = scene.step, scene.resources
        if isinstance(step, FixMatchTraining):
            step.data(there)
        if isinstance(step, PopulationTraining):
            step.check(there)
        if isinstance(step, Train) and step.regularizer is not None and not step.regularizer.coupled:
            step.regularizer.hook(scene.before.model)
        _check_taught(scene)
    _glance_at_teachers(scenes, resources.device)


def _glance_at_teachers(scenes: list[Scene], device: torch.device) -> None:
    """Looks at those that teach as they are now: named ones, and the model itself where no step trains it."""
    seen = set[str]()
    for number, scene in enumerate(scenes, start=1):
        step, there = scene.step, scene.resources
        takes_over = isinstance(step, Distill) and step.student is not None
        for part in [step] if isinstance(step, Distill) else parts_in(_pruning(step) or step, Teaching):
            name = "" if part.teacher is None else repr(part.teacher)
            if name in seen or (not name and (scene.trained if takes_over else scene.dense_trained)):
                continue
            model = part.teacher_of(scene.before, there) if isinstance(part, Distill) else part.model(there)
            called = f"the teacher{f' {part.teacher.use}' if part.teacher else ''} of step {number}"
            called += f" ({steps.name_of(step)})"
            glance_at_teacher(model, there.data.validation, device=device, called=called)
            seen |= {name} if name else set()


def _check_taught(scene: Scene) -> None:
    step, resources = scene.step, scene.resources
    if isinstance(step, Distill):
        step.check(scene.before, resources)
    for teaching in parts_in(_pruning(step) or step, Teaching):
        student = copy.deepcopy(scene.before.model)  # apart from the dense model, which may be the same
        teaching.objective(resources).pairs(student, resources.example)


def check_ignored(prepared: Prepared, resources: Resources) -> None:
    """Looks for the layers to leave alone.

    Raises:
        UsageError: one is not there; near names are listed.
    """
    for scene in rehearse(prepared, resources):
        plan = scene.step if isinstance(scene.step, PopulationTraining) else _pruning(scene.step)
        if plan is not None:
            protected_parameters(scene.before.model, plan.ignore)


def _pruning(step: Step) -> Prune | None:
    plan = step.as_prune() if isinstance(step, PcasLoop) else step
    return plan if isinstance(plan, Prune) else None


def warnings_of(prepared: Prepared, resources: Resources) -> list[str]:
    """Settings that are allowed but known to fail, each with the reason."""
    said = [warning for step in prepared.recipe.steps for warning in step.warnings()]
    for scene in rehearse(prepared, resources):
        step = scene.step
        if isinstance(step, Distill) and step.student is not None:
            teacher = step.teacher_of(scene.before, scene.resources)
            said += [warning] if (warning := larger_student(teacher, scene.after.model)) else []
        if isinstance(step, FixMatchTraining):
            said += step.warnings_of(scene.resources)
    said += _thrown_away(prepared.recipe)
    have, asked = len(prepared.data.train), max(map(batch_size, prepared.recipe.steps))
    if asked > have:
        said.append(f"batch_size {asked} is more than the {have} training images: an epoch is a single step")
    return said


def _thrown_away(recipe: Recipe) -> list[str]:
    """Steps whose work ends with a model that another takes the place of."""
    said, made = [], list[str]()
    for number, step in enumerate(recipe.steps, start=1):
        name = f"step {number} ({steps.name_of(step)})"
        if isinstance(step, Distill) and step.student is not None:
            if made:
                said.append(
                    f"{name} goes on with another model, {step.student.use}: what {' and '.join(made)} did "
                    f"to the one before (cuts, masks, bits) is not in it"
                )
            made = []
        elif step.compresses:
            made.append(name)
    return said


def batch_size(step: Step) -> int:
    """Images a training step of this step takes."""
    if isinstance(step, Quantize) and step.train == "never":
        return 1
    finetune = getattr(_pruning(step) or step, "finetune", None)
    return int(getattr(step, "batch_size", 1) if finetune is None else finetune.batch_size)


def images_at_once(step: Step, have: int) -> int:
    """Images that a training step of this step passes through the model before it learns from them.

    Args:
        step: of the recipe.
        have: how many training images there are.
    """
    if isinstance(step, FixMatchTraining):
        return step.images_at_once(have)
    return min(batch_size(step), have)
