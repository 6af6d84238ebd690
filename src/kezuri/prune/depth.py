"""The role of a block criterion: what is a block worth, a module that adds something to its input?

A block is dropped whole, so it is worth what the model does with it that it would not do without it. Each
criterion looks at sample data; higher is kept longer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.calibrate.run import Sample
from kezuri.core.errors import RecipeError, UsageError
from kezuri.core.registry import Registry
from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.model.depth import Blocks, without
from kezuri.model.modes import device_of, evaluating

SHOWN = 5


class BlockCriterion(Protocol):
    """Scores blocks by what the model would lose without each of them."""

    held_out: ClassVar[bool]
    """Whether the images must be none that the model was trained on, which it may know by heart."""

    def __call__(
        self, model: nn.Module, blocks: Sequence[str], part: Part, sample: Sample
    ) -> dict[str, float]:
        """The score of each block, finite; higher is kept.

        Args:
            model: left as it was; runs in evaluation mode on the device it is on.
            blocks: names of modules that take a tensor and give one of the same shape.
            part: images and labels.
            sample: how many of them, and which.
        """
        ...


block_criteria: Registry[type[BlockCriterion]] = Registry("block criterion")


@block_criteria.register("similarity")
@dataclass(frozen=True)
class Similarity:
    """How far it turns its input: 1 less the mean cosine between input and output (Men et al., 2024).

    They call it block influence and take the cosine of each token; here it is of all that an image has at
    that point. One pass over the sample, without labels.
    """

    held_out: ClassVar[bool] = False

    def __call__(
        self, model: nn.Module, blocks: Sequence[str], part: Part, sample: Sample
    ) -> dict[str, float]:
        total, count = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0)

        def hear(name: str, given: Tensor, output: Tensor) -> None:
            cosines = F.cosine_similarity(given.flatten(1).double(), output.flatten(1).double())
            total[name] += float((1 - cosines).sum())
            count[name] += len(cosines)

        with _heard(model, blocks, hear), torch.no_grad():
            for images, _ in _batches(model, part, sample):
                model(images)
        return {name: total[name] / max(1, count[name]) for name in blocks}


@block_criteria.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """What the loss would change by without it, to first order, squared batch by batch.

    As Molchanov et al. (2019) have it of a channel, with a gate on what the block adds: the gradient at its
    output times what it did to its input. One pass over the sample, forward and backward.
    """

    held_out: ClassVar[bool] = False

    def __call__(
        self, model: nn.Module, blocks: Sequence[str], part: Part, sample: Sample
    ) -> dict[str, float]:
        total, batches = dict.fromkeys(blocks, 0.0), 0
        calls: list[tuple[str, Tensor, Tensor]] = []

        def hear(name: str, given: Tensor, output: Tensor) -> Tensor:
            calls.append((name, given, output))
            return output.clone()  # what is done to it in place must not change the one that is kept

        with _heard(model, blocks, hear), torch.enable_grad():
            for images, targets in _batches(model, part, sample):
                calls.clear()
                loss = F.cross_entropy(model(images.requires_grad_()), targets)
                outputs = [output for _, _, output in calls]
                gradients = torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ()
                change = dict.fromkeys(blocks, 0.0)
                for (name, given, output), gradient in zip(calls, gradients, strict=True):
                    if gradient is not None:
                        change[name] += float((gradient.double() * (given - output.detach())).sum())
                for name in blocks:
                    total[name] += change[name] ** 2
                batches += 1
        return {name: total[name] / max(1, batches) for name in blocks}


@block_criteria.register("loss")
@dataclass(frozen=True)
class Loss:
    """What the model really loses without it, each block skipped in its turn.

    One pass over the sample for each block and one more.

    Attributes:
        of: the mean `loss` (cross-entropy, by how much it rises) or the `accuracy` (by how much it falls).
    """

    of: Literal["loss", "accuracy"] = "loss"

    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of not in ("loss", "accuracy"):
            raise RecipeError(f"a block is judged by the change of 'loss' or 'accuracy', got {self.of!r}")

    def __call__(
        self, model: nn.Module, blocks: Sequence[str], part: Part, sample: Sample
    ) -> dict[str, float]:
        whole = self._error(model, part, sample)
        scores = {}
        for name in blocks:
            with without(model, name):
                scores[name] = self._error(model, part, sample) - whole
        return scores

    @torch.no_grad()
    def _error(self, model: nn.Module, part: Part, sample: Sample) -> float:
        total, count = 0.0, 0
        with evaluating(model):
            for images, targets in _batches(model, part, sample):
                logits = model(images)
                if self.of == "loss":
                    total += float(F.cross_entropy(logits, targets, reduction="sum"))
                else:
                    total += float((logits.argmax(1) != targets).sum())
                count += len(targets)
        return total / max(1, count)


def count_blocks(blocks: Blocks, drop: int | float) -> int:
    """How many blocks `drop` means: a number, or a fraction of those that may go (at least that many).

    Raises:
        UsageError: it is neither, or more than may go; those that must stay are named.
    """
    if isinstance(drop, bool) or not (drop >= 1 if isinstance(drop, int) else 0 < drop <= 1):
        raise UsageError(f"drop is a number of blocks (1, 2, …) or a fraction in (0, 1], got {drop!r}")
    free = len(blocks.free)
    count = drop if isinstance(drop, int) else max(1, ceil(round(drop * free, 6)))
    if count > free:
        stuck = [f"{block.name} ({block.reason})" for block in blocks if block.reason is not None]
        more = f" and {len(stuck) - SHOWN} more" if len(stuck) > SHOWN else ""
        raise UsageError(
            f"drop asks for {count} block{'s' if count > 1 else ''}, but {free or 'none'} may go"
            + (f"; these must stay: {', '.join(stuck[:SHOWN])}{more}" if stuck else ": none was found")
        )
    return count


def least_blocks(scores: Mapping[str, float], count: int) -> list[str]:
    """The blocks that are worth least, the least first; of equals the later one.

    Args:
        scores: by block, in execution order.
        count: how many.
    """
    names = list(scores)
    order = sorted(range(len(names)), key=lambda at: (scores[names[at]], -at))
    return [names[at] for at in order[:count]]


def _batches(model: nn.Module, part: Part, sample: Sample) -> Iterator[tuple[Tensor, Tensor]]:
    whole = part.batches(sample.batch_size, seed=derive(sample.seed, "blocks"), device=device_of(model))
    return ((batch.images, batch.targets) for batch in islice(whole, sample.batches))


@contextmanager
def _heard(
    model: nn.Module, blocks: Sequence[str], hear: Callable[[str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Evaluation mode, with `hear(name, input, output)` called for each block; what it returns takes over."""
    given: dict[str, Tensor] = {}

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            given[name] = args[0].detach().clone()  # the block may change it in place

        return note

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        return lambda _, __, output: hear(name, given.pop(name), output)

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name in blocks:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(before(name)).remove)
            stack.callback(module.register_forward_hook(after(name)).remove)
        yield
