"""Everything a run needs, checked before any long work: data, model, device, and the run's name."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kezuri.artifact.atomic import sha256_of
from kezuri.core.errors import CorruptArtifact, DataError, ModelError
from kezuri.data import Data, load_data
from kezuri.data.splits import SHARES
from kezuri.model.load import ModelSpec, check_fits, load_model
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.parts import parts_in
from kezuri.recipe.recipe import Recipe, recipe_from_json
from kezuri.runtime.runner import file_runner
from kezuri.train import choose_device

IN_MEMORY = "<in memory>"


@dataclass(frozen=True)
class Prepared:
    """A recipe and its inputs, loaded and checked.

    Attributes:
        recipe: the recipe.
        data: the data set, split.
        model: the model the recipe begins with.
        fresh: builds that model's structure anew.
        spec: how to rebuild the model by name; None for a model that exists in memory only.
        device: where to train.
        inputs: hashes of what the recipe names but does not contain: data, weights, model code.
        places: folders the inputs were found by, as given: `data_root`, and `near`, the recipe's own.
    """

    recipe: Recipe
    data: Data
    model: nn.Module
    fresh: Callable[[], nn.Module]
    spec: ModelSpec | None
    device: torch.device
    inputs: Mapping[str, str]
    places: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits: equal only for the same complete recipe on the same inputs."""
        recipe = recipe_from_json(self.recipe.to_json(), self.recipe.name)  # as `resume` reads it: 1 is 1.0
        text = json.dumps({"recipe": recipe.to_json(), "inputs": dict(self.inputs)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def run_name(self) -> str:
        """The folder's name."""
        return f"{self.recipe.name}-{self.fingerprint}"

    def known(self, spec: ModelSpec | None) -> ModelSpec | None:
        """The model that a saved one was cut from, as the recipe names it; None for the recipe's own.

        Raises:
            CorruptArtifact: the recipe names no such model.
        """
        own = self.spec, *(choice.spec for choice in parts_in(self.recipe.steps, ModelChoice))
        for number, one in enumerate(own):
            if _as_json(one) == _as_json(spec):
                return one if number else None
        name = "the model" if spec is None else spec.ref
        raise CorruptArtifact(
            f"{name} was saved with other options than the recipe names it with, or not at all"
        )

    def structure(self, spec: ModelSpec | None) -> nn.Module:
        """The structure of the recipe's model (None), or of another that it names."""
        return self.fresh() if spec is None else self._load(spec, None)

    def build(self, choice: ModelChoice) -> nn.Module:
        """A model the recipe names, with its weights, on the CPU.

        Raises:
            DataError: its weights are missing or damaged.
            ModelError: it cannot be built, or does not fit the data.
        """
        near = self.places.get("near")
        weights = choice.weights and find_weights(choice.weights, None if near is None else Path(near))
        model = self._load(choice.spec, weights or None)
        try:
            check_fits(model, self.data.image_shape, len(self.data.classes))
        except ModelError as error:
            raise ModelError(f"{choice.use}: {error}") from error
        return model

    def _load(self, spec: ModelSpec, weights: Path | None) -> nn.Module:
        classes, shape = len(self.data.classes), self.data.image_shape
        return load_model(spec, classes=classes, image_shape=shape, weights=weights, seed=self.recipe.seed)


def prepare(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    near: Path | None = None,
) -> Prepared:
    """Loads and checks what a recipe names.

    Args:
        recipe: the recipe.
        model: takes the place of the recipe's model.
        data: takes the place of the recipe's data.
        data_root: the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        near: the recipe's folder; weights are looked for there first.

    Raises:
        DataError: data or weights are missing or damaged.
        ModelError: the model cannot be built, or does not fit the data.
        UsageError: the goal's runtime is not installed, or runs no files.
    """
    file_runner(recipe.goal.runtime)
    where = choose_device(device)
    loaded = data if data is not None else _load(recipe, data_root)
    inputs = {"data": loaded.fingerprint}
    given = {"data_root": data_root, "near": near}
    places = {name: str(folder) for name, folder in given.items() if folder is not None}
    inputs |= _named_inputs(recipe, near)
    if model is not None:
        kept = copy.deepcopy(model).cpu()
        inputs["model"] = _state_hash(kept)
        check_fits(kept, loaded.image_shape, len(loaded.classes))
        return _checked(
            Prepared(
                recipe, loaded, copy.deepcopy(kept), lambda: copy.deepcopy(kept), None, where, inputs, places
            )
        )
    if recipe.model.use == IN_MEMORY:
        raise ModelError(
            "this run began with a model that existed in Python only; call kezuri.compress with the same "
            "model, data and settings again, and it resumes where it stopped"
        )
    spec = ModelSpec(recipe.model.use, recipe.model.options)
    classes, shape = len(loaded.classes), loaded.image_shape

    def fresh() -> nn.Module:
        return load_model(spec, classes=classes, image_shape=shape, seed=recipe.seed)

    weights = find_weights(recipe.model.weights, near) if recipe.model.weights else None
    built = load_model(spec, classes=classes, image_shape=shape, seed=recipe.seed, weights=weights)
    check_fits(built, shape, classes)
    if weights is not None:
        inputs["weights"] = sha256_of(weights)
    if code := _code(recipe.model.use):
        inputs["code"] = sha256_of(code)
    return _checked(Prepared(recipe, loaded, built, fresh, spec, where, inputs, places))


def _checked(prepared: Prepared) -> Prepared:
    """With the models that steps name built once, so that a mistake shows now."""
    for choice in parts_in(prepared.recipe.steps, ModelChoice):
        prepared.build(choice)
    return prepared


def _named_inputs(recipe: Recipe, near: Path | None) -> dict[str, str]:
    """Hashes of weights and code of the models that steps name."""
    inputs = {}
    for choice in parts_in(recipe.steps, ModelChoice):
        if choice.weights:
            inputs[f"weights {choice.weights}"] = sha256_of(find_weights(choice.weights, near))
        if code := _code(choice.use):
            inputs[f"code {code}"] = sha256_of(code)
    return inputs


def _as_json(spec: ModelSpec | None) -> str:
    """The same for a spec that was saved and read back."""
    return json.dumps(None if spec is None else [spec.ref, dict(spec.options)], sort_keys=True)


def _code(ref: str) -> Path | None:
    """The user's own file that a reference names."""
    code = Path(ref.rpartition(":")[0])
    return code if code.suffix == ".py" and code.exists() else None


def find_weights(name: str, near: Path | None) -> Path:
    """The weights file, looked for beside the recipe, here, and in `KEZURI_MODELS`.

    Raises:
        DataError: it is in none of them; the message lists what was tried.
    """
    folders: Sequence[Path] = [
        *([near] if near else []),
        Path.cwd(),
        *([Path(os.environ["KEZURI_MODELS"])] if os.environ.get("KEZURI_MODELS") else []),
    ]
    tried = list(dict.fromkeys((folder / name).resolve() for folder in folders))
    for path in tried:
        if path.is_file():
            return path
    raise DataError(f"no weights {name!r}; tried:\n" + "\n".join(f"  {path}" for path in tried))


def _load(recipe: Recipe, root: Path | None) -> Data:
    choice = recipe.data
    if choice.use == IN_MEMORY:
        raise DataError(
            "this run began with data that existed in Python only; call kezuri.compress again to resume it"
        )
    normalize = None if choice.normalize is None else (choice.normalize.mean, choice.normalize.std)
    return load_data(
        choice.use,
        root=root,
        validation=choice.validation or SHARES[choice.validation_from],
        validation_from=choice.validation_from,
        seed=choice.split_seed,
        normalize=normalize,
    )


def _state_hash(model: nn.Module) -> str:
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe(prepared: Prepared) -> dict[str, Any]:
    """Plain data for the manifest."""
    return {
        "name": prepared.recipe.name,
        "fingerprint": prepared.fingerprint,
        "inputs": dict(prepared.inputs),
        "places": dict(prepared.places),
        "seed": prepared.recipe.seed,
        "device": str(prepared.device),
        "data": prepared.data.describe(),
    }
