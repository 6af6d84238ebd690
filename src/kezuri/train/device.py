"""Which processor does the work, in which number format, and how a model is lent to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from kezuri.core.errors import ResourceError, UsageError

Device = str | torch.device
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def available_devices() -> list[str]:
    """The devices of this machine, as `--device` takes them."""
    names = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def choose_device(wanted: Device = "auto") -> torch.device:
    """The device to use: "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UsageError: this machine has no such device; those it has are listed.
    """
    have = available_devices()
    name = str(wanted)
    if name == "auto":
        return torch.device(next((one for one in have if one.startswith(("cuda", "mps"))), "cpu"))
    if name == "cuda":
        name = "cuda:0"
    if name not in have:
        raise UsageError(f"no device {str(wanted)!r} on this machine (have: {', '.join(have)})")
    return torch.device(name)


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The number format that training computes in; weights stay in float32.

    "auto" is bfloat16 where the processor has instructions for it, float16 on a GPU that lacks them, else
    float32. Gradients are scaled with float16 (Micikevicius et al., "Mixed precision training", 2018).

    Raises:
        UsageError: bfloat16 was asked of a GPU that has no bfloat16.
    """
    if precision in ("float32", "float16"):
        return torch.float32 if precision == "float32" else torch.float16
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bfloat16" and not fast:
            raise UsageError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use auto or float32")
        return torch.bfloat16 if fast else torch.float16
    if precision == "bfloat16" or (device.type == "cpu" and _cpu_is_fast_in_bfloat16()):
        return torch.bfloat16
    return torch.float32


def _cpu_is_fast_in_bfloat16() -> bool:
    # oneDNN also says yes to AVX-512 without bfloat16 instructions, where emulating them is slow
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    features = torch.cpu.get_capabilities()
    return features.get("architecture") != "x86_64" or bool(
        features.get("avx512_bf16") or features.get("amx_bf16")
    )


@contextmanager
def out_of_memory(batch_size: int) -> Iterator[None]:
    """Turns the several errors of an exhausted memory into one with advice.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error).lower() for word in words):
            raise
        raise ResourceError(
            f"memory ran out with batches of {batch_size} images; try batch_size {max(1, batch_size // 2)}"
        ) from error
