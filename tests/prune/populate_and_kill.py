"""Run as a script: trains populations in child processes, kills them at random moments, then lets one finish.

Usage: populate_and_kill.py FOLDER KILLS. Leaves `whole.safetensors` (never killed), `resumed.safetensors` and
`resumes.txt` (the members that each child found done). torch is imported once; the children are forks.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

import kezuri.train.checkpoint as cadence
from kezuri.core.progress import NullProgress
from kezuri.data import from_tensors
from kezuri.prune.mask_space import mask_space
from kezuri.prune.population import Population, train_population
from kezuri.train import Training

FOLDER, KILLS = Path(sys.argv[1]), int(sys.argv[2])
PLAN = Population(sparsity=0.7, members=3, intervals=KILLS + 2, aside=30, quantile=0.34)


def setting():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(150) % 3
    images = torch.randn(3, 1, 6, 6, generator=draw)[labels] + torch.randn(150, 1, 6, 6, generator=draw)
    torch.manual_seed(0)
    layers = (torch.nn.Linear(36, 24), torch.nn.BatchNorm1d(24), torch.nn.Dropout(0.2), torch.nn.ReLU())
    model = torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(24, 3))
    return model, from_tensors((images, labels), validation=30)


class Reports(NullProgress):
    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def start(self, _task, *, total, done):
        with (FOLDER / "resumes.txt").open("a") as file:
            file.write(f"{done}\n")

    def advance(self, steps, _figures):
        os.write(self.pipe, b"." * steps)


def train(pipe: int, name: str, checkpoint: Path | None) -> None:
    model, data = setting()
    progress = NullProgress() if checkpoint is None else Reports(pipe)
    training = Training(epochs=max(6, KILLS / 5), batch_size=16, lr=0.05)
    found = train_population(
        model,
        data,
        training,
        PLAN,
        mask_space(model),
        seed=3,
        device="cpu",
        checkpoint=checkpoint,
        progress=progress,
    )
    history = [[vars(replace(one, seconds=0)) for one in row] for row in found.history]
    (FOLDER / f"{name}.json").write_text(json.dumps(history))
    save_file({**model.state_dict(), "kept": found.kept}, FOLDER / f"{name}.safetensors")


def in_child(kill_after: int | None, name: str, checkpoint: Path) -> None:
    """Forks, and kills the child a moment after so many members, unless None."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(write, name, checkpoint)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as members:
        if kill_after is not None:
            for _ in range(kill_after):
                members.read(1)
            time.sleep(random.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        else:
            while members.read(4096):
                pass
    _, status = os.waitpid(child, 0)
    expected = 0 if kill_after is None else signal.SIGKILL
    assert status == expected, f"the child ended with {status}, not {expected}"


def main() -> None:
    torch.set_num_threads(1)
    cadence.LOST_SECONDS, cadence.OVERHEAD = 0.0, 1.0  # a checkpoint every few steps
    train(0, "whole", None)  # also loads what torch loads late, once for all children
    dice = random.Random(1)
    for _ in range(KILLS):
        in_child(dice.randint(1, 4), "resumed", FOLDER / "population")
    in_child(None, "resumed", FOLDER / "population")


main()
