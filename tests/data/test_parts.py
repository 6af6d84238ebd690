import pytest
import torch

from kezuri.core.errors import UsageError
from kezuri.data.augment import CutMix, Flip, PadCrop
from kezuri.data.parts import Batch, TensorPart, batch_count

AUGMENT = (PadCrop(2), Flip(), CutMix())


def part(count: int = 50, kind: str = "uint8") -> TensorPart:
    """Images whose pixels tell them apart."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 6), generator=generator, dtype=torch.uint8)
    return TensorPart(
        images if kind == "uint8" else images.float() / 255,
        torch.arange(count) % 5,
        classes=5,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_file_order_without_a_seed_normalised(kind: str) -> None:
    data = part(kind=kind)
    batches = list(data.batches(16))
    assert [len(batch.images) for batch in batches] == [16, 16, 16, 2]
    images = torch.cat([batch.images for batch in batches])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.mean, data.std))
    stored = data.images.float() / 255 if kind == "uint8" else data.images
    assert torch.allclose(images, (stored - mean) / std, atol=1e-5)
    assert images.dtype == torch.float32
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.labels)
    assert data.labels.dtype == torch.int64


def test_a_seed_permutes_every_image_once() -> None:
    data = part()
    plain = torch.cat([batch.images for batch in data.batches(50)])
    mixed = list(data.batches(16, seed=3))
    images = torch.cat([batch.images for batch in mixed])
    assert not torch.equal(images, plain)
    order = [int((plain == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(order) == list(range(50))
    assert torch.equal(torch.cat([batch.targets for batch in mixed]), data.labels[order])


def test_the_seed_decides_alone() -> None:
    data = part()
    torch.manual_seed(1)
    first = list(data.batches(16, seed=3, augment=AUGMENT))
    torch.manual_seed(2)
    assert same(first, list(data.batches(16, seed=3, augment=AUGMENT)))
    assert not same(first, list(data.batches(16, seed=4, augment=AUGMENT)))


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("seed", [None, 7])
def test_starting_late_gives_the_same_batches(start: int, seed: int | None) -> None:
    data = part()
    augment = AUGMENT if seed is not None else ()
    whole = list(data.batches(16, seed=seed, augment=augment))
    assert same(list(data.batches(16, seed=seed, augment=augment, start=start)), whole[start:])


def test_each_batch_has_its_own_chance() -> None:
    one = part(1)
    alike = one.subset([0] * 32)
    first, second = (batch.images for batch in alike.batches(16, seed=3, augment=(PadCrop(2), Flip())))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_augmentation_leaves_the_stored_images_alone() -> None:
    data = part()
    before = data.images.clone()
    for batch in data.batches(16, seed=0, augment=AUGMENT):
        batch.images.zero_()
    assert torch.equal(data.images, before)


def test_float_images_are_not_changed_through_a_batch() -> None:
    data = part(kind="float").normalized((0, 0, 0), (1, 1, 1))
    before = data.images.clone()
    for batch in data.batches(50):
        batch.images.zero_()
    assert torch.equal(data.images, before)


@pytest.mark.parametrize(
    ("images", "size", "training", "evaluating"),
    [(50, 16, 4, 4), (49, 16, 3, 4), (48, 16, 3, 3), (1, 16, 1, 1), (5, 1, 5, 5), (3, 8, 1, 1)],
)
def test_a_last_batch_of_one_is_left_out_of_training(
    images: int, size: int, training: int, evaluating: int
) -> None:
    assert batch_count(images, size, training=True) == training
    assert batch_count(images, size, training=False) == evaluating
    assert len(list(part(images).batches(size, seed=0))) == training
    assert len(list(part(images).batches(size))) == evaluating


def test_subsets_share_images_and_normalisation() -> None:
    data = part()
    some = data.subset([4, 9, 2]).subset(torch.tensor([2, 0]))
    assert torch.equal(some.images, data.images[[2, 4]])
    assert some.labels.tolist() == [2, 4]
    assert (some.mean, some.std, some.classes) == (data.mean, data.std, data.classes)
    assert torch.equal(data.subset(5).images, data.images[::10])
    assert len(data.subset(50)) == 50


@pytest.mark.parametrize("which", [0, -1, 51, [50], [-1], [3, 99]])
def test_a_subset_of_what_is_not_there_is_refused(which: int | list[int]) -> None:
    with pytest.raises(UsageError, match=r"a subset of 1 to 50|places from 0 to 49"):
        part().subset(which)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"batch_size": 4, "start": -1}, "skip must be at least 0, got -1"),
        ({"batch_size": 4, "augment": (Flip(),)}, "augmentation needs a seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        part().batches(**settings)


def test_the_digest_sees_every_pixel_and_label() -> None:
    data = part()
    assert data.digest() == part().digest()
    images, labels = data.images, data.labels.clone()
    images[30, 1, 2, 3] += 1
    labels[0] += 1
    others = [
        TensorPart(images, data.labels, classes=5),
        TensorPart(data.images, labels, classes=6),
        data.subset(49),
        data.subset(torch.arange(50).flip(0)),
        part(kind="float"),
    ]
    digests = {data.digest(), *(other.digest() for other in others)}
    assert len(digests) == 6
