import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact, DataError, UsageError
from kezuri.model.coupling import Choices, couple
from kezuri.model.depth import drop_blocks, find_blocks
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.portable import read_model, save_model
from kezuri.model.program import Program
from kezuri.model.proof import cut
from kezuri.model.shrink import Structure
from kezuri.model.structure_file import read_document, sealed, sha256_of

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


class Attention(nn.Module):
    """Head sizes are literal, so that a cut takes a rewritten program; `activation` is no parameter."""

    def __init__(self, activation=torch.tanh) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, 16), nn.LayerNorm(16)
        self.qkv, self.out, self.head = nn.Linear(16, 96), nn.Linear(32, 16), nn.Linear(16, 5)
        self.place = nn.Linear(3, 16)
        self.register_buffer("shift", torch.ones(16), persistent=False)
        self.drop, self.activation = nn.Dropout(0.5), activation

    def forward(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens) + self.place(places)
        q, k, v = self.qkv(self.norm(x)).view(x.shape[0], 6, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 6, 32)
        x = x + self.drop(self.activation(self.out(mixed))) + self.shift
        return self.head(x[:, 0]), x.mean(2)


class Steps(nn.Module):
    """A recurrent model of sequences, which is cut in its own class."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(5, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


TOKENS = (torch.arange(12).view(2, 6) % 11, EXAMPLE.flatten()[:36].view(2, 6, 3))
STEPS = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))


def seeded(make) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture(scope="module", params=["whole", "width"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    choices = Choices(heads=request.param)
    couplings = couple(seeded(Attention), TOKENS, result="auto", choices=choices)
    kept = {c.name: torch.arange(c.width) >= c.width // 2 for c in couplings.free}
    result = cut(seeded(Attention), couplings, kept, TOKENS)
    assert isinstance(result.model, Program)
    folder = tmp_path_factory.mktemp("program")
    save_model(folder, result.model, structure=result.structure, inputs=TOKENS, choices=couplings.choices)
    return folder, result.model


def test_a_program_of_several_inputs_comes_back_bit_identical(program) -> None:
    folder, model = program
    saved = read_model(folder, build=lambda: Attention())
    assert isinstance(saved.model, Program) and not saved.model.training
    tokens, places = torch.arange(18).view(3, 6) % 11, torch.randn(3, 6, 3)
    for mine, theirs in zip(saved.model(tokens, places), model(tokens, places), strict=True):
        assert torch.equal(mine, theirs)
    assert saved.inputs is not None and torch.equal(saved.inputs[0], TOKENS[0])
    assert saved.inputs[1].shape == (2, 6, 3) and saved.inputs[1].dtype == torch.float32
    assert saved.classes is saved.image_shape is saved.spec is None
    saved.model.train()(tokens, places)[0].sum().backward()


def test_the_same_program_can_be_saved_again(program, tmp_path: Path) -> None:
    folder, model = program
    saved = read_model(folder, build=Attention)
    choices = read_document(folder / "structure.json").program
    save_model(tmp_path, saved.model, structure=saved.structure, inputs=saved.inputs, choices=choices)
    again = read_model(tmp_path, build=Attention).model
    assert all(torch.equal(*pair) for pair in zip(again(*TOKENS), model(*TOKENS), strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attention(torch.relu), r"answers differ by .* \(relative\)"),
        (lambda: nn.Linear(2, 2), "the structure cuts '.*', which the model does not have"),
        (lambda: Attention(lambda x: x if x.sum() > 0 else -x), "torch.export cannot follow the model"),
    ],
)
def test_a_program_of_another_graph_is_refused(program, build, message: str) -> None:
    with pytest.raises(CorruptArtifact, match=rf"structure\.json does not fit the model: .*{message}"):
        read_model(program[0], build=build)


def test_another_version_of_torch_is_named_where_something_does_not_fit(program, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(program[0], tmp_path / "copy"))
    forge(folder, torch="1.0")
    assert isinstance(read_model(folder, build=Attention).model, Program)
    with pytest.raises(CorruptArtifact, match=r"written with torch 1\.0, this is "):
        read_model(folder, build=lambda: Attention(torch.relu))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": {"heads": "none", "norms": False}}, "program.heads"),
        ({"program": {"heads": "whole", "norms": False, "x": 1}}, "program.x"),
        ({"program": None}, "does not fit the model"),
        ({"inputs": None}, "without an example of its inputs"),
        ({"inputs": [{"shape": [2, 6], "dtype": "int64"}]}, "does not fit|cannot follow"),
        ({"inputs": [{"shape": [2, 7], "dtype": "int64"}]}, "input 0 is not stored as it is described"),
        ({"inputs": [{"shape": [2, 6], "dtype": "object"}]}, "input 0 cannot be of type object"),
        ({"inputs": [{"shape": [1 << 40], "dtype": "float32"}]}, "input 0 cannot be of type float32"),
        ({"dropped": ["nowhere"]}, "drops 'nowhere', which the model does not have"),
        ({"dropped": ["qkv"]}, "does not fit the model"),
        ({"dropped": [""]}, "dropped must be a list"),
        ({"kept": {"shift": {"0": [0]}, "qkv.weight": {"0": [0, 1, 2]}}}, "does not fit the model"),
    ],
)
def test_a_forged_program_is_refused(program, tmp_path: Path, changes, message: str) -> None:
    folder = Path(shutil.copytree(program[0], tmp_path / "copy"))
    forge(folder, **changes)
    with pytest.raises(CorruptArtifact, match=message):
        read_model(folder, build=Attention)


def test_a_program_needs_inputs_it_runs_on(program, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass inputs="):
        save_model(tmp_path / "new", program[1], structure=Structure())
    with pytest.raises(UsageError, match=r"does not run on inputs of the shapes \[\[2, 3, 16, 16\]\]"):
        save_model(tmp_path / "new", program[1], structure=Structure(), inputs=EXAMPLE)
    assert not (tmp_path / "new").exists()


class Literal(nn.Module):
    """Its forward holds its width as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Added()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm(self.conv(x)).relu())
        return self.head(x.view(x.shape[0], 8, -1).mean(2))


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x).relu())


def test_a_program_of_a_model_that_lost_channels_and_a_block_before(tmp_path: Path) -> None:
    dense = seeded(Literal)
    model, structure = smaller(dense, EXAMPLE)
    short = drop_blocks(model, find_blocks(model, EXAMPLE), ["block"], EXAMPLE)
    couplings = couple(short.model, EXAMPLE, result="auto")
    kept = {c.name: torch.arange(c.width) > 1 for c in couplings.free}
    result = cut(short.model, couplings, kept, EXAMPLE)
    assert isinstance(result.model, Program)
    whole = structure.then(short.structure).then(result.structure)
    assert whole.dropped == ("block",) and structure.kept
    save_model(tmp_path, result.model, structure=whole, image_shape=SHAPE, classes=4)
    saved = read_model(tmp_path, build=Literal)
    assert torch.equal(saved.model(EXAMPLE), result.model(EXAMPLE)) and saved.structure == whole


def test_dropped_blocks_of_a_zoo_model_stay_dropped(tmp_path: Path) -> None:
    dense = load_model("resnet8", classes=3, image_shape=SHAPE).eval()
    short = drop_blocks(dense, find_blocks(dense, EXAMPLE), ["layer1.0"], EXAMPLE)
    model, structure = smaller(short.model, EXAMPLE)
    whole = short.structure.then(structure)
    save_model(tmp_path, model, spec=ModelSpec("resnet8"), classes=3, image_shape=SHAPE, structure=whole)
    saved = read_model(tmp_path)
    assert type(saved.model.layer1[0]) is nn.Identity
    assert torch.equal(saved.model(EXAMPLE), model(EXAMPLE))
    assert saved.inputs is not None and saved.inputs[0].shape == (2, *SHAPE)


def test_a_model_of_sequences_comes_back(tmp_path: Path) -> None:
    model, structure = smaller(seeded(Steps), STEPS)
    save_model(tmp_path, model, structure=structure, inputs=STEPS)
    saved = read_model(tmp_path, build=Steps)
    assert type(saved.model) is Steps and saved.model.rnn.hidden_size == 8
    assert torch.equal(saved.model(STEPS), model(STEPS))
    assert saved.inputs is not None and saved.inputs[0].shape == STEPS.shape and not saved.inputs[0].any()


def test_files_of_the_first_format_are_read(folder: Path, written: tuple[Path, nn.Module, Structure]) -> None:
    content = json.loads((folder / "structure.json").read_text())
    old = ("model", "classes", "image_shape", "kept", "masks", "weights", "shapes", "about")
    content = {"format": 1, **{key: content[key] for key in old}}
    (folder / "structure.json").write_bytes(sealed(content))
    saved = read_model(folder)
    assert torch.equal(saved.model(EXAMPLE), written[1](EXAMPLE)) and saved.structure == written[2]


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "plain": lambda p: torch.optim.SGD(p, 0.05),
    "adam": lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.99), amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, torch.tensor(0.01), foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
}


def groups(model: nn.Module) -> list[dict[str, object]]:
    """Biases learn at their own rate."""
    biases = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": [p for p in model.parameters() if p.dim() > 1]}, {"params": biases, "lr": 0.02}]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    images = torch.randn(steps, 4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    for batch in images:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), torch.arange(4) % 3).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_identically_after_a_cut_and_after_reading(tmp_path: Path, name: str) -> None:
    model = load_model("resnet8", classes=3, image_shape=SHAPE)
    optimizer = OPTIMIZERS[name](groups(model))
    train(model, optimizer, 3, 0)
    blocks = find_blocks(model, EXAMPLE)
    short = drop_blocks(model, blocks, ["layer1.0"], EXAMPLE, optimizer=optimizer, inplace=True)
    couplings = couple(model, EXAMPLE)
    kept = {c.name: torch.arange(c.width) % 3 > 0 for c in couplings.free}
    result = cut(model, couplings, kept, EXAMPLE, optimizer=optimizer, inplace=True)
    assert result.model is model
    train(model.train(), optimizer, 2, 1)
    spec, structure = ModelSpec("resnet8"), short.structure.then(result.structure)
    save_model(
        tmp_path, model, spec=spec, classes=3, image_shape=SHAPE, structure=structure, optimizer=optimizer
    )
    saved = read_model(tmp_path)
    continued = OPTIMIZERS[name](groups(saved.model))
    saved.load_optimizer_(continued)
    train(saved.model.train(), continued, 3, 2)
    train(model, optimizer, 3, 2)
    for key, tensor in model.state_dict().items():
        assert torch.equal(saved.model.state_dict()[key], tensor), key
    assert [g["lr"] for g in continued.param_groups] == [g["lr"] for g in optimizer.param_groups]
    forgetful = OPTIMIZERS[name](groups(saved.model))
    assert len(forgetful.state) == 0 and (name == "plain") == (not any(continued.state.values()))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, nn.Module]:
    model = load_model("resnet8", classes=3, image_shape=SHAPE)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, 1, 0)
    spec = ModelSpec("resnet8")
    place = {"spec": spec, "classes": 3, "image_shape": SHAPE, "structure": Structure()}
    save_model(tmp_path / "trained", model, **place, optimizer=optimizer)
    return tmp_path / "trained", model


def test_an_optimizer_that_does_not_fit_is_told(trained: tuple[Path, nn.Module]) -> None:
    saved = read_model(trained[0])
    with pytest.raises(UsageError, match="the state of Adam was saved, it does not fit SGD"):
        saved.load_optimizer_(torch.optim.SGD(saved.model.parameters(), 0.1))
    for other in (groups(saved.model), list(saved.model.parameters())[1:], list(trained[1].parameters())):
        with pytest.raises(UsageError, match="build it from the model that was read"):
            saved.load_optimizer_(torch.optim.Adam(other, 0.1))
    state = torch.optim.Adam(saved.model.parameters(), 0.1)
    saved.load_optimizer_(state)
    assert state.param_groups[0]["lr"] == 0.01 and state.param_groups[0]["betas"] == (0.9, 0.999)


def test_saving_without_the_optimizer_forgets_it(trained: tuple[Path, nn.Module]) -> None:
    folder, model = trained
    assert (folder / "optimizer.safetensors").exists()
    save_model(folder, model, spec=ModelSpec("resnet8"), classes=3, image_shape=SHAPE, structure=Structure())
    assert not (folder / "optimizer.safetensors").exists()
    with pytest.raises(UsageError, match="no optimizer was saved with this model"):
        read_model(folder).load_optimizer_(torch.optim.Adam(model.parameters()))


def test_optimizers_that_cannot_be_saved_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    steps = torch.optim.LBFGS(model.parameters())
    steps.step(lambda: (model(torch.ones(1, 4)) ** 2).sum().backward() or torch.ones(()))
    strange = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    for optimizer, message in ((steps, "LBFGS keeps a list"), (strange, "not the model's")):
        with pytest.raises(UsageError, match=message):
            save_model(
                tmp_path / "new", model, structure=Structure(), inputs=torch.ones(1, 4), optimizer=optimizer
            )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 1.0])
def test_a_changed_optimizer_is_found(trained: tuple[Path, nn.Module], place: float) -> None:
    path = trained[0] / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"optimizer\.safetensors is damaged"):
        read_model(trained[0])
    path.unlink()
    with pytest.raises(CorruptArtifact, match=r"optimizer\.safetensors cannot be read"):
        read_model(trained[0])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("exp_avg:linear.weight", torch.zeros(2, 2), "'exp_avg:linear.weight' is"),
        ("exp_avg:linear.wait", torch.zeros(3), "does not fit the model"),
        ("lr:group 1", torch.zeros(()), "does not fit the model"),
        ("lr:group 0", torch.zeros(2), "does not fit the model"),
    ],
)
def test_a_forged_optimizer_is_refused(
    trained: tuple[Path, nn.Module], name: str, tensor: Tensor, message: str
) -> None:
    folder = trained[0]
    state = save({**load_file(folder / "optimizer.safetensors"), name: tensor})
    (folder / "optimizer.safetensors").write_bytes(state)
    entry = json.loads((folder / "structure.json").read_text())["optimizer"]
    forge(
        folder,
        optimizer={**entry, "weights": {**entry["weights"], "sha256": sha256_of(state), "bytes": len(state)}},
    )
    with pytest.raises(CorruptArtifact, match=message):
        read_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [{"params": ["linear.wait"], "options": {}}]}, "trains 'linear.wait'"),
        ({"numbers": {"linear.wait": {"step": 1}}}, "trains 'linear.wait'"),
        ({"groups": [{"params": ["linear.bias"], "options": {}}] * 2}, "a parameter in two groups"),
        ({"numbers": {"linear.weight": {"step": [1]}}}, "optimizer.numbers"),
        ({"surprise": 1}, "optimizer.surprise"),
    ],
)
def test_forged_words_about_an_optimizer_are_refused(
    trained: tuple[Path, nn.Module], changes, message: str
) -> None:
    entry = json.loads((trained[0] / "structure.json").read_text())["optimizer"]
    forge(trained[0], optimizer={**entry, **changes})
    with pytest.raises(CorruptArtifact, match=message):
        read_model(trained[0])
