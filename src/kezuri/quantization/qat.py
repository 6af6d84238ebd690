"""What training must know about quantizers."""

import torch
from torch import nn

from kezuri.quantization.fake import FakeQuant
from kezuri.train.hooks import Hook


class ScalesUndecayed(Hook):
    """Takes weight decay off learned scales, which would otherwise shrink towards clipping everything."""

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        """Moves the scales into a group of their own, once."""
        scales = {
            id(module.scale)
            for module in model.modules()
            if isinstance(module, FakeQuant) and isinstance(module.scale, nn.Parameter)
        }
        for group in [group for group in optimizer.param_groups if group.get("weight_decay")]:
            found = [parameter for parameter in group["params"] if id(parameter) in scales]
            if found:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in scales]
                rest = {key: value for key, value in group.items() if key not in ("params", "weight_decay")}
                optimizer.add_param_group({"params": found, **rest, "weight_decay": 0.0})
