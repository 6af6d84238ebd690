"""Each distortion against Pillow's, for pixels from 0 to 255 under any normalisation."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from kezuri.data import distortions
from kezuri.data.distortions import DISTORTIONS, Tones

MEAN, STD = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]


def pictures(channels=3, side=(24, 20)):
    """Smooth colours of several contrasts, as (B, C, H, W) uint8; black and white occur in every channel."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, channels, 5, 4, generator=draw)
    images = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)
    images *= torch.linspace(0.3, 1, 6)[:, None, None, None]
    images = (images * 255).round().to(torch.uint8)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    return images


def distorted(operation, images, strength):
    """What the operation makes of uint8 images that were normalised before and are denormalised after."""
    channels = images.shape[1]
    mean, std = MEAN[:channels], STD[:channels]
    normal = (images / 255 - mean) / std
    changed = operation(normal, torch.full((len(images),), strength), Tones.of(normal))
    return (changed * std + mean) * 255


def by_pillow(images, change):
    mode = "RGB" if images.shape[1] == 3 else "L"
    arrays = [image.permute(1, 2, 0).numpy().squeeze() for image in images]
    made = [np.asarray(change(Image.fromarray(array, mode))) for array in arrays]
    return torch.tensor(np.stack(made)).view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2).float()


def threshold_of(strength):
    return int(np.ceil((1 - strength) * 255))


CASES = {
    "autocontrast": (0.7, lambda s: ImageOps.autocontrast, 1.0),
    "equalize": (0.7, lambda s: ImageOps.equalize, 0.01),
    "posterize": (0.5, lambda s: lambda image: ImageOps.posterize(image, 6), 0.01),
    "solarize": (0.55, lambda s: lambda image: ImageOps.solarize(image, threshold_of(s)), 0.01),
    "brightness": (-0.6, lambda s: lambda image: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s), 1.0),
    "color": (0.8, lambda s: lambda image: ImageEnhance.Color(image).enhance(1 + 0.9 * s), 2.0),
    "contrast": (-0.8, lambda s: lambda image: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s), 2.0),
    "sharpness": (1.0, lambda s: lambda image: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s), 2.0),
}


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(CASES))
def test_shades_become_what_pillow_makes_of_them(name, channels):
    strength, pillow, levels = CASES[name]
    images = pictures(channels)
    ours, theirs = (
        distorted(getattr(distortions, name), images, strength),
        by_pillow(images, pillow(strength)),
    )
    assert (ours - theirs).abs().max() <= levels + 1e-3  # Pillow rounds to whole levels on the way
    changed = (theirs - images).abs().max() > 2
    assert changed or (name, channels) == ("color", 1)


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 3), ("translate_y", 2)])
@pytest.mark.parametrize("strength", [0.5, -0.5, 1.0])
def test_shifts_are_whole_pixels_and_leave_zero_behind(name, axis, strength):
    images = torch.randn(2, 3, 20, 20) + 9
    moved = getattr(distortions, name)(images, torch.full((2,), strength), Tones.of(images))
    pixels = round(0.3 * strength * 20)
    expected = torch.roll(images, -pixels, axis)
    index = torch.arange(20) + pixels
    outside = (index < 0) | (index > 19)
    expected.transpose(axis, 3)[..., outside] = 0
    assert torch.equal(moved, expected)


def test_rotation_is_pillows():
    images = pictures(1, (31, 25))
    normal = images.float()
    turned = distortions.rotate(normal, torch.full((6,), 0.6), Tones.of(normal))
    theirs = [by_pillow(images, lambda image, a=a: image.rotate(a)) for a in (18.0, -18.0)]
    agreement = max(float((turned == other).float().mean()) for other in theirs)
    assert agreement > 0.98  # pixels half way between two may go either way


@pytest.mark.parametrize(("name", "lines"), [("shear_x", 2), ("shear_y", 3)])
def test_shear_moves_each_line_by_its_distance_from_the_middle(name, lines):
    images = torch.arange(1.0, 1 + 21 * 31).view(1, 1, 21, 31)
    sheared = getattr(distortions, name)(images, torch.tensor([0.9]), Tones.of(images))
    rows, moved = (x[0, 0] if lines == 2 else x[0, 0].T for x in (images, sheared))
    for number, (row, other) in enumerate(zip(rows, moved, strict=True)):
        pixels = round(0.27 * (number - (len(rows) - 1) / 2))
        shifted = torch.roll(row, -pixels)
        inside = slice(max(0, -pixels), len(row) - max(0, pixels))
        assert torch.equal(other[inside], shifted[inside])
        assert (other == 0).sum() == abs(pixels)


@pytest.mark.parametrize("operation", DISTORTIONS, ids=lambda operation: operation.__name__)
def test_images_keep_their_range_and_the_original_is_untouched(operation):
    images = pictures(3).float() / 50 - 2
    before = images.clone()
    for strength in (-1.0, 0.0, 0.4, 1.0):
        changed = operation(images, torch.full((6,), strength), Tones.of(images))
        assert changed.shape == images.shape and changed.dtype == images.dtype
        assert changed.min() >= images.min() - 1e-5 and changed.max() <= images.max() + 1e-5
    assert torch.equal(images, before)


@pytest.mark.parametrize("operation", DISTORTIONS, ids=lambda operation: operation.__name__)
def test_no_strength_changes_at_most_rounding(operation):
    if operation.__name__ in ("autocontrast", "equalize"):
        return  # these have no strength
    images = pictures(3).float() / 255
    changed = operation(images, torch.zeros(6), Tones.of(images))
    assert torch.allclose(changed, images, atol=1e-6)


@pytest.mark.parametrize("operation", DISTORTIONS, ids=lambda operation: operation.__name__)
def test_each_image_is_changed_by_its_own_strength(operation):
    images = pictures(3).float()
    strength = torch.linspace(-1, 1, 6)
    together = operation(images, strength, Tones.of(images))
    for number in range(6):
        alone = operation(images[number : number + 1], strength[number : number + 1], Tones.of(images))
        assert torch.allclose(together[number : number + 1], alone, atol=1e-3)
