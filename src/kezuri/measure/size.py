"""Bytes: of the file that is shipped, of the file compressed, of the bare weights."""

import lzma
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from kezuri.core.errors import DataError
from kezuri.core.measurement import Measurement


def file_sizes(path: Path) -> tuple[Measurement, Measurement]:
    """Bytes of a file as it is (format `onnx` for a .onnx file) and compressed with xz (`onnx.xz`).

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"no file {path} to measure")
    content = path.read_bytes()
    name = path.suffix.removeprefix(".")
    packed = len(lzma.compress(content))
    return (
        Measurement("size", len(content), "bytes", conditions={"format": name}),
        Measurement("size", packed, "bytes", conditions={"format": f"{name}.xz"}),
    )


def weights_size(model: nn.Module) -> Measurement:
    """Bytes of the model's state as a safetensors file, without writing one; shared weights count once."""
    unique: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        place = (value.device, value.data_ptr(), value.shape, value.stride()) if value.numel() else (name,)
        unique.setdefault(place, (name, value))
    # a clone, because safetensors refuses tensors that overlap in memory
    content = save({name: value.contiguous().clone() for name, value in unique.values()})
    return Measurement("size", len(content), "bytes", conditions={"format": "safetensors"})
