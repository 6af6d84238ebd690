"""Kezuri shaves neural networks down: prune, prove, export, measure.

The names below are the public ones; everything else may move. They are loaded when first used, so that
importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kezuri.core.errors import KezuriError as KezuriError
    from kezuri.core.goal import Goal as Goal
    from kezuri.data import from_dataset as from_dataset
    from kezuri.data import load_data as load_data
    from kezuri.model.coupling import couple as couple
    from kezuri.model.load import load_model as load_model
    from kezuri.model.proof import cut as cut
    from kezuri.prune.gather import gather as gather
    from kezuri.prune.select import select_masks as select_masks
    from kezuri.quantization.portable import read_model as read_model
    from kezuri.quantization.portable import save_model as save_model
    from kezuri.quantization.quantize import quantize as quantize
    from kezuri.recipe.compress import compress as compress
    from kezuri.recipe.distill import distill as distill
    from kezuri.recipe.prepare import prepare as prepare
    from kezuri.recipe.prune_blocks import prune_blocks as prune_blocks
    from kezuri.recipe.prune_channels import prune_channels as prune_channels
    from kezuri.recipe.recipe import load_recipe as load_recipe
    from kezuri.recipe.run import resume as resume
    from kezuri.recipe.run import run as run
    from kezuri.runtime.export import export_onnx as export_onnx
    from kezuri.train.evaluate import evaluate as evaluate
    from kezuri.train.fit import fit as fit
    from kezuri.train.training import Training as Training

_HOMES = {
    "KezuriError": "kezuri.core.errors",
    "Goal": "kezuri.core.goal",
    "from_dataset": "kezuri.data",
    "load_data": "kezuri.data",
    "couple": "kezuri.model.coupling",
    "load_model": "kezuri.model.load",
    "read_model": "kezuri.quantization.portable",
    "save_model": "kezuri.quantization.portable",
    "cut": "kezuri.model.proof",
    "gather": "kezuri.prune.gather",
    "select_masks": "kezuri.prune.select",
    "quantize": "kezuri.quantization.quantize",
    "compress": "kezuri.recipe.compress",
    "distill": "kezuri.recipe.distill",
    "prepare": "kezuri.recipe.prepare",
    "prune_blocks": "kezuri.recipe.prune_blocks",
    "prune_channels": "kezuri.recipe.prune_channels",
    "load_recipe": "kezuri.recipe.recipe",
    "resume": "kezuri.recipe.run",
    "run": "kezuri.recipe.run",
    "export_onnx": "kezuri.runtime.export",
    "Training": "kezuri.train.training",
    "evaluate": "kezuri.train.evaluate",
    "fit": "kezuri.train.fit",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"kezuri has no {name!r} (has: {', '.join(__all__)})")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
