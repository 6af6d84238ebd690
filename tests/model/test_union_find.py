import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kezuri.model.union_find import UnionFind


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=12)),
        )
    )
)
def test_joining_many_at_once_gives_the_sets_of_joining_one_by_one(case) -> None:
    size, batches = case
    sets, names = UnionFind(), list(range(size))
    members = sets.add(size)
    for batch in batches:
        pairs = np.array(batch, dtype=np.int64).reshape(-1, 2)
        sets.join(pairs[:, 0], pairs[:, 1])
        for left, right in batch:
            low, high = sorted((names[left], names[right]))
            names = [low if name == high else name for name in names]
    assert sets.roots(members).tolist() == names


def test_numbers_added_later_are_alone() -> None:
    sets = UnionFind()
    first = sets.add(3)
    sets.join(first[:1], first[2:])
    later = sets.add(10_000)
    assert later[0] == 3
    assert sets.roots(np.concatenate([first, later[-2:]])).tolist() == [0, 1, 0, 10_001, 10_002]
