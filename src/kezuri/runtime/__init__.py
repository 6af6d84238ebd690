"""Where a finished model runs: export to ONNX, proof that the export agrees, runners."""

from kezuri.runtime import runners

__all__ = ["runners"]
