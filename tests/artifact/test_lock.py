"""A folder that is locked is left alone, or waited for."""

import threading
from contextlib import ExitStack

import pytest

from kezuri.artifact.lock import locked
from kezuri.core.errors import InUse, ResourceError, UsageError


def test_a_second_one_is_kept_out(tmp_path):
    folder = tmp_path / "new"
    with locked(folder), pytest.raises(InUse, match="by another process") as caught, locked(folder):
        pass
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2
    with locked(tmp_path / "new"):
        pass


def test_or_waits_where_asked(tmp_path):
    first, order = ExitStack(), []
    first.enter_context(locked(tmp_path))

    def leave():
        order.append("left")
        first.close()

    threading.Timer(0.3, leave).start()
    with locked(tmp_path, wait=True):
        order.append("entered")
    assert order == ["left", "entered"]


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"), locked(tmp_path / "file"):
        pass
