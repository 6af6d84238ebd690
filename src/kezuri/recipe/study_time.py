"""How long a study will take: from timed training steps at first, from its own pace later."""

import time
from collections.abc import Iterable

from kezuri.core.errors import KezuriError
from kezuri.data import Data, batch_count
from kezuri.model.load import load_model
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.study import Cell, Plan
from kezuri.train import Training
from kezuri.train.estimate import estimate_step_seconds

ENDING = 8.0
"""Seconds to export and measure two models."""

FORWARD = 1 / 3
"""What answering takes of a training step, for a teacher."""

INTEGERS = 2.0
"""How much longer a step takes through quantizers."""


class Clock:
    """Knows about how long cells take, and corrects itself by those that are done.

    Args:
        plan: what is studied.
        data: the images.
        device: where it trains.
        workers: how many cells are done at once.
    """

    def __init__(self, plan: Plan, data: Data, device: str, *, workers: int) -> None:
        self.plan, self.data, self.device, self.workers = plan, data, device, workers
        self._ahead: dict[tuple[str, int], float] = {}
        self._epochs: dict[str, float] = {}
        self._whole, self._began = 0.0, 0.0

    def begin(self, cells: Iterable[Cell]) -> str:
        """How long these will take, in words; `done` counts from now."""
        cells = list(cells)
        try:
            self._ahead = {(cell.name, cell.seed): self._seconds(cell) for cell in cells}
        except KezuriError:  # a model that cannot be trained is its own cell's matter
            self._ahead = {(cell.name, cell.seed): ENDING for cell in cells}
        self._whole, self._began = sum(self._ahead.values()), time.monotonic()
        return f"about {spell(self._whole / self.workers)}"

    def done(self, cell: Cell) -> str:
        """What is left after this cell, in words; nothing for one that was done before."""
        if self._ahead.pop((cell.name, cell.seed), None) is None or not self._ahead:
            return ""
        left = sum(self._ahead.values())
        return f"; about {spell((time.monotonic() - self._began) * left / (self._whole - left))} left"

    def _seconds(self, cell: Cell) -> float:
        kinds = [str(step["use"]) for step in cell.recipe["steps"]]
        if cell.method == "teacher":
            return ENDING + cell.epochs * self._epoch("teacher")
        begun = self.plan.epochs if cell.recipe["model"]["weights"] else 0.0
        each = self._epoch("student")
        taught = cell.epochs - begun
        if cell.method == "assistant":
            each = (each + self._epoch("assistant")) / 2
        if "distill" in kinds:
            each += self._epoch("teacher") * FORWARD / len(kinds)
        if "quantize" in kinds:
            each *= INTEGERS if len(kinds) == 1 else 1 + (INTEGERS - 1) / len(kinds)
        return ENDING + taught * each

    def _epoch(self, name: str) -> float:
        """Seconds of a training epoch of the student, the assistant or the teacher."""
        if name not in self._epochs:
            plan, shape = self.plan, self.data.image_shape
            choice: ModelChoice = getattr(plan, name)
            model = load_model(choice.spec, classes=len(self.data.classes), image_shape=shape)
            training = Training(epochs=plan.epochs, lr=plan.lr, batch_size=plan.batch_size)
            steps = batch_count(len(self.data.train), plan.batch_size, training=True)
            self._epochs[name] = steps * estimate_step_seconds(model, self.data, training, self.device)
        return self._epochs[name]


def spell(seconds: float) -> str:
    """A time ahead, in minutes or hours."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
