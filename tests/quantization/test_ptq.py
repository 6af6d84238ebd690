import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.core.errors import MissingEvidence, UsageError
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.observers.mse import Mse
from kezuri.quantization.ptq import PostTraining, calibrate_, layer_map
from kezuri.quantization.quantize import quantize
from kezuri.quantization.rounding import LayerMap
from kezuri.quantization.roundings.adaround import AdaRound
from kezuri.quantization.roundings.gptq import Gptq
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

from .nets import SIDE, Net, block, branches, conv, noise, prepared, residual, seeded

X = noise(16, 3, SIDE, SIDE, seed=5)


def calibrated(model, inputs=X, method=None, **scheme):
    found = prepared(model, inputs[:2], **scheme)
    calibrate_(found, [(inputs[:10],), (inputs[10:],)], method or PostTraining())
    return found


@torch.no_grad()
def error(model, found, inputs=X):
    expected = model.eval()(inputs)
    return float((found.network.eval()(inputs) - expected).square().mean() / expected.var())


def test_all_is_on_and_close_to_the_model():
    model = residual()
    found = calibrated(model)
    assert all(one.on and not one.watches for one in quantizers_of(found.network).values())
    assert error(model, found) < 1e-3


def test_nothing_to_calibrate_with_is_refused():
    with pytest.raises(UsageError, match="nothing to calibrate with"):
        calibrate_(prepared(residual()), [], PostTraining())
    with pytest.raises(UsageError, match="images=0"):
        PostTraining(images=0)


def test_calibration_leaves_mode_weights_and_statistics():
    model = branches().train()
    found = prepared(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calibrate_(found, [(X,)], PostTraining())
    after = found.network.state_dict()
    assert found.network.training
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("rounding", [Gptq(), AdaRound(iterations=100)])
def test_rounding_improves_few_bits(rounding):
    model, scheme = residual(), {"bits": 3, "edge_bits": 3}
    nearest = error(model, calibrated(model, method=PostTraining(weight_observer=Mse()), **scheme))
    method = PostTraining(weight_observer=Mse(), rounding=rounding)
    found = calibrated(model, method=method, **scheme)
    assert error(model, found) < 0.8 * nearest
    for site in found.sites:  # the weights themselves are on the grid now
        weight = found.weight(site)
        assert torch.allclose(found.weight_quantizer(site)(weight), weight, atol=1e-6)


def test_rounding_with_one_scale_and_gains_of_zero():
    model = residual()
    with torch.no_grad():
        model.norm.weight[:2] = 0
    found = calibrated(model, method=PostTraining(rounding=Gptq()), per_channel=False)
    assert all(parameter.isfinite().all() for parameter in found.network.parameters())
    assert error(model, found) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("size", [4, SIDE])
def test_bias_correction_takes_out_the_mean_error(size):
    """Also where maps are as wide as there are channels."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, size, 1), nn.ReLU(), nn.Conv2d(size, size, 1)))
    means = []
    for correct in (False, True):
        found = calibrated(
            model, method=PostTraining(correct_bias=correct), bits=3, edge_bits=3, activation_bits=8
        )
        off = found.network(X) - model(X)
        means.append(float(off.mean((0, 2, 3)).abs().max()))
    assert means[1] < means[0] / 5


@torch.no_grad()
def test_norms_are_reestimated():
    model = seeded(lambda: nn.Sequential(block(3, 4), block(4, 4)))
    found = calibrated(model, method=PostTraining(reestimate_norms=True), bits=2, edge_bits=2)
    network = found.network
    first = found.sites[0]
    weight = found.weight_quantizer(first)(found.weight(first))
    seen = F.conv2d(network.get_submodule(first.inputs)(X), weight, padding=1)
    assert torch.allclose(network.get_buffer("0.1.running_mean"), seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.get_buffer("0.1.running_var"), seen.var((0, 2, 3)), rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "method", [PostTraining(), PostTraining(rounding=Gptq()), PostTraining(equalize=True)]
)
def test_weights_that_were_pruned_stay_zero(method):
    model = residual()
    masks = {name: noise(*p.shape, seed=3) > 0 for name, p in model.named_parameters() if p.dim() > 1}
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
    found = calibrated(model, method=method)
    for site in found.sites:
        weight = found.weight_quantizer(site)(found.weight(site))
        assert not weight[~masks[site.weight]].any() and weight.isfinite().all()


def test_the_settings_of_a_layer():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding="same", dilation=2),
            nn.Conv2d(4, 4, (3, 1), (2, 1), (1, 0), groups=2),
            nn.Conv2d(4, 4, 1),
            nn.Flatten(),
            nn.LazyLinear(2),
        )
    )
    model(X)
    found = prepared(model)
    nodes = {node.name: node for node in found.network.graph.nodes}
    maps = [layer_map(nodes[site.node]) for site in found.sites]
    assert maps == [
        LayerMap((1, 1), (2, 2), (2, 2), 1),
        LayerMap((2, 1), (1, 0), (1, 1), 2),
        LayerMap((1,), (0,), (1,), 1),
        None,
    ]


def test_training_goes_on_from_there():
    found = calibrated(residual())
    network = found.network.train()
    before = network.get_parameter("second.weight").clone()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(X).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, network.get_parameter("second.weight"))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_values_that_are_nowhere_finite_are_an_error():
    model = seeded(lambda: Net(lambda net, x: net.b(net.a(x).log()), a=conv(3, 4), b=conv(4, 4)))
    with pytest.raises(Exception, match="not finite") as caught:
        calibrated(model)
    assert not isinstance(caught.value, MissingEvidence)


def test_the_observer_of_weights_counts_also_once_the_report_is_made():
    """Making the report used to set the scales anew."""
    scales = {}
    for observer in ("min_max", "mse"):
        made = quantize(residual().eval(), X, bits=4, weight_observer=observer)
        assert not any(module.training for module in made.model.modules())
        scales[observer] = [made.prepared.weight_quantizer(site).scale for site in made.prepared.sites]
    pairs = list(zip(*scales.values(), strict=True))
    assert all(bool((mse <= largest + 1e-8).all()) for largest, mse in pairs)
    assert any(not torch.equal(largest, mse) for largest, mse in pairs)


@torch.no_grad()
def test_evaluation_never_moves_ranges():
    made = quantize(residual().eval(), X)
    made.train_ranges("moving")
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.model(X * 10)
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_biases_are_corrected_alike_in_batches_of_any_sizes():
    found = {}
    for sizes in ((8, 8), (15, 1)):
        one = prepared(residual(), X[:2], bits=4)
        calibrate_(one, [(part,) for part in X.split(sizes)], PostTraining(correct_bias=True))
        found[sizes] = torch.cat([v for n, v in one.network.named_parameters() if n.endswith("bias")])
    torch.testing.assert_close(found[8, 8], found[15, 1], rtol=1e-4, atol=1e-5)


def test_every_normalisation_with_statistics_is_estimated_again():
    norms = {"first": nn.BatchNorm2d(3), "second": nn.BatchNorm1d(5)}
    model = Net(
        lambda net, x: net.second(net.head(net.a(F.relu(net.first(x))).mean((2, 3)))),
        a=conv(3, 8),
        head=nn.Linear(8, 5),
        **norms,
    ).eval()
    made = quantize(model, X + 3, reestimate_norms=True)
    after = made.model.state_dict()
    torch.testing.assert_close(after["first.running_mean"], (X + 3).mean((0, 2, 3)), rtol=0, atol=0.05)
    assert not torch.equal(after["second.running_mean"], model.second.running_mean)


def test_one_value_a_channel_is_too_few_to_estimate_from():
    model = Net(lambda net, x: net.norm(net.a(x).mean((2, 3))), a=conv(3, 8), norm=nn.BatchNorm1d(8)).eval()
    with pytest.raises(UsageError, match="needs two values a channel at least, batch_norm has one"):
        quantize(model, X[:1], reestimate_norms=True)


def test_what_has_no_bias_to_correct_is_named():
    model = Net(lambda net, x: net.b(net.a(x)), a=conv(3, 8, bias=False), b=conv(8, 4)).eval()
    assert str(quantize(model, X, correct_bias=True).report).endswith("not corrected, as there is no bias: a")


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_normalisation_behind_a_linear_layer_is_in_the_file_as_it_is_in_the_network(
    per_channel, tmp_path
):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(32)
    nn.init.normal_(norm.weight, 4, 2)
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 32), norm, nn.ReLU(), nn.Linear(32, 5)).eval()
    made = quantize(model, X, per_channel=per_channel)
    session = OnnxRuntime().prepare(made.export(tmp_path / "model.onnx"))
    expected = made.model(X).detach()
    apart = (torch.from_numpy(session.run(X.numpy())) - expected).abs().max() / expected.abs().max()
    assert apart < 0.02
    assert made.prepared.sites[0].norm == "batch_norm"
