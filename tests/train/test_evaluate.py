import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kezuri.core.errors import DataError
from kezuri.train.evaluate import evaluate


def test_agrees_with_a_calculation_by_hand(net, patterns) -> None:
    model = net().eval()
    found = evaluate(model, patterns.train, device="cpu", batch_size=37)
    (batch,) = patterns.train.batches(len(patterns.train))
    with torch.no_grad():
        logits = model(batch.images)
    assert torch.equal(found.labels, batch.targets)
    assert (found.predictions == logits.argmax(1)).float().mean() > 0.99  # layouts may round a tie apart
    assert found.accuracy == (found.predictions == found.labels).float().mean().item()
    assert found.loss == pytest.approx(F.cross_entropy(logits, batch.targets).item(), rel=1e-5)


def test_leaves_modes_layout_and_statistics_alone(net, patterns, same) -> None:
    model, twin = net().train(), net()
    model[1].eval()
    evaluate(model, patterns.validation, device="cpu")
    assert model.training and model[5].training and not model[1].training
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert same(model, twin)


def test_predictions_can_be_worked_with(net, patterns) -> None:
    found = evaluate(net(), patterns.validation, device="cpu")
    found.predictions[0] += 1
    assert not found.predictions.is_inference()


def test_is_in_float32_whatever_surrounds_it(net, patterns) -> None:
    model = net()
    plain = evaluate(model, patterns.validation, device="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        surrounded = evaluate(model, patterns.validation, device="cpu")
    assert surrounded.loss == plain.loss


def test_no_images_is_an_error(patterns) -> None:
    with pytest.raises(DataError, match="no images"):
        evaluate(nn.Flatten(), patterns.train.subset([]), device="cpu")
