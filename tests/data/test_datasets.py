import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from kezuri.core.errors import DataError, UnknownName, UsageError
from kezuri.data import DatasetPart, TensorPart
from kezuri.data.datasets import Data, from_dataset, from_tensors, load_data


def tensors(count: int = 60, seed: int = 0, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, 5), generator=generator, dtype=torch.uint8), torch.arange(
        count
    ) % 3


def images_of(data: Data) -> list[bytes]:
    parts = [part for part in (data.train, data.validation, data.test) if isinstance(part, TensorPart)]
    return [image.numpy().tobytes() for part in parts for image in part.images]


def test_tensors_are_split_normalised_and_described() -> None:
    data = from_tensors(tensors(), tensors(12, seed=1), classes=("a", "b", "c"), name="mine")
    assert (len(data.train), len(data.validation), len(data.test or ())) == (54, 6, 12)
    assert torch.bincount(data.validation.labels).tolist() == [2, 2, 2]
    assert len(set(images_of(data))) == 72
    batch = next(data.train.batches(54))
    assert batch.images.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert batch.images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    described = data.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["images"] == {"train": 54, "validation": 6, "test": 12}
    assert described["image_shape"] == [3, 6, 5]
    assert described["name"] == "mine"
    assert described["fingerprint"] == data.fingerprint


def test_all_parts_are_normalised_by_the_training_data() -> None:
    images, labels = tensors()
    data = from_tensors((images, labels), (images // 2, labels))
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, TensorPart)
        assert (part.mean, part.std) == (data.mean, data.std)
        assert part.classes == 3


def test_the_fingerprint_sees_bytes_labels_split_and_normalisation() -> None:
    images, labels = tensors()
    changed, relabelled = images.clone(), labels.clone()
    changed[3, 1, 2, 2] ^= 1
    relabelled[0] = 2
    fingerprints = [
        from_tensors((images, labels)).fingerprint,
        from_tensors((changed, labels)).fingerprint,
        from_tensors((images, relabelled)).fingerprint,
        from_tensors((images, labels), seed=1).fingerprint,
        from_tensors((images, labels), validation=5).fingerprint,
        from_tensors((images, labels), normalize=((0, 0, 0), (1, 1, 1))).fingerprint,
        from_tensors((images, labels), tensors(9)).fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert from_tensors(tensors()).fingerprint == fingerprints[0]
    assert from_tensors(tensors(), name="other").fingerprint == fingerprints[0]


def test_a_dataset_gives_what_its_tensors_give() -> None:
    images, labels = tensors()
    own = from_dataset(TensorDataset(images, labels), TensorDataset(*tensors(9)))
    assert own.fingerprint == from_tensors((images, labels), tensors(9)).fingerprint
    assert own.classes == ("0", "1", "2")
    assert own.test is not None


def test_validation_may_be_a_dataset_of_its_own() -> None:
    data = from_dataset(TensorDataset(*tensors()), validation=TensorDataset(*tensors(9, seed=1)))
    assert (len(data.train), len(data.validation)) == (60, 9)
    with pytest.raises(DataError, match=r"validation data has images of shape \(3, 7, 5\), .* \(3, 6, 5\)"):
        from_dataset(TensorDataset(*tensors()), validation=TensorDataset(*tensors(9, size=7)))


def test_random_transforms_stay_random_and_repeatable() -> None:
    class Jitter(Dataset):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, place: int) -> Any:
            return torch.rand(1, 4, 4) + place, place % 2

    data = from_dataset(Jitter())
    assert isinstance(data.train, DatasetPart)
    assert data.fingerprint == from_dataset(Jitter()).fingerprint
    first, again, other = (next(data.train.batches(27, seed=seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort(0).values, other.sort(0).values)


def spoiled(**changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = tensors()
    return changed.get("images", images), changed.get("labels", labels)


NAN = torch.zeros(60, 3, 6, 5).index_fill(0, torch.tensor([17]), float("nan"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (spoiled(images=torch.zeros(60, 6, 5)), r"images \(N, C, H, W\) and labels \(N,\), got \(60, 6, 5\)"),
        (spoiled(labels=torch.zeros(59).long()), r"got \(60, 3, 6, 5\) and \(59,\)"),
        (
            spoiled(labels=torch.zeros(60)),
            "labels of the training data must be whole numbers, got torch.float",
        ),
        (spoiled(labels=torch.zeros(60).bool()), "must be whole numbers, got torch.bool"),
        (spoiled(labels=torch.arange(60) % 3 - 1), "item 0 of the training data has label -1"),
        (spoiled(labels=torch.zeros(60).long()), "1 class; at least 2 are needed"),
        (spoiled(images=torch.zeros(60, 3, 6, 5).int()), "must be uint8 .* or float, got torch.int32"),
        (spoiled(images=NAN), "item 17 of the training data holds values that are not finite"),
        ((torch.zeros(0, 3, 6, 5), torch.zeros(0).long()), "the training data is empty"),
    ],
)
def test_what_is_wrong_with_tensors_is_said(given: tuple[torch.Tensor, torch.Tensor], said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_tensors(given)


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="item 2 of the training data has label 2, 2 classes allow 0 to 1"):
        from_tensors(tensors(), classes=("a", "b"))
    images, labels = tensors(9)
    with pytest.raises(DataError, match="item 0 of the test data has label 9, 3 classes allow 0 to 2"):
        from_tensors(tensors(), (images, labels + 9))


def test_unknown_names_are_answered_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'cifar11' \(have: cifar10, .*; did you mean 'cifar1"):
        load_data("cifar11")
    with pytest.raises(DataError, match="there is no folder"):
        load_data(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="size is for folders of images; fashion-mini has one size"):
        load_data("fashion-mini", size=32)


def test_a_named_set_that_is_nowhere_lists_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data("cifar10", root=str(tmp_path), download=False)
    message = str(caught.value)
    assert f"{tmp_path}/cifar10: no such folder" in message
    assert f"{tmp_path}: no cifar-10-batches-py or cifar-10-python.tar.gz" in message
    assert "downloading was not allowed" in message


def test_a_named_set_keeps_its_normalisation_unless_told() -> None:
    assert load_data("fashion-mini").mean == (0.286,)
    data = load_data("fashion-mini", normalize=((0.5,), (0.5,)), validation=500, seed=3)
    assert (data.mean, data.std, len(data.validation)) == ((0.5,), (0.5,), 500)
