"""One file a collector. A new one is a file here and its line below."""

from kezuri.calibrate.collectors import gradient as gradient
from kezuri.calibrate.collectors import input_norm as input_norm
from kezuri.calibrate.collectors import map_rank as map_rank
from kezuri.calibrate.collectors import norm_scale as norm_scale
