"""One call: a model, data and a number in, the same model without its least important blocks out, proved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from kezuri.calibrate.run import Sample
from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.data import Data, from_dataset
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.depth import BlockRow, Blocks, drop_blocks, find_blocks
from kezuri.model.modes import device_of
from kezuri.model.proof import Cut, Proof
from kezuri.model.shrink import Structure
from kezuri.prune.depth import BlockCriterion, block_criteria, count_blocks, least_blocks
from kezuri.recipe.costs import Cost

SAMPLE = Sample()


@dataclass(frozen=True)
class BlockReport:
    """What became of every block, in execution order; printing it gives a table.

    Attributes:
        rows: a row a block.
        scores: of the blocks that may go; higher is kept.
        before, after: parameters and multiply-accumulates.
        proof: of the model without the blocks against the one whose blocks add zeros.
        rejected: blocks that stay although they were chosen, as the proof failed without them, with why.
    """

    rows: tuple[BlockRow, ...]
    scores: Mapping[str, float]
    before: Cost
    after: Cost
    proof: Proof
    rejected: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[BlockRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        lines = [("block", "parameters", "score", "state", "why")]
        for row in self.rows:
            score = f"{self.scores[row.block]:.3g}" if row.block in self.scores else ""
            lines.append((row.block, f"{row.params:,}", score, row.state, row.reason or ""))
        wide = [max(len(line[column]) for line in lines) for column in range(4)]
        table = [
            f"{name:<{wide[0]}}  {params:>{wide[1]}}  {score:>{wide[2]}}  {state:<{wide[3]}}  {why}".rstrip()
            for name, params, score, state, why in lines
        ]
        states = [row.state for row in self.rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("dropped", "kept", "blocked"))
        ends = [
            f"{len(self.rows)} blocks: {counts}",
            f"parameters {_change(self.before.params, self.after.params)}, "
            f"multiply-accumulates {_change(self.before.macs, self.after.macs)}",
            f"proof: the largest relative error against the model whose blocks add zeros is "
            f"{self.proof.error:.1e} (allowed is {self.proof.tolerance:g})",
            *(f"{name} stays: {why}" for name, why in self.rejected.items()),
        ]
        return "\n".join([*table, *ends])


@dataclass(frozen=True, eq=False)
class PrunedBlocks:
    """A model without the blocks it can do without.

    Attributes:
        model: without them; it runs, trains and saves. The given one where it was changed in place.
        masked: the given model with the ends of their branches set to zero, of the same class.
        dropped: their names, in execution order.
        report: every block with its score or the reason why it stays; `print(pruned.report)`.
        proof: the largest relative error of the model against the masked one.
        structure: what was left out, for `kezuri.save_model`.
        blocks: of the given model.
    """

    model: nn.Module
    masked: nn.Module
    dropped: tuple[str, ...]
    report: BlockReport
    proof: float
    structure: Structure
    blocks: Blocks


def prune_blocks(
    model: nn.Module,
    data: Data | Dataset[Any],
    drop: int | float = 1,
    criterion: str | BlockCriterion = "similarity",
    *,
    protect: Sequence[str] = (),
    sample: Sample = SAMPLE,
    optimizer: torch.optim.Optimizer | None = None,
    inplace: bool = False,
    seed: int = 0,
) -> PrunedBlocks:
    """Leaves the least important residual blocks out of a model, and proves that the rest computes the same.

    Blocks are found by what they compute: those that give back their input when their branches end in zeros.
    Each that goes becomes an `nn.Identity`, so the model gets shallower, and faster on any hardware. Channels
    may be cut before and after. Retrain it afterwards.

    Args:
        model: any module that takes images and runs its blocks one after another; it stays as it is.
        data: a `Data`, or a dataset that yields (image, label). Training images are looked at, by the
            criterion "loss" validation images.
        drop: how many: a number of blocks, or a fraction of those that may go (at least that many).
        criterion: what a block is worth: "similarity", "taylor", "loss", or a method such as
            `Loss(of="accuracy")`.
        protect: names or patterns (`layer3.*`) of modules that stay.
        sample: how many images are looked at.
        optimizer: forgets the parameters that go; needs `inplace`.
        inplace: changes the model that was given.
        seed: decides which images are looked at.

    Raises:
        UsageError: a value is out of range, more blocks are to go than may, or pieces do not go together.
        ModelError: the model does not accept the data's images.
        ProofFailed: the model's answers are random or not finite.
    """
    chosen = block_criteria[criterion]() if isinstance(criterion, str) else criterion
    if optimizer is not None and not inplace:
        raise UsageError("an optimizer belongs to the model it trains: use inplace=True, or leave it out")
    if not isinstance(data, Data | Dataset):
        raise UsageError(f"data is a Data or a torch Dataset, got {type(data).__name__}")
    known = data if isinstance(data, Data) else from_dataset(data)
    example = torch.zeros(2, *known.image_shape, device=device_of(model))
    blocks = find_blocks(model, example, protect=protect)
    count = count_blocks(blocks, drop)
    scores = score_blocks(model, blocks, chosen, known, sample=sample, seed=seed)
    before = _cost(model, known)
    names = least_blocks(scores, count)
    done = drop_blocks(model, blocks, names, example, optimizer=optimizer, inplace=inplace)
    return _pruned(blocks, scores, done, before, _cost(done.model, known))


def score_blocks(
    model: nn.Module,
    blocks: Blocks,
    criterion: BlockCriterion,
    data: Data,
    *,
    sample: Sample = SAMPLE,
    seed: int = 0,
) -> dict[str, float]:
    """The score of each block that may go, in execution order; higher is kept.

    Args:
        model: left as it was.
        blocks: of the model.
        criterion: what a block is worth; says which part of the data it must see.
        data: training or validation images are looked at.
        sample: how many.
        seed: which.
    """
    part = data.validation if criterion.held_out else data.train
    drawn = replace(sample, seed=derive(seed, "blocks", sample.seed))
    return criterion(model, [block.name for block in blocks.free], part, drawn)


def _cost(model: nn.Module, data: Data) -> Cost:
    return Cost(count_params(model), count_macs(model, data.image_shape))


def _pruned(
    blocks: Blocks, scores: Mapping[str, float], done: Cut, before: Cost, after: Cost
) -> PrunedBlocks:
    report = BlockReport(
        rows=tuple(blocks.explain(done.structure.dropped)),
        scores=scores,
        before=before,
        after=after,
        proof=done.proof,
        rejected=done.rejected,
    )
    return PrunedBlocks(
        model=done.model,
        masked=done.masked,
        dropped=done.structure.dropped,
        report=report,
        proof=done.proof.error,
        structure=done.structure,
        blocks=blocks,
    )


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({after / before:.1%})" if before else "0"
