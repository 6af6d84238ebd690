"""The runners that come with Kezuri."""

from kezuri.runtime.runners import onnxruntime, openvino, torch

__all__ = ["onnxruntime", "openvino", "torch"]
