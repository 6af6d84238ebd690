"""Kezuri shaves neural networks down: prune, prove, export, measure."""
