import getpass
import json
import socket
from pathlib import Path

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.manifest import Manifest, environment


def test_update_merges(tmp_path):
    manifest = Manifest(RunFolder(tmp_path))
    assert manifest.read() == {}
    manifest.update(status="running", seed=3)
    manifest.update(status="finished")
    assert manifest.read()["seed"] == 3 and manifest.read()["status"] == "finished"


def test_a_sealed_file_that_changes_or_goes_is_found(tmp_path):
    manifest = Manifest(RunFolder(tmp_path))
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text(name)
    manifest.seal(*(tmp_path / name for name in ("kept", "changed", "gone")))
    (tmp_path / "changed").write_text("other")
    (tmp_path / "gone").unlink()
    assert manifest.damaged() == {"changed": "changed since it was written", "gone": "missing"}


def test_tells_neither_host_nor_user_nor_secrets(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "canary-5f2e")
    text = json.dumps(environment())
    assert "canary" not in text and str(Path.cwd()) not in text
    for private in (socket.gethostname(), getpass.getuser() if getpass.getuser() != "root" else "/root"):
        assert private not in text
