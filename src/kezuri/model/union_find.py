"""Sets of numbers that only ever grow together, many at a time (union-find over numpy arrays)."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class UnionFind:
    """Disjoint sets of the numbers 0, 1, 2, …; every set is known by its smallest number."""

    def __init__(self) -> None:
        self._parent: Ids = np.arange(4096, dtype=np.int64)
        self._size = 0

    def add(self, count: int) -> Ids:
        """`count` new numbers, each alone in its set."""
        first, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            more = np.arange(len(self._parent), 2 * self._size, dtype=np.int64)
            self._parent = np.concatenate([self._parent, more])
        return np.arange(first, self._size, dtype=np.int64)

    def roots(self, members: Ids) -> Ids:
        """The smallest number of each member's set."""
        root = self._parent[members]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[members] = root
        return root

    def join(self, left: Ids, right: Ids) -> None:
        """Unites the sets of `left[i]` and `right[i]`, for every i."""
        left, right = self.roots(left), self.roots(right)
        while not np.array_equal(left, right):
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))
            left, right = self.roots(left), self.roots(right)
