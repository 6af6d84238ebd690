"""Quantized networks on disk, in the format of all models."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact, UsageError
from kezuri.model.portable import quantizations
from kezuri.model.portable import read_model as read_model
from kezuri.model.portable import save_model as save_model
from kezuri.model.program import Program
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.network import Quantizable, with_quantizers
from kezuri.quantization.scheme import Scheme

NAME = "fake_quant"


def quantization_of(prepared: Quantizable) -> tuple[str, dict[str, Any]]:
    """What `save_model` is told as `quantization`."""
    on = sorted(name for name, one in quantizers_of(prepared.network).items() if one.on)
    learned = sorted(name for name, one in quantizers_of(prepared.network).items() if one.ranges == "learned")
    scheme = {field.name: getattr(prepared.scheme, field.name) for field in fields(Scheme)}
    ranges = {one.ranges for one in prepared.activation_quantizers}
    if len(ranges) == 1:  # training may have been told another than the scheme has
        scheme["ranges"] = ranges.pop()
    return NAME, {"scheme": scheme, "on": on, "learned": learned}


def scheme_of(settings: Mapping[str, Any]) -> Scheme:
    """The scheme in a file's settings.

    Raises:
        CorruptArtifact: they are no scheme.
    """
    given = settings.get("scheme")
    if not isinstance(given, Mapping) or set(given) - {field.name for field in fields(Scheme)}:
        raise CorruptArtifact(f"no scheme of quantization: {given!r}")
    try:
        return Scheme(**{**given, "spared": tuple(given.get("spared", ()))})
    except (UsageError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"no scheme of quantization: {error}") from error


def with_settings(model: nn.Module, inputs: tuple[Tensor, ...], settings: Mapping[str, Any]) -> Quantizable:
    """The network that settings tell of, its scales yet to be filled in."""
    prepared = with_quantizers(model, inputs, scheme_of(settings))
    known = quantizers_of(prepared.network)
    for key in ("on", "learned"):
        names = settings.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) and name in known for name in names):
            raise CorruptArtifact(f"the quantizers that are {key} are not those of the model: {names!r}")
    for name in settings["learned"]:
        known[name].learn()
    for name in settings["on"]:
        known[name].on = True
    return prepared


def _network(model: nn.Module, inputs: tuple[Tensor, ...], settings: Mapping[str, Any]) -> Program:
    return with_settings(model, inputs, settings).network


quantizations[NAME] = _network
