"""Texts as a model reads them: one line each, made by a normalisation that has a name.

A fastText model is worth nothing on texts that were prepared in another way than those it learned from. So a model's
JSON names its normalisation, training and scoring apply it, and a name that is not known here is refused.

- `plain`: runs of white space become one space. Case, punctuation and digits stay.
- `dclm`: lines are joined by a space and the ends stripped, nothing else, as DCLM does before its oh_eli5 classifier.
- `words`: NFKC and small letters; every digit becomes 0; punctuation and symbols stand alone, and so does every letter of
  a script written without spaces; control and format characters and variation selectors go. Taken character by
  character, after letters and their combining accents (U+0300 to U+036F) have been composed.

In all of them the two tokens that fastText itself understands are broken up: `</s>`, at which it stops reading, and
`__label__`, which would make a label of a word.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dedup.normalise import unspaced, utf8
from pipeline.errors import InputError
from pipeline.signals.statistics.primitives import compiled

_LAST_ASSIGNED = 0x323B0
_COMBINING = "[\\x{0300}-\\x{036F}]"
_SELECTORS = range(0xFE00, 0xFE10)
_PIECES = 8
"""A shortened page is its beginning and so many pieces of the rest: menus stand at the top, comments at the end."""


def normalised(texts: pa.Array | pa.ChunkedArray, name: str) -> pa.LargeStringArray:
    """One line for each text, by the normalisation `name`; null stays null, a blank text becomes the empty string.

    Damaged UTF-8 becomes U+FFFD. Raises InputError for a name that is not known.
    """
    texts = strings(texts)
    return _known(name)(texts)


def names() -> tuple[str, ...]:
    """The normalisations that are known."""
    return tuple(_NORMALISATIONS)


def check(name: str) -> str:
    """`name`, if such a normalisation is known. Raises InputError."""
    _known(name)
    return name


def strings(texts: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> pa.LargeStringArray:
    """Any array of texts as one array of valid large strings."""
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        texts = pa.array((t and t.encode("utf-8", "replace").decode() for t in texts), pa.large_string())
    texts = texts.cast(pa.large_string())
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = texts.cast(pa.large_binary()).to_pylist()
        texts = pa.array([r if r is None else r.decode("utf-8", "replace") for r in raw], pa.large_string())
    return texts


def shortened(texts: pa.Array | pa.ChunkedArray, max_chars: int | None) -> pa.LargeStringArray:
    """Texts of at most `max_chars` characters: of a longer one the first half of them, and the other half in pieces
    spread evenly over the rest, a space between. Cut within words, where need be: two of them in a piece."""
    texts = strings(texts)
    if max_chars is None or len(texts) == 0 or texts.nbytes <= max_chars:
        return texts
    long = pc.greater(pc.fill_null(pc.binary_length(texts), 0), max_chars)
    if not pc.any(long).as_py():
        return texts
    short = pa.array([_sample(text, max_chars) for text in texts.filter(long).to_pylist()], pa.large_string())
    return pc.replace_with_mask(texts, long, short)


def _sample(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    size = max(1, (max_chars - head) // _PIECES - 1)
    step = (len(text) - head - size) / _PIECES
    starts = [head + round(step * (i + 1)) for i in range(_PIECES)]
    return " ".join([text[:head], *(text[at : at + size] for at in starts)])[:max_chars]


def _known(name: str) -> Callable[[pa.LargeStringArray], pa.LargeStringArray]:
    try:
        return _NORMALISATIONS[name]
    except (KeyError, TypeError):
        raise InputError(f"unknown text normalisation {name!r}; known: {', '.join(_NORMALISATIONS)}") from None


def _harmless(line: str) -> str:
    if "</s>" in line:
        line = line.replace("</s>", "< /s>")
    if "__label__" in line:
        line = line.replace("__label__", "__ label __")
    return line


def _plain(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    lines = (t if t is None else _harmless(" ".join(t.split())) for t in texts.to_pylist())
    return pa.array(lines, pa.large_string())


def _dclm(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    lines = (t if t is None else _harmless(" ".join(t.strip().splitlines())) for t in texts.to_pylist())
    return pa.array(lines, pa.large_string())


def _words(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    parted = pc.fill_null(pc.match_substring_regex(texts, _COMBINING), False)
    if pc.any(parted).as_py():
        whole = [unicodedata.normalize("NFC", text) for text in texts.filter(parted).to_pylist()]
        texts = pc.replace_with_mask(texts, parted, pa.array(whole, pa.large_string()))
    data, offsets = utf8(texts)
    pool, starts = _forms()
    out = np.empty(_count_bytes(data, offsets, starts), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    _write(data, offsets, pool, starts, out, ends)
    nulls = pc.is_valid(texts).cast(pa.uint8()).to_numpy() if texts.null_count else None
    valid = None if nulls is None else pa.py_buffer(np.packbits(nulls, bitorder="little"))
    return pa.Array.from_buffers(
        pa.large_string(), len(texts), [valid, pa.py_buffer(ends), pa.py_buffer(out[: ends[-1]])]
    )


_NORMALISATIONS: dict[str, Callable[[pa.LargeStringArray], pa.LargeStringArray]] = {
    "plain": _plain,
    "dclm": _dclm,
    "words": _words,
}


def form(char: str) -> str:
    """What `words` makes of one character: letters, a mark with a space on either side, a space, or nothing."""
    if char.isspace():
        return " "
    parts = []
    for part in unicodedata.normalize("NFKC", char).lower():
        category = unicodedata.category(part)
        if part.isspace():
            parts.append(" ")
        elif category == "Nd":
            parts.append("0")
        elif category in ("Cc", "Cf") or ord(part) in _SELECTORS:
            continue
        elif category[0] in "PS" or part in unspaced():
            parts.append(f" {part} ")
        else:
            parts.append(part)
    return "".join(parts)


@cache
def _forms() -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 of the forms of all code points one after another, and where each begins (int32, one more than points)."""
    forms = [form(chr(point)).encode("utf-8", "replace") for point in range(_LAST_ASSIGNED)]
    forms += [chr(point).encode() for point in range(_LAST_ASSIGNED, 0x110000)]
    starts = np.zeros(len(forms) + 1, np.int32)
    np.cumsum([len(f) for f in forms], out=starts[1:])
    return np.frombuffer(b"".join(forms), np.uint8), starts


@compiled
def _count_bytes(data: np.ndarray, offsets: np.ndarray, starts: np.ndarray) -> int:
    """No fewer bytes than `_write` writes."""
    total = 0
    i = offsets[0]
    end = offsets[-1]
    while i < end:
        b = np.int32(data[i])
        if b < 0x80:
            total += starts[b + 1] - starts[b]
            i += 1
            continue
        size = 4 if b >= 0xF0 else 3 if b >= 0xE0 else 2
        point = b & (0x07 if size == 4 else 0x0F if size == 3 else 0x1F)
        for k in range(1, size):
            point = point << 6 | np.int32(data[i + k]) & 0x3F
        total += starts[point + 1] - starts[point]
        i += size
    return total


@compiled
def _write(
    data: np.ndarray, offsets: np.ndarray, pool: np.ndarray, starts: np.ndarray, out: np.ndarray, ends: np.ndarray
) -> None:
    """Writes the forms of valid UTF-8, runs of spaces as one and none at the ends; `ends[r + 1]` is where text r ends."""
    at = 0
    for r in range(len(offsets) - 1):
        i = offsets[r]
        end = offsets[r + 1]
        inside = False  # the last thing written is no space
        while i < end:
            b = np.int32(data[i])
            if b < 0x80:
                point = b
                i += 1
            else:
                size = 4 if b >= 0xF0 else 3 if b >= 0xE0 else 2
                point = b & (0x07 if size == 4 else 0x0F if size == 3 else 0x1F)
                for k in range(1, size):
                    point = point << 6 | np.int32(data[i + k]) & 0x3F
                i += size
            for k in range(starts[point], starts[point + 1]):
                c = pool[k]
                if c != 32:
                    out[at] = c
                    at += 1
                    inside = True
                elif inside:
                    out[at] = c
                    at += 1
                    inside = False
        if not inside and at > ends[r]:
            at -= 1
        ends[r + 1] = at
