"""What a compressed model must still do, and what it should be best at."""

from dataclasses import dataclass
from typing import Literal

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.core.measurement import runtime_title

LAX = -0.5
"""An allowed change at or below this holds nothing: studies ask for it, to see what a method costs."""


@dataclass(frozen=True)
class Goal:
    """The smallest or fastest model that keeps its accuracy.

    Attributes:
        objective: what to make best once the floor holds.
        accuracy: the floor. Zero or negative: allowed change against the model it started from
            (-0.01 = one point of accuracy). Positive: the accuracy itself, as a fraction.
        params: ceiling on the parameters, as a fraction of the dense model's in (0, 1], if any.
        size: ceiling on the file, in bytes, if any.
        latency: ceiling on the median latency, in milliseconds, if any.
        runtime: where the model ships, the name of a runner (`kezuri list runner`): its file is proved there,
            predicts there, and is timed there.
    """

    objective: Literal["smallest", "fastest"] = "smallest"
    accuracy: float = -0.01
    params: float | None = None
    size: float | None = None
    latency: float | None = None
    runtime: str = "onnxruntime"

    def __post_init__(self) -> None:
        if self.objective not in ("smallest", "fastest"):
            raise UsageError(f"objective is 'smallest' or 'fastest', got {self.objective!r}")
        if not -1 < self.accuracy < 1:
            raise UsageError(
                f"the accuracy to keep is a fraction: from -1 to 0 for an allowed drop (-0.01 = one point), "
                f"or up to 1 for the accuracy itself; got {self.accuracy}"
            )
        if self.params is not None and not 0 < self.params <= 1:
            raise UsageError(
                f"the ceiling on params is a fraction of the dense model's in (0, 1], got {self.params}"
            )
        for name in ("size", "latency"):
            ceiling = getattr(self, name)
            if ceiling is not None and ceiling <= 0:
                raise UsageError(f"the ceiling on {name} must be above 0, got {ceiling}")

    @property
    def holds_accuracy(self) -> bool:
        """Whether there is a floor worth the name."""
        return self.accuracy > LAX

    def floor(self, start: float) -> float:
        """The lowest accuracy allowed for a model that started at accuracy `start` (fractions).

        Raises:
            GoalUnreachable: the floor lies above the start, so nothing that only removes can be sure of it.
        """
        if self.accuracy <= 0:
            return start + self.accuracy
        if self.accuracy > start:
            raise GoalUnreachable(
                f"the goal asks for accuracy {self.accuracy:.2%}, but the model starts at {start:.2%}; "
                f"train it further first, or ask for at most {start:.4f} (or a drop, such as -0.01)"
            )
        return self.accuracy

    def relation(self, accuracy: float, floor: float) -> str:
        """How an accuracy stands to the floor, in words; nothing where the goal holds none."""
        if not self.holds_accuracy:
            return ""
        return f" {'keeps' if accuracy >= floor else 'is below'} the floor {floor:.2%}"

    def __str__(self) -> str:
        drop = f"{-self.accuracy * 100:g}"
        lost = f"accuracy drop ≤ {drop} {'point' if drop == '1' else 'points'}"
        held = f"accuracy ≥ {self.accuracy:.2%}" if self.accuracy > 0 else lost
        parts = [held if self.holds_accuracy else "any accuracy"]
        if self.params is not None:
            parts.append(f"params ≤ {self.params:.0%}")
        if self.size is not None:
            parts.append(f"size ≤ {self.size / 1e6:g} MB")
        if self.latency is not None:
            parts.append(f"latency ≤ {self.latency:g} ms")
        where = "" if self.runtime == "onnxruntime" else f" in {runtime_title(self.runtime)}"
        return f"{self.objective} model{where} with {', '.join(parts)}"
