"""Every hard graph is coupled, cut and exact; the slow part also trains, saves and exports them."""

import pytest

from .hard import hard
from .trial import Outcome, try_graph

LIMITS = {"batch_size_by_len": {"batch"}}
"""What cannot be: `len(x)` is a plain number in the graph, and so in a program built from it."""
SLOW = ("trains", "saves", "default", "onnx")


def test_there_are_graphs_of_every_kind():
    assert len(hard) > 150
    assert sum(bool(graph.cut) for graph in hard.values()) > 150


@pytest.mark.parametrize("name", hard)
def test_is_cut_and_exact(name: str):
    outcome = try_graph(hard[name], without=SLOW)
    assert set(outcome.failures) == LIMITS.get(name, set()), outcome.line()


@pytest.mark.slow
@pytest.mark.parametrize("name", hard)
def test_trains_saves_and_exports(name: str):
    outcome: Outcome = try_graph(hard[name])
    assert outcome.passed or set(outcome.failures) == LIMITS.get(name, set()), outcome.line()
