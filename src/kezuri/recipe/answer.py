"""The answer to the question a run was asked, in one sentence and in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from kezuri.core.goal import Goal
from kezuri.core.measurement import Measurement

MASKED_ONLY = 0.98
"""A file at least so large, as a fraction of the dense one's, holds the same numbers, some of them zero."""


def answer(goal: Goal, measurements: Sequence[Measurement], stop: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the result.

    The floor is kept on the validation images, which every choice was made on; the test images then tell,
    once, how much of it holds on images nobody chose by.

    Args:
        goal: what was asked.
        measurements: the final stage's, of the models "dense" and "final".
        stop: why the last loop ended: `kind`, `why`, and what of its budget was `missed`.

    Returns:
        `question`, `text` (a sentence), `met` (whether the goal holds), `missed` (what does not, in words),
        `stop`, `stop_why`.
    """
    found = _Found(measurements)
    missed = [*_missed(goal, found), *stop.get("missed", ())]
    split = "test" if found.has("accuracy", split="test") else "validation"
    dense, final = (found.value("accuracy", model, split=split) for model in ("dense", "final"))
    text = f"{_gained(found)}, at {final:.2%} {split} accuracy ({(final - dense) * 100:+.2f} points)"
    return {
        "question": str(goal),
        "text": text,
        "met": not missed,
        "missed": missed,
        "stop": stop.get("kind"),
        "stop_why": stop.get("why"),
    }


def _gained(found: "_Found") -> str:
    """What is smaller and faster. Zeros alone change neither the file nor the time, only the packed file."""
    gained = (
        f"{found.share('params'):.1%} of the parameters, {found.share('macs'):.1%} of the MACs, "
        f"{1 / found.share('size', format='onnx'):.1f}× smaller and "
        f"{1 / found.share('latency', threads=1):.1f}× faster on one thread"
    )
    if not found.has("sparsity", model="final", of="weights"):
        return gained
    zeros = f"{found.value('sparsity', 'final', of='weights'):.1%} of the weights zero"
    if found.share("params") < 1 or found.share("size", format="onnx") < MASKED_ONLY:
        return f"{zeros}, {gained}"
    packed = 1 / found.share("size", format="onnx.xz")
    return f"{zeros}, {packed:.1f}× smaller when compressed (xz)"


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

    def share(self, metric: str, **conditions: object) -> float:
        """The final model's value as a fraction of the dense one's."""
        return self.value(metric, "final", **conditions) / self.value(metric, "dense", **conditions)


def _missed(goal: Goal, found: _Found) -> list[str]:
    missed = []
    dense, final = (found.value("accuracy", model, split="validation") for model in ("dense", "final"))
    if final < goal.floor(dense) - 1e-9:
        missed.append(f"validation accuracy is {final:.2%}, the floor {goal.floor(dense):.2%}")
    if goal.params is not None and found.share("params") > goal.params:
        missed.append(
            f"{found.share('params'):.1%} of the parameters are left, asked were at most {goal.params:.1%}"
        )
    if goal.size is not None and (size := found.value("size", "final", format="onnx")) > goal.size:
        missed.append(f"the file has {size:,.0f} bytes, asked were at most {goal.size:,.0f}")
    if goal.latency is not None and (ms := found.value("latency", "final", threads=1)) > goal.latency:
        missed.append(f"an image takes {ms:.3g} ms, asked were at most {goal.latency:g} ms")
    return missed
