"""One file an augmentation, or a family of them. A new one is a file here and its line below."""

from kezuri.data.augmentations import cutout as cutout
from kezuri.data.augmentations import flip as flip
from kezuri.data.augmentations import mixing as mixing
from kezuri.data.augmentations import pad_crop as pad_crop
from kezuri.data.augmentations import rand_augment as rand_augment
