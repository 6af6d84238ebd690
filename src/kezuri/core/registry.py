"""Names for the interchangeable members of one role."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import TypeVar

from kezuri.core.errors import UnknownName

Member = TypeVar("Member")


def unknown(kind: str, name: object, have: Mapping[str, object] | list[str]) -> UnknownName:
    """The error for a name that is not there: lists what is, and guesses what was meant."""
    near = get_close_matches(str(name), list(have), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"no {kind} named {name!r} (have: {', '.join(sorted(have)) or 'none'}){hint}")


class Registry(Mapping[str, Member]):
    """The members of one role, by the name a recipe writes after `use`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, Member] = {}

    def register(self, name: str) -> Callable[[Member], Member]:
        """A decorator that adds a member under `name`; a name taken twice is a ValueError."""

        def add(member: Member) -> Member:
            if name in self._members:
                raise ValueError(f"two {self.kind} members are named {name!r}")
            self._members[name] = member
            return member

        return add

    def name_of(self, member: object) -> str:
        """The name that `member` (a class or an instance of one) is registered under."""
        for name, known in self._members.items():
            if known is member or known is type(member):
                return name
        raise unknown(self.kind, member, self._members)

    def __getitem__(self, name: str) -> Member:
        if name not in self._members:
            raise unknown(self.kind, name, self._members)
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
