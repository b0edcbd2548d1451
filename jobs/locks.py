"""One run at a time on an output: a file on a disk, a lease in an object store.

OUT/.lock   {"host", "pid", "started", "token"} of who holds it; in a store also "beat", which is raised every few seconds

A file appears signed, by a link to a draft, and is taken over when the process that signed it has ended, which only its
own host can tell. A lease is taken over from any host when its beat has stopped for a while by the store's own clock; a
holder that could not renew it for almost as long stops first, and so does one that finds another's name in it. What
writes at such a moment on another machine does no harm: the same run writes the same bytes.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError, UsageError
from pipeline.sources import stores
from pipeline.sources.stores import StoreError

NAME = ".lock"
BEAT = 15.0
"""Seconds between two signs of life of a lease."""
STALE = 180.0
"""Seconds without one after which a lease may be taken over."""
GRACE = 150.0
"""Seconds without one after which its holder stops: less than STALE, and more than a store is waited for."""
ROUNDS = 5

_LOG = logging.getLogger("crawlmill.locks")


def check(folder: str) -> None:
    """Raises StorageError where this process held the lease of a folder and lost it."""
    lease = _HELD.get(folder)
    if lease is not None:
        lease.check()


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Holds a folder of a disk. Raises UsageError while a live process holds it, StorageError where it cannot be written."""
    path = folder / NAME
    mine = _signature()
    draft = folder / f".lock.{mine['token']}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(mine))
            with _alone(folder):
                _link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write to output {folder}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        yield
    finally:
        with _alone(folder):
            if _read(path).get("token") == mine["token"]:
                path.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> None:
    for _ in range(ROUNDS):
        try:
            try:
                os.link(draft, path)
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EMLINK):
                    raise
                # A file system without links: the lock is without a signature for a moment.
                with path.open("x") as sink:
                    sink.write(draft.read_text())
            return
        except FileExistsError:
            holder = _read(path) or _read_again(path)
            if holder and not _is_gone(holder):
                raise UsageError(
                    f"output {path.parent} is in use by another run ({_name(holder)}); wait for it, or remove {path} if that "
                    "run is no more"
                ) from None
            path.unlink(missing_ok=True)
    raise UsageError(f"output {path.parent} is being taken by several runs at once; try again")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this host at a time; others come from elsewhere and take nothing over."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some mounts know no such locks; then links alone have to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _read_again(path: Path) -> dict[str, Any]:
    """Gives whoever made a lock without links the time to sign it."""
    time.sleep(0.2)
    return _read(path)


def _signature() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "token": uuid.uuid4().hex}


def _started(pid: int) -> str | None:
    """When a process began, as its system counts; None where that is not told, "" where it has ended."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    return "" if facts[0] in "ZX" else facts[19]


def _is_gone(holder: dict[str, Any]) -> bool:
    """True only where the holder ran on this host and has ended; another process may have its number by now."""
    if holder.get("host") != socket.gethostname():
        return False
    ours = True
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        ours = False
    except (KeyError, ValueError, TypeError):
        return False
    started, known = _started(pid), holder.get("started")
    if not started:
        return started == "" and ours  # a process of another user may be hidden
    return known is not None and started != known


_HELD: dict[str, "Lease"] = {}


@contextmanager
def in_store(folder: str) -> Iterator[None]:
    """Holds a folder of an object store. Raises UsageError while another run holds it, StorageError where it cannot be
    written, or if it was lost while it was held."""
    lease = Lease(folder)
    try:
        lease.take()
    except StoreError as error:
        raise StorageError(f"cannot write to output {folder}: {error}") from error
    _HELD[folder] = lease
    done = threading.Event()
    beating = threading.Thread(target=lease.beat, args=(done,), name=f"lease of {folder}", daemon=True)
    beating.start()
    try:
        try:
            yield
        except Exception as error:
            if lease.lost:
                raise StorageError(lease.lost) from error
            raise
        lease.check()
    finally:
        done.set()
        beating.join(timeout=5)
        _HELD.pop(folder, None)
        lease.release()


class Lease:
    """A lock in an object store that has to be renewed."""

    def __init__(self, folder: str):
        self.folder = folder
        self.path = f"{folder}/{NAME}"
        self.mine = _signature()
        self.lost = ""
        self._beats = 0
        self._renewed = _clock()

    def take(self) -> None:
        """Takes the lease. Raises UsageError while another holds it."""
        for _ in range(ROUNDS):
            self._renewed = _clock()
            holder, tag = self._read()
            try:
                if holder is None:
                    stores.put(self.path, self._body(), new=True)
                elif holder.get("token") == self.mine["token"]:
                    pass  # it was taken, and the answer was lost
                elif _is_gone(holder) or self._silence(holder) > STALE:
                    if tag is None:
                        stores.remove(self.path)  # a store without conditions on what is there
                        stores.put(self.path, self._body(), new=True)
                    else:
                        stores.put(self.path, self._body(), instead_of=tag)
                if self._read()[0] == self._document():
                    self._test_conditions()
                    return
            except StoreError as refusal:
                if not refusal.refused:
                    raise
        raise UsageError(f"output {self.folder} is being taken by several runs at once; try again")

    def beat(self, done: threading.Event) -> None:
        """Renews the lease until `done`, or until it is lost."""
        while not done.wait(BEAT):
            try:
                self.renew()
            except StoreError as error:
                _LOG.warning("the lease of %s was not renewed: %s", self.folder, error)
            except Exception:  # a thread has nobody to tell, and the lease will run out
                _LOG.exception("the lease of %s was not renewed", self.folder)
            if self.lost or self._is_overdue():
                _stop_spark()
                return

    def renew(self) -> None:
        """One sign of life. Raises StoreError where the store cannot be reached."""
        began = _clock()
        holder, tag = self._read(BEAT)
        if holder is None or holder.get("token") != self.mine["token"]:
            self.lost = _words(self.folder, f"taken over by {_name(holder)}" if holder else "removed")
            return
        self._beats += 1
        try:
            stores.put(self.path, self._body(), instead_of=tag, patience=BEAT)
        except StoreError as refusal:
            if not refusal.refused:
                raise
            return  # read again at the next beat: it is another's, or ours after an answer that was lost
        self._renewed = began

    def check(self) -> None:
        """Raises StorageError where the lease is lost, or was not renewed for so long that it may be."""
        if not self.lost and self._is_overdue():
            seconds = _clock() - self._renewed
            self.lost = _words(self.folder, f"not renewed for {seconds:.0f} s, since the store could not be reached")
        if self.lost:
            raise StorageError(self.lost)

    def release(self) -> None:
        """Gives the lease back, if it is still held."""
        if self.lost or self._is_overdue():
            return
        try:
            holder, _ = self._read()
            if holder is not None and holder.get("token") == self.mine["token"]:
                stores.remove(self.path)
        except StoreError as error:  # it will run out
            _LOG.warning("the lease of %s was not given back: %s", self.folder, error)

    def _is_overdue(self) -> bool:
        return _clock() - self._renewed > GRACE

    def _document(self) -> dict[str, Any]:
        return {**self.mine, "beat": self._beats}

    def _body(self) -> bytes:
        return json.dumps(self._document()).encode()

    def _read(self, patience: float | None = None) -> tuple[dict[str, Any] | None, str | None]:
        """Who holds it, and the ETag of that: the tag first, so that it is never newer than the name."""
        try:
            tag = stores.etag(self.path, patience)
            return json.loads(stores.read_whole(self.path, patience)), tag
        except StoreError as error:
            if error.missing:
                return None, None
            raise
        except ValueError:
            return {}, tag

    def _silence(self, holder: dict[str, Any]) -> float:
        """Seconds since the last sign of life, by the store's clock. Raises UsageError while that is no reason to think
        that the holder has ended."""
        probe = f"{self.path}.{self.mine['token']}.tmp"
        try:
            stores.put(probe, b"")
            seconds = (stores.modified(probe) - stores.modified(self.path)).total_seconds()
        except StoreError as error:
            if not error.missing:
                raise
            return 0.0  # it was just given back
        finally:
            with suppress(StoreError):
                stores.remove(probe)
        if seconds > STALE:
            return seconds
        since = f"{_name(holder)}, last sign of life {max(0.0, seconds):.0f} s ago"
        raise UsageError(
            f"output {self.folder} is in use by another run ({since}); wait for it. If it is no more, the same command takes "
            f"over {STALE:.0f} s after its last sign of life"
        )

    def _test_conditions(self) -> None:
        """Says so where a store ignores the conditions that a lease stands on."""
        try:
            stores.put(self.path, self._body(), new=True)
        except StoreError as error:
            if error.refused:
                return
            raise
        warnings.warn(
            f"{self.folder}: this store ignores conditional writes (If-None-Match): of two runs that are begun on one output "
            f"within a second both go on, until the first one finds the other's name, {BEAT:.0f} s later",
            stacklevel=2,
        )


def _words(folder: str, what: str) -> str:
    return (
        f"the lease of output {folder} was {what}; this run has stopped, and the same command goes on where it stopped"
    )


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _clock() -> float:
    """Seconds, which pass while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _stop_spark() -> None:
    """Has whatever the main thread waits for end."""
    spark = sys.modules.get("pyspark")
    context = spark.SparkContext._active_spark_context if spark else None
    if context is not None:
        context.cancelAllJobs()
