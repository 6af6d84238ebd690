"""The runners that come with Kezuri."""

from kezuri.runtime.runners import onnxruntime, torch

__all__ = ["onnxruntime", "torch"]
