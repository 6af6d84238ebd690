import pytest
import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.model.portable import read_model
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.quantize import quantize

from .nets import SIDE, Net, attention, conv, gated, noise, residual, seeded

X = noise(16, 3, SIDE, SIDE, seed=5)


def stepped(network):
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        network(X).square().mean().backward()
        optimizer.step()
    return network.eval()


def test_the_report():
    report = quantize(gated(), X, layer_bits={"deep.0": 4}, gates=False, swish=False).report
    rows = {row.name: row for row in report.rows}
    assert [row.bits for row in report.rows if row.share] == [8, 4, 8, 8, None, None]
    assert sum(row.share for row in report.rows) == pytest.approx(1)
    assert report.integer_share == pytest.approx(1 - rows["down"].share - rows["up"].share)
    assert rows["wide.0"].error_db > 35 and 10 < rows["deep.0"].error_db < 30
    text = str(report)
    assert text.startswith("4 layers in integers (3 of 8 bits, 1 of 4 bits), activations of 8 bits")
    assert "2 conv2d in floats (0.3% of the multiply-accumulates): squeeze-and-excite gate (down, up)" in text
    assert "2 hardswish in floats (no multiply-accumulates)" in text and "16 images" in text


def test_the_report_says_where_fewer_bits_are_simulated_and_products_are_counted():
    assert "simulated: the file clips and computes in floats" in str(
        quantize(gated(), X, activation_bits=4).report
    )
    text = str(quantize(attention(), noise(8, 3, SIDE, SIDE)).report)
    assert "6 layers and 2 products of activations in integers" in text


@torch.no_grad()
@pytest.mark.parametrize("ranges", ["fixed", "moving", "learned"])
def test_saved_and_read_it_answers_bit_for_bit_also_after_training(ranges, tmp_path):
    result = quantize(residual(), X)
    result.train_ranges(ranges)
    with torch.enable_grad():
        stepped(result.model)
    result.save(tmp_path)
    found = read_model(tmp_path, build=lambda: residual())
    assert torch.equal(found.model(X), result.model(X))
    before, after = quantizers_of(result.model), quantizers_of(found.model)
    assert {name: (one.on, one.ranges, one.grid) for name, one in before.items()} == {
        name: (one.on, one.ranges, one.grid) for name, one in after.items()
    }
    with torch.enable_grad():  # and it goes on training alike
        assert torch.equal(stepped(found.model)(X), stepped(result.model)(X))


def test_learned_ranges_do_not_go_back():
    result = quantize(residual(), X)
    result.train_ranges("learned")
    with pytest.raises(UsageError, match="learned already"):
        result.train_ranges("fixed")


def test_several_inputs_compute_and_are_not_exported(tmp_path):
    model = seeded(lambda: Net(lambda net, x, y: net.a(x) + net.b(y), a=conv(3, 4), b=conv(3, 4)))
    result = quantize(model, (X, -X))
    with torch.no_grad():
        assert torch.allclose(result.model(X, -X), model(X, -X), atol=0.1)
    with pytest.raises(UsageError, match="one batch of floating point numbers"):
        result.export(tmp_path / "model.onnx")
    result.save(tmp_path)
    read = read_model(tmp_path, build=lambda: model).model
    assert torch.equal(read(X, -X), result.model(X, -X))


def test_words_compute_and_are_not_exported(tmp_path):
    model = seeded(lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    words = torch.arange(12).view(4, 3) % 9
    result = quantize(model, words)
    assert len(result.prepared.sites) == 2
    with torch.no_grad():
        assert torch.allclose(result.model(words), model(words), atol=0.05)
    with pytest.raises(UsageError, match="one batch of floating point numbers"):
        result.export(tmp_path / "model.onnx")
