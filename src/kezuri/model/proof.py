"""Proved cutting: the zero-masked model and the cut one must give the same answers."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

import torch
from torch import Tensor, nn

from kezuri.core.errors import ProofFailed, UsageError
from kezuri.core.progress import Progress
from kezuri.model.answers import difference, lively, random_batches
from kezuri.model.exporting import SILENT, example_batch
from kezuri.model.families import Couplings
from kezuri.model.narrowed_norms import narrow_norms_
from kezuri.model.program import Blueprint, Program
from kezuri.model.shrink import Structure, mask_channels_, shrink_, structure_of

INPUTS = 3


@dataclass(frozen=True)
class Proof:
    """How far the cut model's outputs are from the masked model's on random inputs.

    Attributes:
        error: largest difference, relative to the largest output of the masked model.
        tolerance: the largest error that counts as equal.
        inputs: how many random batches were compared.
        precision: "float64" where rounding in float32 alone exceeded the tolerance, and for such models.
    """

    error: float
    tolerance: float
    inputs: int
    precision: str = "float32"

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Trial:
    """A cut that only has to tell what works.

    Attributes:
        deadline: by `time.monotonic`; what is not proved by then is left whole.
        progress: hears of every coupling that was decided on.
    """

    deadline: float
    progress: Progress


@dataclass(frozen=True)
class Cut:
    """A model after cutting.

    Attributes:
        model: the cut model; the given one when cut in place, else a copy.
        structure: what was kept, counted in the model that was given.
        proof: of this model against the masked one.
        rejected: couplings that were left whole because the proof failed with them, with why.
        masked: a copy of the given model with zeros where the cut one lost something.
        rewritten: why the model is a rewritten program; None if it is of the given model's class.
    """

    model: nn.Module
    structure: Structure
    proof: Proof
    rejected: Mapping[str, str]
    masked: nn.Module
    rewritten: str | None = None


def prove(
    masked: nn.Module,
    cut: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    tolerance: float = 1e-5,
    batches: int = INPUTS,
) -> Proof:
    """Compares two models on random normal inputs shaped like the examples, in eval mode, all outputs.

    Inputs that are not floating point (tokens) are used as they are. Models of lower precision are compared
    as float32. If float32 misses the tolerance, float64 decides, as deep networks add rounding errors up.

    Args:
        masked: the model with zeros.
        cut: the smaller one.
        example_inputs: a batch such as both take.
        tolerance: the largest error that counts as equal.
        batches: how many random batches are compared.

    Raises:
        ProofFailed: the cut model cannot compute an answer, or answers in another form.
    """
    inputs = example_batch(masked, example_inputs)
    tensors = [*masked.state_dict().values(), *inputs]
    if not any(tensor.dtype == torch.float64 for tensor in tensors):
        error = difference(masked, cut, random_batches(inputs, torch.float32, batches))
        if error <= tolerance:
            return Proof(error, tolerance, batches)
    error = difference(masked, cut, random_batches(inputs, torch.float64, batches))
    return Proof(error, tolerance, batches, "float64")


def cut(
    model: nn.Module,
    couplings: Couplings,
    kept: Mapping[str, Tensor],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    inplace: bool = False,
    trial: Trial | None = None,
) -> Cut:
    """Removes units for good, and proves that the model computes what its masked self does.

    Couplings with which the proof fails are found by halving, left whole, and named in `rejected`. Where
    couplings are cut that need it (`Coupling.rewrite`), the result is a `Program` (kezuri.model.program).

    Args:
        model: cut only if `inplace`.
        couplings: of this model.
        kept: by coupling name, (width,) bool, True = kept; couplings not named stay whole.
        example_inputs: a batch such as the model takes.
        optimizer: whose state follows; needs `inplace`.
        trial: makes do with one random batch, and with little time.

    Raises:
        UsageError: `kept` names what cannot be removed, an optimizer is given without `inplace`, or `inplace`
            is asked for where only a rewritten program can lose the channels.
        ProofFailed: the model answers differently, or not in finite numbers, when nothing is cut.
    """
    if optimizer is not None and not inplace:
        raise UsageError("an optimizer belongs to the model it trains: cut with inplace=True, or without it")
    structure_of(couplings, kept)
    names = [name for name, mask in kept.items() if not mask.all()]
    literal = {name: couplings.named(name).rewrite for name in names}
    rewritten = next((f"{name}: {why}" for name, why in literal.items() if why is not None), None)
    if inplace and rewritten is not None:
        raise UsageError(
            f"the model's own class cannot lose these channels in place ({rewritten}); "
            'cut with inplace=False, or couple the model with result="module"'
        )
    attempts = _Attempts(model, couplings, kept, example_inputs, trial)
    if not attempts.accept(names):
        if not attempts.accept([]):
            raise ProofFailed(f"the model cannot be proved even uncut: {attempts.why}")
        attempts.halve(names)
    structure, _, _, proof = attempts.best
    result, masked = attempts.result()
    if inplace:
        shrink_(model, structure, optimizer)
        result = model
    why = rewritten if isinstance(result, Program) else None
    if why is not None and (batch := attempts.blueprint.batch) is not None:
        why += f"; it takes batches of {batch} only, as the model's code holds that number"
    return Cut(result, structure, proof, attempts.rejected, masked, why)


class _Attempts:
    """Cuts of growing sets of couplings, each proved before it is accepted."""

    def __init__(
        self,
        model: nn.Module,
        couplings: Couplings,
        kept: Mapping[str, Tensor],
        example_inputs: Tensor | tuple[Tensor, ...],
        trial: Trial | None,
    ) -> None:
        self.model, self.couplings, self.kept, self.inputs = model, couplings, kept, example_inputs
        self.subject = lively(model, example_batch(model, example_inputs))
        self.deadline = None if trial is None else trial.deadline
        self.progress = SILENT if trial is None else trial.progress
        self.batches = INPUTS if trial is None else 1
        self.accepted: list[str] = []
        self.rejected: dict[str, str] = {}
        self.why = ""
        self.best: tuple[Structure, nn.Module, nn.Module, Proof]

    def accept(self, names: Sequence[str]) -> bool:
        """Adds `names` to what is cut if the proof holds with them."""
        chosen = {name: self.kept[name] for name in [*self.accepted, *names]}
        if names and self.deadline is not None and monotonic() > self.deadline:
            self.why = "not tried, as time ran out"
            return False
        structure = structure_of(self.couplings, chosen)
        try:
            small = self._cut(self.subject, structure, chosen)
            masked, proof = self._proved(small, chosen)
        except ProofFailed as error:
            self.why = str(error)
            return False
        if not proof.holds:
            self.why = f"the cut model's answers differ by {proof.error:.1e} (relative, {proof.precision})"
            return False
        self.accepted += names
        self.progress.advance(len(names), {})
        self.best = structure, small, masked, proof
        return True

    def result(self) -> tuple[nn.Module, nn.Module]:
        """The model as cut by what was accepted, and masked alike."""
        structure, small, masked, _ = self.best
        if self.subject is self.model or self.batches == 1:
            return small, masked  # a trial only asks what was rejected
        chosen = {name: self.kept[name] for name in self.accepted}
        return self._cut(self.model, structure, chosen), self._masked(self.model, chosen, buffers=True)

    def _proved(self, small: nn.Module, chosen: Mapping[str, Tensor]) -> tuple[nn.Module, Proof]:
        for buffers in (True, False):
            masked = self._masked(self.subject, chosen, buffers=buffers)
            proof = prove(masked, small, self.inputs, batches=self.batches)
            if proof.error < float("inf"):
                break  # else a buffer may be divided by
        return masked, proof

    def _masked(self, model: nn.Module, chosen: Mapping[str, Tensor], *, buffers: bool) -> nn.Module:
        masked = copy.deepcopy(model)
        mask_channels_(masked, self.couplings, chosen, buffers=buffers)
        if self.couplings.choices.norms:
            narrow_norms_(masked, structure_of(self.couplings, chosen))
        return masked

    def _cut(self, model: nn.Module, structure: Structure, names: Iterable[str]) -> nn.Module:
        if any(self.couplings.named(name).rewrite is not None for name in names):
            if model is not self.subject:
                return self._blueprint(model).build(structure)
            return self.blueprint.build(structure)
        small = copy.deepcopy(model)
        shrink_(small, structure)
        return small

    @cached_property
    def blueprint(self) -> Blueprint:
        """What a rewritten program is built from; the export takes seconds and serves all attempts."""
        return self._blueprint(self.subject)

    def _blueprint(self, model: nn.Module) -> Blueprint:
        return Blueprint.of(model, example_batch(model, self.inputs), self.couplings.choices)

    def halve(self, names: Sequence[str]) -> None:
        """Accepts what can be accepted of a set that failed as a whole."""
        if len(names) == 1:
            self.rejected[names[0]] = self.why
            self.progress.advance(1, {})
            return
        middle = len(names) // 2
        for half in (names[:middle], names[middle:]):
            if not self.accept(half):
                self.halve(half)
