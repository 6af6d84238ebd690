"""A quantized network as an ONNX file: QuantizeLinear and DequantizeLinear around what runs in integers."""

from pathlib import Path

from kezuri.artifact.atomic import write_bytes
from kezuri.model.program import Program
from kezuri.quantization.folding import shipped
from kezuri.quantization.operators import translations
from kezuri.runtime.export import onnx_of, serialized


def export_quantized(
    network: Program, image_shape: tuple[int, int, int], path: Path, *, aligned: bool = True
) -> Path:
    """Writes a quantized network as one ONNX file with its weights as 8-bit integers.

    Input and output are as `export_onnx` has them, floats. Batch normalisation is folded.

    Args:
        aligned: whether channels of zeros are added where they make kernels faster, for a few bytes more.

    Raises:
        ModelError: it cannot be exported; the operation at fault is named.
        ResourceError: the file cannot be written.
    """
    write_bytes(path, serialized(onnx_of(shipped(network, aligned=aligned), image_shape, translations())))
    return path
