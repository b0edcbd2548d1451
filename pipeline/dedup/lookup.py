"""Which of many texts are nearly the same as one: an index in memory, for looking things up by hand."""

from collections.abc import Sequence

import numpy as np
from datasketch import LeanMinHash, MinHashLSH

from pipeline.dedup.minhash import EMPTY, estimated_similarity


class NearDuplicates:
    """datasketch's LSH index over signatures that `minhash.MinHasher` made.

    `ids` name the rows of `signatures` (uint32 [n, hashes]) and need not differ; `bands` times `rows` are at most `hashes`.
    Texts without n-grams are left out: they are like nothing. Takes about 3 kB a text. Raises ValueError where ids and
    signatures differ in number, for fewer than two bands, and for more bands and rows than there are hashes.
    """

    def __init__(self, ids: Sequence[str], signatures: np.ndarray, bands: int = 14, rows: int = 8, seed: int = 1):
        if signatures.ndim != 2 or len(ids) != len(signatures):
            raise ValueError(f"{len(ids)} ids do not fit signatures of shape {signatures.shape}")
        if bands < 2 or rows < 1 or bands * rows > signatures.shape[1]:
            raise ValueError(f"{bands} bands of {rows} rows do not fit signatures of {signatures.shape[1]} values")
        self._ids, self._signatures, self._seed = ids, signatures, seed
        self._index = MinHashLSH(num_perm=signatures.shape[1], params=(bands, rows))
        with self._index.insertion_session() as session:
            for row in np.flatnonzero((signatures != EMPTY).any(axis=1)).tolist():
                session.insert(row, self._minhash(signatures[row]), check_duplication=False)

    def similar(self, signature: np.ndarray, least: float = 0.5) -> list[tuple[str, float]]:
        """(id, estimated similarity) of every text that shares a band with `signature` and is at least so similar.

        The most similar come first, of equals those with the smaller id. A text that is itself in the index is found too.
        Raises ValueError for a signature of another length.
        """
        if signature.shape != self._signatures.shape[1:]:
            raise ValueError(f"a signature of shape {signature.shape} where {self._signatures.shape[1:]} is expected")
        if (signature == EMPTY).all() or self._index.is_empty():
            return []
        rows = np.array(self._index.query(self._minhash(signature)), np.int64)
        similarity = estimated_similarity(
            np.broadcast_to(signature, (len(rows), len(signature))), self._signatures[rows]
        )
        found = [(self._ids[row], float(s)) for row, s in zip(rows, similarity, strict=True) if s >= least]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def _minhash(self, signature: np.ndarray) -> LeanMinHash:
        return LeanMinHash(seed=self._seed, hashvalues=signature, scheme="affine32")
