"""How a recipe names a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kezuri.model.load import ModelSpec


@dataclass(frozen=True)
class ModelChoice:
    """Which model: a zoo name, `file.py:function`, `package.module:function`, `timm:…` or `torchvision:…`.

    Attributes:
        use: the reference.
        options: arguments for the function that builds it.
        weights: a safetensors file or a PyTorch state dict, looked for beside the recipe, then in the
            folder the command runs in, then in the folder `KEZURI_MODELS` names.
    """

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """How it is built, without weights."""
        return ModelSpec(self.use, self.options)
