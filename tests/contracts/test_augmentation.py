"""Laws of every augmentation."""

import pytest
import torch
from torch import Tensor

from kezuri.data.augment import Facts, augmentations

CLASSES = 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
BLACK = (-2.0, -2.0, -2.0)
names = pytest.mark.parametrize("name", sorted(augmentations))


def batch(seed: int = 0, shape: tuple[int, ...] = (12, 3, 16, 20)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randint(CLASSES, shape[:1], generator=generator)


def apply(name: str, images: Tensor, targets: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    channels = images.shape[1]
    facts = Facts.of(CLASSES, MEAN[:channels], STD[:channels])
    return augmentations[name]()(images, targets, torch.Generator().manual_seed(seed), facts)


@names
def test_the_same_generator_gives_the_same_batch(name: str) -> None:
    first, second = apply(name, *batch()), apply(name, *batch())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@names
def test_chance_changes_the_batch(name: str) -> None:
    results = [apply(name, *batch(), seed=seed)[0] for seed in range(6)]
    assert any(not torch.equal(results[0], other) for other in results[1:])


@names
def test_global_random_state_is_neither_used_nor_moved(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = apply(name, *batch())[0]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, apply(name, *batch())[0])


@names
@pytest.mark.parametrize("shape", [(12, 3, 16, 20), (4, 1, 28, 28), (1, 3, 8, 8)])
def test_shape_and_type_of_images_stay(name: str, shape: tuple[int, ...]) -> None:
    images, targets = batch(shape=shape)
    for seed in range(4):
        changed, _ = apply(name, images, targets, seed)
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype


@names
def test_targets_stay_labels_or_become_distributions(name: str) -> None:
    images, labels = batch()
    for seed in range(8):
        _, targets = apply(name, images, labels, seed)
        if targets.dtype == torch.int64:
            assert torch.equal(targets, labels)
        else:
            assert targets.dtype == torch.float32
            assert targets.shape == (12, CLASSES)
            assert (targets >= 0).all()
            assert torch.allclose(targets.sum(1), torch.ones(12))


@names
def test_distributions_stay_distributions(name: str) -> None:
    images, _ = batch()
    shares = torch.softmax(torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(3)), dim=1)
    _, targets = apply(name, images, shares)
    assert targets.shape == shares.shape
    assert torch.allclose(targets.sum(1), torch.ones(12))


@names
def test_originals_are_untouched(name: str) -> None:
    images, labels = batch()
    kept_images, kept_labels = images.clone(), labels.clone()
    for seed in range(4):
        changed, _ = apply(name, images, labels, seed)
        changed.add_(1)
        assert torch.equal(images, kept_images)
        assert torch.equal(labels, kept_labels)


@names
def test_a_constant_batch_gains_no_value_but_zero_and_black(name: str) -> None:
    """Moving, mirroring, hiding and mixing never invent a pixel value."""
    _, labels = batch()
    for seed in range(4):
        changed, _ = apply(name, torch.full((12, 3, 16, 20), 0.75), labels, seed)
        black = torch.tensor(BLACK).view(3, 1, 1)
        assert ((changed - 0.75).abs().lt(1e-6) | changed.eq(0) | (changed - black).abs().lt(1e-6)).all()
