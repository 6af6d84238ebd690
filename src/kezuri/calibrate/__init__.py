"""One pass over sample data, many listeners: what pruning needs to know about the weights."""

from kezuri.calibrate import collectors as collectors
