"""Every augmentation by its name in Python: `from kezuri.data.augment import Cutout, Flip`."""

from kezuri.data.augmentation import Augment, Facts, augmentations, distributions
from kezuri.data.augmentations.cutout import Cutout
from kezuri.data.augmentations.flip import Flip
from kezuri.data.augmentations.mixing import CutMix, Mixup
from kezuri.data.augmentations.pad_crop import PadCrop
from kezuri.data.augmentations.rand_augment import RandAugment

__all__ = [
    "Augment",
    "CutMix",
    "Cutout",
    "Facts",
    "Flip",
    "Mixup",
    "PadCrop",
    "RandAugment",
    "augmentations",
    "distributions",
]
