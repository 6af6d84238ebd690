"""One seed a run, and from it one for every purpose."""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, independent of the others: the same words always give the same number.

    Args:
        seed: the run's seed.
        purpose: words that name the use, such as `"augment", epoch`.

    Returns:
        an integer in [0, 2**63).
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
