"""What is known of ATen operations; importing this package registers every rule."""

from kezuri.model.coupling_rules import layers, pointwise, reshaping, slicing

__all__ = ["layers", "pointwise", "reshaping", "slicing"]
