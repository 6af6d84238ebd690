import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from kezuri.core.errors import DataError
from kezuri.core.seeds import derive
from kezuri.data import streams
from kezuri.data.augment import Flip, PadCrop
from kezuri.data.parts import Batch, TensorPart
from kezuri.data.streams import DatasetPart, Reader, part_of, repeatable


class Plain(Dataset):
    """Numbered images; `change` may spoil an item."""

    def __init__(self, count: int = 30, change: Any = None) -> None:
        self.count = count
        self.change = change
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Any:
        self.reads += 1
        image = torch.full((1, 4, 4), place / 100)
        image[0, 0, 0] = 1
        item = (image, place % 3)
        return self.change(place, *item) if self.change else item


class Noisy(Plain):
    """Adds chance of all three kinds."""

    def __getitem__(self, place: int) -> Any:
        image, label = super().__getitem__(place)
        return image + torch.rand(1) + random.random() + np.random.rand(), label


def streamed(dataset: Any, workers: int = 0) -> DatasetPart:
    reader = Reader(dataset, "training data")
    return DatasetPart(reader, reader.all_labels(), classes=3, mean=(0.2,), std=(0.5,), workers=workers)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


def test_what_fits_is_held_in_memory() -> None:
    dataset = Plain()
    part = part_of(dataset, "training data", classes=None, workers=0)
    assert isinstance(part, TensorPart)
    reads = dataset.reads
    list(part.batches(8, seed=0))
    assert dataset.reads == reads
    assert part.labels.tolist() == [place % 3 for place in range(30)]


def test_what_does_not_fit_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IN_MEMORY", 30 * 64 - 1)
    part = part_of(Plain(), "training data", classes=None, workers=0)
    assert isinstance(part, DatasetPart)
    monkeypatch.setattr(streams, "IN_MEMORY", 30 * 64)
    assert isinstance(part_of(Plain(), "training data", classes=None, workers=0), TensorPart)


def test_what_is_random_is_streamed() -> None:
    assert isinstance(part_of(Noisy(), "training data", classes=None, workers=0), DatasetPart)


@pytest.mark.parametrize("seed", [None, 5])
def test_a_stream_gives_the_batches_that_memory_gives(seed: int | None) -> None:
    held = part_of(Plain(), "training data", classes=None, workers=0).normalized((0.2,), (0.5,))
    augment = (PadCrop(1), Flip()) if seed is not None else ()
    first = list(held.batches(8, seed=seed, augment=augment))
    assert same(first, list(streamed(Plain()).batches(8, seed=seed, augment=augment)))
    rows = [3, 14, 15, 9, 2]
    some = streamed(Plain()).subset(rows)
    assert same(list(held.subset(rows).batches(2, seed=seed)), list(some.batches(2, seed=seed)))


@pytest.mark.parametrize("start", [0, 1, 3, 8])
def test_starting_late_gives_the_same_batches_even_of_random_data(start: int) -> None:
    part = streamed(Noisy())
    whole = list(part.batches(8, seed=5, augment=(Flip(),)))
    assert same(list(part.batches(8, seed=5, augment=(Flip(),), start=start)), whole[start:])
    assert not same(list(part.batches(8, seed=derive(5, "next"))), whole)


def test_worker_processes_give_the_same_batches() -> None:
    first = list(streamed(Noisy()).batches(8, seed=5))
    assert same(first, list(streamed(Noisy(), workers=2).batches(8, seed=5)))


def test_reading_leaves_the_global_random_state_alone() -> None:
    with repeatable(3):
        expected = (random.random(), np.random.rand(), float(torch.rand(1)))
    with repeatable(3):
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
        list(streamed(Noisy()).batches(8, seed=5))
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])
        assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected


def test_labels_come_from_targets_only_where_they_agree() -> None:
    honest = Plain(count=200)
    honest.targets = [place % 3 for place in range(200)]
    assert Reader(honest, "training data").all_labels().tolist() == honest.targets
    assert honest.reads < 20
    wrong = Plain(count=200)
    wrong.targets = [0] * 200
    assert Reader(wrong, "training data").all_labels().tolist() == honest.targets


@pytest.mark.parametrize("label", [np.int64(1), np.array(1), torch.tensor(1), np.uint8(1)])
def test_whole_numbers_of_any_kind_are_labels(label: Any) -> None:
    part = part_of(
        Plain(change=lambda place, image, _: (image, label if place else 0)), "data", classes=None, workers=0
    )
    assert part.labels.tolist() == [0] + [1] * 29


def test_float64_becomes_float32() -> None:
    part = part_of(Plain(change=lambda _, i, y: (i.double(), y)), "data", classes=None, workers=0)
    assert next(part.batches(4)).images.dtype == torch.float32


def at_seven(image: Any = None, label: Any = None) -> Any:
    """Spoils item 7."""

    def change(place: int, old_image: Any, old_label: Any) -> Any:
        if place != 7:
            return old_image, old_label
        return (old_image if image is None else image), (old_label if label is None else label)

    return change


NAN = torch.zeros(1, 4, 4).index_fill(2, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (Plain(0), "the training data is empty"),
        (
            Plain(change=at_seven(image=torch.zeros(1, 4, 5))),
            r"item 7 .* \(1, 4, 5\), expected \(1, 4, 4\)",
        ),
        (Plain(change=at_seven(image=torch.zeros(4, 4))), r"item 7 .* shape \(4, 4\)"),
        (Plain(change=at_seven(image=NAN)), "item 7 .* not finite"),
        (Plain(change=at_seven(image="a picture")), "item 7 .* must be a tensor, got str.*ToTensor"),
        (
            Plain(change=at_seven(image=torch.zeros(1, 4, 4).long())),
            "item 7 .* or float, got torch.int64",
        ),
        (Plain(change=at_seven(label=1.0)), r"item 7 .* whole number, got 1.0 \(float\)"),
        (Plain(change=at_seven(label=True)), "item 7 .* whole number, got True"),
        (Plain(change=at_seven(label="cat")), "item 7 .* whole number, got 'cat'"),
        (Plain(change=at_seven(label=-1)), "item 7 .* label -1, 3 classes allow 0 to 2"),
        (Plain(change=lambda _, image, __: (image, 0)), "1 class; at least 2"),
        (Plain(change=lambda _, image, __: image), r"item 0 .* must be \(image, label\), got Tensor"),
        (
            Plain(change=lambda _, image, label: {"x": image, "y": label}),
            "must be .*, got dict",
        ),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said(dataset: Plain, said: str) -> None:
    with pytest.raises(DataError, match=said):
        part_of(dataset, "training data", classes=None, workers=0)


def test_labels_beyond_the_named_classes_are_refused() -> None:
    with pytest.raises(DataError, match="item 2 of the test data has label 2, 2 classes allow 0 to 1"):
        part_of(Plain(), "test data", classes=2, workers=0)


def test_a_dataset_without_length_is_refused() -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(DataError, match="no length: a map-style Dataset is needed, got Endless"):
        part_of(Endless(), "training data", classes=None, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_turns_bad_later_is_named(workers: int) -> None:
    dataset = Plain()
    part = streamed(dataset, workers)
    dataset.change = at_seven(image=NAN)
    with pytest.raises(DataError, match="item 7 of the training data holds values that are not finite"):
        list(part.batches(8))


def test_the_digest_sees_labels_images_and_length() -> None:
    part = streamed(Plain())
    assert part.digest() == streamed(Plain()).digest()
    digests = {
        part.digest(),
        part.subset(29).digest(),
        streamed(Plain(change=at_seven(label=0))).digest(),
        streamed(Plain(change=at_seven(image=torch.zeros(1, 4, 4)))).digest(),
    }
    assert len(digests) == 4
