"""Taps: where inside student and teacher a loss looks, and how the features there are gathered.

A place is called by the name of the module whose output it is. A program, which a cut or quantization makes
of a model, has no modules to call, but knows which operation was the last of each; its other operations go
by their own names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from kezuri.core.errors import UsageError
from kezuri.model.modes import evaluating

Size = tuple[int, ...]
"""Of a feature without its batch: (C, H, W), or (tokens, C)."""

Sizes = Mapping[str, Size]
"""Of every feature of a model, by name, in execution order."""

PROBE = "distill_probe"
STACK = "nn_module_stack"  # what torch.export notes of an operation: the modules it was in


@dataclass(frozen=True)
class Pair:
    """A feature of the student and the one of the teacher it is compared with.

    Attributes:
        student, teacher: their names.
        student_size, teacher_size: (C, H, W), or (tokens, C).
    """

    student: str
    teacher: str
    student_size: Size
    teacher_size: Size


def channels(size: Size) -> int:
    """Of a feature's size."""
    return size[0] if len(size) == 3 else size[-1]


def positions(size: Size) -> Size:
    """(H, W) of a map, (tokens,) of a sequence."""
    return size[1:] if len(size) == 3 else size[:1]


def features(model: nn.Module, images: Tensor) -> dict[str, Size]:
    """The sizes of all features a model makes of a batch of images, by name.

    Features are floating-point tensors with more than one position: maps, (B, C, H, W), and sequences,
    (B, tokens, C). One that is changed in place later counts as what it is at the end.
    """
    found: dict[str, Size] = {}

    def note(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() in (3, 4) and value.is_floating_point():
            size = tuple(value.shape[1:])
            if len(value) == len(images) and max(positions(size)) > 1:
                found[name] = size

    with evaluating(model), torch.no_grad():
        if isinstance(model, fx.GraphModule):
            _Noting(model, note).run(images)
        else:
            with _heard(dict(model.named_modules()), note):
                model(images)
    return found


class _Noting(fx.Interpreter):
    """Runs a program and notes what modules and operations make; of views only those that end a module."""

    def __init__(self, program: fx.GraphModule, note: Callable[[str, Any], None]) -> None:
        super().__init__(program)
        self.note = note
        self.ends = _ends(program)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        view = isinstance(result, Tensor) and result._is_view()
        if n.op.startswith("call_") and not view and n.name not in self.ends:
            self.note(n.name, result)
        for name, end in self.ends.items():
            if end is n:
                self.note(name, result)
        return result


def _ends(program: fx.GraphModule) -> dict[str, fx.Node]:
    """The last operation of each module that a program was made of, by the module's name.

    A module that was called more than once has that of the last call.
    """
    ends = {}
    for node in program.graph.nodes:
        if node.op.startswith("call_") and isinstance(node.meta.get("val"), Tensor):
            for name, _ in (node.meta.get(STACK) or {}).values():
                ends[str(name).partition("@")[0]] = node
    return {name: node for name, node in ends.items() if name}


@contextmanager
def _heard(modules: Mapping[str, nn.Module], note: Callable[[str, Any], None]) -> Iterator[None]:
    """Has modules say by name what they answer, for a while."""
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
            stack.callback(handle.remove)
        yield


def matched(student: Sizes, teacher: Sizes, taps: Mapping[str, str] | None) -> tuple[Pair, ...]:
    """The pairs to compare: those named, or the last feature of both at each resolution they share.

    Args:
        student, teacher: their features, as `features` gives them.
        taps: names or patterns (`layer*`) of the student's features, each with the teacher's; a pattern and
            its partner must fit equally many, which are taken in execution order. None: automatically.

    Raises:
        UsageError: a name fits nothing, two fit different numbers, or there is nothing in common.
    """
    if taps is not None:
        names = [pair for patterns in taps.items() for pair in _named(student, teacher, *patterns)]
    else:
        names = _alike(student, teacher)
    pairs = tuple(Pair(one, other, student[one], teacher[other]) for one, other in names)
    for pair in pairs:
        ours, theirs = pair.student_size, pair.teacher_size
        if len(ours) != len(theirs) or (len(ours) == 2 and positions(ours) != positions(theirs)):
            raise UsageError(
                f"taps: {pair.student!r} of the student has the size {ours} and {pair.teacher!r} of the "
                f"teacher {theirs}: maps, (C, H, W), or sequences of one length, (tokens, C), can be compared"
            )
    return pairs


def _alike(student: Sizes, teacher: Sizes) -> list[tuple[str, str]]:
    """The last features at each resolution; by order where none is shared but there are equally many."""
    ours, theirs = _stages(student), _stages(teacher)
    shared = [place for place in ours if place in theirs]
    names = [(ours[place], theirs[place]) for place in shared]
    if not names and len(ours) == len(theirs):
        names = list(zip(ours.values(), theirs.values(), strict=True))
    if not names:
        raise UsageError(
            f"student and teacher have no stages in common: the student's features are of the sizes "
            f"{_spell(ours)}, the teacher's of {_spell(theirs)}; name the features by taps, or use a loss "
            f"that compares answers only"
        )
    return names


def _stages(sizes: Sizes) -> dict[Size, str]:
    """The last feature at each resolution; what an attention makes of each head is none."""
    lengths = {size[0] for size in sizes.values() if len(size) == 2}
    return {positions(size): name for name, size in sizes.items() if len(size) == 2 or size[1] not in lengths}


def _named(student: Sizes, teacher: Sizes, ours: str, theirs: str) -> list[tuple[str, str]]:
    found = _fitting("student", student, ours), _fitting("teacher", teacher, theirs)
    if len(found[0]) != len(found[1]):
        raise UsageError(
            f"taps: {ours!r} fits {len(found[0])} features of the student, {theirs!r} {len(found[1])} of the "
            f"teacher: {', '.join(found[0])}; {', '.join(found[1])}"
        )
    return list(zip(*found, strict=True))


def _fitting(whose: str, sizes: Sizes, pattern: str) -> list[str]:
    names = [name for name in sizes if fnmatchcase(name, pattern)]
    if not names:
        near = get_close_matches(pattern, sizes, n=3) or list(sizes)[:8]
        raise UsageError(
            f"taps: no feature of the {whose} is named {pattern!r}; "
            + (f"near: {', '.join(near)}" if near else "it has none")
        )
    return names


def _spell(stages: Mapping[Size, str]) -> str:
    return ", ".join("x".join(map(str, place)) for place in stages) or "none"


def same_positions(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps, (B, C, H, W), averaged to the smaller height and width of the two; sequences as they are."""
    if one.dim() != 4 or one.shape[2:] == other.shape[2:]:
        return one, other
    size = min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3])
    return F.adaptive_avg_pool2d(one, size), F.adaptive_avg_pool2d(other, size)


class Tapped:
    """The features gathered in the last pass of a model in training, or of a teacher."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._caught: dict[str, Tensor] = {}

    def catch(self, name: str, value: Tensor) -> None:
        """Keeps a feature; those of an evaluation between the steps are of no interest."""
        if not torch.is_inference_mode_enabled():
            self._caught[name] = value

    def take(self) -> tuple[Tensor, ...]:
        """The features in the order of the names, float32; they are not kept any longer."""
        caught, self._caught = self._caught, {}
        return tuple(caught[name].float() for name in self.names)


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[Tapped]:
    """Gathers named features in every pass for a while; names as `features` gives them, each once or more."""
    tapped = Tapped(names)
    with ExitStack() as stack:
        if isinstance(model, fx.GraphModule):
            modules: Mapping[str, nn.Module] = stack.enter_context(_probes(model, sorted(set(names))))
        else:
            modules = {name: model.get_submodule(name) for name in names}
        for name, module in modules.items():
            handle = module.register_forward_hook(
                lambda _m, _i, output, name=name: tapped.catch(name, output)
            )
            stack.callback(handle.remove)
        yield tapped


@contextmanager
def _probes(program: fx.GraphModule, names: Sequence[str]) -> Iterator[Mapping[str, nn.Module]]:
    """Has a program call a module that does nothing with each of these operations' results, for a while."""
    nodes = {node.name: node for node in program.graph.nodes} | _ends(program)
    probes = {}
    added = []
    for number, name in enumerate(names):
        target = f"{PROBE}_{number}"
        probes[name] = nn.Identity()
        program.add_module(target, probes[name])
        with program.graph.inserting_after(nodes[name]):
            added.append(program.graph.call_module(target, (nodes[name],)))
    program.recompile()
    try:
        yield probes
    finally:
        for node in added:
            program.graph.erase_node(node)
            delattr(program, str(node.target))
        program.recompile()
