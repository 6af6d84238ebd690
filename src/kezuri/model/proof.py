"""Proved cutting: the zero-masked model and the cut one must give the same answers."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import ProofFailed, UsageError
from kezuri.core.seeds import derive
from kezuri.model.exported import example_batch
from kezuri.model.families import Couplings
from kezuri.model.modes import evaluating
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
class Cut:
    """A model after cutting.

    Attributes:
        model: the cut model; the given one when cut in place, else a copy.
        structure: what was kept, counted in the model that was given.
        proof: of this model against the masked one.
        rejected: couplings that were left whole because the proof failed with them, with why.
        rewritten: why the model is a rewritten program; None if it is of the given model's class.
    """

    model: nn.Module
    structure: Structure
    proof: Proof
    rejected: Mapping[str, str]
    rewritten: str | None = None


def prove(
    masked: nn.Module,
    cut: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    tolerance: float = 1e-5,
) -> Proof:
    """Compares two models on random normal inputs shaped like the examples, in eval mode, all outputs.

    Inputs that are not floating point (tokens) are used as they are. Models of lower precision are compared
    as float32. If float32 misses the tolerance, float64 decides, as deep networks add rounding errors up.

    Raises:
        ProofFailed: the cut model cannot compute an answer, or answers in another form.
    """
    inputs = example_batch(masked, example_inputs)
    tensors = [*masked.state_dict().values(), *inputs]
    if not any(tensor.dtype == torch.float64 for tensor in tensors):
        error = _difference(_typed(masked, torch.float32), _typed(cut, torch.float32), inputs, torch.float32)
        if error <= tolerance:
            return Proof(error, tolerance, INPUTS)
    error = _difference(_typed(masked, torch.float64), _typed(cut, torch.float64), inputs, torch.float64)
    return Proof(error, tolerance, INPUTS, "float64")


def cut(
    model: nn.Module,
    couplings: Couplings,
    kept: Mapping[str, Tensor],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    inplace: bool = False,
    deadline: float | None = None,
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
        deadline: by `time.monotonic`; what is not proved by then is left whole.

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
    attempts = _Attempts(model, couplings, kept, example_inputs, deadline)
    if not attempts.accept(names):
        if not attempts.accept([]):
            raise ProofFailed(f"the model cannot be proved even uncut: {attempts.why}")
        attempts.halve(names)
    structure, result, proof = attempts.best
    if inplace:
        shrink_(model, structure, optimizer)
        result = model
    return Cut(
        result, structure, proof, attempts.rejected, rewritten if isinstance(result, Program) else None
    )


class _Attempts:
    """Cuts of growing sets of couplings, each proved before it is accepted."""

    def __init__(
        self,
        model: nn.Module,
        couplings: Couplings,
        kept: Mapping[str, Tensor],
        example_inputs: Tensor | tuple[Tensor, ...],
        deadline: float | None,
    ) -> None:
        self.model, self.couplings, self.kept, self.inputs = model, couplings, kept, example_inputs
        self.deadline = deadline
        self.accepted: list[str] = []
        self.rejected: dict[str, str] = {}
        self.why = ""
        self.best: tuple[Structure, nn.Module, Proof]

    def accept(self, names: Sequence[str]) -> bool:
        """Adds `names` to what is cut if the proof holds with them."""
        chosen = {name: self.kept[name] for name in [*self.accepted, *names]}
        if names and self.deadline is not None and monotonic() > self.deadline:
            self.why = "not tried, as time ran out"
            return False
        structure = structure_of(self.couplings, chosen)
        masked = copy.deepcopy(self.model)
        mask_channels_(masked, self.couplings, chosen)
        try:
            small = self._cut(structure, chosen)
            proof = prove(masked, small, self.inputs)
        except ProofFailed as error:
            self.why = str(error)
            return False
        if not proof.holds:
            self.why = f"the cut model's answers differ by {proof.error:.1e} (relative, {proof.precision})"
            return False
        self.accepted += names
        self.best = structure, small, proof
        return True

    def _cut(self, structure: Structure, names: Iterable[str]) -> nn.Module:
        if any(self.couplings.named(name).rewrite is not None for name in names):
            return self.blueprint.build(structure)
        small = copy.deepcopy(self.model)
        shrink_(small, structure)
        return small

    @cached_property
    def blueprint(self) -> Blueprint:
        """What a rewritten program is built from; the export takes seconds and serves all attempts."""
        return Blueprint.of(self.model, example_batch(self.model, self.inputs), self.couplings.choices)

    def halve(self, names: Sequence[str]) -> None:
        """Accepts what can be accepted of a set that failed as a whole."""
        if len(names) == 1:
            self.rejected[names[0]] = self.why
            return
        middle = len(names) // 2
        for half in (names[:middle], names[middle:]):
            if not self.accept(half):
                self.halve(half)


def _typed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model, or a copy of another type."""
    floating = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return model if all(tensor.dtype == dtype for tensor in floating) else copy.deepcopy(model).to(dtype)


@torch.no_grad()
def _difference(masked: nn.Module, cut: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> float:
    worst = 0.0
    with evaluating(masked), evaluating(cut):
        for number in range(INPUTS):
            batch = _random_like(inputs, number, dtype)
            expected = pytree.tree_leaves(masked(*batch))
            try:
                answers = pytree.tree_leaves(cut(*batch))
            except Exception as error:
                raise ProofFailed(f"the cut model fails: {_shortened(error)}") from error
            if len(answers) != len(expected):
                raise ProofFailed(f"the cut model gives {len(answers)} outputs, not {len(expected)}")
            worst = max([worst, *map(_distance, expected, answers)])
    return worst


def _random_like(inputs: tuple[Tensor, ...], number: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(derive(0, "proof", number))
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.device, dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in inputs
    ]


def _distance(expected: object, answer: object) -> float:
    """Relative to the largest expected value; infinite where shapes differ or a number is not finite."""
    if not isinstance(expected, Tensor) or not isinstance(answer, Tensor):
        return 0.0 if expected == answer else float("inf")
    if expected.shape != answer.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    expected, answer = expected.double(), answer.double()
    apart, largest = float((expected - answer).abs().max()), float(expected.abs().max())
    if apart == 0:
        return 0.0
    relative = apart / largest if largest else float("inf")
    return relative if relative < float("inf") else float("inf")


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:150]}"
