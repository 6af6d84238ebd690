"""Learning from many images of which few have labels: the model's own sure answers become labels."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import DataError, UsageError
from kezuri.core.seeds import derive
from kezuri.data import Augment, Batch, Data, Part, batch_count
from kezuri.data.augment import CutMix, Cutout, Flip, Mixup, PadCrop, RandAugment
from kezuri.data.splits import few_of_each
from kezuri.train.loop import answer
from kezuri.train.losses import cross_entropy
from kezuri.train.objective import Objective, Start

WEAK: tuple[Augment, ...] = (Flip(), PadCrop())
STRONG: tuple[Augment, ...] = (
    *WEAK,
    RandAugment(operations=2, magnitude=10.0, varied=True, p=0.5),
    Cutout(),
)


@dataclass
class FixMatch(Objective):
    """Cross-entropy of the labelled images, and of strongly changed unlabelled ones by what they seem to be.

    In each step a batch of unlabelled images is shown twice. What the model answers to the weakly changed
    images becomes the label of the strongly changed ones, where it is sure of it. The images, and all chance
    in their changes, follow from the seed and the step.

    Source: Sohn et al., "FixMatch", 2020, equations 3 and 4. Unlike there, labelled images pass the model
    before the unlabelled ones, so that BatchNorm normalises either by their own statistics, and the weights
    are not averaged over time.

    Attributes:
        unlabelled: the images, in part or all of them without regard to their labels.
        mu: how many of them for each labelled image of a batch.
        threshold: how probable the model must find its answer for it to become a label, in [0, 1].
        weight: of the unlabelled images' loss.
        weak: what is done to the images that are asked about.
        strong: what is done to the images that are learnt from.
        labelled: what is made small of the labelled images; by default their cross-entropy.
        digest: of the unlabelled images.
    """

    unlabelled: Part
    mu: int = 7
    threshold: float = 0.95
    weight: float = 1.0
    weak: tuple[Augment, ...] = WEAK
    strong: tuple[Augment, ...] = STRONG
    labelled: Objective | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        check_fixmatch(self.mu, self.threshold, self.weight, {"weak": self.weak, "strong": self.strong})
        self.digest = self.unlabelled.digest()
        self._views: _Views | None = None

    @contextmanager
    def begun(self, model: nn.Module, start: Start) -> Iterator[None]:
        """Knows the training's seed and batch size from here on."""
        self._views = _Views(self, start)
        try:
            with nullcontext() if self.labelled is None else self.labelled.begun(model, start):
                yield
        finally:
            self._views = None

    def __call__(self, model: nn.Module, batch: Batch, logits: Tensor, step: int) -> Tensor:
        """The loss of a labelled batch and of the step's unlabelled one."""
        if self._views is None:
            raise UsageError("FixMatch works inside fit(…, objective=…), or once `begun` is entered")
        start = self._views.start
        if self.labelled is None:
            smoothing = start.training.label_smoothing
            labelled = cross_entropy(logits, batch.targets, label_smoothing=smoothing)
        else:  # before others pass the model, as it may look at what the labelled ones left inside
            labelled = self.labelled(model, batch, logits, step)
        weak, strong = self._views.of(step)
        asked, learnt = answer(model, torch.cat((weak, strong)), start.dtype).float().chunk(2)
        sure, guess = asked.detach().softmax(1).max(1)
        losses = F.cross_entropy(learnt, guess, reduction="none")
        return labelled + self.weight * (losses * (sure >= self.threshold)).mean()

    def tensors(self) -> Mapping[str, Tensor]:
        """Those of the labelled images' objective."""
        return {} if self.labelled is None else self.labelled.tensors()


class _Views:
    """The unlabelled batch of any step, changed weakly and strongly."""

    def __init__(self, settings: FixMatch, start: Start) -> None:
        self.settings = settings
        self.start = start
        self.part = settings.unlabelled
        self.batch_size = settings.mu * start.training.batch_size
        self.count = batch_count(len(self.part), self.batch_size, training=True)
        if self.count == 0:
            raise DataError(f"{len(self.part)} unlabelled images are too few to train on")
        self._stream: Iterator[Batch] = iter(())
        self._next = -1  # the step whose batch the stream gives next

    def of(self, step: int) -> tuple[Tensor, Tensor]:
        """Weak and strong views of the same images, each (images, C, H, W)."""
        turn, number = divmod(step, self.count)
        if number == 0 or step != self._next:
            seed = derive(self.start.seed, "unlabelled", turn)
            device = self.start.images.device
            self._stream = self.part.batches(self.batch_size, seed=seed, device=device, start=number)
        self._next = step + 1
        images = next(self._stream).images
        return self._view(images, "weak", step), self._view(images, "strong", step)

    def _view(self, images: Tensor, name: str, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.start.seed, name, step))
        targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        changes: tuple[Augment, ...] = getattr(self.settings, name)
        for change in changes:
            images, targets = change(images, targets, generator, self.part.facts)
        return images


def with_few_labels(data: Data, labels_per_class: int, *, seed: int, batch_size: int, mu: int = 7) -> Data:
    """The data with the labels of a few training images; these repeat, to go with all the others.

    An epoch of it has as many labelled batches as it takes to show every training image once, unlabelled,
    `mu` times as many a batch.

    Args:
        labels_per_class: how many labelled training images of each class.
        seed: which ones.
        batch_size: labelled images a step.
        mu: unlabelled images for each of them.

    Raises:
        DataError: a class has fewer images.
        UsageError: not a number of labels.
    """
    places = few_of_each(data.train.labels, labels_per_class, classes=data.train.classes, seed=seed)
    steps = batch_count(len(data.train), mu * batch_size, training=True)
    wanted = max(len(places), steps * batch_size)
    repeated = places.repeat(-(-wanted // len(places)))[:wanted]
    fingerprint = f"{data.fingerprint} {labels_per_class} labels per class, seed {seed}, {wanted} images"
    return replace(data, train=data.train.subset(repeated), fingerprint=fingerprint)


def check_fixmatch(mu: int, threshold: float, weight: float, views: dict[str, Sequence[Augment]]) -> None:
    """UsageError unless FixMatch can work with these settings."""
    if mu < 1:
        raise UsageError(f"mu is 1 or more unlabelled images for each labelled one, got {mu}")
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold is a probability from 0 to 1, got {threshold}")
    if not 0 <= weight < float("inf"):
        raise UsageError(f"weight must be 0 or more, got {weight}")
    for name, changes in views.items():
        if any(isinstance(change, Mixup | CutMix) for change in changes):
            raise UsageError(f"{name} cannot hold mixup or cutmix: a view must stay an image of its own")
