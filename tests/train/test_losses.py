import pytest
import torch
import torch.nn.functional as F

from kezuri.train.losses import count_correct, cross_entropy

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_is_torchs_and_the_definition(smoothing: float) -> None:
    loss = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    assert torch.equal(loss, F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))
    spread = F.one_hot(LABELS, 5) * (1 - smoothing) + smoothing / 5
    by_hand = -(spread * LOGITS.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_of_one_are_labels(smoothing: float) -> None:
    soft = cross_entropy(LOGITS, F.one_hot(LABELS, 5).float(), label_smoothing=smoothing)
    assert soft.item() == pytest.approx(
        cross_entropy(LOGITS, LABELS, label_smoothing=smoothing).item(), rel=1e-6
    )


def test_mixed_targets_mix_the_losses() -> None:
    other = LABELS.flip(0)
    mixed = 0.3 * F.one_hot(LABELS, 5) + 0.7 * F.one_hot(other, 5)
    apart = 0.3 * cross_entropy(LOGITS, LABELS) + 0.7 * cross_entropy(LOGITS, other)
    assert cross_entropy(LOGITS, mixed).item() == pytest.approx(apart.item(), rel=1e-6)


def test_low_precision_logits_give_a_float32_loss() -> None:
    assert cross_entropy(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_counts_correct_answers_for_labels_and_distributions() -> None:
    logits = torch.eye(3)
    assert int(count_correct(logits, torch.tensor([0, 1, 1]))) == 2
    assert int(count_correct(logits, torch.tensor([[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1]]))) == 2
