from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.quantization.blocks import already_rounded, fit_blocks, round_to_blocks
from kezuri.quantization.gptq_blocks import gptq_blocks
from kezuri.quantization.weight_only import to_four_bit
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runners.onnxruntime import OnnxRuntime


def correlated(samples: int, inputs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(max(2, inputs // 4), inputs, generator=generator)
    sources = torch.randn(samples, len(mixing), generator=generator)
    return sources @ mixing + 0.1 * torch.randn(samples, inputs, generator=generator)


def nearest(weight: torch.Tensor, symmetric: bool) -> torch.Tensor:
    scale, zero_point = fit_blocks(weight, symmetric=symmetric)
    return round_to_blocks(weight, scale, zero_point).values()


@given(st.integers(1, 20), st.integers(2, 150), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_on_the_grid_and_no_output_is_worse_than_with_the_nearest_values(outputs, inputs, symmetric, seed):
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    sample = correlated(300, inputs, seed)
    found = gptq_blocks(weight, sample, symmetric=symmetric)
    scale, zero_point = fit_blocks(weight, symmetric=symmetric)
    assert torch.equal(found.scale, scale)
    assert torch.equal(found.zero_point, zero_point)
    assert torch.equal(already_rounded(found.values(), scale, zero_point).codes, found.codes)
    ours, plain = (
        (sample.double() @ (values - weight).double().T).square().mean(0)
        for values in (found.values(), nearest(weight, symmetric))
    )
    assert bool((ours <= plain * (1 + 1e-3)).all())


def test_correlated_inputs_gain_much_also_on_others() -> None:
    torch.manual_seed(0)
    weight, sample = torch.randn(64, 160), correlated(4000, 160)
    seen, unseen = sample[:2000], sample[2000:]
    values = gptq_blocks(weight, seen).values()
    ours, plain = (
        float((unseen @ (each - weight).T).square().sum()) for each in (values, nearest(weight, False))
    )
    assert ours < 0.5 * plain


def test_a_file_takes_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 64))
    sample = correlated(1000, 144)
    source = export_onnx(model, (1, 12, 12), tmp_path / "m.onnx")
    rounded = {"1.weight": gptq_blocks(model[1].weight, sample)}
    images = sample.reshape(-1, 1, 12, 12).numpy()
    wanted = OnnxRuntime().prepare(source).run(images)
    errors = []
    for given_ in (rounded, {}):
        found = to_four_bit(source, tmp_path / "four.onnx", model=model, rounded=given_)
        errors.append(float(np.square(OnnxRuntime().prepare(found.path).run(images) - wanted).sum()))
    assert errors[0] < 0.5 * errors[1]


def test_what_does_not_fit_is_refused() -> None:
    weight = torch.randn(4, 32)
    with pytest.raises(UsageError, match="damp is above 0, got 0"):
        gptq_blocks(weight, torch.randn(9, 32), damp=0)
    with pytest.raises(ShapeError, match="reads 32 channels"):
        gptq_blocks(weight, torch.randn(9, 31))
    with pytest.raises(DataError, match="not finite"):
        gptq_blocks(weight, torch.full((9, 32), torch.nan))
