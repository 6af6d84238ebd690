import pytest

from kezuri.core.errors import UsageError
from kezuri.measure.efficiency import efficiency


def test_percent_for_a_megabyte() -> None:
    measured = efficiency(0.9, 2_000_000)
    assert (measured.metric, measured.value, measured.unit) == ("efficiency", 45.0, "%/MB")


@pytest.mark.parametrize(("accuracy", "size"), [(91.0, 100), (-0.1, 100), (0.9, 0)])
def test_percent_instead_of_a_fraction_is_refused(accuracy: float, size: float) -> None:
    with pytest.raises(UsageError, match=f"got {accuracy} and {size}"):
        efficiency(accuracy, size)
