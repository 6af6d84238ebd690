"""One file a distillation loss. A new one is a file here and its line below."""

from kezuri.distill.losses import attention as attention
from kezuri.distill.losses import decoupled as decoupled
from kezuri.distill.losses import hint as hint
from kezuri.distill.losses import logits as logits
