"""Numbers that look drawn and follow from keys: what orders documents, and what is chosen among them."""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(values: np.ndarray) -> np.ndarray:
    """A one-to-one scrambling of 64-bit numbers (uint64): the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def salt(seed: int, *purpose: str) -> np.uint64:
    """A number of its own for each seed and purpose."""
    text = "\x1f".join((str(seed), *purpose))
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))
