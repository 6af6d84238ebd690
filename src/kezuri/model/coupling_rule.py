"""The role: how one ATen operation relates the channel positions of what goes in and what comes out."""

from collections.abc import Callable

from kezuri.model.channels import Axes, Call, Channels, sizes

Rule = Callable[[Channels, Call], Axes | list[Axes]]
"""Joins and pins the positions of the inputs; gives those of the output (a list of them for several)."""

rules: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """A decorator that makes a function the rule of these ATen operations, named without overload.

    An in-place operation (`add_`) uses the rule of `add`.
    """

    def add(function: Rule) -> Rule:
        for operation in operations:
            if operation in rules:
                raise ValueError(f"two rules for aten.{operation}")
            rules[operation] = function
        return function

    return add


def unknown(channels: Channels, call: Call) -> Axes | list[Axes]:
    """The rule of an operation that has none: nothing that goes through it can be removed."""
    channels.unknown.add(call.node)
    reason = f"operation aten.{call.name} is not known"
    for axes in call.inputs():
        for ids in axes:
            channels.pin(ids, reason)
    value = call.node.meta.get("val")
    if isinstance(value, list | tuple):
        return [_fixed(channels, item, reason) for item in value]
    return _fixed(channels, value, reason)


def _fixed(channels: Channels, value: object, reason: str) -> Axes:
    return [channels.fixed(size, reason) for size in sizes(getattr(value, "shape", ()))]
