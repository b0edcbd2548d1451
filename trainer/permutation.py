"""A permutation of 0..n-1 that is computed where it is asked, not stored: the order of samples of any length, in no memory.

A balanced Feistel network over the least even number of bits that hold n, walked until it lands below n (cycle walking;
Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Its round function is SplitMix64's finaliser (Steele et
al. 2014). It is a shuffle, not a cipher: nothing here is secret.
"""

import hashlib

import numpy as np

ROUNDS = 6
"""Four make a pseudo-random permutation of a good round function; six leave no visible trace on domains of a few bits."""


def key_of(*parts: object) -> int:
    """A 64-bit key of what names a permutation, such as (seed, source, epoch): equal on every machine."""
    name = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def permute(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where the permutation named `key` of 0..n-1 puts each index (int64, each in [0, n)); int64 of the same shape."""
    index = np.asarray(index, np.int64)
    if index.size and (index.min() < 0 or index.max() >= n):
        raise IndexError(f"an index is outside of 0..{n - 1}")
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    out = _feistel(index.astype(np.uint64).ravel(), half, key)
    while (outside := np.flatnonzero(out >= n)).size:
        out[outside] = _feistel(out[outside], half, key)
    return out.astype(np.int64).reshape(index.shape)


def _feistel(x: np.ndarray, half: int, key: int) -> np.ndarray:
    low = np.uint64((1 << half) - 1)
    left, right = x >> np.uint64(half), x & low
    for number in range(ROUNDS):
        salt = np.uint64((key + number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        left, right = right, left ^ (_mix(right ^ salt) & low)
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
