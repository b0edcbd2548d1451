"""What lies in a checkpoint's folder: its name, its manifest with the SHA-256 of every file, and whether all is there."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from pipeline.errors import StorageError

FORMAT = 1
MANIFEST, STATE, GOOD = "manifest.json", "state.json", "good"
THREADS = 4
"""Files that a rank writes and hashes at one time, where it has much to write."""

NAME = re.compile(r"step-(\d{8,})")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(StorageError):
    """A checkpoint that cannot be written, or cannot be read: names it, says why, and which other can be used."""


def complete(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the complete checkpoints in a folder, oldest first; none where there is no folder."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            named = NAME.fullmatch(path.name)
            if named and (path / MANIFEST).exists():
                found.append((int(named[1]), path))
    return sorted(found)


def manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of a checkpoint: `about`, the files, `sha256` of it all. Raises CheckpointError where it is damaged."""
    path = Path(path)
    try:
        body = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        said = body["sha256"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is no checkpoint: it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read: {reason(error)}") from error
    if said != digest({name: value for name, value in body.items() if name != "sha256"}):
        raise CheckpointError(f"{path / MANIFEST} is not what was written: its SHA-256 differs")
    if body["format"] != FORMAT:
        raise CheckpointError(f"{path} is of format {body['format']}, this version reads {FORMAT}")
    return body


def damage(path: Path, rank: int = 0, size: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, or None; with several ranks, with this one's share of them."""
    try:
        files = manifest(path)["files"]
    except CheckpointError as error:
        return str(error)
    mine = sorted(files)[rank::size]
    for name in mine:
        try:
            found = (path / name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found != files[name]["bytes"]:
            return f"{name} has {found:,} bytes, {files[name]['bytes']:,} were written"
    with ThreadPoolExecutor(THREADS) as threads:
        for name, entry in zip(mine, threads.map(lambda n: hash_of(path / n), mine), strict=True):
            if entry["sha256"] != files[name]["sha256"]:
                return f"{name} is not what was written: its SHA-256 differs"
    return None


def hashes(draft: Path, rank: int) -> dict[str, Any]:
    """Those of the files that this rank wrote; read from the system's memory, seconds after they were written."""
    paths = sorted(draft.glob(f"__{rank}_*"))
    with ThreadPoolExecutor(THREADS) as threads:
        return {path.name: entry for path, entry in zip(paths, threads.map(hash_of, paths), strict=True)}


def hash_of(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def name_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def write_text(path: Path, text: str) -> None:
    """Writes a file that lasts through a loss of power."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Makes the names in a folder last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a folder; under another name first, so that half of it never counts."""
    gone = path.with_name(f".{path.name.lstrip('.')}.gone")
    path.rename(gone)
    shutil.rmtree(gone)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that led to it, on any rank."""
    found, new = [], [error]
    while new:
        at = new.pop()
        found.append(at)
        if isinstance(at, CheckpointException):
            new += [failure[0] for failure in at.failures.values()]
        new += [cause for cause in (at.__cause__, at.__context__) if cause is not None and cause not in found]
    return found


def is_full(error: BaseException) -> bool:
    """Whether a full disk is behind it."""
    return any(isinstance(e, OSError) and e.errno in _FULL for e in _causes(error))


def reason(error: BaseException) -> str:
    """One line."""
    first = next((e for e in _causes(error) if not isinstance(e, CheckpointException)), error)
    return " ".join(f"{type(first).__name__}: {first}".split())[:300]


def no_room(draft: Path, size: int) -> bool:
    """Whether the disk cannot hold more of a checkpoint that was begun: asked for, it says so itself."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return False
    rest = size - sum(path.stat().st_size for path in draft.iterdir())
    try:
        with (draft / "room").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, min(max(rest, 1), 2**26))
    except OSError as error:
        return is_full(error)
    return False


def full(folder: Path, size: int, free: int) -> str:
    """What to say of a full disk; sizes in bytes, 0 where they are not known."""
    sizes = f" ({size / 1e9:,.3f} GB are needed, {free / 1e9:,.3f} are free)" if size else ""
    return f"the disk of {folder} is full{sizes}: make room, or lower checkpoint.keep"
