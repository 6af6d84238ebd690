"""Networks that come with Kezuri, by the name a recipe writes: `zoo["resnet20"](classes=10)`."""

from kezuri.model.zoo import lenet, mobilenet, plain, resnet, vgg, vit
from kezuri.model.zoo.registry import Builder, zoo

__all__ = ["Builder", "lenet", "mobilenet", "plain", "resnet", "vgg", "vit", "zoo"]
