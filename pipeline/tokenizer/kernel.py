# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def"
"""The compiled code of tokenisers: are the bytes of the tokens those of the texts?"""

import numpy as np

from pipeline.signals.statistics.primitives import compiled

WORD = 8
"""Bytes that are compared at once."""


def words(data: np.ndarray) -> np.ndarray:
    """The eight bytes that begin at each byte of a uint8 array, as little-endian uint64; seven fewer than there are bytes."""
    data = np.ascontiguousarray(data)
    return np.ndarray((max(0, len(data) - WORD + 1),), "<u8", data, 0, (1,))


@compiled
def differing(data, eights, offsets, tokens, lengths, table, heads, places, out):
    """For each row sets `out` where the bytes of its tokens are not its bytes.

    `data`, `eights` (`words`) and `offsets` hold the texts; `table` the bytes of all tokens, `heads` the first eight of each
    and zeros, and `places` where each begins.
    """
    at = 0
    known = len(places) - 1
    for row in range(len(lengths)):
        place, end = offsets[row], offsets[row + 1]
        wrong = np.uint64(0)
        for i in range(at, at + lengths[row]):
            token = np.int64(tokens[i])
            if token >= known:
                wrong = np.uint64(1)
                break
            first = places[token]
            size = places[token + 1] - first
            if place + size > end:
                wrong = np.uint64(1)
                break
            if size <= 8 and place < len(eights):
                if size:
                    shift = np.uint64(64 - 8 * size)
                    wrong |= (eights[place] ^ heads[token]) << shift
            else:
                for j in range(size):
                    wrong |= np.uint64(data[place + j] ^ table[first + j])
            place += size
        at += lengths[row]
        out[row] = wrong != 0 or place != end
