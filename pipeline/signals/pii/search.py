"""From candidates to hits."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.dedup.normalise import utf8
from pipeline.signals.pii import HITS, KINDS, NAME_KINDS
from pipeline.signals.pii import kernel as k
from pipeline.signals.pii.tables import folds, iban_countries

ROOM = 1 << 20
"""Characters of windows, at least, that one call of the scan has room for."""
SORTS = {
    "EMAIL_ADDRESS": (k.EMAIL, k.HIDDEN_EMAIL),
    "PHONE_NUMBER": (k.NUMBER,),
    "IP_ADDRESS": (k.NUMBER, k.ADDRESS),
    "CREDIT_CARD": (k.NUMBER,),
    "US_SSN": (k.NUMBER,),
    "IBAN_CODE": (k.IBAN,),
    "CRYPTO": (k.TOKEN,),
    "URL_CREDENTIALS": (k.CREDENTIALS,),
    "API_KEY": (k.TOKEN, k.PEM),
}
"""The candidates that each kind needs."""
ORDER = {kind: i for i, kind in enumerate(KINDS + NAME_KINDS)}


class Hit(NamedTuple):
    """A hit in one text."""

    start: int
    end: int
    kind: str
    score: float


def search(
    texts: pa.Array | pa.ChunkedArray,
    languages: pa.Array | Sequence[str | None] | None,
    kinds: Sequence[str],
    role_addresses: bool,
) -> pa.Table:
    """What `Detector.find` returns."""
    spoken = (
        None if languages is None else languages.to_pylist() if hasattr(languages, "to_pylist") else list(languages)
    )
    if spoken is not None and len(spoken) != len(texts):
        raise ValueError(f"{len(texts)} texts have {len(spoken)} languages")
    found: dict[int, list[Hit]] = {}
    wanted = sum(1 << sort for sort in {sort for kind in kinds for sort in SORTS.get(kind, ())})
    if wanted:
        for row, hit in _from_windows(texts, spoken, wanted, frozenset(kinds), role_addresses):
            found.setdefault(row, []).append(hit)
    if named := [kind for kind in kinds if kind in NAME_KINDS]:
        from pipeline.signals.pii.names import names

        for row, start, end, kind, score in names(texts, spoken, named):
            found.setdefault(row, []).append(Hit(start, end, kind, score))
    rows = [(row, *hit) for row in sorted(found) for hit in apart(found[row])]
    return pa.table([pa.array([row[i] for row in rows], HITS.types[i]) for i in range(len(HITS))], schema=HITS)


def apart(hits: list[Hit]) -> list[Hit]:
    """Hits that do not overlap, by start: the longer one stays, then the surer one, then by the order of kinds."""
    if len(hits) == 1:
        return hits
    kept: list[Hit] = []
    starts: list[int] = []
    for hit in sorted(set(hits), key=lambda hit: (hit.start - hit.end, -hit.score, ORDER[hit.kind], hit.start)):
        i = bisect_left(starts, hit.start)
        if (i and kept[i - 1].end > hit.start) or (i < len(kept) and kept[i].start < hit.end):
            continue
        kept.insert(i, hit)
        starts.insert(i, hit.start)
    return kept


def _from_windows(
    texts: pa.Array | pa.ChunkedArray,
    languages: list[str | None] | None,
    wanted: int,
    kinds: frozenset[str],
    role_addresses: bool,
) -> Iterator[tuple[int, Hit]]:
    data, offsets = utf8(texts)
    longest = int(np.diff(offsets).max(initial=0))
    room = max(min(ROOM, int(offsets[-1] - offsets[0])), longest) + 2 * k.MAX_CANDIDATES
    text = np.empty(room, np.uint32)
    places = np.empty(room, np.int32)
    candidates = np.empty((4 * k.MAX_CANDIDATES, 6), np.int64)
    row = 0
    while row < len(offsets) - 1:
        row, count, size = k.scan(data, offsets, row, folds(), iban_countries(), wanted, candidates, text, places)
        if not count:
            continue
        from pipeline.signals.pii.judge import judge

        windows = text[:size].tobytes().decode("utf-32-le")
        for of, sort, start, end, first, last in candidates[:count].tolist():
            language = "en" if languages is None else languages[of]
            for a, b, kind, score in judge(sort, windows, start, end, first, last, language, kinds, role_addresses):
                yield of, Hit(int(places[a]), int(places[b - 1]) + 1, kind, score)
