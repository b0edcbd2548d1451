"""Runs a function over items in a child process, so that an item that hangs, aborts or eats memory costs only itself.

The items of a batch travel in one message and the results come back one by one, so a death or a time-out is always
charged to the item that caused it, and pages that behave pay one pickle each way and nothing else.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
Kind = Literal["timeout", "crash", "memory", "exception"]

_FRAME = struct.Struct("<c?Q")  # kind of frame, whether the child ends after it, bytes of payload
_BATCH, _ITEM, _RESULT, _EXCEPTION, _MEMORY = b"b", b"i", b"r", b"x", b"m"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MEGABYTE = 1 << 20
_STDERR_KEPT = 64 * 1024  # bytes of a child's stderr before it is wiped; the end of it explains a death
_OUT_OF_MEMORY = ("memory allocation of", "bad_alloc", "out of memory")  # last words of Rust, C++ and C programs


@dataclass(frozen=True, slots=True)
class Result(Generic[Value]):
    """What the function returned for one item."""

    value: Value


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result for one item: its kind, and one line in words."""

    kind: Kind
    message: str


class Sandbox(Generic[Item, Value]):
    """Calls `function` on items in one forked child at a time. Use as a context manager, or call `close`.

    The child is forked from this process, so what is imported and loaded here is there at once; load it first.
    `timeout_s` is wall time for one item. `memory_mb` is how far the child's address space may grow beyond its size at
    the fork; `recycle_mb` is how far its resident memory may stay grown after a batch before it is replaced (lxml and
    trafilatura keep some memory of every page). A crash, or running out of memory, in a child that had served other
    items before is tried once more in a fresh one, so that an outcome depends on the item alone.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        recycle_mb: int = 256,
        batch_size: int = 64,
        batch_bytes: int = 16 * _MEGABYTE,
    ) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._recycle_mb = recycle_mb
        self._batch_size = batch_size
        self._batch_bytes = batch_bytes
        self._child: _Child | None = None

    def __enter__(self) -> "Sandbox[Item, Value]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child, if there is one. The sandbox can be used again and forks a new one then."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None before the first batch and after `close`."""
        return self._child.pid if self._child is not None else None

    def run(self, item: Item) -> Result[Value] | Failure:
        """The outcome for one item. Batches through `map` cost less."""
        return next(self.map([item]))

    def map(self, items: Iterable[Item]) -> Iterator[Result[Value] | Failure]:
        """One outcome for each of `items`, in order, read and run a batch at a time.

        Raises whatever pickling an item raises: that is the caller's mistake, not the item's.
        """
        batch: list[bytes] = []
        size = 0
        for item in items:
            message = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
            batch.append(message)
            size += len(message)
            if len(batch) >= self._batch_size or size >= self._batch_bytes:
                yield from self._run(batch)
                batch, size = [], 0
        if batch:
            yield from self._run(batch)

    def _run(self, batch: list[bytes]) -> Iterator[Result[Value] | Failure]:
        """Outcomes of a batch, going on in a fresh child after each death."""
        done = 0
        retried = -1  # index of the item that is having its second chance
        while done < len(batch):
            if self._child is None:
                self._child = _Child(self._function, self._memory_mb, self._recycle_mb)
            child = self._child
            finished = False
            try:
                if not child.send(batch[done:], self._timeout_s):
                    raise _DiedError
                while done < len(batch):
                    kind, retires, payload = child.receive(self._timeout_s)
                    if kind == _MEMORY:
                        raise _DiedError
                    outcome = _outcome(kind, payload)
                    done += 1
                    child.served += 1
                    finished = done == len(batch)
                    if retires:
                        self.close()
                    yield outcome
            except _LateError:
                self.close()
                yield Failure("timeout", f"no result within {self._timeout_s:g} s")
                done += 1
            except _DiedError:
                served = child.served
                failure = child.obituary(self._memory_mb)
                self._child = None
                if served and retried != done:
                    retried = done
                    continue
                yield failure
                done += 1
            finally:
                # A caller that stops listening half-way leaves results of this batch in the pipe: start afresh.
                if not finished and self._child is child:
                    self.close()


class _LateError(Exception):
    """The child did not answer in time."""


class _DiedError(Exception):
    """The child is gone, or says that it has to go."""


def _outcome(kind: bytes, payload: bytes) -> Result[Any] | Failure:
    if kind == _EXCEPTION:
        return Failure("exception", payload.decode("utf-8", "replace"))
    try:
        return Result(pickle.loads(payload))
    except Exception as error:  # unpickling runs code of the item's class, which can raise anything
        return Failure("exception", f"result cannot be unpickled: {type(error).__name__}: {error}")


class _Child:
    """One forked process and the pipes to it."""

    def __init__(self, function: Callable[[Any], Any], memory_mb: int, recycle_mb: int) -> None:
        self.served = 0
        self._said_memory = False
        self._stderr = _anonymous_file()
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.close(self._write)
                os.close(self._read)
                _settle(parent, self._stderr, memory_mb)
                code = _serve(function, to_child, from_child, recycle_mb)
            finally:
                os._exit(code)  # never the parent's clean-up
        os.close(to_child)
        os.close(from_child)
        os.set_blocking(self._write, False)

    def send(self, batch: list[bytes], timeout_s: float) -> bool:
        """Writes the batch; False if the child died, or stopped reading, before it had all of it."""
        parts = [_FRAME.pack(_BATCH, False, len(batch))]
        for message in batch:
            parts += (_FRAME.pack(_ITEM, False, len(message)), message)
        left = memoryview(b"".join(parts))
        while left:
            try:
                left = left[os.write(self._write, left[:_MEGABYTE]) :]
            except BlockingIOError:
                if not select.select((), (self._write,), (), max(timeout_s, 5.0))[1]:
                    return False
            except BrokenPipeError:
                return False
        return True

    def receive(self, timeout_s: float) -> tuple[bytes, bool, bytes]:
        """The next frame: its kind, whether the child ends now, its payload. Raises _LateError or _DiedError."""
        deadline = time.monotonic() + timeout_s
        kind, retires, size = _FRAME.unpack(self._read_exactly(_FRAME.size, deadline))
        if kind == _MEMORY:
            self._said_memory = True
        return kind, retires, self._read_exactly(size, deadline)

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        chunks: list[bytes] = []
        while size:
            if not select.select((self._read,), (), (), max(0.0, deadline - time.monotonic()))[0]:
                raise _LateError
            chunk = os.read(self._read, min(size, _MEGABYTE))
            if not chunk:
                raise _DiedError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def kill(self) -> int:
        """Ends the process whatever it does (native loops ignore every other signal). Returns its wait status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self._reap()

    def _reap(self) -> int:
        try:
            status = os.waitpid(self.pid, 0)[1]
        except ChildProcessError:  # somebody else's handler reaped it
            status = 0
        for descriptor in (self._write, self._read, self._stderr):
            os.close(descriptor)
        return status

    def obituary(self, memory_mb: int) -> Failure:
        """Why the child died, from its wait status and the end of its stderr; it is reaped."""
        if not self._said_memory:
            # Its end of the pipe is closed or broken; give it the moment that dying takes.
            deadline = time.monotonic() + 1.0
            while (
                time.monotonic() < deadline
                and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.001)
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, 2000, max(0, size - 2000)).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        status = self.kill()
        if self._said_memory or any(sign in last.lower() for sign in _OUT_OF_MEMORY):
            return Failure("memory", f"needed more than {memory_mb} MB" + (f": {last[:200]}" if last else ""))
        number = os.waitstatus_to_exitcode(status)
        how = f"killed by {signal.Signals(-number).name}" if number < 0 else f"exited with status {number}"
        return Failure("crash", how + (f": {last[:200]}" if last else ""))


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandbox-stderr")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _settle(parent: int, stderr: int, memory_mb: int) -> None:
    """What a new child does first: tie its life to the parent's, catch what it prints, limit its memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)
    faulthandler.disable()
    os.dup2(stderr, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _memory_pages()[0] * resource.getpagesize() + memory_mb * _MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    gc.freeze()  # what came from the parent stays shared


def _memory_pages() -> tuple[int, int]:
    """Address space and resident size of this process in memory pages; zeros where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            total, resident = file.read().split()[:2]
    except OSError:
        return 0, 0
    return int(total), int(resident)


def _serve(function: Callable[[Any], Any], source: int, sink: int, recycle_mb: int) -> int:
    """The child's life: batch after batch until the parent hangs up. Returns its exit status."""
    bound = _memory_pages()[1] + recycle_mb * _MEGABYTE // resource.getpagesize()
    while True:
        try:
            # The whole batch is read before the first answer, so that both ends never wait on full pipes at once.
            header = _read_all(source, _FRAME.size)
            if header is None:
                return 0
            batch = []
            for _ in range(_FRAME.unpack(header)[2]):
                header = _read_all(source, _FRAME.size)
                message = _read_all(source, _FRAME.unpack(header)[2]) if header is not None else None
                if message is None:
                    return 0
                batch.append(message)
        except MemoryError:
            _write_all(sink, _FRAME.pack(_MEMORY, True, 0))
            return 71
        batch.reverse()
        while batch:
            if os.lseek(2, 0, os.SEEK_CUR) > _STDERR_KEPT:
                os.ftruncate(2, 0)
                os.lseek(2, 0, os.SEEK_SET)
            kind, payload = _call(function, batch.pop())
            retires = kind == _MEMORY or (not batch and _memory_pages()[1] > bound)
            if not _write_all(sink, _FRAME.pack(kind, retires, len(payload)), payload):
                return 0
            if retires:
                return 0


def _call(function: Callable[[Any], Any], message: bytes) -> tuple[bytes, bytes]:
    try:
        return _RESULT, pickle.dumps(function(pickle.loads(message)), protocol=pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        return _MEMORY, b""
    except BaseException as error:  # a panic of a Rust library is no Exception
        try:
            words = " ".join(str(error).split())
        except Exception:
            words = "(its message cannot be shown)"
        return _EXCEPTION, f"{type(error).__name__}: {words}"[:500].encode("utf-8", "replace")


def _read_all(descriptor: int, size: int) -> bytes | None:
    """Exactly `size` bytes, or None at the end of the pipe."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        n = os.readv(descriptor, [view[:_MEGABYTE]])
        if not n:
            return None
        view = view[n:]
    view.release()
    return bytes(buffer)


def _write_all(descriptor: int, *parts: bytes) -> bool:
    """Writes everything; False when the parent is gone."""
    for part in parts:
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(descriptor, view[:_MEGABYTE]) :]
            except BrokenPipeError:
                return False
    return True


__all__ = ["Failure", "Kind", "Result", "Sandbox"]
