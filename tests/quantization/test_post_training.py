import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kezuri.core.errors import DataError, GoalUnreachable, KezuriError, ModelError, UnknownName, UsageError
from kezuri.data import from_tensors
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.post_training import calibration_batches
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.quantize import quantize
from kezuri.quantization.sparing import suffering

from .nets import SIDE, Net, accuracy, branches, conv, noise, patterns, residual, seeded, taught

X = noise(40, 3, SIDE, SIDE, seed=5)
LABELS = torch.arange(40) % 4


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, LABELS, strict=True)


CALIBRATIONS = {
    "tensor": X,
    "batches": list(X.split(7)),
    "batches with labels": [(X[:20], LABELS[:20]), [X[20:], LABELS[20:]]],
    "generator": lambda: (batch for batch in X.split(7)),
    "loader": DataLoader(TensorDataset(X, LABELS), batch_size=7),
    "dataset": TensorDataset(X, LABELS),
    "dataset of images alone": TensorDataset(X),
    "stream": Stream(),
    "data": from_tensors((X, LABELS), validation=4),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibration_comes_in_every_form(name):
    given = CALIBRATIONS[name]
    method = PostTraining(images=30, batch_size=8)
    batches = calibration_batches(branches(), given() if callable(given) else given, method)
    images = torch.cat([batch[0] for batch in batches])
    assert images.shape == (30, 3, SIDE, SIDE)
    if name != "data":  # which is normalised by its own numbers
        known = {tuple(image.flatten()[:5].tolist()) for image in X}
        assert {tuple(image.flatten()[:5].tolist()) for image in images} <= known


def test_what_is_drawn_follows_the_seed():
    method = PostTraining(images=8)
    first, again, other = (
        calibration_batches(branches(), CALIBRATIONS["dataset"], method, seed=seed)[0][0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def spoiled(value):
    images = X.clone()
    images[11, 1, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ([], UsageError, "nothing to calibrate with"),
        (X[:0], UsageError, "nothing to calibrate with"),
        (7, UsageError, "got int"),
        (None, UsageError, "got NoneType"),
        ("images", UsageError, "got str"),
        ([{"image": X}], UsageError, "got dict"),
        ((X, X[:3]), UsageError, "a batch of each of the model's inputs"),
        (torch.tensor(1.0), UsageError, "a batch of each of the model's inputs"),
        ([X[:2], X[:2, :, :6]], UsageError, r"one shape, got \(3, 12, 12\), then \(3, 6, 12\)"),
        (spoiled(float("nan")), DataError, "not finite"),
        (spoiled(float("inf")), DataError, "not finite"),
        (X[:, :2], ModelError, r"does not accept an input of shape \(2, 2, 12, 12\)"),
        (X.to(torch.uint8), ModelError, "does not accept an input"),
        ((X, X), ModelError, "does not accept an input"),
    ],
)
def test_calibration_of_no_use_is_refused(calibration, error, message):
    with pytest.raises(error, match=message):
        quantize(branches(), calibration)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bits": 9}, UsageError, "bits are from 2 to 8, got 9"),
        ({"bits": 1}, UsageError, "bits are from 2 to 8, got 1"),
        ({"bits": 4.0}, UsageError, "got 4.0"),
        ({"activation_bits": 16}, UsageError, "activation_bits: bits are from 2 to 8"),
        ({"layer_bits": {"stem": 0}}, UsageError, "layer_bits of 'stem': bits are from 2 to 8, got 0"),
        ({"layer_bits": 4}, UsageError, "layer_bits are bits by name of the layer, got 4"),
        ({"spared": "stem"}, UsageError, "spared are names of layers, got 'stem'"),
        ({"spared": 5}, UsageError, "spared are names of layers, got 5"),
        ({"observer": 5}, UsageError, "observer is one of entropy, min_max, .*or such a method; got 5"),
        ({"rounding": None}, UsageError, "rounding is one of adaround, .*; got None"),
        (
            {"weight_observer": "entropy"},
            UsageError,
            "finds one range for a whole weight, .* choose one of min_max",
        ),
        ({"keep": 0.9}, UsageError, "keep is a function .*; got 0.9"),
        ({"keep": (lambda model: 1.0, "a")}, UsageError, "and the accuracy to keep"),
        ({"images": 2.5}, UsageError, "got images=2.5"),
        ({"equalize": "yes"}, UsageError, "equalize is true or false, got 'yes'"),
        ({"replaced": {"gelu": "relu"}}, UsageError, "the model has no gelu to replace"),
        ({"replaced": "gelu"}, UsageError, "replaced says what becomes what"),
        ({"layer_bits": {"sten": 4}}, UnknownName, "did you mean 'stem'"),
        ({"spared": ["heads"]}, UnknownName, "did you mean 'head'"),
        ({"observer": "min_mox"}, UnknownName, "did you mean 'min_max'"),
        ({"rounding": "gtpq"}, UnknownName, "did you mean 'gptq'"),
        ({"images": 0}, UsageError, "images=0"),
        ({"replaced": {"hardswish": "gelu"}}, UsageError, "can become relu or relu6"),
        ({"replaced": {"softmax": "relu"}}, UsageError, "got 'softmax': 'relu'"),
        ({"spared": ["stem", "one", "three", "head"]}, ModelError, "head: left in floats as asked"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        quantize(branches(), X, **settings)


@torch.no_grad()
def test_what_is_at_fault_in_the_numbers_is_named():
    model = branches().eval()
    model.stem.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"the weight 'stem.weight' has values that are not finite"):
        quantize(model, X)
    with pytest.raises(KezuriError, match=r"^stem: ") as found:
        quantize(branches(), X * 1e25, rounding="gptq")
    assert "\n" not in str(found.value)
    for nothing in (None, "resnet20", quantize(branches(), X)):
        with pytest.raises(UsageError, match=f"takes a torch.nn.Module, got {type(nothing).__name__}"):
            quantize(nothing, X)
    with pytest.raises(UsageError, match="ranges is one of fixed, moving, learned; got 'foo'"):
        quantize(branches(), X).train_ranges("foo")


def test_models_of_no_use_are_refused():
    with pytest.raises(UsageError, match="quantized already"):
        quantize(quantize(branches(), X).model, X)
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        quantize(nn.Flatten(), X)
    by_len = seeded(lambda: Net(lambda net, x: net.a(x).reshape(len(x), -1), a=conv(3, 4)))
    with pytest.raises(ModelError, match="batches of 2 only, got one of 32"):
        quantize(by_len, X)


def test_the_model_is_left_as_it_is():
    model = residual().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize(model, X, rounding="gptq", correct_bias=True, reestimate_norms=True, equalize=True)
    assert model.training and all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


@torch.no_grad()
def test_layers_called_twice_suffer_once_and_all_stays_on():
    model = seeded(lambda: Net(lambda net, x: {"y": net.b(net.a(net.a(x)))}, a=conv(3, 3), b=conv(3, 4)))
    result = quantize(model, X)
    found = suffering(result, [(X,)])
    assert sorted(layer for layer, _ in found) == ["a", "b"] and found[0][1] >= found[1][1] > 0
    assert all(one.on for one in quantizers_of(result.model).values())


@pytest.fixture(scope="module")
def trained():
    return taught(residual())


def test_an_accuracy_is_kept_by_as_few_floats_as_needed(trained):
    images, floor = patterns(64).images, accuracy(trained) - 0.01
    crude = {"activation_bits": 8, "layer_bits": {"stem.0": 2, "first.0": 2, "second": 8, "head": 8}}
    worst = quantize(trained, images, **crude)
    assert accuracy(worst.model) < floor
    kept = quantize(trained, images, **crude, keep=(accuracy, floor))
    assert accuracy(kept.model) >= floor
    spared = kept.report.spared
    assert (
        1 <= len(spared) <= 2
        and spared == tuple(layer for layer, _ in suffering(worst, [(images,)]))[: len(spared)]
    )
    assert quantize(trained, images, keep=(accuracy, floor)).report.spared == ()


def test_an_accuracy_that_cannot_be_kept_is_an_error(trained):
    with pytest.raises(GoalUnreachable, match=r"110\.00% is not kept in integers"):
        quantize(trained, patterns(64).images, keep=(accuracy, 1.1))
