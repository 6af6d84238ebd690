"""One file a mask searcher. A new one is a file here and its line below."""

from kezuri.prune.searchers import annealing as annealing
from kezuri.prune.searchers import genetic as genetic
from kezuri.prune.searchers import magnitude as magnitude
from kezuri.prune.searchers import random as random
from kezuri.prune.searchers import ratios as ratios
