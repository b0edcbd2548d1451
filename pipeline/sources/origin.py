"""Where a crawl is read from: politely over HTTP, or from a store or a folder that has the same layout.

Common Crawl can serve a few thousand requests a second to all its users together and answers 503, or 429 or 403, to those
who ask for too much (https://status.commoncrawl.org). So whoever fetches has few connections, says who it is, and waits
when told to: all connections of a process wait together, and longer each time.
"""

import email.utils
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import urllib3

from pipeline.errors import InputError, UsageError
from pipeline.sources.inputs import PositionedFile, open_input
from pipeline.sources.stores import StoreError, etag, is_remote

PIECE = 1 << 20
"""Bytes that are read at a time."""

LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most, unless the server asks for more."""

LONGEST_WAIT = 3600.0
"""Seconds that a server may ask us to wait; for more, whoever runs this had better come back another day."""

FORBIDDEN_ATTEMPTS = 3
"""How often 403 is asked again: it may mean "too fast", and then going on asking makes it worse."""


class MissingError(InputError):
    """There is no such file."""


class RangeError(InputError):
    """The file does not have these bytes, or its server serves no ranges."""


class GaveUpError(InputError):
    """The server did not answer as it should, however often it was asked."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How a server is asked: `contact` (an address or a page) is part of the User-Agent; `rate` is bytes a second over
    all connections of this process; `pause` seconds before the second attempt, doubled for each one after."""

    contact: str | None = None
    rate: int | None = None
    attempts: int = 9
    pause: float = 1.0
    timeout: float = 60.0

    @property
    def user_agent(self) -> str:
        """What requests call themselves."""
        try:
            number = version("crawlmill")
        except PackageNotFoundError:
            number = "unknown"
        contact = f"; {self.contact}" if self.contact else ""
        if not contact.isprintable() or not contact.isascii():
            raise UsageError(f"contact {self.contact!r} has characters that a header cannot hold; give plain ASCII")
        return f"crawlmill/{number} (Common Crawl access{contact})"


class Facts(NamedTuple):
    """A file as its server describes it; None where it does not say."""

    size: int | None
    etag: str | None
    modified: str | None

    @property
    def mark(self) -> str | None:
        """What If-Range compares: a strong ETag, or else the time of modification."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


class Body(NamedTuple):
    """A file from byte `start` on: `pieces` may end early, and may raise InputError at any time."""

    facts: Facts
    start: int
    pieces: Iterator[bytes]


class Origin(Protocol):
    """Files by the paths that lists of a crawl give."""

    def facts(self, path: str) -> Facts:
        """Size and mark of a file. Raises InputError."""
        ...

    def read(self, path: str) -> bytes:
        """All of a small file. Raises InputError."""
        ...

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises RangeError where the file does not have them all, InputError."""
        ...

    def body(self, path: str, start: int = 0, mark: str | None = None) -> Body:
        """The file from `start` on, if it still has that mark, else from its beginning. Raises InputError."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A file to be read here and there. Raises InputError here and on reading."""
        ...

    def address(self, path: str) -> str:
        """The whole address of a file."""
        ...


@lru_cache(maxsize=8)
def origin(base: str, manners: Manners, connections: int = 1) -> Origin:
    """What lies at a base address: https://, http://, a store's address, or a folder. One for a process."""
    if not base:
        raise UsageError("no base address; give https://data.commoncrawl.org/, s3://commoncrawl/ or a folder")
    if urlsplit(base).scheme in ("http", "https"):
        return Web(base, manners, connections)
    return Store(base)


class Store:
    """A folder, or a store that fsspec knows."""

    def __init__(self, base: str):
        self._base = base.removeprefix("file://").rstrip("/") + "/"
        # The last file of which ranges were read; next comes another range of it. For one thread.
        self._open: tuple[str, BinaryIO] | None = None
        if "://" not in self._base and not Path(self._base).is_dir():
            raise InputError(f"{base}: no such folder; it should be laid out as https://data.commoncrawl.org/ is")

    def address(self, path: str) -> str:
        """The whole address of a file."""
        return self._base + path

    def facts(self, path: str) -> Facts:
        """Size and mark of a file. Raises InputError."""
        address = self.address(path)
        with closing(self.open(path)) as file:
            size = file.seek(0, 2)
        if not is_remote(address):
            return Facts(size, None, f"mtime:{Path(address).stat().st_mtime_ns}")
        try:
            tag = etag(address)
        except StoreError as fault:
            raise InputError(f"{address}: {fault}") from fault
        return Facts(size, tag if tag is None or tag.startswith(('"', "W/")) else f'"{tag}"', None)

    def read(self, path: str) -> bytes:
        """All of a small file. Raises InputError."""
        with closing(self.open(path)) as file:
            return file.read()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises RangeError where the file does not have them all, InputError."""
        if self._open is None or self._open[0] != path:
            if self._open is not None:
                self._open[1].close()
            self._open = (path, self.open(path))
        file = self._open[1]
        file.seek(start)
        data = file.read(end - start)
        if len(data) < end - start:
            raise RangeError(f"{self.address(path)}: ends before byte {end}")
        return data

    def open(self, path: str) -> BinaryIO:
        """A file to be read here and there. Raises InputError here and on reading."""
        with _missing():
            return open_input(self.address(path), ahead=0)

    def body(self, path: str, start: int = 0, mark: str | None = None) -> Body:
        """The file from `start` on, if it still has that mark, else from its beginning. Raises InputError."""
        facts = self.facts(path)
        start = start if mark is not None and mark == facts.mark else 0
        return Body(facts, start, self._pieces(path, start))

    def _pieces(self, path: str, start: int) -> Iterator[bytes]:
        with _missing(), closing(open_input(self.address(path))) as file:
            file.seek(start)
            while data := file.read(PIECE):
                yield data


@contextmanager
def _missing() -> Iterator[None]:
    """Tells that a file is not there from all else that may be wrong with it."""
    try:
        yield
    except InputError as error:
        fault = error.__cause__
        if "no such file" in str(error) or (isinstance(fault, StoreError) and fault.missing):
            raise MissingError(str(error)) from None
        raise


class Pace:
    """When the next request or read may be made. Shared by the threads of a process."""

    def __init__(self, rate: int | None = None, clock: Callable[[], float] = time.monotonic, sleep: Any = time.sleep):
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._paid_until = 0.0

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def wait(self) -> None:
        """Until one may ask."""
        while (left := self._not_before - self._clock()) > 0:
            self._sleep(left)

    def spend(self, n: int) -> None:
        """Waits as long as `n` bytes may take."""
        if not self._rate:
            return
        with self._lock:
            self._paid_until = max(self._paid_until, self._clock()) + n / self._rate
            left = self._paid_until - self._clock()
        if left > 0:
            self._sleep(left)


class Web:
    """An HTTP server."""

    def __init__(self, base: str, manners: Manners, connections: int = 1):
        self._base = base.rstrip("/") + "/"
        self._manners = manners
        self._pace = Pace(manners.rate)
        settings: dict[str, Any] = {
            "maxsize": connections,
            "headers": {"User-Agent": manners.user_agent, "Accept-Encoding": "identity"},
            "timeout": urllib3.Timeout(connect=min(30.0, manners.timeout), read=manners.timeout),
            # Attempts are counted here, since a failed one makes all connections wait.
            "retries": urllib3.Retry(
                total=None, connect=0, read=0, redirect=5, status=0, other=0, respect_retry_after_header=False
            ),
        }
        place = urlsplit(self._base)
        proxy = urllib.request.getproxies().get(place.scheme)
        if proxy and not urllib.request.proxy_bypass(place.hostname or ""):
            self._pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, **settings)
        else:
            self._pool = urllib3.PoolManager(**settings)

    def address(self, path: str) -> str:
        """The whole address of a file."""
        return path if "://" in path else self._base + quote(path, safe="/=")

    def facts(self, path: str) -> Facts:
        """Size and mark of a file. Raises InputError."""
        answer = self._ask("HEAD", self.address(path))
        answer.drain_conn()
        return _facts(answer)

    def read(self, path: str) -> bytes:
        """All of a small file. Raises InputError."""
        return self._whole(self.address(path), {}, lambda answer: None)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises RangeError where the file does not have them all, InputError."""
        address = self.address(path)

        def check(answer: urllib3.BaseHTTPResponse) -> None:
            if answer.status != 206:
                raise GaveUpError(f"{address}: the server serves no ranges; fetch whole files from it")
            first, last, _ = _content_range(answer)
            if (first, last) != (start, end):
                raise RangeError(f"{address}: has no bytes {start} to {end}")

        data = self._whole(address, {"Range": f"bytes={start}-{end - 1}"}, check)
        if len(data) != end - start:
            raise RangeError(f"{address}: {len(data)} bytes where {end - start} were asked for")
        return data

    def open(self, path: str) -> BinaryIO:
        """A file to be read here and there. Raises InputError here and on reading."""
        return RangedFile(self, path)

    def body(self, path: str, start: int = 0, mark: str | None = None) -> Body:
        """The file from `start` on, if it still has that mark, else from its beginning. Raises InputError."""
        address = self.address(path)
        headers = {"Range": f"bytes={start}-", "If-Range": mark} if start and mark else {}
        try:
            answer = self._ask("GET", address, headers)
        except RangeError:  # it is shorter now
            answer = self._ask("GET", address)
        facts = _facts(answer)
        begins = 0
        if answer.status == 206:
            begins, _, size = _content_range(answer)
            facts = facts._replace(size=size)
            # Some servers answer a range whatever If-Range says.
            if begins != start or not headers or facts.mark != mark:
                _drop(answer)
                answer = self._ask("GET", address)
                if answer.status != 200:
                    raise InputError(f"{address}: answers with a range that was not asked for")
                facts, begins = _facts(answer), 0
        return Body(facts, begins, self._pieces(address, answer))

    def _pieces(self, address: str, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        ended = False
        try:
            for data in answer.stream(PIECE, decode_content=False):
                self._pace.spend(len(data))
                yield data
            ended = True
        except urllib3.exceptions.HTTPError as error:
            self._pace.hold(self._manners.pause)
            raise GaveUpError(f"{address}: {_words(error)}") from error
        finally:
            if ended:
                answer.release_conn()
            else:
                _drop(answer)

    def _whole(self, address: str, headers: dict[str, str], check: Callable[[urllib3.BaseHTTPResponse], None]) -> bytes:
        for attempt in range(1, self._manners.attempts + 1):
            answer = self._ask("GET", address, headers)
            try:
                check(answer)
                return b"".join(self._pieces(address, answer))
            except GaveUpError:
                _drop(answer)
                if attempt == self._manners.attempts:
                    raise
                self._pace.hold(self._backoff(attempt))
            except RangeError:
                _drop(answer)
                raise
        raise AssertionError("unreachable")

    def _backoff(self, attempt: int) -> float:
        return min(self._manners.pause * 2 ** (attempt - 1), LONGEST_PAUSE)

    def _ask(self, method: str, address: str, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        """An answer of status 200 or 206. Raises InputError."""
        headers = {**self._pool.headers, **(headers or {})}
        forbidden = 0
        for attempt in range(1, self._manners.attempts + 1):
            self._pace.wait()
            asked_to = None
            try:
                answer = self._pool.request(method, address, headers=headers, preload_content=False)
            except urllib3.exceptions.LocationValueError as error:
                raise InputError(f"{address}: {_words(error)}: check the address") from None
            except urllib3.exceptions.HTTPError as error:
                why = _words(error)
            else:
                if answer.status in (200, 206):
                    return answer
                why = f"HTTP {answer.status} {answer.reason or ''}".strip()
                asked_to = _retry_after(answer)
                _drop(answer)
                _refuse(answer.status, address, why)
                forbidden += answer.status == 403
            if attempt == self._manners.attempts or forbidden == FORBIDDEN_ATTEMPTS:
                break
            if asked_to is not None and asked_to > LONGEST_WAIT:
                raise GaveUpError(f"{address}: {why}, and to come back in {asked_to:.0f} s: run the same command then")
            self._pace.hold(self._backoff(attempt) if asked_to is None else asked_to)
        advice = "check the address; Common Crawl also answers so who asks too fast: wait, and use fewer connections"
        if not forbidden:
            advice = "run the same command again later, with fewer connections"
        raise GaveUpError(f"{address}: gave up after {attempt} attempts: {why}: {advice}")


class RangedFile(PositionedFile):
    """A file on a server, of which each read asks for just its bytes."""

    def __init__(self, web: Web, path: str):
        super().__init__()
        self._web, self._path, self._at = web, path, 0
        size = web.facts(path).size
        if size is None:
            raise InputError(f"{web.address(path)}: the server does not say how large it is")
        self._size = size

    def _take(self, n: int) -> bytes:
        return self._web.read_range(self._path, self._at, self._at + n)


def _drop(answer: urllib3.BaseHTTPResponse) -> None:
    """Ends the connection: what is left of the answer would come with the next one. Its place in the pool is kept."""
    answer.close()
    answer.release_conn()


def _refuse(status: int, address: str, why: str) -> None:
    """Raises where asking again is of no use."""
    if status in (404, 410):
        raise MissingError(f"{address}: {why}: check the name of the crawl and the address")
    if status == 416:
        raise RangeError(f"{address}: {why}")
    if status < 500 and status not in (403, 408, 425, 429):
        raise InputError(f"{address}: {why}: check the address and your rights to it")


def _facts(answer: urllib3.BaseHTTPResponse) -> Facts:
    length = answer.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() else None
    return Facts(size, answer.headers.get("ETag"), answer.headers.get("Last-Modified"))


def _content_range(answer: urllib3.BaseHTTPResponse) -> tuple[int, int, int | None]:
    """First byte, the one behind the last, and the size of the file."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    if found is None:
        return -1, -1, None
    return int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3])


def _retry_after(answer: urllib3.BaseHTTPResponse) -> float | None:
    """Seconds to wait, as a number or a date says."""
    said = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+", said, re.ASCII):
        return float(said[:9])
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
