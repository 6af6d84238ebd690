"""One call: a trained model, data and a goal in; the smallest or fastest model that keeps it out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.data import Data, from_dataset
from kezuri.data.splits import SHARES
from kezuri.recipe.listener import Listener
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe
from kezuri.recipe.run import run, stages_of
from kezuri.recipe.step import Step
from kezuri.recipe.steps.pcas import PcasLoop


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives back.

    Attributes:
        model: the compressed model, on the CPU, in evaluation mode; it runs, trains and saves like any.
        folder: the run: models, ONNX files, measurements.
        answer: whether the goal is met, and the sentence that says what was found.
    """

    model: nn.Module
    folder: Path
    answer: dict[str, Any]

    def __str__(self) -> str:
        return str(self.answer["text"])


def compress(
    model: nn.Module | str,
    data: Data | Dataset[Any] | str | Path,
    goal: Goal | None = None,
    *,
    steps: tuple[Step, ...] | None = None,
    name: str = "compress",
    seed: int = 0,
    **settings: Any,
) -> Compressed:
    """Compresses a trained model as far as its accuracy allows.

    Args:
        model: a trained module (it is not changed), or a reference such as `resnet20` or `nets.py:build`.
        data: a `Data`, a dataset that yields (image, label), a known name, or a folder of images. Validation
            images are held out of it; a test set of its own is used once, at the end.
        goal: what to keep and what to make best; by default the smallest model within one point of accuracy.
        steps: what to do; by default the PCAS loop, whose knobs are then accepted as keywords
            (`rate`, `rounds`, `epochs`, `lr`, `lr_ratio`, `batch_size`, `attention_epochs`, `round_to`,
            `payoff`, `budget`, …).
        name: the run's name.
        seed: decides everything random.
        settings: knobs of the PCAS loop, and of the run: `runs` (folder), `device`, `threads`, `listener`,
            `data_root`, `weights`, `options` (of the model's function), `validation` and
            `validation_from` (for data by name or folder: a tenth of the training images, or half of the
            test images, where no number is given).

    Raises:
        KezuriError: see `kezuri.core.errors`; the run can be resumed by the same call.
    """
    about = {key: settings.pop(key, default) for key, default in _RUN.items()}
    if steps is None:
        try:
            steps = (PcasLoop(**{"rate": 0.2, "rounds": 8, "epochs": 4.0, "lr": 0.05, **settings}),)
        except TypeError as error:
            raise UsageError(f"compress does not know this setting: {error}") from error
    elif settings:
        raise UsageError(f"steps are given, so these have no effect: {', '.join(settings)}")
    in_memory = isinstance(model, nn.Module)
    recipe = Recipe(
        name=name,
        model=ModelChoice(IN_MEMORY if in_memory else str(model), about["options"], about["weights"]),
        data=DataChoice(
            str(data) if isinstance(data, str | Path) else IN_MEMORY,
            about["validation"],
            about["validation_from"],
        ),
        steps=steps,
        seed=seed,
        goal=goal or Goal(),
    )
    prepared = prepare(
        recipe,
        model=model if isinstance(model, nn.Module) else None,
        data=_data(data, about["validation"]),
        data_root=about["data_root"],
        device=about["device"],
    )
    listener: Listener | None = about["listener"]
    folder = run(prepared, runs=Path(about["runs"]), listener=listener, threads=about["threads"])
    final = stages_of(prepared, folder).state_in(folder.model("final"))
    return Compressed(final.model.cpu().eval(), folder.path, Manifest(folder).read()["answer"])


_RUN: dict[str, Any] = {
    "runs": Path("runs"),
    "device": "auto",
    "threads": None,
    "listener": None,
    "data_root": None,
    "weights": None,
    "options": {},
    "validation": None,
    "validation_from": "train",
}


def _data(data: object, validation: int | float | None) -> Data | None:
    if isinstance(data, Data):
        return data
    if isinstance(data, str | Path):
        return None
    if isinstance(data, Dataset):
        return from_dataset(data, validation=validation or SHARES["train"])
    raise UsageError(
        f"data is a Data, a torch Dataset, a known name or a folder of images; got {type(data).__name__}"
    )
