# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def"
"""The compiled code of tokenisers: are the bytes of the tokens those of the texts?"""

import numpy as np

from pipeline.signals.statistics.primitives import compiled


@compiled
def differing(data, offsets, tokens, lengths, table, places, out):
    """For each row sets `out` where the bytes of its tokens are not its bytes.

    `data` and `offsets` hold the texts, `table` and `places` the bytes of each token.
    """
    at = 0
    known = len(places) - 1
    for row in range(len(lengths)):
        place, end = offsets[row], offsets[row + 1]
        good = True
        for i in range(at, at + lengths[row]):
            token = np.int64(tokens[i])
            if token >= known:
                good = False
                break
            first, last = places[token], places[token + 1]
            if place + last - first > end:
                good = False
                break
            for j in range(first, last):
                good &= data[place] == table[j]
                place += 1
            if not good:
                break
        at += lengths[row]
        out[row] = not (good and place == end)
