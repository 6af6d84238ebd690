"""All models of torchvision that classify, segment, look at videos, or are the trunk of a detector."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .graph import Graph, images, seeded

try:
    import torchvision
except RuntimeError:
    # a torchvision made for another build of torch lacks its compiled half, of which models need the names only
    library = torch.library.Library("torchvision", "DEF")
    for operation in ("nms", "qnms"):
        library.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

from torchvision import models
from torchvision.models.detection import backbone_utils

VERSION: str = torchvision.__version__


class Trunk(nn.Module):
    """What of a detector is made of layers: its backbone, and the head that looks at every place."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        levels = [features] if isinstance(features, Tensor) else list(features.values())
        return self.head(levels)


def all_models() -> dict[str, Graph]:
    """By name, in groups: `resnet18`, `segmentation/…`, `video/…`, `backbone/…`, `detection/…`."""
    graphs = [_graph(name, _classifier(name), _image(name)) for name in models.list_models(module=models)]
    for name in models.list_models(module=models.segmentation):
        graphs.append(_graph(f"segmentation/{name}", _plain(name, weights_backbone=None), (3, 64, 64)))
    for name in models.list_models(module=models.video):
        graphs.append(_graph(f"video/{name}", _plain(name), _clip(name)))
    for name in ("resnet18", "resnet50"):
        graphs.append(_graph(f"backbone/{name}_fpn", _resnet_fpn(name), (3, 64, 64)))
    for name in ("mobilenet_v2", "mobilenet_v3_large"):
        graphs.append(_graph(f"backbone/{name}_fpn", _mobilenet_fpn(name), (3, 64, 64)))
    for name in models.list_models(module=models.detection):
        side = 320 if "320" in name else 300 if "300" in name else 128
        graphs.append(_graph(f"detection/{name}", _detector(name), (3, side, side)))
    return {graph.name: graph for graph in graphs}


def _graph(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Graph:
    def quietly() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return seeded(build)

    return Graph(name, quietly, images(*shape))


def _image(name: str) -> tuple[int, ...]:
    """Small, where the model takes small images."""
    side = {"maxvit_t": 224, "inception_v3": 299, "vit_h_14": 56}.get(name, 64)
    return 3, side, side


def _clip(name: str) -> tuple[int, ...]:
    frames, side = (16, 224) if "mvit" in name or name == "s3d" else (8, 64)
    return 3, frames, side, side


def _classifier(name: str) -> Callable[[], nn.Module]:
    if name in ("googlenet", "inception_v3"):
        return _plain(name, init_weights=False)
    return _plain(name, image_size=_image(name)[1]) if name.startswith("vit_") else _plain(name)


def _plain(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: models.get_model(name, weights=None, **options)


def _detector(name: str) -> Callable[[], nn.Module]:
    return lambda: Trunk(models.get_model(name, weights=None, weights_backbone=None))


def _resnet_fpn(name: str) -> Callable[[], nn.Module]:
    return lambda: backbone_utils.resnet_fpn_backbone(backbone_name=name, weights=None)


def _mobilenet_fpn(name: str) -> Callable[[], nn.Module]:
    return lambda: backbone_utils.mobilenet_backbone(backbone_name=name, fpn=True, weights=None)
