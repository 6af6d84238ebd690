"""What does the tasks of a population's members, in any process."""

import copy
import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kezuri.core.errors import CorruptArtifact
from kezuri.data import Part, batch_count
from kezuri.model.zoo.elsewhere import import_file, importable, own_files
from kezuri.prune.exploring import Raised, Task
from kezuri.prune.member import Member
from kezuri.prune.space import Space
from kezuri.train.checkpoint import Checkpoints, Snapshot
from kezuri.train.device import choose_device, choose_dtype, out_of_memory
from kezuri.train.hooks import Hook
from kezuri.train.lending import lent, only_trained, random_state_kept, to_train
from kezuri.train.objective import Objective, Start
from kezuri.train.training import Training


@dataclass(frozen=True, eq=False)
class Raising:
    """Does tasks, in any process; what comes out follows from the task and the members before it.

    Attributes:
        model: where the first generation begins, on the CPU; stays as it is.
        space: of its masks; its weights are the sizes of the model's, on the CPU.
        train: what members are trained on.
        judged: what they are compared on.
        training: how; of its learning rate and weight decay, tasks have their own.
        sparsity: fraction of the weights to remove.
        temperatures: of the draws of the first masks, in turn.
        growth: whether units that promise much come rather (by the gradient), or those once worth much.
        hooks: called in each training step.
        objective: what is made small, if not the cross-entropy.
        frozen_batchnorm: BatchNorm layers leave their running statistics as they are.
        seed: decides everything random.
        device: where it is done.
        folder: where members are kept.
    """

    model: nn.Module
    space: Space
    train: Part
    judged: Part
    training: Training
    sparsity: float
    temperatures: tuple[float, ...]
    growth: bool
    hooks: Sequence[Hook]
    objective: Objective | None
    frozen_batchnorm: bool
    seed: int
    device: str
    folder: Path

    def __call__(self, task: Task) -> Raised:
        """Does a task, or what of it was not done before."""
        device = choose_device(self.device)
        model = copy.deepcopy(self.model)
        trained = to_train(model)
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            stack.enter_context(lent(model, device))
            stack.enter_context(out_of_memory(self.training.batch_size))
            stack.enter_context(only_trained(model, trained))
            stack.enter_context(random_state_kept(device))
            if self.objective is not None:
                stack.enter_context(self.objective.begun(model, self._start(device)))
            return Member(self, task, model).raised()

    def checkpoints(self, generation: int, member: int) -> Checkpoints:
        """Where a member of a generation is kept."""
        return Checkpoints(self.generation(generation) / f"member-{member:03d}")

    def kept_of(self, generation: int, member: int) -> Snapshot:
        """A member as it was at the end of a generation.

        Raises:
            CorruptArtifact: it is not there, or damaged.
        """
        checkpoints = self.checkpoints(generation, member)
        snapshot = checkpoints.read()
        if snapshot is None:
            raise CorruptArtifact(f"{checkpoints.folder} is damaged; remove {self.folder} and begin again")
        return snapshot

    def generation(self, number: int) -> Path:
        """Where the members of a generation are kept."""
        return self.folder / f"generation-{number:04d}"

    @property
    def epoch_steps(self) -> int:
        """Training steps a pass over the images takes."""
        return batch_count(len(self.train), self.training.batch_size, training=True)

    def _start(self, device: torch.device) -> Start:
        return Start(
            self.training,
            seed=self.seed,
            dtype=choose_dtype(self.training.precision, device),
            epoch_steps=self.epoch_steps,
            images=torch.zeros(2, *self.train.image_shape, device=device),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """With the user's own files that were imported by path, which no other process knows of."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return _unpickled, (own_files(), pickle.dumps(values))


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are rounded in another order on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _unpickled(files: Sequence[Path], content: bytes) -> Raising:
    for path in files:
        import_file(path)
    with importable(Path.cwd()):
        return Raising(**pickle.loads(content))
