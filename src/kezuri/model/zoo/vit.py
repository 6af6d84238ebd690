"""A vision transformer for small images (Dosovitskiy et al., 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.zoo.registry import zoo


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, T, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # stated, because the default follows the head's size and would change when heads are made narrower
        self.scale = (dim // heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        mixed: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


class ViT(nn.Module):
    """Patches, a class token, learned positions, encoder blocks, one linear layer."""

    def __init__(self, patches: int, embed: nn.Conv2d, blocks: list[EncoderBlock], classes: int) -> None:
        super().__init__()
        dim = embed.out_channels
        self.embed = embed
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        logits: Tensor = self.linear(self.norm(self.blocks(x))[:, 0])
        return logits


@zoo.register("vit_tiny")
def vit_tiny(
    classes: int = 10,
    channels: int = 3,
    image_size: int = 32,
    *,
    dim: int = 128,
    depth: int = 6,
    heads: int = 4,
) -> nn.Module:
    """A small ViT on patches of 4x4 pixels: 1.2 M parameters, for images of 28x28 or 32x32.

    Raises:
        ModelError: the image does not divide into patches, or the width into heads.
    """
    if image_size % 4 or image_size < 4:
        raise ModelError(f"vit_tiny needs an image side that is a multiple of 4, got {image_size}")
    if dim % heads:
        raise ModelError(f"dim must be a multiple of heads, got dim={dim} and heads={heads}")
    blocks = [EncoderBlock(dim, heads, 4 * dim) for _ in range(depth)]
    model = ViT((image_size // 4) ** 2, nn.Conv2d(channels, dim, 4, 4), blocks, classes)
    _initialise_(model)
    return model


def _initialise_(model: ViT) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.token, std=0.02)
    nn.init.trunc_normal_(model.positions, std=0.02)
