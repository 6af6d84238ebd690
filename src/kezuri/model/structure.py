"""What a cut left of a model, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Structure:
    """Which positions of which parameters are left and which modules are not, counted in the dense model.

    `Structure()` is the dense model itself.

    Attributes:
        kept: parameter or buffer name → dimension → the positions kept, in order.
        dropped: modules that give back what they are given. What was kept inside of them is forgotten.
    """

    kept: Kept = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        inside = tuple(f"{name}." for name in self.dropped)
        outermost = (name for name in dict.fromkeys(self.dropped) if not name.startswith(inside))
        left = {name: dims for name, dims in self.kept.items() if not name.startswith(inside)}
        object.__setattr__(self, "dropped", tuple(outermost))
        object.__setattr__(self, "kept", left)

    def then(self, later: "Structure") -> "Structure":
        """This cut followed by a cut of its result, as one cut of the dense model."""
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in later.kept.items():
            mine = kept.setdefault(name, {})
            for dim, positions in dims.items():
                before = mine.get(dim)
                mine[dim] = positions if before is None else tuple(before[at] for at in positions)
        return Structure(kept, (*self.dropped, *later.dropped))

    def to_json(self) -> dict[str, Any]:
        """Plain data: `kept` and `dropped`."""
        kept = {
            name: {str(dim): list(positions) for dim, positions in dims.items()}
            for name, dims in self.kept.items()
        }
        return {"kept": kept, "dropped": list(self.dropped)}

    @classmethod
    def from_json(cls, content: Any) -> "Structure":
        """The structure in plain data.

        Raises:
            ValueError: `kept` is not a mapping of names to dimensions to rising positions, or `dropped` not a
                list of names.
        """
        if not isinstance(content, dict) or set(content) != {"kept", "dropped"}:
            raise ValueError("a structure has 'kept' and 'dropped'")
        kept, dropped = content["kept"], content["dropped"]
        if not isinstance(kept, dict):
            raise ValueError(f"kept must be an object, got {type(kept).__name__}")
        if not isinstance(dropped, list) or not all(isinstance(name, str) and name for name in dropped):
            raise ValueError("dropped must be a list of modules' names")
        return cls({str(name): _dims(name, dims) for name, dims in kept.items()}, tuple(dropped))


def _dims(name: object, dims: Any) -> dict[int, tuple[int, ...]]:
    if not isinstance(dims, dict):
        raise ValueError(f"kept[{name!r}] must be an object, got {type(dims).__name__}")
    result = {}
    for dim, positions in dims.items():
        if not str(dim).isdecimal() or not isinstance(positions, list) or not positions:
            raise ValueError(f"kept[{name!r}][{dim!r}] must be a list of positions of a dimension")
        if any(type(at) is not int or at < 0 for at in positions) or sorted(set(positions)) != positions:
            raise ValueError(f"kept[{name!r}][{dim!r}] must hold rising positions from 0")
        result[int(dim)] = tuple(positions)
    return result
