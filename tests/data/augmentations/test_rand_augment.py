import pytest
import torch

from kezuri.core.errors import UsageError
from kezuri.data.augment import Facts, RandAugment

FACTS = Facts.of(2, (0.5,) * 3, (0.25,) * 3)


def apply(change, images, seed=0):
    return change(images, torch.zeros(len(images)).long(), torch.Generator().manual_seed(seed), FACTS)[0]


def changed_images(change, seed=0, count=400):
    images = torch.randn(count, 3, 20, 18, generator=torch.Generator().manual_seed(9))
    return (apply(change, images, seed) != images).flatten(1).any(1)


def test_an_operation_in_fourteen_does_nothing():
    assert changed_images(RandAugment(operations=1, magnitude=8), count=1000).float().mean() == pytest.approx(
        13 / 14, abs=0.02
    )


def test_each_operation_happens_with_its_probability():
    assert not changed_images(RandAugment(p=0)).any()
    half = changed_images(RandAugment(operations=1, magnitude=8, p=0.5), count=1000).float().mean()
    assert half == pytest.approx(13 / 28, abs=0.04)


def test_more_operations_and_a_higher_magnitude_change_more():
    def distance(**settings):
        images = torch.randn(300, 1, 16, 16, generator=torch.Generator().manual_seed(3))
        smooth = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        return float((apply(RandAugment(**settings), smooth) - smooth).abs().mean())

    weak, strong = distance(operations=1, magnitude=2), distance(operations=1, magnitude=9)
    assert weak < strong < distance(operations=3, magnitude=9)
    assert distance(operations=1, magnitude=9, varied=True) < strong


def test_images_of_a_batch_meet_different_fates():
    image = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 20, 20), 5, stride=1, padding=2)
    many = apply(RandAugment(operations=2, varied=True), image.expand(60, -1, -1, -1).contiguous())
    assert len({round(float(one.double().abs().sum()), 6) for one in many}) > 40


def test_an_image_does_not_depend_on_those_beside_it_but_for_black_and_white():
    images = torch.rand(8, 1, 9, 9)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1
    others = images.clone()
    others[4:] = others[4:].flip(3)
    first, second = (apply(RandAugment(), batch) for batch in (images, others))
    assert torch.equal(first[:4], second[:4])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandAugment(operations=0), "rand_augment: operations .* got 0"),
        (lambda: RandAugment(magnitude=14), "rand_augment: magnitude is from 0 to 10.* got 14"),
        (lambda: RandAugment(magnitude=float("nan")), "rand_augment: magnitude .* got nan"),
        (lambda: RandAugment(p=1.5), "rand_augment: p .* got 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()
