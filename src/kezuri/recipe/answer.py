"""The answer to the question a run was asked, in one sentence and in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from kezuri.core.goal import Goal
from kezuri.core.measurement import Measurement
from kezuri.core.ratios import Better, change, times

MASKED_ONLY = 0.98
"""A file at least so large, as a fraction of the dense one's, holds the same numbers, some of them zero."""


TOLD = 0.005
"""Parameters and MACs that differ by less, as folding a norm makes them, count as the same."""


def answer(goal: Goal, measurements: Sequence[Measurement], stop: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the result.

    The floor is kept on the validation images, which every choice was made on; the test images then tell,
    once, how much of it holds on images nobody chose by.

    Args:
        goal: what was asked.
        measurements: the final stage's, of the models "dense" and "final".
        stop: why the last loop ended: `kind`, `why`, and what of its budget was `missed`.

    Returns:
        `question`, `text` (a sentence), `met` (whether the goal holds, on the validation images), `missed`
        (what does not, in words), `confirmed` (whether the floor holds on the test images as well; None where
        nothing tells), `floor` (both in words; empty for a goal that holds no accuracy), `stop`, `stop_why`.
    """
    found = _Found(measurements)
    missed = [*_missed(goal, found), *stop.get("missed", ())]
    split = "test" if found.has("accuracy", split="test") else "validation"
    right = found.value("accuracy", "final", split=split)
    return {
        "question": str(goal),
        "text": f"{_gained(found)} at {right:.2%} {split} accuracy ({found.points(split)} points)",
        "met": not missed,
        "missed": missed,
        "confirmed": _confirmed(goal, found),
        "floor": _kept(goal, found),
        "stop": stop.get("kind"),
        "stop_why": stop.get("why"),
    }


def _confirmed(goal: Goal, found: "_Found") -> bool | None:
    """Whether the test images agree that the floor is kept."""
    if not goal.holds_accuracy or not found.has("accuracy", split="test"):
        return None
    return found.value("accuracy", "final", split="test") >= _least(goal, found, "test") - 1e-9


def _kept(goal: Goal, found: "_Found") -> str:
    """Where the floor holds: on the images that everything was chosen by, and on those nobody chose by."""
    if not goal.holds_accuracy:
        return ""
    held = found.value("accuracy", "final", split="validation") >= _least(goal, found, "validation") - 1e-9
    by = f"the {found.samples('validation'):,} validation images it chose by ({found.points('validation')})"
    start = f"{'kept' if held else 'missed'} on {by}"
    if not found.has("accuracy", split="test"):
        return f"{start}; there are no test images to confirm it"
    return f"{start}; on the {found.samples('test'):,} test images {found.points('test')} points"


def _least(goal: Goal, found: "_Found", split: str) -> float:
    """The lowest accuracy that the goal allows on these images."""
    return goal.accuracy + (found.value("accuracy", "dense", split=split) if goal.accuracy <= 0 else 0.0)


def _gained(found: "_Found") -> str:
    """What is smaller and faster. Zeros alone change neither the file nor the time, only the packed file."""
    changed = [
        f"{found.share(metric):.1%} of the {name}"
        for metric, name in (("params", "parameters"), ("macs", "MACs"))
        if abs(found.share(metric) - 1) >= TOLD
    ]
    file = f"file {_change(1 / found.share('size', format='onnx'), 'smaller')}"
    speed = f"{_change(1 / found.share('latency', threads=1), 'faster')} on one thread"
    if not found.has("sparsity", model="final", of="weights"):
        return _sentence([*changed, file, speed])
    zeros = f"{found.value('sparsity', 'final', of='weights'):.1%} of the weights zero"
    if changed or found.share("size", format="onnx") < MASKED_ONLY:
        return _sentence([zeros, *changed, file, speed])
    packed = f"{times(1 / found.share('size', format='onnx.xz'))} smaller when compressed (xz)"
    return _sentence([zeros, packed])


def _change(ratio: float, better: Better) -> str:
    told = change(ratio, better)
    return told if told != "the same" else "as large" if better == "smaller" else "as fast"


def _sentence(parts: Sequence[str]) -> str:
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


class _Found:
    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.measurements = measurements

    def _matching(self, metric: str, **conditions: object) -> list[Measurement]:
        return [
            m
            for m in self.measurements
            if m.metric == metric and all(m.conditions.get(key) == value for key, value in conditions.items())
        ]

    def has(self, metric: str, **conditions: object) -> bool:
        return bool(self._matching(metric, **conditions))

    def value(self, metric: str, model: str, **conditions: object) -> float:
        return self._matching(metric, model=model, **conditions)[0].value

    def samples(self, split: str) -> int:
        """How many images of this part the accuracy rests on."""
        return self._matching("accuracy", model="final", split=split)[0].samples

    def points(self, split: str) -> str:
        """What the accuracy on this part changed by, with its sign."""
        dense, final = (self.value("accuracy", model, split=split) for model in ("dense", "final"))
        return f"{(final - dense) * 100:+.2f}".replace("-", "−")

    def share(self, metric: str, **conditions: object) -> float:
        """The final model's value as a fraction of the dense one's."""
        return self.value(metric, "final", **conditions) / self.value(metric, "dense", **conditions)


def _missed(goal: Goal, found: _Found) -> list[str]:
    missed = []
    final, least = found.value("accuracy", "final", split="validation"), _least(goal, found, "validation")
    if final < least - 1e-9:
        missed.append(f"validation accuracy is {final:.2%}, the floor {least:.2%}")
    if goal.params is not None and found.share("params") > goal.params:
        missed.append(
            f"{found.share('params'):.1%} of the parameters are left, asked were at most {goal.params:.1%}"
        )
    if goal.size is not None and (size := found.value("size", "final", format="onnx")) > goal.size:
        missed.append(f"the file has {size:,.0f} bytes, asked were at most {goal.size:,.0f}")
    if goal.latency is not None and (ms := found.value("latency", "final", threads=1)) > goal.latency:
        missed.append(f"an image takes {ms:.3g} ms, asked were at most {goal.latency:g} ms")
    return missed
