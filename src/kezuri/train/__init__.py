"""Training and evaluating a model: one loop with hooks that can be stopped and resumed."""

from kezuri.core.progress import NullProgress, Progress
from kezuri.train.batchnorm import reestimate_batchnorm_
from kezuri.train.device import choose_device
from kezuri.train.estimate import estimate_step_seconds
from kezuri.train.evaluate import Evaluation, evaluate
from kezuri.train.fit import Fitted, fit
from kezuri.train.fixmatch import FixMatch, with_few_labels
from kezuri.train.hooks import Hook
from kezuri.train.lr_schedules import LrSchedule, lr_schedules
from kezuri.train.objective import Objective, Start
from kezuri.train.optimizers import Optimizer, optimizers
from kezuri.train.state import EpochRecord
from kezuri.train.training import Training

__all__ = [
    "EpochRecord",
    "Evaluation",
    "Fitted",
    "FixMatch",
    "Hook",
    "LrSchedule",
    "NullProgress",
    "Objective",
    "Optimizer",
    "Progress",
    "Start",
    "Training",
    "choose_device",
    "estimate_step_seconds",
    "evaluate",
    "fit",
    "lr_schedules",
    "optimizers",
    "reestimate_batchnorm_",
    "with_few_labels",
]
