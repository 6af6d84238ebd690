"""The role: a function that builds an untrained network, `builder(classes=10, channels=3, **options)`."""

from collections.abc import Callable

from torch import nn

from kezuri.core.registry import Registry

Builder = Callable[..., nn.Module]
zoo: Registry[Builder] = Registry("model")
