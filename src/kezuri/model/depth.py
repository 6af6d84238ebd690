"""Which blocks of a model may be left out whole, which may not and why; and leaving them out, with proof."""

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn

from kezuri.core.errors import ProofFailed, UsageError
from kezuri.core.registry import unknown
from kezuri.model.coupling import protected_parameters
from kezuri.model.exporting import example_batch
from kezuri.model.proof import Cut, Proof, prove
from kezuri.model.residual import Found, search
from kezuri.model.shrink import Structure, shrink_
from kezuri.model.sites import tensors_of


@dataclass(frozen=True)
class Block:
    """A part of a model that adds something to its input, or could look as if it did.

    Attributes:
        name: of the module.
        params: how many numbers it trains.
        reason: None if it may be dropped, else why not.
        ends: parameters and buffers that, all zero, make it give back its input: where its branches end.
    """

    name: str
    params: int
    reason: str | None
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockRow:
    """How one block ends, and why it could not go."""

    block: str
    params: int
    state: Literal["dropped", "kept", "blocked"]
    reason: str | None


@dataclass(frozen=True, eq=False)
class Blocks(Sequence[Block]):
    """All blocks of a model, in execution order, those that must stay with their reason."""

    items: tuple[Block, ...]

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.items)

    @property
    def free(self) -> tuple[Block, ...]:
        """Those that may be dropped."""
        return tuple(block for block in self.items if block.reason is None)

    def named(self, name: str) -> Block:
        """The block of this name; UnknownName lists what there is."""
        for block in self.items:
            if block.name == name:
                return block
        raise unknown("block", name, [block.name for block in self.items])

    def explain(self, dropped: Collection[str] = ()) -> list[BlockRow]:
        """One row for every block: dropped, kept, or blocked and why."""
        return [
            BlockRow(
                block.name,
                block.params,
                "blocked" if block.reason is not None else "dropped" if block.name in dropped else "kept",
                block.reason,
            )
            for block in self.items
        ]


def find_blocks(
    model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], *, protect: Sequence[str] = ()
) -> Blocks:
    """Finds the residual blocks of a model: what may be dropped because it only adds to its input.

    A block takes one tensor and gives one of the same shape. It may go if it gives back its input once the
    last layers of its branches are zero, tried on what reaches it from random inputs of the example's shape.
    Of blocks inside of one another the outermost counts; a chain of blocks is none.

    Args:
        model: left exactly as it is.
        example_inputs: a batch such as the model takes.
        protect: names or patterns (`layer3.*`) of modules that stay, and with them the block around.

    Returns:
        every block in execution order; modules of one layer, and the model itself, are no blocks.

    Raises:
        ModelError: the model does not accept the example.
        UsageError: a pattern in `protect` fits no module; near names are listed.
    """
    protected = protected_parameters(model, protect)
    found = search(copy.deepcopy(model).eval(), example_batch(model, example_inputs))
    return Blocks(tuple(_guarded(model, one, protected) for one in found))


def _guarded(model: nn.Module, found: Found, protected: Collection[str]) -> Block:
    inside = {id(tensor) for tensor in model.get_submodule(found.name).parameters()}
    names = {name for name, tensor in tensors_of(model).items() if id(tensor) in inside}
    reason = "protected" if found.reason is None and names & set(protected) else found.reason
    params = sum(parameter.numel() for parameter in model.get_submodule(found.name).parameters())
    return Block(found.name, params, reason, found.ends)


@torch.no_grad()
def silence_blocks_(model: nn.Module, blocks: Blocks, names: Collection[str]) -> None:
    """Zeroes the ends of these blocks' branches, so that each gives back its input.

    The model then computes what it does without the blocks.

    Raises:
        UsageError: a block is unknown, or must stay.
    """
    tensors = tensors_of(model, aliases=True)
    for block in _droppable(blocks, names):
        for name in block.ends:
            tensors[name].zero_()


@contextmanager
def without(model: nn.Module, name: str) -> Iterator[None]:
    """Has the model run without one of its modules for a while."""
    gone = model.get_submodule(name)
    places = [
        (owner, key) for owner in model.modules() for key, module in owner._modules.items() if module is gone
    ]
    for owner, key in places:
        setattr(owner, key, nn.Identity())
    try:
        yield
    finally:
        for owner, key in places:
            setattr(owner, key, gone)


def drop_blocks(
    model: nn.Module,
    blocks: Blocks,
    names: Collection[str],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    inplace: bool = False,
) -> Cut:
    """Removes whole blocks for good, and proves that the model computes what it does with silent branches.

    Each becomes an `nn.Identity`. Blocks with which the proof fails are found by halving, stay, and are named
    in `rejected`. Channels may be cut before and after, but a rewritten program has no blocks left.

    Args:
        model: changed only if `inplace`.
        blocks: of this model.
        names: which go.
        example_inputs: a batch such as the model takes.
        optimizer: forgets the parameters that go; needs `inplace`.

    Raises:
        UsageError: a block is unknown or must stay, or an optimizer is given without `inplace`.
        ProofFailed: the model answers differently, or not in finite numbers, when nothing is dropped.
    """
    if optimizer is not None and not inplace:
        raise UsageError("an optimizer belongs to the model it trains: drop with inplace=True, or without it")
    wanted = [block.name for block in _droppable(blocks, names)]
    attempts = _Attempts(model, blocks, example_inputs)
    if not attempts.accept(wanted):
        if not attempts.accept([]):
            raise ProofFailed(f"the model cannot be proved even whole: {attempts.why}")
        attempts.halve(wanted)
    result, silent, proof = attempts.best
    structure = Structure(dropped=tuple(attempts.accepted))
    if inplace:
        shrink_(model, structure, optimizer)
        result = model
    return Cut(result, structure, proof, attempts.rejected, silent)


def _droppable(blocks: Blocks, names: Collection[str]) -> list[Block]:
    for name in names:
        if (reason := blocks.named(name).reason) is not None:
            raise UsageError(f"the block {name!r} cannot be dropped: {reason}")
    return [block for block in blocks if block.name in names]


class _Attempts:
    """Growing sets of blocks, each proved before it is accepted."""

    def __init__(self, model: nn.Module, blocks: Blocks, example_inputs: Tensor | tuple[Tensor, ...]) -> None:
        self.model, self.blocks, self.inputs = model, blocks, example_inputs
        self.accepted: list[str] = []
        self.rejected: dict[str, str] = {}
        self.why = ""
        self.best: tuple[nn.Module, nn.Module, Proof]

    def accept(self, names: Sequence[str]) -> bool:
        """Adds `names` to what is dropped if the proof holds with them."""
        chosen = [*self.accepted, *names]
        silent, small = copy.deepcopy(self.model), copy.deepcopy(self.model)
        silence_blocks_(silent, self.blocks, chosen)
        shrink_(small, Structure(dropped=tuple(chosen)))
        try:
            proof = prove(silent, small, self.inputs)
        except ProofFailed as error:
            self.why = str(error)
            return False
        if not proof.holds:
            self.why = f"the model's answers differ by {proof.error:.1e} (relative, {proof.precision})"
            return False
        self.accepted, self.best = chosen, (small, silent, proof)
        return True

    def halve(self, names: Sequence[str]) -> None:
        """Accepts what can be accepted of a set that failed as a whole."""
        if len(names) == 1:
            self.rejected[names[0]] = self.why
            return
        middle = len(names) // 2
        for half in (names[:middle], names[middle:]):
            if not self.accept(half):
                self.halve(half)
