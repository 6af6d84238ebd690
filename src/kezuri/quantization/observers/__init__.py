"""One file an observer. A new one is a file here and its line below."""

from kezuri.quantization.observers import entropy as entropy
from kezuri.quantization.observers import min_max as min_max
from kezuri.quantization.observers import moving_average as moving_average
from kezuri.quantization.observers import mse as mse
from kezuri.quantization.observers import percentile as percentile
