import shutil

import pytest
import torch

from kezuri.core.errors import ModelError, ResourceError, UsageError
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from


def prepared(text):
    return prepare(recipe_from(parse(text)), device="cpu")


def test_an_estimate_changes_nothing(recipe_text, tmp_path):
    ready = prepared(recipe_text)
    before = {name: value.clone() for name, value in ready.model.state_dict().items()}
    needs = estimate(ready, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    assert all(torch.equal(before[name], value) for name, value in ready.model.state_dict().items())
    assert needs.params == sum(p.numel() for p in ready.model.parameters())
    assert needs.seconds > 0 and needs.memory > 16 * needs.params and needs.disk > 4 * needs.params


def test_memory_counts_no_more_images_than_there_are(recipe_text, tmp_path):
    needed = [
        estimate(prepared(recipe_text.replace("batch_size: 16", f"batch_size: {size}")), tmp_path).memory
        for size in (58, 5000)
    ]
    assert needed[0] == needed[1]


def test_unwise_settings_are_named(recipe_text, tmp_path):
    text = recipe_text.replace("rate: 0.3", "rate: 0.7").replace("lr_ratio: 0.2", "lr_ratio: 1")
    said = " ".join(estimate(prepared(text.replace("batch_size: 16", "batch_size: 8")), tmp_path).warnings)
    assert all(word in said for word in ("rate 0.7", "lr_ratio 1", "batch_size 8"))


def test_steps_that_cannot_work_are_found_out(recipe_text, tmp_path):
    with pytest.raises(UsageError, match="no module is named 'layer9'"):
        estimate(prepared(recipe_text + "    ignore: [layer9]\n"), tmp_path)
    with pytest.raises(ModelError, match=r"no channel of resnet8 may be cut: .*protected"):
        estimate(prepared(recipe_text + "    ignore: ['*']\n"), tmp_path, trace=True)


def test_a_disk_without_room_is_found_out(recipe_text):
    if shutil.disk_usage("/proc").free:
        pytest.skip("/proc has room here")
    with pytest.raises(ResourceError, match="0 MB are free"):
        estimate(prepared(recipe_text), __import__("pathlib").Path("/proc/runs"))
