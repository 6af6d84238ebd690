"""One file a step. A new one is a file here and its line below."""

from kezuri.recipe.steps import distill as distill
from kezuri.recipe.steps import fixmatch as fixmatch
from kezuri.recipe.steps import pcas as pcas
from kezuri.recipe.steps import population as population
from kezuri.recipe.steps import prune as prune
from kezuri.recipe.steps import prune_blocks as prune_blocks
from kezuri.recipe.steps import quantize as quantize
from kezuri.recipe.steps import train as train
