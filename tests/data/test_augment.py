"""What each augmentation does, value by value."""

from typing import Literal

import pytest
import torch

from kezuri.core.errors import UsageError
from kezuri.data.augment import CutMix, Cutout, Facts, Flip, Mixup, PadCrop, distributions


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def facts(classes: int, channels: int = 2) -> Facts:
    return Facts.of(classes, (0.5, 0.25)[:channels], (0.25, 0.5)[:channels])


@pytest.mark.parametrize(("fill", "outside"), [("mean", (0.0, 0.0)), ("black", (-2.0, -0.5))])
def test_pad_crop_gives_each_image_its_own_window_of_the_padded_image(
    fill: Literal["mean", "black"], outside: tuple[float, float]
) -> None:
    images = torch.arange(1, 1 + 64 * 2 * 5 * 7, dtype=torch.float32).view(64, 2, 5, 7)
    cropped, _ = PadCrop(pad=2, fill=fill)(images, torch.zeros(64).long(), generator(), facts(2))
    frame = torch.tensor(outside).view(2, 1, 1).expand(2, 9, 11)
    padded = torch.stack([frame.clone() for _ in images])
    padded[:, :, 2:-2, 2:-2] = images
    seen = set()
    for image, wide in zip(cropped, padded, strict=True):
        windows = {
            (top, left): wide[:, top : top + 5, left : left + 7] for top in range(5) for left in range(5)
        }
        matching = [corner for corner, window in windows.items() if torch.equal(window, image)]
        assert len(matching) == 1
        seen.update(matching)
    assert len(seen) > 15


def test_pad_crop_without_padding_changes_nothing() -> None:
    images = torch.randn(3, 1, 4, 4)
    assert torch.equal(PadCrop(pad=0)(images, torch.zeros(3).long(), generator(), facts(2, 1))[0], images)


@pytest.mark.parametrize(("p", "mirrored"), [(0.0, 0), (1.0, 50)])
def test_flip_mirrors_with_its_probability(p: float, mirrored: int) -> None:
    images = torch.randn(50, 1, 3, 4)
    flipped, _ = Flip(p)(images, torch.zeros(50).long(), generator(), facts(2))
    assert sum(torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)) == mirrored


def test_flip_decides_image_by_image() -> None:
    images = torch.randn(400, 1, 3, 4)
    flipped, _ = Flip(0.5)(images, torch.zeros(400).long(), generator(), facts(2))
    mirrored = sum(torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True))
    untouched = sum(torch.equal(a, b) for a, b in zip(flipped, images, strict=True))
    assert mirrored + untouched == 400
    assert 150 < mirrored < 250


def test_cutout_hides_one_square_that_may_hang_over_the_edge() -> None:
    images = torch.ones(300, 3, 32, 32)
    cut, _ = Cutout(size=16)(images, torch.zeros(300).long(), generator(), facts(2))
    hidden = cut[:, 0] == 0
    assert torch.equal(hidden, cut[:, 2] == 0)
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), heights * widths)
    assert int(heights.max()) == int(widths.max()) == 16
    assert int(heights.min()) < 16
    assert int(heights.min()) >= 8


def test_cutout_larger_than_the_image_hides_all() -> None:
    cut, _ = Cutout(size=64)(torch.ones(4, 1, 8, 8), torch.zeros(4).long(), generator(), facts(2))
    assert not cut.any()


def test_mixup_blends_images_and_targets_by_the_same_share() -> None:
    images = torch.eye(6).view(6, 1, 6, 1)
    mixed, targets = Mixup(alpha=1.0)(images, torch.arange(6), generator(4), facts(6))
    assert torch.allclose(mixed.view(6, 6), targets)
    assert (targets > 0).sum() > 6


def test_cutmix_mixes_targets_by_the_pasted_area() -> None:
    images = torch.arange(8, dtype=torch.float32).view(8, 1, 1, 1).expand(8, 1, 12, 10).contiguous()
    areas = set()
    for seed in range(20):
        mixed, targets = CutMix(p=1.0)(images, torch.arange(8), generator(seed), facts(8))
        for label in range(8):
            share = (mixed == label).float().mean((1, 2, 3))
            assert torch.allclose(share, targets[:, label], atol=1e-6)
        areas.add(round(float(targets.max()), 3))
    assert len(areas) > 5


def test_cutmix_leaves_batches_alone_as_often_as_it_should() -> None:
    images = torch.randn(8, 1, 12, 10)
    results = [CutMix(p=0.5)(images, torch.arange(8), generator(seed), facts(8))[0] for seed in range(60)]
    alone = sum(torch.equal(result, images) for result in results)
    assert 15 < alone < 45


def test_labels_become_distributions_once() -> None:
    shares = distributions(torch.tensor([2, 0]), 3)
    assert shares.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert distributions(shares, 3) is shares


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PadCrop(pad=-1), "pad_crop: pad .* got -1"),
        (lambda: Flip(p=1.5), "flip: p .* got 1.5"),
        (lambda: Cutout(size=0), "cutout: size .* got 0"),
        (lambda: Cutout(p=-0.1), "cutout: p .* got -0.1"),
        (lambda: Mixup(alpha=0), "mixup: alpha .* got 0"),
        (lambda: CutMix(alpha=float("nan")), "cutmix: alpha .* got nan"),
        (lambda: CutMix(p=2), "cutmix: p .* got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()  # type: ignore[operator]
