import pytest
import torch

from kezuri.core.errors import UsageError
from kezuri.data.normalization import normalization
from kezuri.data.parts import TensorPart


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_moments_are_those_of_all_pixels(kind: str) -> None:
    pixels = torch.randint(
        256, (1200, 2, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels[:, 1] //= 4
    images = pixels if kind == "uint8" else pixels.float() / 255
    mean, std = normalization(TensorPart(images, torch.zeros(1200).long()), None)
    exact = pixels.double() / 255
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(exact.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_a_channel_that_never_changes_is_left_unscaled() -> None:
    images = torch.full((10, 2, 3, 3), 0.25)
    images[::2, 1] = 0.75
    mean, std = normalization(TensorPart(images, torch.zeros(10).long()), None)
    assert mean == pytest.approx((0.25, 0.5))
    assert std == pytest.approx((1.0, 0.25))


def test_what_is_given_is_used() -> None:
    part = TensorPart(torch.zeros(4, 2, 3, 3), torch.zeros(4).long())
    assert normalization(part, ([0, 1], (2, 3))) == ((0.0, 1.0), (2.0, 3.0))


@pytest.mark.parametrize("given", [((0.5,), (0.2, 0.2)), ((0.5, 0.5), (0.2,)), ((0.5, 0.5), (0.2, 0.0))])
def test_what_does_not_fit_is_refused(given: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(UsageError, match="each of the 2 channels and std above 0; got"):
        normalization(TensorPart(torch.zeros(4, 2, 3, 3), torch.zeros(4).long()), given)
