"""Small on purpose: a longer file or function is a decision, not an accident."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path("src").rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 320, 60  # of a function, without its docstring


def test_there_is_something_to_measure():
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=str)
def test_stays_small(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            said = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.body[0].lineno - (said.count("\n") + 1 if said else 0)
            assert lines < MAX_FUNCTION, node.name


def test_no_drawer_for_odds_and_ends():
    odd = {"utils", "common", "helpers", "base", "manager", "misc"}
    assert not [path for path in FILES if odd & set(path.with_suffix("").parts)]
