"""Kills a run at random moments and lets it resume: does it always end with the same bits?

    python benchmarks/kills.py --kills 20 [--job demo|search]

One run goes undisturbed. Then each of `kills` runs is killed (SIGKILL) once, at a moment drawn evenly over
the undisturbed run's time, resumed with `kezuri resume`, and its final weights are compared byte by byte.
Jobs are the demo, and a genetic search for masks in two rounds, shortened by overrides so that the whole
takes minutes; every stage of them is there.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from record import record

from kezuri.artifact.atomic import sha256_of

JOBS = {
    "demo": (
        "demo",
        "steps.0.epochs=1",
        "steps.1.epochs=0.5",
        "steps.1.rounds=2",
        "steps.1.attention_epochs=0.3",
        "goal.accuracy=-0.5",
    ),
    "search": (
        "run",
        "recipes/search-lenet5-mnist.yaml",
        "data.use=fashion-mini",
        "data.validation=1500",
        "steps.0.epochs=2",
        "steps.1.search.evaluations=200",
        "steps.1.schedule.rounds=2",
        "steps.1.schedule.rate=0.6",
        "steps.1.finetune.epochs=1",
        "goal.accuracy=-0.5",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", choices=JOBS, default="demo")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs/kills"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.runs, ignore_errors=True)
    job = JOBS[options.job]
    begin = time.monotonic()
    kezuri(*job, "--runs", str(options.runs / "whole"), "--threads", "1").wait()
    whole = time.monotonic() - begin
    expected = weights(options.runs / "whole")
    draw = random.Random(options.seed)
    outcomes = []
    for number in range(options.kills):
        moment = draw.uniform(1.0, 0.95 * whole)
        outcomes.append({"moment": moment, **killed(job, options.runs / f"kill-{number}", moment, expected)})
        print(f"{number + 1:>3}  killed after {moment:5.1f} s  {outcomes[-1]}", flush=True)
    same = sum(outcome["identical"] for outcome in outcomes)
    print(f"{same} of {options.kills} resumed to the identical weights (undisturbed run: {whole:.1f} s)")
    name = "kills" if options.job == "demo" else f"kills_{options.job}"
    print(record(name, outcomes, kills=options.kills, whole_seconds=whole, job=list(job)))
    sys.exit(same != options.kills)


def kezuri(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kezuri.cli.main", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def killed(job: Sequence[str], runs: Path, moment: float, expected: str) -> dict[str, object]:
    process = kezuri(*job, "--runs", str(runs), "--threads", "1")
    time.sleep(moment)
    finished_before = process.poll() is not None
    if not finished_before:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    folders = sorted(path.parent for path in runs.glob("*/recipe.json")) if runs.exists() else []
    if folders:
        code = kezuri("resume", str(folders[0])).wait()
    else:  # killed before the run had a folder: nothing to resume, the same command begins it
        code = kezuri(*job, "--runs", str(runs), "--threads", "1").wait()
    identical = code == 0 and weights(runs) == expected
    return {
        "exit": code,
        "identical": identical,
        "had_finished": finished_before,
        "had_a_folder": bool(folders),
    }


def weights(runs: Path) -> str:
    (file,) = runs.glob("*/models/final/model.safetensors")
    return sha256_of(file)


if __name__ == "__main__":
    main()
