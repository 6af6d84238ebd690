"""Images and labels: where they come from, how they are split, batched and augmented."""

from kezuri.data.augment import Augment, augmentations
from kezuri.data.datasets import Data, data_names, from_dataset, from_tensors, load_data
from kezuri.data.parts import Batch, Part, TensorPart, batch_count
from kezuri.data.streams import DatasetPart

__all__ = [
    "Augment",
    "Batch",
    "Data",
    "DatasetPart",
    "Part",
    "TensorPart",
    "augmentations",
    "batch_count",
    "data_names",
    "from_dataset",
    "from_tensors",
    "load_data",
]
