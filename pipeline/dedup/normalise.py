"""Texts as deduplication compares them: normalised, hashed whole and line by line.

The normalisation is that of RefinedWeb (arXiv 2306.01116, appendix on deduplication: NFD, accents, lower case,
punctuation, white space), taken character by character: each becomes one character, a space, or nothing.

- White space becomes a space (as do the marks that part words in Tibetan and Ethiopic); runs become one, ends none.
- Combining marks (Mn, Me) go, and a character that NFD takes apart becomes its only part that is no such mark.
- Letters become small. Punctuation goes without leaving a space: categories P and Sk, and the symbols of ASCII. Other
  symbols stay: emoji are all that some texts have. Control and format characters (Cc, Cf) go.

Where this is not NFD and `str.lower` over the whole text: Hangul syllables, some vowel signs of India and notes of music,
which NFD takes into several characters that stay, are left composed; a capital sigma that ends a word becomes σ, not ς.

What a character is, Python's `unicodedata` says: characters younger than its Unicode version are letters to it.

Words stand between spaces. In scripts that are written without spaces each character is a word of its own.
"""

import hashlib
import string
import unicodedata
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dedup.kernel import DROPPED, LETTER, SPACE, WORD, find_lines, hash_word, normalise_texts
from pipeline.signals.statistics.characters import code_points

UNSPACED = """
    0E01-0E3A 0E40-0E4E 0E81-0ECE 0EDC-0EDF 1000-103F 1050-108F 109A-109D 1780-17D3 17D7 17DC-17DD 1950-1974 1980-19C9
    1A20-1A7C 1B05-1B4C A984-A9C0 AA60-AA7F AA80-AADF A9E0-A9EF A9FA-A9FE 2E80-2FDF 3005-3007 3021-3029 3031-3035
    3038-303B 3040-30FF 3105-312F 31A0-31BF 31F0-31FF 3400-4DBF 4E00-9FFF F900-FAFF FF66-FF9F 16FE0-18CFF 18D00-18D08
    1AFF0-1B2FF 20000-323AF
"""
"""Letters and marks of the scripts without spaces between words, after the blocks of Unicode: Thai, Lao, Myanmar, Khmer,
Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet, Han, Bopomofo, Hiragana, Katakana, Tangut, Khitan, Nushu."""
_SEPARATORS = "\u0f0b\u0f0c\u1361"
_LAST_ASSIGNED = 0x323B0
_TAGS = range(0xE0000, 0xE01F0)
_WHOLE = ("Lo", "Cn", "Co", "Cs")  # without a decomposition, these are their own form


class Lines(NamedTuple):
    """Lines with at least one word, ordered by row and start; arrays of one length.

    `rows` int32: number of the text; `keys` uint64: hash of the normalised line; `starts`, `ends` int32: characters of
    the text, the newline that closes the line included; `words` int32: how many.
    """

    rows: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    words: np.ndarray


def folded(char: str) -> str:
    """The form of one character: another one, a space, or nothing."""
    category = unicodedata.category(char)
    if category in _WHOLE and not unicodedata.decomposition(char):
        return char
    if char.isspace() or char in _SEPARATORS:
        return " "
    parts = [part for part in unicodedata.normalize("NFD", char) if unicodedata.category(part) not in ("Mn", "Me")]
    if not parts:
        return ""
    form = (parts[0] if len(parts) == 1 else char).lower()
    category = unicodedata.category(form)
    if category[0] == "P" or category in ("Sk", "Cc", "Cf") or form in string.punctuation:
        return ""
    return form


def normalised(text: str) -> str:
    """The normalised text in plain Python: what the compiled code computes, slow and clear."""
    return " ".join("".join(map(folded, text)).split())


@cache
def unspaced() -> frozenset[str]:
    """Characters that are a word each."""
    return frozenset(map(chr, code_points(UNSPACED)))


def words(text: str, normalise: bool = True) -> list[str]:
    """The words of a text in plain Python, in order; without `normalise` those of the text as it stands."""
    if normalise:
        text = normalised(text)
    apart = (f" {c} " if c in unspaced() else " " if c in _SEPARATORS or c.isspace() else c for c in text)
    return [word for word in "".join(apart).split(" ") if word]


def line_key(line: str) -> int:
    """The 64-bit key of a line in plain Python."""
    return hash_word(normalised(line))


@cache
def forms(normalise: bool = True) -> np.ndarray:
    """uint32 of every code point (0x110000 of them): the form that it takes and its kind, as above."""
    points = np.arange(0x110000, dtype=np.uint32)
    table = points + 1 << 2 | LETTER
    for point in (*range(_LAST_ASSIGNED), *_TAGS):
        if normalise:
            form = folded(chr(point))
            table[point] = (ord(form) + 1 << 2 | LETTER if form != " " else SPACE) if form else DROPPED
        elif chr(point).isspace() or chr(point) in _SEPARATORS:
            table[point] = SPACE
    alone = np.zeros(len(table) + 1, np.bool_)
    alone[np.array(code_points(UNSPACED)) + 1] = True
    table[alone[table >> 2]] |= WORD
    table.flags.writeable = False
    return table


def utf8(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and int64 offsets of an array of strings; null is the empty text."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.cast(pa.large_string()).combine_chunks()
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    if len(texts) == 0:
        return read_only(np.zeros(0, np.uint8)), read_only(np.zeros(1, np.int64))
    _, offsets, data = texts.buffers()
    kind = np.int32 if pa.types.is_string(texts.type) else np.int64
    at = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return read_only(np.frombuffer(data or b"", np.uint8)), read_only(at)


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array, of the one type that the kernels are compiled for."""
    array = array.view()
    array.flags.writeable = False
    return array


def text_hashes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64 [n, 2]: the 128-bit hash of every normalised text (blake2b of its UTF-8), big-endian halves.

    Texts of which nothing is left, and null, hash as the empty text.
    """
    data, offsets = utf8(texts)
    out = np.empty(3 * int(offsets[-1] - offsets[0]), np.uint8)  # a damaged byte becomes the three of U+FFFD
    ends = np.empty(len(offsets), np.int64)
    normalise_texts(data, offsets, forms(), out, ends)
    view = out.data
    at = ends.tolist()
    digests = [hashlib.blake2b(view[a:b], digest_size=16).digest() for a, b in pairwise(at)]
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def lines(texts: pa.Array | pa.ChunkedArray) -> Lines:
    """The lines of every text that hold a word, with keys and places."""
    data, offsets = utf8(texts)
    most = int(np.count_nonzero(data[offsets[0] : offsets[-1]] == 10)) + len(offsets) - 1
    keys = np.empty(most, np.uint64)
    rows, starts, ends, counts = (np.empty(most, np.int32) for _ in range(4))
    n = find_lines(data, offsets, forms(), rows, keys, starts, ends, counts)
    return Lines(rows[:n], keys[:n], starts[:n], ends[:n], counts[:n])
