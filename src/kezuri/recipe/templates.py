"""Recipes for the usual jobs, as text a user can read and change."""

import json
from collections.abc import Mapping
from typing import Any

from kezuri.core.errors import RecipeError
from kezuri.core.registry import unknown
from kezuri.recipe.document import parse

COMPRESS = """\
# {question}
#
#   kezuri check {file}      validates it and estimates time and memory
#   kezuri run {file}
#
# `kezuri list` shows every step, criterion, model and data set that can stand here.
name: {name}
seed: 0
model:
  use: {model}   # a zoo name, file.py:function, module:function, timm:name, torchvision:name
  weights: {weights}   # a .safetensors file or a PyTorch state dict; null if the model brings its own
data:
  use: {data}
  validation: 0.1   # held out of the training images to choose by; the test set is touched once
goal: {{objective: smallest, accuracy: {accuracy}}}
steps:
{train}  - use: pcas
    rate: {rate}             # of the remaining channels, each round; a list gives one a round
    rounds: {rounds}
    epochs: {epochs}             # retraining after each cut
    lr: {lr}
    lr_ratio: {lr_ratio}         # the retraining starts at lr * lr_ratio; a list gives one a round
    batch_size: {batch_size}
    attention_epochs: {attention_epochs}   # how long the attention gates are trained in each round
    round_to: 1           # channels kept are a multiple of this; 8 suits the kernels of ONNX Runtime
    payoff: 0             # seconds to time each round's cut before retraining; what gains nothing stays whole
    budget: null          # when to stop, such as {{latency: 0.5}}; of params, macs, size, latency
    augment: {augment}
"""

TRAIN = """\
  - use: train
    epochs: {train_epochs}
    lr: {lr}
    batch_size: {batch_size}
    augment: {augment}
"""

DEFAULTS: Mapping[str, Any] = {
    "name": "compress",
    "model": "resnet20",
    "weights": "null",
    "data": "fashion-mini",
    "accuracy": -0.01,
    "train_epochs": 0,
    "rate": 0.2,
    "rounds": 8,
    "epochs": 4,
    "lr": 0.05,
    "lr_ratio": 0.5,
    "batch_size": 128,
    "attention_epochs": 1,
    "augment": "[]",
}

TEMPLATES: Mapping[str, Mapping[str, Any]] = {
    "pcas": {"weights": "weights.safetensors"},
    "train-pcas": {"train_epochs": 30, "lr": 0.1, "augment": "[pad_crop, flip]"},
}


def template(kind: str, *, file: str = "recipe.yaml", **settings: Any) -> str:
    """The text of a recipe.

    Args:
        kind: `pcas` compresses a trained model, `train-pcas` trains it first.
        file: the file's name, for the commands in its first lines.
        settings: take the place of the template's own.

    Raises:
        UnknownName: there is no such template.
    """
    if kind not in TEMPLATES:
        raise unknown("template", kind, TEMPLATES)
    filled = {**DEFAULTS, **TEMPLATES[kind], **settings, "file": file}
    filled |= {key: _scalar(filled[key]) for key in ("name", "model", "data")}
    filled["question"] = f"The smallest model that changes its accuracy by {filled['accuracy']} at most."
    filled["train"] = TRAIN.format_map(filled) if filled["train_epochs"] else ""
    return COMPRESS.format_map(filled)


def _scalar(word: str) -> str:
    """The word as YAML that is read back as the same: quoted where it has special characters."""
    try:
        is_plain = parse(f"key: {word}").value == {"key": word}
    except RecipeError:
        is_plain = False
    return word if is_plain else json.dumps(word, ensure_ascii=False)
