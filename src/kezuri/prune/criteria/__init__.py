"""One file a criterion. A new one is a file here and its line below."""

from kezuri.prune.criteria import bn_scale as bn_scale
from kezuri.prune.criteria import fisher as fisher
from kezuri.prune.criteria import fpgm as fpgm
from kezuri.prune.criteria import hrank as hrank
from kezuri.prune.criteria import lamp as lamp
from kezuri.prune.criteria import norm as norm
from kezuri.prune.criteria import pcas as pcas
from kezuri.prune.criteria import random as random
from kezuri.prune.criteria import taylor as taylor
from kezuri.prune.criteria import wanda as wanda
