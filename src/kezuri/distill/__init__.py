"""Distillation: a small model learns from a large one, by its answers or by what it looks at."""

from kezuri.distill import losses as losses
from kezuri.distill.distillation import Distillation
from kezuri.distill.losses.attention import Attention
from kezuri.distill.losses.decoupled import Decoupled
from kezuri.distill.losses.hint import Hint
from kezuri.distill.losses.logits import Logits

__all__ = ["Attention", "Decoupled", "Distillation", "Hint", "Logits"]
