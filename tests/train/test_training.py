import math

import pytest

from kezuri.core.errors import UsageError
from kezuri.train.lr_schedules import Constant, Cosine
from kezuri.train.training import Training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": -1}, "epochs must be 0 or more, got -1"),
        ({"epochs": math.nan}, "epochs"),
        ({"lr": 0}, "lr must be above 0"),
        ({"lr": math.inf}, "lr"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"keep": "first"}, "'best' or 'last', got 'first'"),
        ({"precision": "float8"}, "auto, float32, bfloat16, float16; got 'float8'"),
        ({"epochs": 2, "lr_schedule": Cosine(warmup=2)}, "warmup of 2 epochs must be shorter"),
    ],
)
def test_refuses_what_makes_no_sense(settings, words) -> None:
    with pytest.raises(UsageError, match=words):
        Training(**settings)


def test_a_warmup_within_the_training_and_no_training_are_fine() -> None:
    Training(epochs=2, lr_schedule=Constant(warmup=1.9))
    Training(epochs=0, lr_schedule=Constant(warmup=1))
