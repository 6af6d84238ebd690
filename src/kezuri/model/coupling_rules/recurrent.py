"""LSTM, GRU and plain recurrent layers: their hidden units are channels that live in every gate."""

from typing import Any

import numpy as np

from kezuri.model.channels import Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.union_find import Ids

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(channels: Channels, call: Call) -> list[Axes]:
    """Layer by layer and direction by direction; a unit is a row of each gate, its state, and what reads it.

    Source: the equations of torch.nn.LSTM and torch.nn.GRU; a unit without weights stays at its zero.
    """
    if call.arguments.get("batch_sizes") is not None or "params" not in call.arguments:
        raise ValueError("a packed sequence")
    x, gates = call.axes("input"), GATES[call.name]
    states = call.arguments["hx"]
    states = [call.axes_of(state) for state in (states if isinstance(states, list | tuple) else [states])]
    zero = all(call.vanishes(node) for node in _nodes(call.arguments["hx"]))
    directions = 2 if call.arguments["bidirectional"] else 1
    weights = _weights(call, 4 if call.arguments["has_biases"] else 2)
    seen, last = x[-1], []
    for layer in range(call.arguments["num_layers"]):
        last = [
            _cell(channels, weights[layer * directions + direction], seen, gates)
            for direction in range(directions)
        ]
        seen = np.concatenate(last)
        for state in states:
            for units in last:
                channels.join(units, state[-1])
        if not zero:
            channels.pin(seen, "the first state of a recurrent layer is given")
    result: list[Axes] = [[*x[:-1], seen]]
    return [*result, *([*state[:-1], last[0]] for state in states)]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def single_cell(channels: Channels, call: Call) -> Axes | list[Axes]:
    """One step of one layer; the state goes in and comes out."""
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    tensors = [(call.parameter(name), call.axes(name)) for name in names if call.axes(name)]
    x, states = call.axes("input"), _nodes(call.arguments["hx"])
    units = _cell(channels, tensors, x[-1], GATES[call.name.removesuffix("_cell")])
    for state in states:
        channels.join(units, call.axes_of(state)[-1])
        if not call.vanishes(state):
            channels.pin(units, "the first state of a recurrent layer is given")
    result = [*x[:-1], units]
    return [list(result) for _ in states] if call.name == "lstm_cell" else result


def _cell(channels: Channels, tensors: list[tuple[str | None, Axes]], seen: Ids, gates: int) -> Ids:
    """Joins one cell's weights (from the input, from itself, biases); gives its units."""
    (_, from_input), (_, from_itself) = tensors[:2]
    units = from_input[0].reshape(gates, -1)
    for gate in units[1:]:
        channels.join(units[0], gate)
    for _, axes in tensors[1:]:
        channels.join(from_input[0], axes[0])
    if len(from_itself[1]) != units.shape[1]:
        raise ValueError("a recurrent layer with a projection")
    channels.join(units[0], from_itself[1])
    channels.join(seen, from_input[1])
    for at, (name, _) in enumerate(tensors[:2]):
        channels.set_role(name, 0, "output")
        channels.set_role(name, 1, "input" if at == 0 else "other")
    first: Ids = units[0]
    return first


def _weights(call: Call, each: int) -> list[list[tuple[str | None, Axes]]]:
    nodes = call.arguments["params"]
    named = [(call.channels.parameters.get(node), call.axes_of(node)) for node in nodes]
    return [named[at : at + each] for at in range(0, len(named), each)]


def _nodes(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
