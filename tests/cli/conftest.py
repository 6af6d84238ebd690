import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kezuri.cli.main import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kezuri(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "warnoptions", ["as pytest set them"])

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kezuri", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def recipe(tmp_path: Path, recipe_text: str) -> Path:
    """The recipe file `r.yaml` in that folder."""
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text, encoding="utf-8")
    return path
