"""Run as a script: trains in child processes, kills them at random moments, then lets one finish.

Usage: train_and_kill.py FOLDER KILLS. Leaves `whole.safetensors` (never killed), `resumed.safetensors` and
`resumes.txt` (the step each child went on from). torch is imported once; the children are forks.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import kezuri.train.checkpoint as cadence
from conftest import make_net, make_patterns
from kezuri.data.augment import Mixup
from kezuri.train import NullProgress, Training, fit
from kezuri.train.optimizers import Adam

KILLS = int(sys.argv[2])
TRAINING = Training(epochs=KILLS, batch_size=16, lr=0.01, optimizer=Adam(), augment=(Mixup(),))
EPOCH_STEPS = 16  # more than a child gets to make, so that none finishes before its kill


class Reports(NullProgress):
    def __init__(self, folder: Path, pipe: int) -> None:
        self.folder, self.pipe = folder, pipe

    def start(self, _task, *, total, done):
        assert total == KILLS * EPOCH_STEPS
        with (self.folder / "resumes.txt").open("a") as file:
            file.write(f"{done}\n")

    def advance(self, steps, _figures):
        os.write(self.pipe, b"." * steps)


def train(folder: Path, pipe: int, name: str, checkpoint: Path | None) -> None:
    model = make_net()
    progress = NullProgress() if checkpoint is None else Reports(folder, pipe)
    fit(model, make_patterns(), TRAINING, seed=3, device="cpu", checkpoint=checkpoint, progress=progress)
    save_file(model.state_dict(), folder / f"{name}.safetensors")


def in_child(kill_after: int | None, *arguments) -> None:
    """Forks, and kills the child a moment after so many steps, unless None."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(arguments[0], write, *arguments[1:])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as steps:
        if kill_after is not None:
            for _ in range(kill_after):
                steps.read(1)
            time.sleep(random.uniform(0, 0.004))
            os.kill(child, signal.SIGKILL)
        else:
            while steps.read(4096):
                pass
    _, status = os.waitpid(child, 0)
    expected = 0 if kill_after is None else signal.SIGKILL
    assert status == expected, f"the child ended with {status}, not {expected}"


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    cadence.LOST_SECONDS, cadence.OVERHEAD = 0.0, 1.0  # a checkpoint every few steps
    train(folder, 0, "whole", None)  # also loads what torch loads late, once for all children
    dice = random.Random(1)
    for _ in range(KILLS):
        in_child(dice.randint(1, EPOCH_STEPS - 3), folder, "resumed", folder / "checkpoints")
    in_child(None, folder, "resumed", folder / "checkpoints")


main()
