"""One file a rounding. A new one is a file here and its line below."""

from kezuri.quantize.roundings import adaround as adaround
from kezuri.quantize.roundings import gptq as gptq
from kezuri.quantize.roundings import greedy as greedy
from kezuri.quantize.roundings import nearest as nearest
