from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.seeds import derive


@given(st.integers(0, 2**31), st.text(max_size=10), st.integers(0, 1000))
def test_the_same_words_give_the_same_seed_in_range(seed, word, number):
    assert derive(seed, word, number) == derive(seed, word, number)
    assert 0 <= derive(seed, word, number) < 2**63


def test_other_words_give_another_seed():
    assert (
        len({derive(0), derive(1), derive(0, "a"), derive(0, "b"), derive(0, "a", 1), derive(0, "a", 2)}) == 6
    )


def test_stays_as_it_is_across_releases():
    """Fails when the derivation changes: then every result made before has other weights."""
    assert derive(0, "epoch", 1) == 3227900496889367144
