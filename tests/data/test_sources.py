import errno
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kezuri.core.errors import DataError, KezuriWarning, ResourceError
from kezuri.data.sources import Download, cache_folder, check_hash, data_folders, decoded_once

CONTENT = b"the published file" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server with `good`, `good.gz` and `bad`; its address."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "good").write_bytes(CONTENT)
    (folder / "good.gz").write_bytes(gzip.compress(CONTENT, compresslevel=1))
    (folder / "cut.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    (folder / "bad").write_bytes(b"a login page")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_folders_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert data_folders(None) == (Path("data"), tmp_path / "cache" / "data")
    monkeypatch.setenv("KEZURI_DATA", "/somewhere")
    assert data_folders(None) == (Path("/somewhere"), Path("data"), tmp_path / "cache" / "data")
    assert data_folders(Path("mine")) == (Path("mine"),)
    monkeypatch.delenv("KEZURI_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "kezuri"


def test_the_next_address_is_tried_until_the_hash_is_right(site: str, tmp_path: Path) -> None:
    tried: list[str] = []
    file = Download("file", (f"{site}/missing", f"{site}/bad", f"{site}/good"), sha256(CONTENT))
    assert file.fetch(tmp_path / "out", tried)
    assert (tmp_path / "out" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert tried[0] == f"{site}/missing: HTTP Error 404: File not found"
    assert tried[1].startswith(f"{site}/bad: SHA-256 is {sha256(b'a login page')[:12]}")


def test_a_gzip_file_is_judged_by_what_it_unpacks_to(site: str, tmp_path: Path) -> None:
    tried: list[str] = []
    file = Download("file.gz", (f"{site}/cut.gz", f"{site}/good.gz"), sha256(CONTENT), unpacked=True)
    assert file.fetch(tmp_path, tried)
    assert gzip.decompress((tmp_path / "file.gz").read_bytes()) == CONTENT
    assert tried == [f"{site}/cut.gz: what came is damaged"]


def test_nothing_is_left_when_no_address_works(site: str, tmp_path: Path) -> None:
    tried: list[str] = []
    file = Download("file", (f"{site}/bad", "http://127.0.0.1:1/x", "nonsense"), sha256(CONTENT))
    assert not file.fetch(tmp_path / "out", tried)
    assert list((tmp_path / "out").iterdir()) == []
    assert len(tried) == 3
    assert "refused" in tried[1]
    assert "unknown url type" in tried[2]


def test_a_file_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"anything")
    assert Download("file", (), sha256(CONTENT)).fetch(tmp_path, [])


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResourceError, match="cannot write to"):
        Download("file", (), sha256(CONTENT)).fetch(tmp_path / "taken", [])


def test_a_full_disk_is_not_taken_for_a_bad_address(site: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ResourceError, match="no room to download file") as caught:
        Download("file", (f"{site}/good",), sha256(CONTENT))._try(f"{site}/good", full)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_hashes_of_both_kinds_are_checked() -> None:
    check_hash(CONTENT, sha256(CONTENT), "file")
    check_hash(CONTENT, hashlib.md5(CONTENT).hexdigest(), "file")
    with pytest.raises(DataError, match=r"file is damaged or another file: its SHA256 is .*expected 0000"):
        check_hash(CONTENT, "0" * 64, "file")
    with pytest.raises(DataError, match="its MD5 is"):
        check_hash(CONTENT, "0" * 32, "file")


class Decoder:
    """Counts how often it decodes."""

    def __init__(self) -> None:
        self.array = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)
        self.sha256 = sha256(self.array.tobytes())
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.array


def test_decoding_happens_once() -> None:
    decoder = Decoder()
    for _ in range(3):
        assert np.array_equal(decoded_once("set", decoder.sha256, decoder), decoder.array)
    assert decoder.calls == 1


@pytest.mark.parametrize("damage", [lambda c: c[:-1] + b"\xff", lambda c: c[:40], lambda _: b""])
def test_a_damaged_copy_is_made_anew(damage: object) -> None:
    decoder = Decoder()
    decoded_once("set", decoder.sha256, decoder)
    (kept,) = (cache_folder() / "decoded").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))  # type: ignore[operator]
    assert np.array_equal(decoded_once("set", decoder.sha256, decoder), decoder.array)
    assert decoder.calls == 2
    assert kept.read_bytes() == whole


def test_decoding_to_something_else_is_an_error() -> None:
    with pytest.raises(DataError, match="set is damaged or another file"):
        decoded_once("set", "0" * 64, Decoder())


def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    decoder = Decoder()
    with pytest.warns(KezuriWarning, match="could not be kept"):
        assert np.array_equal(decoded_once("set", decoder.sha256, decoder), decoder.array)
