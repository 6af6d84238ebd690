"""One file a rounding. A new one is a file here and its line below."""

from kezuri.quantization.roundings import adaround as adaround
from kezuri.quantization.roundings import gptq as gptq
from kezuri.quantization.roundings import greedy as greedy
from kezuri.quantization.roundings import nearest as nearest
