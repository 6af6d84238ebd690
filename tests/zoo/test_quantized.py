"""Hard graphs in integers: with quantizers off nothing changes, with them on the answers are near."""

import copy

import pytest
import torch

from kezuri.core.errors import ModelError
from kezuri.model.portable import read_model
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.quantize import quantize

from .hard import hard
from .rough import roughened
from .trial import answers, furthest

REFUSED = {
    "autoencoder_with_tied_weights": "named 'code'",
    "batch_size_by_len": "batches of 2 only",
    "double_precision": "weights in float64",
    "lstm_stacked": "batches of 2 only",  # its first dimension is time
}
FAR = {"yolo": 0.4}
"""Answers that are further off than a tenth: thirty layers of random weights one after the other."""
INSTRUCTIVE = (
    "convolutional_block_attention",  # one module read by two poolings
    "temporal_shift",  # written slice by slice
    "channels_last_and_in_place",  # an operation named `to`
    "dead_branch_and_layer_without_use",
    "one_module_under_two_names",
    "shuffle_units",
    "concatenated_with_itself",
    "tied_embedding_and_head",
    "outputs_in_a_dict",
    "biases_by_a_table_and_talking_heads",
    "part_of_a_weight",
    *REFUSED,
)


def in_integers(name: str, tmp_path) -> None:
    graph = hard[name]

    def build():
        return roughened(graph.build(), graph.batch(2)).eval()

    model, inputs = build(), graph.batch(4)
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            quantize(model, inputs)
        return
    plain = answers(model, inputs)
    result = quantize(model, inputs)
    network = result.model
    rounded = answers(network, inputs)
    for one, other in zip(plain, rounded, strict=True):
        assert other.isfinite().all()
        if one.is_floating_point():
            assert (one - other).norm() <= FAR.get(name, 0.1) * one.norm()
    assert furthest(rounded, answers(copy.deepcopy(network), inputs)) == 0
    result.save(tmp_path)
    assert furthest(rounded, answers(read_model(tmp_path, build=build).model, inputs)) == 0
    for quantizer in quantizers_of(network).values():
        quantizer.on = False
    assert furthest(plain, answers(network, inputs)) < 1e-5


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("name", INSTRUCTIVE)
def test_instructive_graphs(name: str, tmp_path):
    with torch.random.fork_rng(devices=[]):
        in_integers(name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own, of a slower way
@pytest.mark.parametrize("name", [name for name in hard if name not in INSTRUCTIVE])
def test_all_others(name: str, tmp_path):
    in_integers(name, tmp_path)
