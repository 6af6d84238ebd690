"""Whether the validation images are enough to tell the drop in accuracy that a goal allows."""

from math import ceil, sqrt

from kezuri.core.goal import Goal
from kezuri.measure.accuracy import Z95
from kezuri.recipe.prepare import Prepared

CHANGED = 0.04
"""Fraction of the answers that are taken to change between right and wrong, for want of the model itself."""


def doubts(prepared: Prepared) -> list[str]:
    """What the validation images cannot tell, as a warning; empty where they can, or nothing is kept by them.

    The drop is a difference on the same images, so its 95 % interval depends on how many answers change
    between right and wrong: about 1.96 · sqrt(changed / images).
    """
    own = [getattr(step, "keep", None) for step in prepared.recipe.steps if step.compresses]
    goals = [keep if isinstance(keep, Goal) else prepared.recipe.goal for keep in own]
    drops = [-goal.accuracy for goal in goals if goal.holds_accuracy and goal.accuracy < 0]
    images = len(prepared.data.validation)
    spread = half_width(images)
    if not drops or spread <= min(drops):
        return []
    drop = min(drops)
    return [
        f"{images:,} validation images cannot tell a drop of {_points(drop)}: its 95 % interval is about "
        f"±{spread * 100:.1f} points (were one answer in {round(1 / CHANGED)} to change); "
        f"about {images_for(drop):,} images would"
    ]


def half_width(images: int) -> float:
    """Half of the 95 % interval of a drop that is counted on so many images, as a fraction."""
    return Z95 * sqrt(CHANGED / images)


def images_for(drop: float) -> int:
    """How many images tell a drop of this fraction, to two figures."""
    exact = CHANGED * (Z95 / drop) ** 2
    step = 10 ** max(0, len(str(int(exact))) - 2)
    return int(ceil(exact / step) * step)


def _points(drop: float) -> str:
    amount = f"{drop * 100:g}"
    return f"{amount} point{'' if amount == '1' else 's'}"
