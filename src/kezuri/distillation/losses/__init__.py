"""One file a distillation loss. A new one is a file here and its line below."""

from kezuri.distillation.losses import attention as attention
from kezuri.distillation.losses import decoupled as decoupled
from kezuri.distillation.losses import hint as hint
from kezuri.distillation.losses import logits as logits
