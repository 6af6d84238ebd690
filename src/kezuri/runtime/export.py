"""A trained model as one ONNX file, the format that runtimes of every kind read."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path

import onnx
import torch
from torch import nn

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import ModelError
from kezuri.core.interruption import held_back

OPSET = 20
Translations = Mapping[Callable[..., object], Callable[..., object]]
CHATTY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "onnx")


def export_onnx(model: nn.Module, image_shape: tuple[int, int, int], path: Path) -> Path:
    """Writes the model as one ONNX file that takes any number of images; leaves the model as it was.

    Input `images` (batch, C, H, W) float32, output `logits` (batch, classes); evaluation mode, batch
    normalisation folded, weights inside. The file holds no trace of source files or folders.

    Args:
        model: on any device, in any mode.
        image_shape: (channels, height, width).
        path: the file to write; whole or absent, also when interrupted.

    Raises:
        ModelError: the model cannot be exported; the operation at fault is named.
        ResourceError: the file cannot be written.
    """
    write_bytes(path, serialized(onnx_of(model, image_shape)))
    return path


def serialized(proto: onnx.ModelProto) -> bytes:
    """The bytes of a file; the same for the same model."""
    return bytes(proto.SerializeToString(deterministic=True))


def onnx_of(
    model: nn.Module, image_shape: tuple[int, int, int], translations: Translations | None = None
) -> onnx.ModelProto:
    """What `export_onnx` writes.

    Args:
        translations: what operations that are not PyTorch's own become in ONNX.

    Raises:
        ModelError: the model cannot be exported; the operation at fault is named.
    """
    proto = exported(model, image_shape, translations).model_proto
    _anonymise_(proto)
    return proto


def exported(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    translations: Translations | None = None,
    *,
    optimize: bool = True,
) -> torch.onnx.ONNXProgram:
    """The exporter's own result; the model stays as it is.

    Args:
        translations: as in `onnx_of`.
        optimize: whether constants are folded, batch normalisation among them.

    Raises:
        ModelError: the model cannot be exported; the operation at fault is named.
    """
    copy = deepcopy(model).cpu().eval()
    images = torch.zeros(2, *image_shape)
    with _silence():
        try:
            with held_back():  # the exporter takes Ctrl-C for a fault of the model
                program = torch.onnx.export(
                    copy,
                    (images,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    input_names=["images"],
                    output_names=["logits"],
                    opset_version=OPSET,
                    custom_translation_table=None if translations is None else dict(translations),
                    optimize=optimize,
                    verbose=False,
                )
        except Exception as error:
            raise ModelError(f"the model cannot be exported to ONNX: {_fault(error)}") from error
    assert program is not None
    return program


@contextmanager
def _silence() -> Iterator[None]:
    # the exporter prints, logs and warns about its own insides; what matters comes back as an exception
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _fault(error: BaseException) -> str:
    """The innermost reason in one line, with the operation if one is named anywhere."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    named = re.search(r"aten[.:]+\w+(?:\.\w+)?", " ".join(map(str, chain)))
    reason = str(chain[-1]).strip().partition("\n")[0] or type(chain[-1]).__name__
    if named:
        return f"{named[0]} is at fault ({reason}); use another operation, or keep the PyTorch model"
    return f"{type(chain[-1]).__name__}: {reason}"


def _anonymise_(proto: onnx.ModelProto) -> None:
    """Drops notes of the exporter, such as the source line of every operation."""
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
