"""The table of operations that keep zeros is held against the operations themselves."""

import pytest
import torch

from kezuri.model import coupling_rules, vanishing  # noqa: F401  registers the rules
from kezuri.model.coupling_rule import rules

ALONE = [
    name
    for name, function in vanishing._tables.items()
    if function is vanishing._as_its_input
    and hasattr(torch.ops.aten, name)
    and name not in ("view_as_real", "view_as_complex")  # of complex numbers, of pairs
    and "default" in getattr(torch.ops.aten, name).overloads()
    and all(
        argument.has_default_value() or argument.name == "self"
        for argument in getattr(torch.ops.aten, name).default._schema.arguments
    )
]


def test_there_are_many_to_try():
    assert len(ALONE) > 25


@pytest.mark.parametrize("name", ALONE)
def test_what_is_said_to_keep_zeros_does(name):
    result = getattr(torch.ops.aten, name).default(torch.zeros(4, 4))
    assert not result.any()


@pytest.mark.parametrize(
    "name", ["sigmoid", "exp", "cos", "softplus", "hardsigmoid", "log_sigmoid", "softmax"]
)
def test_what_turns_zeros_into_something_is_not_in_the_table(name):
    assert name in rules and name not in vanishing._tables


@pytest.mark.parametrize("name", sorted({*rules, *vanishing._tables}))
def test_every_name_is_an_operation_of_torch(name):
    double = f"{name}_" if name.startswith("__") else name
    assert hasattr(torch.ops.aten, double) or name == "getitem"
