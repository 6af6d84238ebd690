import resource
import subprocess
import sys
import textwrap
import time

import pytest

from kezuri.artifact.atomic import read_checked, read_json, sha256_of, write_bytes, write_json
from kezuri.core.errors import CorruptArtifact, DataError, ResourceError


def test_returns_the_hash_of_what_it_wrote(tmp_path):
    path = tmp_path / "new" / "file"
    assert write_bytes(path, b"content") == sha256_of(path)
    assert read_checked(path, sha256_of(path)) == b"content"


def test_leaves_nothing_else_behind(tmp_path):
    write_bytes(tmp_path / "file", b"one")
    write_bytes(tmp_path / "file", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_changed_byte_is_noticed(tmp_path):
    sha = write_bytes(tmp_path / "file", b"content")
    (tmp_path / "file").write_bytes(b"c0ntent")
    with pytest.raises(CorruptArtifact, match="damaged"):
        read_checked(tmp_path / "file", sha)


def test_missing_and_broken_json_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(CorruptArtifact, match=r"half\.json cannot be read"):
        read_json(tmp_path / "half.json")


def test_a_full_disk_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "file.json", {"old": True})
    child = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from kezuri.artifact.atomic import write_bytes
        from kezuri.core.errors import ResourceError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_bytes(Path(sys.argv[1]), bytes(100_000))
        except ResourceError as error:
            sys.exit(0 if "no room" in str(error) and "100,000 bytes" in str(error) else 9)
        sys.exit(8)
    """)
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path / "file.json")], check=False)
    assert done.returncode == 0
    assert read_json(tmp_path / "file.json") == {"old": True} and len(list(tmp_path.iterdir())) == 1


def test_a_kill_never_leaves_half_a_file(tmp_path):
    """A child writes two versions in turn as fast as it can and is killed: one of them is there, whole."""
    child = textwrap.dedent("""
        import sys
        from pathlib import Path
        from kezuri.artifact.atomic import write_bytes
        while True:
            for letter in b"ab":
                write_bytes(Path(sys.argv[1]), bytes([letter]) * 300_000)
                print(".", end="", flush=True)
    """)
    path = tmp_path / "file"
    for wait in (0.01, 0.03, 0.05):
        with subprocess.Popen([sys.executable, "-c", child, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.read(2)
            time.sleep(wait)
            process.kill()
        content = path.read_bytes()
        assert content in (b"a" * 300_000, b"b" * 300_000)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResourceError, match=r"cannot write .*file/inside"):
        write_bytes(tmp_path / "file" / "inside", b"x")
