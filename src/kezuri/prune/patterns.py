"""Naming layers by pattern."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from kezuri.core.errors import RecipeError


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern fits: `layer1.*`, a layer `conv1` or its parameter `conv1.weight`.

    Raises:
        RecipeError: it fits none; a pattern without effect is a mistake.
    """
    have = list(names)
    layers = [name.removesuffix(".weight") for name in have]
    found = [
        name
        for name, layer in zip(have, layers, strict=True)
        if fnmatchcase(name, pattern) or fnmatchcase(layer, pattern)
    ]
    if not found:
        near = get_close_matches(pattern, layers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(layers[:12]) + (", …" if len(layers) > 12 else "")
        raise RecipeError(f"no prunable layer fits {pattern!r} (have: {shown}){hint}")
    return found
