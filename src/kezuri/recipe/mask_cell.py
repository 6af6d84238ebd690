"""One cell of a study of mask searches: the search, and retraining from its mask. Runs in any process."""

import copy
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from kezuri.artifact.atomic import write_bytes, write_json
from kezuri.artifact.folder import CellFolder, MaskStudyFolder
from kezuri.core.errors import Interrupted, KezuriError, ResourceError
from kezuri.core.progress import NullProgress, Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, Part, load_data
from kezuri.data.splits import few_of_each
from kezuri.distillation.distillation import Distillation
from kezuri.model.coupling import couple
from kezuri.model.load import load_model
from kezuri.prune.gather import gather
from kezuri.prune.mask_space import mask_space, with_growth
from kezuri.prune.masks import Masks
from kezuri.prune.problem import FixedSparsity
from kezuri.prune.search import search_masks
from kezuri.prune.space import Space
from kezuri.recipe.mask_study import ALL, MaskCell, MaskPlan
from kezuri.train import Training, evaluate, fit
from kezuri.train.batchnorm import reestimate_batchnorm_
from kezuri.train.optimizers import Adam


@dataclass(frozen=True)
class Work:
    """Does cells; what is done already stays as it is.

    Attributes:
        plan: what is studied.
        folder: of the study.
        weights: of the dense model.
        data_root: the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        progress: hears of the search and the trainings, where they run in this process.
    """

    plan: MaskPlan
    folder: Path
    weights: Path
    data_root: Path | None = None
    device: str = "auto"
    progress: Progress | None = None

    def __call__(self, cell: MaskCell) -> str | None:
        """Does what is left of a cell.

        Returns:
            why it failed, if it did; what was finished before stays.

        Raises:
            Interrupted, ResourceError: the study must stop.
        """
        try:
            _Doing(self, cell).run()
        except (Interrupted, ResourceError):
            raise
        except KezuriError as error:
            return str(error)
        return None


def is_done(folder: MaskStudyFolder, cell: MaskCell) -> bool:
    """Whether nothing is left of a cell."""
    home = folder.cell(cell.folder)
    return home.search.is_file() and all(home.retrained(name).is_file() for name in cell.retrained.values())


@lru_cache(maxsize=1)
def study_data(name: str, root: Path | None) -> Data:
    """The data of a study, loaded once a process."""
    return load_data(name, root=root)


def dense_model(plan: MaskPlan, data: Data, weights: Path | None) -> nn.Module:
    """The model as it is before anything is removed; untrained without weights."""
    return load_model(
        plan.model.spec, classes=len(data.classes), image_shape=data.image_shape, weights=weights
    )


def judged(data: Data) -> Part:
    """The images that results are reported on."""
    return data.validation if data.test is None else data.test


def space_of(plan: MaskPlan, model: nn.Module, data: Data) -> Space:
    """The masks that searches propose."""
    coupled = plan.granularity.coupled
    couplings = couple(model, torch.zeros(2, *data.image_shape)) if coupled else None
    return mask_space(
        model,
        criterion=plan.criterion,
        granularity=plan.granularity,
        scope=plan.scope,
        evidence=gather(
            model, plan.criterion, data, couplings=None if couplings is None else couplings.items
        ),
        couplings=couplings,
    )


def training_of(plan: MaskPlan, epochs: float, *, lr: float) -> Training:
    """A training that ends with the weights of its last step, so that nothing is chosen."""
    return Training(
        epochs=epochs,
        lr=lr,
        batch_size=plan.batch_size,
        optimizer=Adam(),
        augment=plan.augment,
        keep="last",
    )


class _Doing:
    """A cell being done."""

    def __init__(self, work: Work, cell: MaskCell) -> None:
        self.plan, self.cell, self.device = work.plan, cell, work.device
        self.progress = work.progress or NullProgress()
        self.home: CellFolder = MaskStudyFolder(work.folder).cell(cell.folder)
        self.data = study_data(self.plan.data, work.data_root)
        self.dense = dense_model(self.plan, self.data, work.weights)

    @property
    def _renews_norms(self) -> bool:
        return self.plan.norms == "reestimated"

    def run(self) -> None:
        if not self.home.search.is_file():
            self._search()
        masks = Masks(
            {name: mask.bool() for name, mask in safetensors.torch.load(self.home.masks.read_bytes()).items()}
        )
        for stage, name in self.cell.retrained.items():
            if not self.home.retrained(name).is_file():
                self._retrain(stage, name, masks)

    def _search(self) -> None:
        plan, cell, searcher = self.plan, self.cell, self.plan.searchers[self.cell.searcher]
        part, space = self._looked_at(), space_of(plan, self.dense, self.data)
        if searcher.grows_by_gradient:
            space = with_growth(space, self.dense, part, sparsity=cell.sparsity, seed=cell.draw)
        found = search_masks(
            self.dense,
            part,
            problem=FixedSparsity(cell.sparsity),
            searcher=searcher,
            space=space,
            fitness=replace(plan.fitness, reestimate_norms=True) if self._renews_norms else plan.fitness,
            evaluations=plan.evaluations,
            seed=cell.draw,
            device=self.device,
            checkpoint=self.home.progress("search"),
            progress=self.progress,
        )
        masks = found.masks
        write_bytes(
            self.home.masks,
            safetensors.torch.save({name: mask.to(torch.uint8).cpu() for name, mask in masks.items()}),
        )
        said = {
            "accuracy": self._accuracy(self._masked(masks)),
            "fitness": asdict(found.best.fitness),
            "sparsity": found.sparsity,
            "evaluations": found.evaluations,
            "seconds": found.seconds,
            "history": [asdict(row) for row in found.history],
        }
        self._note(self.home.search, "search", said)

    def _looked_at(self) -> Part:
        """The images that fitness is measured on: of the training part, always."""
        train, plan = self.data.train, self.plan
        if plan.search_per_class is None:
            return train.subset(min(plan.search_images, len(train)))
        return self._few(plan.search_per_class)

    def _few(self, count: int) -> Part:
        train = self.data.train
        return train.subset(few_of_each(train.labels, count, classes=train.classes, seed=self.cell.draw))

    def _masked(self, masks: Masks) -> nn.Module:
        model = copy.deepcopy(self.dense)
        masks.apply_(model)
        self._norms(model)
        return model

    def _norms(self, model: nn.Module) -> None:
        if self._renews_norms:
            seed = derive(self.cell.draw, "norms")
            reestimate_batchnorm_(model, self.data.train, seed=seed, device=self.device)

    def _retrain(self, stage: str, name: str, masks: Masks) -> None:
        """From the masked dense model."""
        plan, whole = self.plan, stage == ALL
        model, began = self._masked(masks), time.monotonic()
        few = None if whole else self._few(int(stage))
        training = training_of(plan, plan.epochs if whole else plan.few_epochs, lr=plan.lr * plan.lr_ratio)
        fitted = fit(
            model,
            self.data if few is None else replace(self.data, train=few, validation=few),
            training,
            seed=derive(self.cell.draw, "retrain"),
            device=self.device,
            hooks=(masks.hold(),),
            checkpoint=self.home.progress(name) if whole else None,
            progress=self.progress,
            frozen_batchnorm=not (whole and self._renews_norms),
            objective=None if plan.distill is None else Distillation(self.dense, plan.distill),
        )
        if not whole:
            self._norms(model)
        said = {
            "accuracy": self._accuracy(model),
            "train_accuracy": fitted.train_accuracy,
            "epochs": training.epochs,
            "seconds": fitted.seconds if whole else time.monotonic() - began,
        }
        self._note(self.home.retrained(name), name, said)

    def _accuracy(self, model: nn.Module) -> float:
        return evaluate(model, judged(self.data), device=self.device).accuracy

    def _note(self, path: Path, name: str, said: dict[str, Any]) -> None:
        """Writes a result, and then removes what was kept to go on with."""
        write_json(path, said)
        shutil.rmtree(self.home.progress(name), ignore_errors=True)
