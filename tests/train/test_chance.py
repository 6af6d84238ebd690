import pytest
import torch

from kezuri.train.chance import chance_accuracy


@pytest.mark.parametrize(
    ("counts", "chance", "least"),
    [([50, 50], 0.5, 0.65), ([90, 10], 0.9, 0.99), ([1, 1, 1], 1 / 3, 2 / 3)],
)
def test_chance_is_the_commonest_class_and_knowledge_three_deviations_above(counts, chance, least):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert chance_accuracy(labels) == pytest.approx((chance, least))
