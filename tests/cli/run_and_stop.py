"""Run as a script: runs of the command line that are stopped again and again, then finish.

Usage: run_and_stop.py FOLDER. FOLDER holds recipe.yaml. Leaves FOLDER/ctrl c, FOLDER/killed, and said.json:
how each command ended and what it said. Everything is imported once; the commands are forks.
"""

import json
import os
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import kezuri.train.checkpoint as cadence
from kezuri.cli.main import main
from kezuri.cli.running import run_recipe  # noqa: F401  loaded once, for all forks
from kezuri.model.coupling import couple
from kezuri.model.load import load_model
from kezuri.recipe.roles import registries
from kezuri.runtime.export import export_onnx

ROOT = Path(sys.argv[1])
ROOM = 20_000  # bytes; the first checkpoint is larger


def command(words: list[str], *, room: int | None, out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    sys.argv = words
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def start(words: list[str], number: int, room: int | None = None) -> tuple[int, Path, Path]:
    out, err = ROOT / f"{number}.out", ROOT / f"{number}.err"
    child = os.fork()
    if child == 0:
        with out.open("w") as one, err.open("w") as two:
            command(words, room=room, out=one.fileno(), err=two.fileno())
        os._exit(99)
    return child, out, err


class Series:
    """Commands on one run, each of which goes on from where the last was stopped."""

    count = 0

    def __init__(self, runs: str) -> None:
        self.runs = ROOT / runs
        self.words = ["kezuri", "run", str(ROOT / "recipe.yaml"), "--runs", str(self.runs), "--threads", "1"]
        self.said: list[dict[str, Any]] = []

    def go(
        self,
        stop: int | None = None,
        when: str = "",
        meanwhile: Callable[[], None] = lambda: None,
        room: int | None = None,
    ) -> None:
        """Starts the command, and stops it a moment after it printed `when`."""
        Series.count += 1
        child, out, err = start(self.words, Series.count, room)
        if stop is not None:
            self._wait_for(when, out, child)
            os.kill(child, signal.SIGSTOP)  # so that it is not done before `meanwhile` is
            meanwhile()
            os.kill(child, stop)
            os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
        self.said.append(
            {"code": os.waitstatus_to_exitcode(status), "out": out.read_text(), "err": err.read_text()}
        )
        if "kezuri resume" in self.said[-1]["err"]:
            self.words = shlex.split(self.said[-1]["err"].partition("resume with: ")[2])

    def _wait_for(self, when: str, out: Path, child: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if out.exists() and when in out.read_text() and any(self.runs.glob("*/manifest.json")):
                time.sleep(0.05)
                return
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)

    def second(self) -> None:
        """The same command again, while the first is at work."""
        Series.count += 1
        child, out, err = start(self.words, Series.count)
        _, status = os.waitpid(child, 0)
        self.said.append(
            {"code": os.waitstatus_to_exitcode(status), "out": out.read_text(), "err": err.read_text()}
        )


def everything() -> dict[str, list[dict[str, Any]]]:
    registries()
    model = load_model("lenet5", classes=2, image_shape=(1, 28, 28))
    couple(model, torch.zeros(2, 1, 28, 28))  # loads what torch loads late
    export_onnx(model, (1, 28, 28), ROOT / "loaded.onnx")
    cadence.LOST_SECONDS, cadence.OVERHEAD = 0.0, 1.0  # a checkpoint every few steps
    asked, killed = Series("ctrl c"), Series("killed")
    asked.go(room=ROOM)
    for when in ("", "trained", "    0 ", "    1 ", "exporting"):
        asked.go(signal.SIGINT, when, asked.second if when == "    0 " else lambda: None)
    asked.go()
    for when in ("    0 ", "    1 ", "exporting"):
        killed.go(signal.SIGKILL, when)
    killed.go()
    return {"ctrl c": asked.said, "killed": killed.said}


(ROOT / "said.json").write_text(json.dumps(everything()))
