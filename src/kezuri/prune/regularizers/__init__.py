"""One file a regularizer. A new one is a file here and its line below."""

from kezuri.prune.regularizers import bn_scale as bn_scale
from kezuri.prune.regularizers import group as group
