import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kezuri.core.errors import ShapeError, UnknownName, UsageError
from kezuri.model.coupling import Couplings, couple
from kezuri.model.shrink import Structure, mask_channels_, shrink_, structure_of

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """Every kind of module whose sizes follow."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(16, 12, 1, groups=2),
        nn.ConvTranspose2d(12, 6, 2, 2, groups=3),
        nn.InstanceNorm2d(6, affine=True),
        nn.ConvTranspose2d(6, 6, 1, groups=6),
        nn.Flatten(),
        nn.Linear(6 * 256, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )


def every_second(couplings: Couplings) -> dict[str, Tensor]:
    return {coupling.name: torch.arange(coupling.width) % 2 == 0 for coupling in couplings.free}


def test_module_sizes_follow() -> None:
    torch.manual_seed(0)
    model = network().eval()
    couplings = couple(model, EXAMPLE)
    shrink_(model, structure_of(couplings, every_second(couplings)))
    conv, norm, slopes, depth, grouped, up, single, last, _, hidden, _, head = model
    assert (conv.in_channels, conv.out_channels, conv.groups) == (3, 4, 1)
    assert norm.num_features == slopes.num_parameters == 4
    assert (depth.in_channels, depth.out_channels, depth.groups) == (4, 8, 4)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (8, 6, 2)
    assert (up.in_channels, up.out_channels, up.groups) == (6, 3, 3)
    assert single.num_features == 3
    assert (last.in_channels, last.out_channels, last.groups) == (3, 3, 3)
    assert (hidden.in_features, hidden.out_features) == (3 * 256, 5)
    assert (head.in_features, head.out_features) == (5, 4)
    assert model(EXAMPLE).shape == (1, 4)


def test_the_masked_model_computes_what_the_cut_one_does() -> None:
    torch.manual_seed(0)
    model = network().eval()
    couplings = couple(model, EXAMPLE)
    kept = every_second(couplings)
    masked = copy.deepcopy(model)
    mask_channels_(masked, couplings, kept)
    shrink_(model, structure_of(couplings, kept))
    torch.testing.assert_close(model(EXAMPLE), masked(EXAMPLE))
    assert not masked[0].weight[1::2].any() and not masked[0].bias[1::2].any()
    assert not masked[1].weight[1::2].any() and not masked[1].running_mean[1::2].any()
    assert masked[1].running_var.all()


def test_parameters_stay_the_same_objects_and_lose_their_gradient() -> None:
    model = network()
    model(EXAMPLE.expand(2, -1, -1, -1)).sum().backward()
    parameters = dict(model.named_parameters())
    couplings = couple(model, EXAMPLE)
    shrink_(model, structure_of(couplings, every_second(couplings)))
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert model[0].weight.grad is None
    assert model[11].bias.grad is not None


def test_training_goes_on_though_a_loss_of_before_the_cut_is_still_held() -> None:
    model = network()
    held = model(EXAMPLE.expand(2, -1, -1, -1)).sum()
    couplings = couple(model, EXAMPLE)
    shrink_(model, structure_of(couplings, every_second(couplings)))
    model(EXAMPLE.expand(2, -1, -1, -1)).sum().backward()
    assert model[0].weight.grad.shape == (4, 3, 3, 3)
    assert held.requires_grad


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_after_cutting_is_the_masked_models_step_on_what_is_kept(name: str) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
    ).double()

    def step(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), torch.arange(len(images)) % 4).backward()
        optimizer.step()

    batches = [torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    optimizer = OPTIMIZERS[name](model.parameters())
    for images in batches[:3]:
        step(model, optimizer, images)
    couplings = couple(model, batches[0])
    kept = every_second(couplings)
    masked = copy.deepcopy(model)
    mask_channels_(masked, couplings, kept)
    masked_optimizer = OPTIMIZERS[name](masked.parameters())
    masked_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    structure = structure_of(couplings, kept)
    shrink_(model, structure, optimizer)
    step(masked, masked_optimizer, batches[3])
    step(model, optimizer, batches[3])
    shrink_(masked, structure)
    assert any("weight" in entry for entry in structure.kept)
    for (entry, mine), theirs in zip(model.named_parameters(), masked.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12, msg=entry)


def test_weights_that_share_storage_still_share_it() -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    model[3].weight = nn.Parameter(model[0].weight.data)
    couplings = couple(model.eval(), torch.randn(2, 4))
    structure = structure_of(couplings, every_second(couplings))
    shrink_(model, structure)
    assert model[3].weight is not model[0].weight
    assert model[3].weight.data_ptr() == model[0].weight.data_ptr()


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ({"0": torch.zeros(8, dtype=torch.bool)}, UsageError, r"keeps none of its 8 channels"),
        (
            {"0": torch.ones(7, dtype=torch.bool)},
            UsageError,
            r"bool tensor of shape \(8,\), got torch.bool .*7",
        ),
        ({"0": torch.ones(8)}, UsageError, r"got torch.float32"),
        ({"2": torch.arange(4) > 0}, UsageError, r"the channels of '2' cannot be removed: graph output"),
        ({"9": torch.ones(8, dtype=torch.bool)}, UnknownName, r"no coupling named '9' \(have: 0, "),
    ],
)
def test_what_cannot_be_cut_is_said(kept: dict[str, Tensor], error: type[Exception], message: str) -> None:
    couplings = couple(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(2, 3))
    with pytest.raises(error, match=message):
        structure_of(couplings, kept)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure({"nothing": {0: (0,)}}), "cuts 'nothing', which the model does not have"),
        (Structure({"weight": {0: (0, 4)}}), r"position 4 along dimension 0 of weight \(4, 3\)"),
        (Structure({"weight": {2: (0,)}}), "along dimension 2"),
        (Structure({"weight": {0: (0,)}}, ("block",)), "drops 'block', which the model does not have"),
    ],
)
def test_a_structure_that_does_not_fit_changes_nothing(structure: Structure, message: str) -> None:
    model = nn.Linear(3, 4)
    before = model.weight.clone()
    with pytest.raises(ShapeError, match=message):
        shrink_(model, Structure({"bias": {0: (0,)}, **structure.kept}, structure.dropped))
    assert torch.equal(model.weight, before) and len(model.bias) == 4


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.integers(1, 8))
def test_two_cuts_are_one_cut_of_the_dense_model(marks: list[bool], rest: int) -> None:
    first = tuple(at for at, keep in enumerate(marks) if keep) or (0,)
    second = tuple(range(0, len(first), rest))
    a, b = Structure({"weight": {0: first}}), Structure({"weight": {0: second, 1: (1, 2)}, "bias": {0: (0,)}})
    assert a.then(b).kept["weight"] == {0: tuple(first[at] for at in second), 1: (1, 2)}
    assert a.then(b).kept["bias"] == {0: (0,)}
    assert a.then(Structure(dropped=("x",))).then(b) == a.then(Structure(b.kept, ("x",)))
    assert a.then(Structure()) == Structure().then(a) == a
    assert Structure.from_json(a.then(b).to_json()) == a.then(b)


@pytest.mark.parametrize(
    "kept",
    [
        [],
        {"w": []},
        {"w": {"x": [0]}},
        {"w": {"-1": [0]}},
        {"w": {"0": []}},
        {"w": {"0": [1, 0]}},
        {"w": {"0": [1, 1]}},
        {"w": {"0": [-1, 1]}},
        {"w": {"0": [True]}},
        {"w": {"0": [0.0]}},
        {"w": {"0": "01"}},
    ],
)
def test_odd_structures_are_refused(kept: object) -> None:
    with pytest.raises(ValueError, match="kept"):
        Structure.from_json({"kept": kept, "dropped": []})


@pytest.mark.parametrize("dropped", [None, "block", [1], [""], {"block": 1}])
def test_odd_drops_are_refused(dropped: object) -> None:
    with pytest.raises(ValueError, match="dropped"):
        Structure.from_json({"kept": {}, "dropped": dropped})
    for content in ([], {}, {"kept": {}}, {"kept": {}, "dropped": [], "more": 1}):
        with pytest.raises(ValueError, match="a structure has 'kept' and 'dropped'"):
            Structure.from_json(content)


def test_what_was_kept_inside_of_a_dropped_module_is_forgotten() -> None:
    first = Structure({"b.0.weight": {0: (0,)}, "b.00.weight": {0: (1,)}, "b.1.weight": {0: (2,)}})
    both = first.then(Structure({"b.1.weight": {1: (0,)}}, ("b.0",))).then(Structure(dropped=("b.1.inner",)))
    assert both == Structure(
        {"b.00.weight": {0: (1,)}, "b.1.weight": {0: (2,), 1: (0,)}}, ("b.0", "b.1.inner")
    )
    assert both.then(Structure(dropped=("b.1",))) == Structure({"b.00.weight": {0: (1,)}}, ("b.0", "b.1"))
    assert Structure.from_json(both.to_json()) == both


def blocks() -> nn.Sequential:
    return nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(3)])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dropped_modules_leave_the_model_and_the_optimizer(name: str, named: bool) -> None:
    torch.manual_seed(0)
    model = blocks()
    parameters = model.named_parameters() if named else model.parameters()
    optimizer = OPTIMIZERS[name](list(parameters))
    model(torch.randn(4, 4)).square().sum().backward()
    optimizer.step()
    gone = set(model[1].parameters())
    shrink_(model.eval(), Structure({"0.0.weight": {0: (0, 1, 2, 3)}}, ("1",)), optimizer)
    assert type(model[1]) is nn.Identity and not model[1].training
    assert set(model.state_dict()) == {key for key in blocks().state_dict() if not key.startswith("1.")}
    assert not gone & {p for group in optimizer.param_groups for p in group["params"]}
    assert set(optimizer.state) == set(model.parameters())
    model.train()(torch.randn(4, 4)).square().sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_module_dropped_under_one_of_its_names_is_dropped_under_all() -> None:
    model = blocks()
    model[2] = model[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    shrink_(model, Structure(dropped=("2",)), optimizer)
    assert type(model[0]) is type(model[2]) is nn.Identity
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters())) == 4


def test_weights_that_others_hold_too_stay_in_the_optimizer() -> None:
    model = blocks()
    model[2][0].weight = model[1][0].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    shrink_(model, Structure(dropped=("1",)), optimizer)
    assert any(p is model[2][0].weight for p in optimizer.param_groups[0]["params"])
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
