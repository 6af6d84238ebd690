import subprocess
import sys

import pytest

import kezuri


@pytest.mark.parametrize("name", kezuri.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(kezuri, name).__doc__


def test_there_are_few():
    assert len(kezuri.__all__) < 25 and dir(kezuri) == sorted(kezuri.__all__)


def test_other_names_are_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"kezuri has no 'compres' .*compress"):
        kezuri.compres  # noqa: B018


def test_importing_the_package_does_not_load_torch():
    code = "import sys, kezuri; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
