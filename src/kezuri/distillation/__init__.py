"""Distillation: a small model learns from a large one, by its answers or by what it looks at."""

from kezuri.distillation import losses as losses
from kezuri.distillation.distillation import Distillation
from kezuri.distillation.losses.attention import Attention
from kezuri.distillation.losses.decoupled import Decoupled
from kezuri.distillation.losses.hint import Hint
from kezuri.distillation.losses.logits import Logits

__all__ = ["Attention", "Decoupled", "Distillation", "Hint", "Logits"]
