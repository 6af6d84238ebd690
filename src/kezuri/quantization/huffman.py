"""Huffman codes: symbols that come often take few bits; none takes more than 15.

Codes are canonical, so that their lengths alone say what they are: shorter codes come first, and among
equally long ones those of lower symbols. Symbols are written in pieces of 1,024, each starting with a whole
byte, and the bytes of every piece stand before them: pieces can be read side by side.
"""

import numpy as np
from numpy.typing import NDArray

from kezuri.core.errors import CorruptArtifact

LONGEST = 15
PIECE = 1024
NOTHING = 0xFFF  # the symbol of bits that are no code

Symbols = NDArray[np.uint16]
Lengths = NDArray[np.uint8]


def code_lengths(counts: NDArray[np.int64]) -> Lengths:
    """The bits of each symbol's code: the least sum there is, if none may have more than 15.

    By package-merge (Larmore, Hirschberg, 1990). The mean is at most the entropy plus 1 bit, and, where that
    would take codes of more than 15 bits, less than 0.06 bits above it (Milidiú, Laber, 2001; 256 symbols).

    Args:
        counts: (symbols,), how often each comes; at most 2¹⁵ of them above 0.

    Returns:
        (symbols,): 0 for those that never come, 1 for one that is alone.
    """
    lengths = np.zeros(len(counts), dtype=np.uint8)
    used = np.flatnonzero(counts)
    if len(used) <= 1:
        lengths[used] = 1
        return lengths
    order = used[np.argsort(counts[used], kind="stable")]
    leaves = [(int(counts[symbol]), 0) for symbol in order]
    levels: list[list[tuple[int, int]]] = []
    packages: list[tuple[int, int]] = []
    for _ in range(LONGEST):
        items = sorted(leaves + packages)
        levels.append(items)
        packages = [(one[0] + two[0], 1) for one, two in zip(items[::2], items[1::2], strict=False)]
    take = 2 * len(order) - 2
    for items in reversed(levels):
        packed = sum(package for _, package in items[:take])
        lengths[order[: take - packed]] += 1
        take = 2 * packed
    return lengths


def encode(symbols: Symbols, lengths: Lengths) -> bytes:
    """The symbols in their codes, (n,); every symbol that comes has a code."""
    codes = _codes(lengths)
    pieces = []
    for start in range(0, len(symbols), PIECE):
        piece = symbols[start : start + PIECE]
        # 15 places for each symbol, of which the last ones, as many as its code has bits, are written
        places = np.arange(LONGEST - 1, -1, -1)
        bits = (codes[piece, None] >> places) & 1
        pieces.append(np.packbits(bits[places < lengths[piece, None]].astype(bool)).tobytes())
    sizes = np.array([len(piece) for piece in pieces], dtype="<u2")
    return sizes.tobytes() + b"".join(pieces)


def decode(content: bytes, count: int, lengths: Lengths) -> Symbols:
    """What `encode` was given: `count` symbols.

    Memory is taken in proportion to the content, whatever `count` says.

    Raises:
        CorruptArtifact: the lengths make no code, or the content is not exactly that many symbols.
    """
    if not count:
        if content:
            raise CorruptArtifact("there are bits, but no symbols")
        return np.zeros(0, dtype=np.uint16)
    table = _table(lengths)
    lanes = -(-count // PIECE)
    if count > 8 * len(content) or len(content) < 2 * lanes:
        raise CorruptArtifact(f"{count:,} symbols do not fit in {len(content):,} bytes")
    sizes = np.frombuffer(content, dtype="<u2", count=lanes).astype(np.int64)
    ends = np.cumsum(sizes)
    if ends[-1] != len(content) - 2 * lanes:
        raise CorruptArtifact("the pieces are not as long as they are said to be")
    bits = np.frombuffer(content, dtype=np.uint8, offset=2 * lanes)
    symbols, stops = _side_by_side(bits, ends - sizes, count, table)
    last = count - (lanes - 1) * PIECE
    out = symbols.T.reshape(-1)[: (lanes - 1) * PIECE + last]
    if (out == NOTHING).any() or (-(-stops // 8) != ends).any() or _unclean(bits, stops):
        raise CorruptArtifact("the bits are not those of whole codes")
    return out


def _side_by_side(
    bits: NDArray[np.uint8], starts: NDArray[np.int64], count: int, table: NDArray[np.uint16]
) -> tuple[Symbols, NDArray[np.int64]]:
    """One symbol of every piece at a time: (1024, pieces), and the bit where each piece ended."""
    # a piece that is wrong may run past its end, by no more than a piece's codes
    padded = np.pad(bits, (0, PIECE * LONGEST // 8 + 3)).astype(np.uint32)
    windows = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]
    lanes = len(starts)
    symbols = np.zeros((PIECE, lanes), dtype=np.uint16)
    at = starts * 8
    last = count - (lanes - 1) * PIECE
    for step in range(PIECE if lanes > 1 else last):
        here = at[: lanes if step < last else lanes - 1]
        window = (windows[here >> 3] >> (24 - LONGEST - (here & 7))) & ((1 << LONGEST) - 1)
        entry = table[window]
        symbols[step, : len(here)] = entry >> 4
        here += entry & 15
    return symbols, at


def _unclean(bits: NDArray[np.uint8], stops: NDArray[np.int64]) -> bool:
    """Whether what fills up the last byte of a piece is not all zeros."""
    odd = stops[stops % 8 > 0]
    return bool((bits[odd >> 3] & (0xFF >> (odd & 7))).any())


def _codes(lengths: Lengths) -> NDArray[np.int64]:
    """The canonical codes, each in the low bits of a number."""
    codes = np.zeros(len(lengths), dtype=np.int64)
    code, before = 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length:
            code <<= length - before
            codes[symbol] = code
            code, before = code + 1, length
    return codes


def _table(lengths: Lengths) -> NDArray[np.uint16]:
    """For every 15 bits: the symbol that they begin with, times 16, plus the bits of its code."""
    used = np.flatnonzero(lengths)
    room = sum(1 << (LONGEST - int(length)) for length in lengths[used] if length <= LONGEST)
    complete = room == 1 << LONGEST or (len(used) == 1 and lengths[used[0]] == 1)
    if not complete or lengths.max() > LONGEST or len(lengths) > NOTHING:
        raise CorruptArtifact("the lengths of the codes make no code")
    table = np.full(1 << LONGEST, NOTHING << 4 | LONGEST, dtype=np.uint16)
    codes = _codes(lengths)
    for symbol in used:
        free = LONGEST - int(lengths[symbol])
        first = int(codes[symbol]) << free
        table[first : first + (1 << free)] = int(symbol) << 4 | int(lengths[symbol])
    return table
