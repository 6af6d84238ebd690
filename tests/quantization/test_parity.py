import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from kezuri.core.errors import ParityFailed
from kezuri.model.load import load_model
from kezuri.quantization.parity import check_quantized_parity, first_difference
from kezuri.quantization.ptq import PostTraining, calibrate_
from kezuri.quantization.quantize import quantize

from .nets import SIDE, accuracy, patterns, prepared, residual, taught

SHAPE = (3, SIDE, SIDE)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A network that tells patterns apart, and its file."""
    from kezuri.quantization.export import export_quantized

    model = taught(residual())
    assert accuracy(model) > 0.95
    part = patterns(64)
    found = prepared(model, part.images[:2])
    calibrate_(found, [(part.images,)], PostTraining())
    assert accuracy(found.network) > accuracy(model) - 0.02
    folder = tmp_path_factory.mktemp("quantized")
    return found.network, export_quantized(found.network, SHAPE, folder / "model.onnx")


def test_a_file_agrees_with_its_network(quantized):
    network, file = quantized
    network.train()
    parity = check_quantized_parity(network, file, patterns(128, seed=2))
    assert network.training and not network.eval().training
    assert parity.samples == 128 and parity.agreement >= 0.98
    assert first_difference(network, file, patterns(32).images) is None


def test_what_an_exporter_renames_is_not_mistaken_for_a_difference(tmp_path):
    """The transpositions of attention are joined in the file, under names that others had."""
    model = load_model("vit_tiny", classes=4, image_shape=(3, 16, 16)).eval()
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = quantize(model, images)
    file = made.export(tmp_path / "model.onnx")
    assert first_difference(made.model, file, images) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_first_layer_that_differs_is_named(quantized, place, tmp_path):
    network, file = quantized
    proto = onnx.load(file)
    integers = [
        one
        for one in proto.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4
    ]
    values = -numpy_helper.to_array(integers[place])
    integers[place].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), integers[place].name))
    onnx.save(proto, tmp_path / "changed.onnx")
    name = ("conv2d", "conv2d_1", "conv2d_2")[place]
    with pytest.raises(ParityFailed, match=f"; first at {name}: .*are other steps"):
        check_quantized_parity(network, tmp_path / "changed.onnx", patterns(64, seed=2))
