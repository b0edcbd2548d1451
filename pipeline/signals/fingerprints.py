"""Sets of millions of strings in a few bytes each, shared between processes through a memory map.

A set is a sorted table of 64-bit BLAKE2b fingerprints with gaps: a fingerprint's first slot is its value scaled to the
table, and those that collide follow in order, so that a look-up reads one or two neighbouring words and no search is
needed. A string that is not in a set of n is taken for a member with probability n / 2^64: 3e-13 at five million.
"""

import gzip
import hashlib
import mmap
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError, StorageError

_LOAD = 0.75  # of the slots in use: 10.7 bytes an entry; a look-up that misses reads 2.5 slots (measured at a million)
_HEADER = struct.Struct("<8s16sQQQQ")  # magic, digest of the lists, slots by formula, slots in all, wildcards, ignored
_MAGIC = b"cmill-f1"


class Fingerprints:
    """An immutable set of strings. `in` may err towards True with probability n / 2^64, never towards False."""

    def __init__(self, slots: memoryview, n_home: int, has_wildcards: bool):
        self._slots = slots
        self._n_home = n_home
        self.has_wildcards = has_wildcards
        """Whether entries with a leading `*.` are among the members."""
        self.n_bytes = slots.nbytes

    def __contains__(self, text: str) -> bool:
        return self.holds(fingerprint(text))

    def holds(self, value: int) -> bool:
        """Whether a fingerprint is in the table."""
        at = ((value >> 32) * self._n_home) >> 32
        slots = self._slots
        while True:
            held = slots[at]
            if held == value:
                return True
            if held == 0 or held > value:
                return False
            at += 1

    def covering(self, host: str) -> str | None:
        """The longest member that covers an ASCII `host`: itself, a domain above it, or `*.` and a domain above it."""
        suffix = host.encode("ascii")
        while True:
            if self.holds(_from_bytes(_blake2b(suffix, digest_size=8).digest(), "little") or 1):
                return suffix.decode("ascii")
            dot = suffix.find(b".")
            if dot < 0 or b":" in suffix:
                return None
            suffix = suffix[dot + 1 :]
            if self.has_wildcards and self.holds(fingerprint("*." + suffix.decode("ascii"))):
                return "*." + suffix.decode("ascii")


_blake2b, _from_bytes = hashlib.blake2b, int.from_bytes  # one look-up of a name fewer in the inner loops


def fingerprint(text: str) -> int:
    """The 64-bit fingerprint of a string, never 0, which marks an empty slot."""
    return _from_bytes(_blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


class Lines(NamedTuple):
    """The raw lines of several lists, and the digest of their bytes."""

    texts: list[bytes]
    digest: bytes


def lines_of(entries: Iterable[str | Path]) -> Lines:
    """Reads entries and list files (paths; .gz by name) in order. Raises InputError for a file that cannot be read."""
    loose: list[str] = []
    texts: list[bytes] = []
    for entry in entries:
        if isinstance(entry, Path):
            texts.append(_read(entry))
        else:
            loose.append(entry)
    if loose:
        texts.append("\n".join(loose).encode("utf-8", "surrogatepass"))
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return Lines(texts, digest.digest())


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read the list {path}: {error}") from error


def fingerprints_of_lines(
    lines: Lines, normal: Callable[[str], str | None], with_paths: bool, cache_dir: Path | None
) -> tuple[Fingerprints, int]:
    """The set of all entries, and how many entries were ignored because `normal` makes nothing of them.

    `normal` is applied to entries that are not plain already; `with_paths` says that every entry needs it. With a
    `cache_dir` the table is stored there under the digest of its input, and mapped from there the next time.
    """
    if cache_dir is None:
        slots, n_home, wildcards, ignored = _build(lines.texts, normal, with_paths)
        return Fingerprints(slots.data, n_home, wildcards), ignored
    path = cache_dir / f"urls-{'paths' if with_paths else 'hosts'}-{lines.digest.hex()}.fingerprints"
    cached = _map(path, lines.digest)
    if cached is None:
        slots, n_home, wildcards, ignored = _build(lines.texts, normal, with_paths)
        header = _HEADER.pack(_MAGIC, lines.digest, n_home, len(slots), wildcards, ignored)
        _store(path, header, slots)
        cached = _map(path, lines.digest)
        if cached is None:
            raise StorageError(f"the table just written to {path} cannot be read back; is the disk full?")
    return cached


def _build(
    texts: Iterable[bytes], normal: Callable[[str], str | None], with_paths: bool
) -> tuple[np.ndarray, int, bool, int]:
    counts = {"ignored": 0, "wildcards": 0}
    parts = [np.empty(0, np.uint64), *_values(texts, normal, with_paths, counts)]
    values = np.maximum(np.concatenate(parts), np.uint64(1))
    values.sort()  # not np.unique, which hashes and takes a hundred times as long
    slots, n_home = _place(values[np.diff(values, prepend=np.uint64(0)) > 0])
    return slots, n_home, counts["wildcards"] > 0, counts["ignored"]


def _place(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Slots that hold the sorted `values`, each at its home or the next free slot after it, and the number of homes."""
    n_home = max(1, int(len(values) / _LOAD))
    home = ((values >> np.uint64(32)) * np.uint64(n_home) >> np.uint64(32)).astype(np.int64)
    order = np.arange(len(values))
    position = np.maximum.accumulate(home - order) + order if len(values) else home
    slots = np.zeros(max(n_home, int(position[-1]) + 1 if len(values) else 0) + 1, np.uint64)  # a 0 ends every search
    slots[position] = values
    return slots, n_home


_PLAIN_HOST = re.compile(rb"[a-z0-9_\-]+(?:\.[a-z0-9_\-]+)*")


def _values(
    texts: Iterable[bytes], normal: Callable[[str], str | None], with_paths: bool, counts: dict[str, int]
) -> Iterator[np.ndarray]:
    """Fingerprints of all entries, in no order. Nearly every line of a long list is plain and takes the short way."""
    plain = _PLAIN_HOST.fullmatch
    for text in texts:
        lines = text.split(b"\n")
        for first in range(0, len(lines), 1 << 16):
            chunk = lines[first : first + (1 << 16)]
            short = [] if with_paths else [line for line in chunk if plain(line)]
            yield np.frombuffer(b"".join([_blake2b(line, digest_size=8).digest() for line in short]), "<u8")
            if len(short) < len(chunk):
                yield np.fromiter(_odd_values(chunk, normal, with_paths, counts), np.uint64)


def _odd_values(
    lines: Iterable[bytes], normal: Callable[[str], str | None], with_paths: bool, counts: dict[str, int]
) -> Iterator[int]:
    for raw in lines:
        line = raw.decode("utf-8", "replace").strip()
        if not line or line.startswith("#") or (not with_paths and _PLAIN_HOST.fullmatch(raw)):
            continue
        entry = normal(line.split(" #")[0].split("\t#")[0].strip())
        if entry is None:
            counts["ignored"] += 1
            continue
        counts["wildcards"] += entry.startswith("*.")
        yield fingerprint(entry)


def _store(path: Path, header: bytes, slots: np.ndarray) -> None:
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp", delete=False) as file:
            draft = Path(file.name)
            file.write(header)
            file.write(slots.data.cast("B"))
        draft.replace(path)  # whoever else writes it at the same time writes the same bytes
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise StorageError(f"cannot write the URL list cache {path}: {error.strerror}") from error


def _map(path: Path, digest: bytes) -> tuple[Fingerprints, int] | None:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # mmap of an empty file is a ValueError
        return None
    except OSError as error:
        raise StorageError(f"cannot read the URL list cache {path}: {error.strerror}") from error
    if len(mapped) < _HEADER.size:
        return None
    magic, held, n_home, n_slots, wildcards, ignored = _HEADER.unpack_from(mapped)
    if magic != _MAGIC or held != digest or len(mapped) != _HEADER.size + 8 * n_slots:
        return None
    return Fingerprints(memoryview(mapped)[_HEADER.size :].cast("Q"), n_home, bool(wildcards)), ignored
