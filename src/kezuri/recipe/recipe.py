"""A recipe: model, data, goal and the ordered steps between them. Pure data."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kezuri.core.errors import RecipeError, UsageError
from kezuri.core.goal import Goal
from kezuri.data.splits import SHARES
from kezuri.recipe.build import build, plain
from kezuri.recipe.document import Document, Path_, parse, read_document, spell
from kezuri.recipe.model_choice import ModelChoice as ModelChoice
from kezuri.recipe.step import Step


@dataclass(frozen=True)
class Normalize:
    """Mean and standard deviation per channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(
                f"mean and std need one value a channel; got {len(self.mean)} and {len(self.std)}"
            )
        if any(value <= 0 for value in self.std):
            raise UsageError(f"every std must be above 0, got {list(self.std)}")


@dataclass(frozen=True)
class DataChoice:
    """Which data: a known name or a folder of images.

    Attributes:
        use: the reference.
        validation: how many images are held out to choose by: a count, or a fraction below 1; None for a
            tenth of the training images, or half of the test images where they are taken from those.
        validation_from: `train`; or `test`, for a model that was trained on all training images already, so
            that the floor is not kept on images it has memorised. The other test images stay for the test.
        split_seed: draws the validation images; its own seed, so that runs with other seeds stay comparable.
        normalize: overrides the data set's own mean and standard deviation.
    """

    use: str
    validation: int | float | None = None
    validation_from: Literal["train", "test"] = "train"
    split_seed: int = 0
    normalize: Normalize | None = None

    def __post_init__(self) -> None:
        if self.validation is None:
            object.__setattr__(self, "validation", SHARES[self.validation_from])
        assert self.validation is not None
        most = 1 if isinstance(self.validation, float) else math.inf
        if not 0 < self.validation < most:
            raise UsageError(
                f"validation is a count of images (a whole number) or a fraction in (0, 1), "
                f"got {self.validation}"
            )


@dataclass(frozen=True)
class Recipe:
    """What to do, completely: the same recipe on the same inputs is the same run."""

    name: str
    model: ModelChoice
    data: DataChoice
    steps: tuple[Step, ...]
    seed: int = 0
    goal: Goal = field(default_factory=Goal)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", self.name):
            raise RecipeError(
                f"name is used as a folder name: letters, digits, '.', '_' and '-', at most 80; "
                f"got {self.name!r}"
            )
        if not self.steps:
            raise RecipeError("steps is empty; a recipe needs at least one step")
        if self.seed < 0:
            raise RecipeError(f"seed must be 0 or more, got {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """Complete plain data, every default filled in."""
        content = plain(self)
        assert isinstance(content, dict)
        return content


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key=value` overrides such as `steps.1.rate=0.2` applied.

    Raises:
        DataError: the file cannot be read.
        RecipeError: anything in it is wrong; the message has file and line.
    """
    document = read_document(path)
    for text in overrides:
        document = override(document, text)
    return recipe_from(document)


def recipe_from(document: Document) -> Recipe:
    """The recipe in a document."""
    if not isinstance(document.value, dict):
        found = "nothing" if document.value is None else repr(document.value)
        raise RecipeError(f"{document.source}: a recipe is settings (key: value), got {found}")
    recipe: Recipe = build(Recipe, document)
    return recipe


def recipe_from_json(content: Any, source: str) -> Recipe:
    """The recipe that `Recipe.to_json` wrote."""
    return recipe_from(Document(content, source, {}))


def override(document: Document, text: str) -> Document:
    """The document with one `key=value` applied; the value is read as in a recipe file."""
    key, equals, written = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"an override is key=value, such as seed=1 or steps.0.epochs=5; got {text!r}")
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
    value = parse(written, f"override {key}").value
    content = json.loads(json.dumps(document.value))
    target = content
    for depth, part in enumerate(path[:-1]):
        target = _inside(target, part, path[: depth + 1], text)
    last = path[-1]
    if isinstance(target, list):
        _inside(target, last, path, text)
    elif not isinstance(target, dict):
        raise RecipeError(
            f"override {text!r}: {spell(path[:-1])} holds {target!r}, nothing can be set inside it"
        )
    target[last] = value
    return replace(document, value=content, changed={**document.changed, path: text})


def _inside(target: Any, part: str | int, path: Path_, text: str) -> Any:
    if isinstance(target, list):
        if not isinstance(part, int) or part >= len(target):
            raise RecipeError(
                f"override {text!r}: {spell(path)}: the list has the items 0 to {len(target) - 1}"
            )
        return target[part]
    if not isinstance(target, dict):
        raise RecipeError(f"override {text!r}: {spell(path)}: there is no such place in the recipe")
    return target.setdefault(str(part), {})
