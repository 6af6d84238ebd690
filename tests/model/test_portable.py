import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact, DataError, UsageError
from kezuri.model.coupling import couple
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.portable import read_model, save_model
from kezuri.model.proof import cut
from kezuri.model.shrink import Structure
from kezuri.model.structure_file import sealed, sha256_of

SHAPE = (3, 16, 16)
EXAMPLE = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
SPEC = ModelSpec("resnet8", {"shortcut": "B", "width": 0.5})


def smaller(model: nn.Module, example: Tensor) -> tuple[nn.Module, Structure]:
    couplings = couple(model, example)
    kept = {coupling.name: torch.arange(coupling.width) % 3 > 0 for coupling in couplings.free}
    result = cut(model, couplings, kept, example)
    return result.model.eval(), result.structure


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Structure]:
    folder = tmp_path_factory.mktemp("saved") / "final"
    model = load_model(SPEC, classes=7, image_shape=SHAPE)
    model(EXAMPLE)
    model, structure = smaller(model, EXAMPLE)
    masks = {"conv1.weight": torch.rand(model.conv1.weight.shape) > 0.5}
    extra = {"accuracy": 0.91, "name": "näht"}
    arguments = {"spec": SPEC, "classes": 7, "image_shape": SHAPE, "structure": structure}
    save_model(folder, model, **arguments, masks=masks, extra=extra)
    return folder, model, structure


@pytest.fixture
def folder(written: tuple[Path, nn.Module, Structure], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written[0], tmp_path / "copy"))


def test_a_zoo_model_comes_back_bit_identical(written: tuple[Path, nn.Module, Structure]) -> None:
    folder, model, structure = written
    saved = read_model(folder)
    assert torch.equal(saved.model(EXAMPLE), model(EXAMPLE))
    assert saved.structure == structure and structure.kept
    assert not saved.model.training
    assert (saved.spec, saved.classes, saved.image_shape) == (SPEC, 7, SHAPE)
    assert saved.about == {"accuracy": 0.91, "name": "näht"}
    assert saved.masks["conv1.weight"].dtype == torch.bool
    assert saved.masks["conv1.weight"].shape == model.conv1.weight.shape
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "structure.json"]


def test_zero_padded_shortcuts_come_back_cut(tmp_path: Path) -> None:
    model, structure = smaller(load_model("resnet8", classes=3, image_shape=SHAPE), EXAMPLE)
    save_model(tmp_path, model, spec=ModelSpec("resnet8"), classes=3, image_shape=SHAPE, structure=structure)
    assert torch.equal(read_model(tmp_path).model(EXAMPLE), model(EXAMPLE))


def tied() -> nn.Module:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    model[3].weight = model[2].weight
    return model.double()


def test_a_model_of_the_users_own_needs_build_and_keeps_ties_and_types(tmp_path: Path) -> None:
    model, structure = smaller(tied(), EXAMPLE.double())
    spec = ModelSpec("nets.py:tied")
    save_model(tmp_path, model, spec=spec, classes=2, image_shape=SHAPE, structure=structure)
    with pytest.raises(UsageError, match=r"'nets.py:tied' in .* is not in the zoo: pass build="):
        read_model(tmp_path)
    saved = read_model(tmp_path, build=tied)
    assert torch.equal(saved.model(EXAMPLE.double()), model(EXAMPLE.double()))
    assert saved.model[3].weight is saved.model[2].weight
    assert saved.masks == {} and saved.about == {}


def test_a_wrong_build_is_told_apart(folder: Path) -> None:
    with pytest.raises(CorruptArtifact, match="does not fit the model"):
        read_model(folder, build=lambda: load_model("resnet8", classes=7, image_shape=SHAPE).layer1)
    with pytest.raises(CorruptArtifact, match="does not fit the model"):
        read_model(folder, build=lambda: load_model("resnet20", classes=7, image_shape=SHAPE))


def test_saving_again_replaces_the_model(folder: Path) -> None:
    model = load_model("lenet5", classes=2, image_shape=(1, 28, 28))
    save_model(
        folder, model, spec=ModelSpec("lenet5"), classes=2, image_shape=(1, 28, 28), structure=Structure()
    )
    assert read_model(folder).spec == ModelSpec("lenet5")


def test_extra_that_is_no_plain_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plain data"):
        save_model(
            tmp_path / "new",
            nn.Linear(2, 2),
            spec=None,
            classes=2,
            image_shape=SHAPE,
            structure=Structure(),
            extra={"x": object()},
        )
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no model"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_is_found(folder: Path, name: str, place: float, bit: int) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=name):
        read_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
@pytest.mark.parametrize("length", [0, 1, 8, 1000, -1])
def test_a_truncated_file_is_found(folder: Path, name: str, length: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptArtifact, match=name):
        read_model(folder)


def test_a_missing_weights_file_is_found(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors cannot be read"):
        read_model(folder)


def forge(folder: Path, **changes: object) -> None:
    """Rewrites the structure with a seal that fits, as someone with intent would."""
    content = json.loads((folder / "structure.json").read_text())
    del content["seal"]
    (folder / "structure.json").write_bytes(sealed({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"classes": "7"}, "classes"),
        ({"classes": True}, "classes"),
        ({"classes": 0}, "classes"),
        ({"image_shape": [3, 16]}, "image_shape"),
        ({"image_shape": [3, 16, 1 << 40]}, "image_shape"),
        ({"weights": {"file": "../../secret", "sha256": "", "bytes": 1}}, "weights.file"),
        ({"kept": {"conv1.weight": {"0": [3, 2]}}}, "rising positions"),
        ({"kept": {"conv1.weight": {"0": [0, 999]}}}, "conv1.weight"),
        ({"kept": {"conv9.weight": {"0": [0]}}}, "conv9.weight|does not have|was expected"),
        ({"kept": {"conv1.weight": {"7": [0]}}}, "conv1.weight|was expected"),
        ({"kept": {}}, "was expected"),
        ({"shapes": {"conv9.weight": [1]}}, "'conv9.weight', which the model does not have"),
        ({"masks": ["conv9.weight"]}, "mask for 'conv9.weight'"),
        ({"masks": []}, "mask:conv1.weight"),
        ({"model": {"use": "resnet8", "options": {"width": 1e9}}}, "structure.json"),
        ({"model": {"use": "resnet8", "options": {"no_such": 1}}}, "describes no model of the zoo"),
        ({"model": {"use": "resnet8", "options": {}, "run": "x"}}, "model.run"),
    ],
)
def test_a_forged_structure_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    forge(folder, **changes)
    with pytest.raises(CorruptArtifact, match=message):
        read_model(folder)


@pytest.mark.parametrize("use", ["os:system", "evil.py:build", "timm:resnet18", "torchvision:resnet18"])
def test_reading_never_imports_what_a_file_names(folder: Path, use: str) -> None:
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    forge(folder, model={"use": use, "options": {}})
    with pytest.raises(UsageError, match="pass build="):
        read_model(folder)


def test_other_content_than_json_is_refused(folder: Path) -> None:
    for content in (b"[]", b"{}", b"null", b"\x80\x04K\x01.", b"[" * 100_000, b'{"seal": 1}'):
        (folder / "structure.json").write_bytes(content)
        with pytest.raises(CorruptArtifact, match=r"structure\.json"):
            read_model(folder)


def forge_weights(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").write_bytes(weights)
    forge(folder, weights={"file": "model.safetensors", "sha256": sha256_of(weights), "bytes": len(weights)})


def test_forged_weights_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    odd = {
        "one is missing": {name: t for name, t in tensors.items() if name != "conv1.weight"},
        "one is more": {**tensors, "more": torch.zeros(3)},
        "one is longer": {**tensors, "bn1.bias": torch.zeros(99)},
        "one is of another type": {
            **tensors,
            "bn1.bias": torch.zeros_like(tensors["bn1.bias"], dtype=torch.int32),
        },
        "a mask is no bool": {**tensors, "mask:conv1.weight": tensors["mask:conv1.weight"].to(torch.uint8)},
    }
    for what, content in odd.items():
        forge_weights(folder, save(content))
        with pytest.raises(CorruptArtifact, match=r"model\.safetensors"):
            read_model(folder)
            pytest.fail(what)
    for raw in (b"", b"\xff" * 8, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", (2).to_bytes(8, "little") + b"[]"):
        forge_weights(folder, raw)
        with pytest.raises(CorruptArtifact, match="does not hold tensors"):
            read_model(folder)
