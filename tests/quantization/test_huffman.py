import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import CorruptArtifact
from kezuri.quantization.huffman import LONGEST, PIECE, code_lengths, decode, encode

counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=257)
skewed = st.lists(st.integers(0, 40).map(lambda power: 2**power), min_size=2, max_size=60)


def lengths_of(symbols: np.ndarray) -> np.ndarray:
    return code_lengths(np.bincount(symbols))


def bits_of(counts: list[int]) -> tuple[int, int]:
    """The sum of Huffman's own tree, without a limit, and how deep it is."""
    heap = [(count, 0) for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        (one, deep), (two, deeper) = heapq.heappop(heap), heapq.heappop(heap)
        total += one + two
        heapq.heappush(heap, (one + two, max(deep, deeper) + 1))
    return total, heap[0][1]


def entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts if count)


@given(counts.filter(any) | skewed)
@settings(deadline=None)
def test_no_code_is_shorter_and_the_entropy_is_near(counts):
    lengths = code_lengths(np.array(counts, dtype=np.int64)).astype(int)
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    assert lengths.max() <= LONGEST
    used = [count for count in counts if count]
    if len(used) == 1:
        assert lengths.sum() == 1
        return
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1
    bits = int((np.array(counts, dtype=object) * lengths).sum())
    least, depth = bits_of(counts)
    assert bits >= least
    if depth <= LONGEST:
        assert bits == least
    mean = bits / sum(counts)
    assert entropy(counts) - 1e-9 <= mean < entropy(counts) + 1 + (0 if depth <= LONGEST else 0.06)


def test_the_textbook_code():
    # Cormen et al., Introduction to Algorithms, section 16.3: 224,000 bits
    counts = np.array([45, 13, 12, 16, 9, 5])
    lengths = code_lengths(counts)
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    assert int((counts * lengths).sum()) == 224


def test_codes_are_canonical_as_those_of_deflate():
    # RFC 1951, section 3.2.2: lengths 3 3 3 3 3 2 4 4 make the codes 010 011 100 101 110 00 1110 1111
    lengths = np.array([3, 3, 3, 3, 3, 2, 4, 4], dtype=np.uint8)
    codes = ["010", "011", "100", "101", "110", "00", "1110", "1111"]
    content = encode(np.arange(8, dtype=np.uint16), lengths)
    bits = "".join(codes)
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert content == len(packed).to_bytes(2, "little") + packed


def test_rare_symbols_are_held_to_15_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    assert bits_of(fibonacci)[1] == 39
    lengths = code_lengths(np.array(fibonacci))
    assert lengths.max() == LONGEST
    symbols = np.random.default_rng(0).integers(0, 40, 3000).astype(np.uint16)
    assert np.array_equal(decode(encode(symbols, lengths), 3000, lengths), symbols)


@given(
    st.integers(1, 257),
    st.sampled_from([0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5000]),
    st.floats(0.2, 8),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(alphabet, count, skew, seed):
    dice = np.random.default_rng(seed)
    symbols = (alphabet * dice.random(count) ** skew).astype(np.uint16)
    lengths = lengths_of(symbols) if count else np.zeros(1, dtype=np.uint8)
    content = encode(symbols, lengths)
    assert np.array_equal(decode(content, count, lengths), symbols)
    bits = int(lengths[symbols].sum())
    assert bits / 8 <= len(content) <= bits / 8 + 3 * math.ceil(count / PIECE)


@given(st.integers(0, 2**31), st.integers(1, 3000), st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_changed_content_is_refused_or_is_other_symbols(seed, count, noise):
    dice = np.random.default_rng(seed)
    symbols = dice.integers(0, 12, count).astype(np.uint16)
    lengths = lengths_of(symbols)
    content = bytearray(encode(symbols, lengths))
    place = int(dice.integers(0, len(content)))
    content[place : place + len(noise)] = noise
    try:
        found = decode(bytes(content), count, lengths)
    except CorruptArtifact:
        return
    # every content that is accepted is the one encoding of what it stands for
    assert encode(found, lengths) == content


def test_what_is_no_code_is_refused():
    good = np.array([1, 2, 2], dtype=np.uint8)
    content = encode(np.array([0, 1, 2, 0], dtype=np.uint16), good)
    for lengths in ([1, 1, 1], [1, 2, 3], [2], [0, 0], [16, 1], [], [1] + [0] * 4095):
        with pytest.raises(CorruptArtifact, match="make no code"):
            decode(content, 4, np.array(lengths, dtype=np.uint8))
    with pytest.raises(CorruptArtifact, match="do not fit in"):
        decode(content, 1 << 40, good)
    with pytest.raises(CorruptArtifact, match="not as long"):
        decode(content + b"\0", 4, good)
    with pytest.raises(CorruptArtifact, match="no symbols"):
        decode(content, 0, good)
    alone = np.array([1], dtype=np.uint8)
    assert decode(b"\x01\x00\x00", 3, alone).tolist() == [0, 0, 0]
    for bad in (b"\x01\x00\x40", b"\x01\x00\x01", b"\x02\x00\x00\x00"):
        with pytest.raises(CorruptArtifact, match="not those of whole codes"):
            decode(bad, 3, alone)
