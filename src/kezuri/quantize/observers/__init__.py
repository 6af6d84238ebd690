"""One file an observer. A new one is a file here and its line below."""

from kezuri.quantize.observers import entropy as entropy
from kezuri.quantize.observers import min_max as min_max
from kezuri.quantize.observers import moving_average as moving_average
from kezuri.quantize.observers import mse as mse
from kezuri.quantize.observers import percentile as percentile
