"""Distortions of normalised images, a batch at once, each image by a strength of its own.

The operations are those of AutoAugment (Cubuk et al., 2019) and RandAugment (Cubuk et al., 2020). They were
made for pixels from 0 to 255; here black and white of a channel are the lowest and the highest value that the
batch has in it, and what comes in from outside an image is zero, the mean colour of the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256
TURN, SHEAR, SHIFT, BLEND, BITS = 30.0, 0.3, 0.3, 0.9, 4  # at strength 1
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in brightness (ITU-R BT.601)


@dataclass(frozen=True)
class Tones:
    """Black and white of each channel, (1, C, 1, 1)."""

    black: Tensor
    white: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Tones":
        """The lowest and the highest values of a batch (B, C, H, W)."""
        return cls(images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True))

    def shades(self, images: Tensor) -> Tensor:
        """Images as fractions from 0, black, to 1, white; 0 where the two are the same."""
        span = self.white - self.black
        return ((images - self.black) / torch.where(span > 0, span, 1.0)).clamp(0, 1) * (span > 0)

    def images(self, shades: Tensor) -> Tensor:
        """The inverse of `shades`."""
        return self.black + shades.clamp(0, 1) * (self.white - self.black)


Distortion = Callable[[Tensor, Tensor, Tones], Tensor]
"""(images (B, C, H, W), strength (B,) in [-1, 1], tones) → images. The sign is the direction, if any."""


def identity(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001 (the signature of all)
    """The images as they are."""
    return images


def rotate(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Turns about the centre, up to 30 degrees."""
    angle = strength * math.radians(TURN)
    aspect = images.shape[3] / images.shape[2]
    cos, sin = angle.cos(), angle.sin()
    return _moved(images, cos, -sin / aspect, sin * aspect, cos)


def shear_x(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Slides rows against each other, up to 0.3 pixels a row."""
    ones, zeros = _ones_zeros(strength)
    return _moved(images, ones, strength * SHEAR * images.shape[2] / images.shape[3], zeros, ones)


def shear_y(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Slides columns against each other, up to 0.3 pixels a column."""
    ones, zeros = _ones_zeros(strength)
    return _moved(images, ones, zeros, strength * SHEAR * images.shape[3] / images.shape[2], ones)


def translate_x(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Shifts sideways, up to 0.3 of the width."""
    ones, zeros = _ones_zeros(strength)
    return _moved(images, ones, zeros, zeros, ones, right=2 * SHIFT * strength)


def translate_y(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Shifts up or down, up to 0.3 of the height."""
    ones, zeros = _ones_zeros(strength)
    return _moved(images, ones, zeros, zeros, ones, down=2 * SHIFT * strength)


def autocontrast(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Stretches each channel of each image so that it goes from black to white."""
    shades = tones.shades(images)
    low, high = shades.amin((2, 3), keepdim=True), shades.amax((2, 3), keepdim=True)
    return torch.where(high > low, tones.images((shades - low) / (high - low)), images)


def equalize(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:  # noqa: ARG001
    """Makes the shades of each channel of each image equally frequent; below 256 pixels nothing changes."""
    levels = _levels(tones.shades(images)).flatten(2).long()
    counts = torch.zeros(*levels.shape[:2], LEVELS, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - last) // (LEVELS - 1)
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=LEVELS - 1)
    spread = table.gather(2, levels).view(images.shape) / (LEVELS - 1)
    return torch.where(step[..., None] > 0, tones.images(spread), images)


def posterize(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Keeps fewer shades: 8 bits of them at strength 0, 4 at strength 1."""
    step = 2.0 ** (BITS * strength.abs()).round()[:, None, None, None]
    levels = _levels(tones.shades(images))
    return tones.images(torch.floor(levels / step) * step / (LEVELS - 1))


def solarize(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Inverts all that is brighter than a threshold: white at strength 0, black at strength 1."""
    shades = tones.shades(images)
    threshold = 1 - strength.abs()[:, None, None, None]
    return torch.where((shades >= threshold) & (threshold < 1), tones.images(1 - shades), images)


def brightness(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Towards black, or away from it, by up to 0.9 of the way."""
    shades = tones.shades(images)
    return _blended(torch.zeros_like(shades), shades, strength, tones)


def contrast(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Towards the image's mean grey, or away from it, by up to 0.9 of the way."""
    shades = tones.shades(images)
    return _blended(_grey(shades).mean((2, 3), keepdim=True).expand_as(shades), shades, strength, tones)


def color(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Towards shades of grey, or away from them, by up to 0.9 of the way; one channel stays as it is."""
    if images.shape[1] == 1:
        return images
    shades = tones.shades(images)
    return _blended(_grey(shades).expand_as(shades), shades, strength, tones)


def sharpness(images: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """Towards a smoothed image, or away from it, by up to 0.9 of the way; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    shades = tones.shades(images)
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5
    channels = images.shape[1]
    smooth = F.conv2d(shades, (kernel / kernel.sum()).expand(channels, 1, 3, 3), groups=channels)
    whole = shades.clone()
    whole[:, :, 1:-1, 1:-1] = smooth
    return _blended(whole, shades, strength, tones)


DISTORTIONS: tuple[Distortion, ...] = (
    identity,
    autocontrast,
    equalize,
    rotate,
    solarize,
    color,
    posterize,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
"""The operations RandAugment draws from (Cubuk et al., 2020, section 3)."""


def _ones_zeros(strength: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(strength), torch.zeros_like(strength)


def _moved(
    images: Tensor,
    xx: Tensor,
    xy: Tensor,
    yx: Tensor,
    yy: Tensor,
    *,
    right: Tensor | None = None,
    down: Tensor | None = None,
) -> Tensor:
    """Each pixel from the one nearest to (xx·x + xy·y + right, yx·x + yy·y + down); sides go from −1 to 1."""
    zeros = torch.zeros_like(xx)
    rows = (xx, xy, zeros if right is None else right, yx, yy, zeros if down is None else down)
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="nearest", align_corners=False)


def _levels(shades: Tensor) -> Tensor:
    return (shades * (LEVELS - 1)).round()


def _grey(shades: Tensor) -> Tensor:
    """(B, 1, H, W): brightness of three channels, the mean of any other number."""
    if shades.shape[1] != len(LUMA):
        return shades.mean(1, keepdim=True)
    return (shades * shades.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _blended(degenerate: Tensor, shades: Tensor, strength: Tensor, tones: Tones) -> Tensor:
    """`degenerate` at a strength of −1 / 0.9, the shades themselves at 0, and beyond them above."""
    factor = (1 + BLEND * strength)[:, None, None, None]
    return tones.images(degenerate + factor * (shades - degenerate))
