"""What is known of ATen operations; importing this package registers every rule."""

from kezuri.model.coupling_rules import attention, layers, pointwise, recurrent, reshaping, slicing, views

__all__ = ["attention", "layers", "pointwise", "recurrent", "reshaping", "slicing", "views"]
