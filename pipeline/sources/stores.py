"""Object stores and web servers: how they are opened, what is done when they fail, and what that is called.

All that reads or writes at an address goes through here, so that there is one way of trying again: `patiently` repeats
one request for as long as its failure may pass, with pauses that grow and are drawn at random, and then says in one line
what was wrong and what to do. The libraries below are told not to repeat anything themselves.

Settings are the usual ones of each store (environment, ~/.aws, the machine's role; FSSPEC_S3_… for all else), and are
found by every process for itself: an address is all that a task is sent.
"""

import errno
import functools
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from random import SystemRandom
from typing import Any, TypeVar

import fsspec

from pipeline.errors import CrawlmillError

PATIENCE = 120.0
"""Seconds for which a failing request is repeated."""
FIRST_PATIENCE = 60.0
"""The same before a store has answered this process at all: its address may be wrong."""
LOCAL_PATIENCE = 5.0
"""The same for a file on a disk, or what is mounted like one."""
PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds: the pause before attempt n + 2 is drawn between 0 and PAUSE · 2^n, or LONGEST_PAUSE if that is less."""
CONNECT, STALL = 10, 30
"""Seconds that a connection may take, and that one may stand still."""
PART = 32 << 20
"""Bytes of a part of a large object. S3 takes 10,000 of them: 320 GB."""
CONNECTIONS = 32

T = TypeVar("T")
_LOG = logging.getLogger("crawlmill.stores")
_JITTER = SystemRandom()  # workers are forked: a seeded generator would have them all come back together

_S3 = ("s3", "s3a")
_WEB = ("http", "https")
_COMMON_CRAWL = ("s3://commoncrawl/", "https://data.commoncrawl.org/")
"""Common Crawl's bucket answers no one without credentials; this server has the same files for all."""

_PACKAGES = {
    "s3": "crawlmill[s3]", "s3a": "crawlmill[s3]", "http": "crawlmill[http]", "https": "crawlmill[http]",
    "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "hf": "huggingface_hub",
    "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip


class StoreError(Exception):
    """Why a request was given up, and what to do about it, on one line. `missing`: there is no such object.
    `refused`: the condition of a conditional write did not hold. `unopened`: nothing was asked, since addresses of this
    kind cannot be used here."""

    def __init__(self, words: str, missing: bool = False, refused: bool = False, unopened: bool = False):
        super().__init__(words)
        self.missing, self.refused, self.unopened = missing, refused, unopened


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", path)) and not path.startswith("file://")


def _scheme(path: str) -> str:
    return path.partition("://")[0] if is_remote(path) else ""


# How they are opened


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What reads and writes at an address, and the address as it wants it. Raises StoreError.

    Made anew in every process and for every change of settings; listings are not kept, since others write too.
    """
    try:
        path = _elsewhere(path)
        scheme = _scheme(path)
        if scheme not in _S3 + _WEB:
            return fsspec.core.url_to_fs(path)
        key = (os.getpid(), scheme, *_settings())
        system = _OPEN.get(key) or _OPEN.setdefault(key, _s3() if scheme in _S3 else _web(scheme))
        return system, str(system._strip_protocol(path))
    except StoreError:
        raise
    except ImportError as error:
        package = _PACKAGES.get(_scheme(path))
        advice = f": pip install '{package}'" if package else ""
        raise StoreError(
            f"{_scheme(path)}:// needs a package that is not installed ({error}){advice}", unopened=True
        ) from None
    except Exception as error:  # what has no credentials, no Hadoop or a broken setting says so in its own way
        raise StoreError(f"{_said(error)}{_advice(error, path)}", unopened=True) from error


_OPEN: dict[tuple[Any, ...], Any] = {}


def _settings() -> tuple[str, ...]:
    """All that decides how S3 is reached."""
    environment = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    return (*environment, json.dumps(_configured(), sort_keys=True, default=str), str((CONNECT, STALL)))


def _configured() -> Mapping[str, Any]:
    return fsspec.config.conf.get("s3", {})


def _s3() -> Any:
    given = _configured()
    once = {"mode": "standard", "total_max_attempts": 1}
    waits = {"connect_timeout": CONNECT, "read_timeout": STALL, "max_pool_connections": CONNECTIONS}
    options: dict[str, Any] = {"config_kwargs": {"retries": once, **waits, **given.get("config_kwargs", {})}}
    if _is_anonymous():
        options["anon"] = True
        _LOG.info("no credentials for S3 were found: asking without")
    system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
    system.retries = 1
    return system


def _web(scheme: str) -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=STALL)
    return fsspec.filesystem(
        scheme, skip_instance_cache=True, use_listings_cache=False, client_kwargs={"timeout": timeout}
    )


def _is_anonymous() -> bool:
    given = _configured()
    if "anon" in given or any(given.get(name) for name in ("key", "username", "session")):
        return bool(given.get("anon"))
    return not _has_credentials(_settings(), given.get("profile"))


@functools.lru_cache
def _has_credentials(settings: tuple[str, ...], profile: str | None) -> bool:
    """Whether botocore finds any, in the environment, the files of ~/.aws or what the machine it runs on is given."""
    import botocore.session

    return botocore.session.Session(profile=profile).get_credentials() is not None


def _elsewhere(path: str) -> str:
    """Where a file of Common Crawl can be read without credentials, where there are none; else the path."""
    bucket, server = _COMMON_CRAWL
    elsewhere = "AWS_ENDPOINT_URL" in os.environ or "AWS_ENDPOINT_URL_S3" in os.environ
    if path.startswith(bucket) and not elsewhere and _is_anonymous():
        return server + path.removeprefix(bucket)
    return path


# When they fail


def patiently(path: str, act: Callable[[], T], patience: float | None = None) -> T:
    """What `act` returns, which is repeated while it fails for a reason that may pass, for `patience` seconds at most.

    It must be harmless to repeat. Raises StoreError; a CrawlmillError of `act` itself passes through.
    """
    began = time.monotonic()
    attempt = 0
    while True:
        try:
            done = act()
        except (CrawlmillError, StoreError):
            raise
        except Exception as error:  # stores raise what their libraries raise: botocore, aiohttp, ssl, …
            fault = _final(path, error)
            if fault:
                raise fault from error
            pause = max(_JITTER.uniform(0, min(LONGEST_PAUSE, PAUSE * 2**attempt)), _asked(error))
            attempt += 1
            waited = time.monotonic() - began
            left = (patience if patience is not None else _patience(path)) - waited
            if left <= 0:
                words = f"gave up after {attempt} attempts in {waited:.0f} s: {_said(error)}"
                raise StoreError(words + _advice(error, path)) from error
            _LOG.info("%s: %s; again in %.1f s", path, _said(error), pause)
            time.sleep(min(pause, left))
        else:
            _ANSWERED.add((os.getpid(), _scheme(path)))
            return done


_ANSWERED: set[tuple[int, str]] = set()


def _patience(path: str) -> float:
    if not is_remote(path):
        return LOCAL_PATIENCE
    return PATIENCE if (os.getpid(), _scheme(path)) in _ANSWERED else FIRST_PATIENCE


_PASSING = {
    "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted",
    "ConditionalRequestConflict", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "InternalError", "ServiceUnavailable",
}  # fmt: skip
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "507"}
_UNKNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "InvalidToken", "InvalidClientTokenId"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_REGION = {
    "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect",
    "301", "307",
}  # fmt: skip
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ConfigParseError", "TokenRetrievalError",
    "SSOTokenLoadError", "UnauthorizedSSOTokenError", "NoAuthTokenError",
}  # fmt: skip


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int, str, str, Mapping[str, str]]:
    """Status (0 where there was no answer), code, message and headers of the answer that was an error."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "Error" in response:
            about = response.get("ResponseMetadata", {})
            said = response["Error"]
            headers = {str(k).lower(): str(v) for k, v in about.get("HTTPHeaders", {}).items()}
            return (
                int(about.get("HTTPStatusCode") or 0),
                str(said.get("Code", "")),
                str(said.get("Message", "")),
                headers,
            )
        if isinstance(status := getattr(each, "status", None), int):
            given = getattr(each, "headers", None) or {}
            headers = {str(k).lower(): str(v) for k, v in given.items()}
            return status, str(status), str(getattr(each, "message", "")), headers
    return 0, "", "", {}


def _final(path: str, error: Exception) -> StoreError | None:
    """The fault that an error is which will not pass; None for one that may."""
    status, code, _, _ = _answer(error)
    words = f"{_said(error)}{_advice(error, path)}"
    if getattr(error, "errno", None) == errno.ELOOP:
        return StoreError("is a link that leads back to itself: leave it out")
    if status == 412 or isinstance(error, FileExistsError):
        return StoreError(words, refused=True)
    if code in _PASSING or status in _PASSING_STATUS:
        return None
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return StoreError(words, missing=code != "NoSuchBucket")
    if code in _FULL or 300 <= status < 500 or status in (501, 505, 507):
        return StoreError(words)
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return StoreError(words)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StoreError(words)
    if type(error).__name__ == "FileExpired":  # S3 was asked for the object that was opened
        return StoreError("it changed while being read")
    if type(error).__name__ in _NO_CREDENTIALS or isinstance(error, RecursionError):
        return StoreError(words)
    # A setting that makes no sense, or our own fault: the same again will not help.
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, NotImplementedError)):
        return StoreError(words)
    return None


def _asked(error: Exception) -> float:
    """Seconds for which the server asked not to be asked, a minute at most."""
    said = _answer(error)[3].get("retry-after", "")
    return min(60.0, float(said)) if re.fullmatch(r"\d{1,6}", said) else 0.0


def _said(error: Exception) -> str:
    _, code, message, _ = _answer(error)
    kind = type(error).__name__
    text = f"{code}: {message}" if code and not code.isdigit() else f"{kind}: {message or error or 'no answer'}"
    return " ".join(text.split())[:300].rstrip(".")


def _advice(error: Exception, path: str) -> str:
    """What to do, with a colon in front; "" where nothing is known."""
    status, code, _, headers = _answer(error)
    s3 = _scheme(path) in _S3
    advice = ""
    if code in _EXPIRED:
        advice = "the credentials have expired; renew them and run the same command again, it goes on where it stopped"
    elif code in _UNKNOWN:
        advice = (
            "the store does not know these credentials; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "and that AWS_ENDPOINT_URL is the store that they are for"
        )
    elif type(error).__name__ in _NO_CREDENTIALS:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile that there is"
    elif code == "NoSuchBucket":
        advice = "make the bucket, or check the address and AWS_ENDPOINT_URL"
    elif code == "RequestTimeTooSkewed":
        advice = "set this machine's clock"
    elif code in _REGION or isinstance(
        error, RecursionError
    ):  # botocore follows redirections, and may do so in circles
        region = headers.get("x-amz-bucket-region", "")
        advice = f"the bucket is in another region; set AWS_DEFAULT_REGION to it{f' ({region})' if region else ''}"
    elif code in _FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        advice = "the store is full; free some space and run the same command again, it goes on where it stopped"
    elif status in (401, 403) or isinstance(error, PermissionError):
        advice = _denied() if s3 else "check the credentials, and that they allow this" if is_remote(path) else ""
        advice = advice or "check its permissions"
    elif status in (404, 410) or isinstance(error, FileNotFoundError):
        advice = "check the address"
    elif isinstance(error, (IsADirectoryError, NotADirectoryError)):
        advice = "name a file"
    elif 400 <= status < 500 and status not in _PASSING_STATUS:
        advice = "check the address and your rights to it"
    elif status in _PASSING_STATUS or code in _PASSING:
        advice = "the store is overloaded or down; run the same command again later, it goes on where it stopped"
    elif s3 and not status and "Connect" in type(error).__name__:
        advice = "check the network and AWS_ENDPOINT_URL"
    return f": {advice}" if advice else ""


def _denied() -> str:
    try:
        anonymous = _is_anonymous()
    except Exception:  # the settings are broken, and that is what was said already
        anonymous = False
    if not anonymous:
        return (
            "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and that they allow this; a "
            "public bucket that refuses them is read without any by setting FSSPEC_S3_ANON=true"
        )
    _has_credentials.cache_clear()  # the machine's role may only have been slow to answer
    _OPEN.clear()
    return (
        "no credentials were found, so it was asked for without; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE"
    )


# What is asked of them


def read_whole(path: str, patience: float | None = None) -> bytes:
    """All bytes of an object, in one request. Raises StoreError."""

    def read() -> bytes:
        system, root = filesystem(path)
        # S3's way of fetching in parallel asks for the size first.
        return system.cat_file(root, **({"max_concurrency": 1} if _scheme(path) in _S3 else {}))

    return patiently(path, read, patience)


def put(
    path: str, body: bytes, *, new: bool = False, instead_of: str | None = None, patience: float | None = None
) -> None:
    """Writes a small object. Raises StoreError.

    With `new` it is refused where there is one already, with `instead_of` where that has another ETag by now: as far as
    the store knows conditional writes. S3 does; others only know `new`.
    """

    def write() -> None:
        system, root = filesystem(path)
        if not _speaks_s3(system):
            system.pipe_file(root, body, **({"mode": "create"} if new else {}))
            return
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": instead_of} if instead_of else {}
        bucket, key, _ = system.split_path(root)
        system.call_s3("put_object", Bucket=bucket, Key=key, Body=body, **condition)

    patiently(path, write, patience)


def etag(path: str, patience: float | None = None) -> str | None:
    """An object's ETag, where the store has such. Raises StoreError."""
    about = patiently(path, lambda: _about(path), patience)
    return about.get("ETag") or about.get("etag")


def has(path: str) -> bool:
    """Whether there is an object at an address. Raises StoreError."""
    nothing: dict[str, Any] = {}
    return _unless_missing(path, lambda: _about(path), nothing).get("type") == "file"


def modified(path: str) -> datetime:
    """When an object was written, by the store's clock. Raises StoreError."""

    def ask() -> datetime:
        system, root = filesystem(path)
        return system.modified(root)

    return patiently(path, ask)


def _about(path: str) -> dict[str, Any]:
    system, root = filesystem(path)
    return system.info(root)


def list_names(path: str) -> list[str]:
    """Last parts of the names in a folder, in no order; [] where there is none. Raises StoreError."""

    def ask() -> list[str]:
        system, root = filesystem(path)
        system.invalidate_cache(root)
        names = [str(name).rstrip("/") for name in system.ls(root, detail=False)]
        # A folder made in a console is an empty object of the folder's name.
        return [name.rsplit("/", 1)[-1] for name in names if name != root.rstrip("/")]

    return _unless_missing(path, ask, [])


def remove(path: str, tree: bool = False) -> None:
    """Removes an object, or a folder with all in it, if it is there. Raises StoreError."""

    def act() -> None:
        system, root = filesystem(path)
        system.invalidate_cache(root)
        system.rm(root, recursive=True) if tree else system.rm_file(root)

    _unless_missing(path, act, None)


def remove_drafts(path: str) -> None:
    """Gives up uploads under a folder that nobody will complete: they cost room, and no listing shows them."""
    system, root = filesystem(path)
    if not _speaks_s3(system):
        return
    bucket, key, _ = system.split_path(root)

    def ask() -> None:
        found = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/" if key else "")
        for upload in found.get("Uploads", ()):
            system.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    try:
        patiently(path, ask)
    except (
        StoreError
    ) as fault:  # a store without it, or a right that is not given: neither keeps a run from being right
        _LOG.info("%s: unfinished uploads were left where they are: %s", path, fault)


def _unless_missing(path: str, act: Callable[[], T], otherwise: T) -> T:
    try:
        return patiently(path, act)
    except StoreError as fault:
        if fault.missing:
            return otherwise
        raise


def _speaks_s3(system: Any) -> bool:
    return hasattr(system, "call_s3")


class Upload:
    """An object that is written piece by piece and appears, whole, with `commit`. Raises StoreError.

    On S3 it goes up in parts, each of which is repeated where it fails; elsewhere it waits on this machine's disk.
    """

    def __init__(self, path: str):
        self.path = path
        self._system, self._root = filesystem(path)
        self._held = bytearray()
        self._size = 0
        self._upload: str | None = None
        self._tags: list[str] = []
        self._spool: Any = None

    def write(self, body: Any) -> int:
        """Takes all of a buffer."""
        view = memoryview(body)
        view = view.cast("B") if view.nbytes else view
        self._size += view.nbytes
        for start in range(0, view.nbytes, PART):
            self._held += view[start : start + PART]
            if len(self._held) >= PART:
                self._send()
        return view.nbytes

    def commit(self) -> None:
        """Makes the object appear."""
        if self._upload is None and self._spool is None:
            put(self.path, bytes(self._held))
        elif self._spool is not None:
            self._send()
            self._spool.flush()
            patiently(self.path, lambda: self._system.put_file(self._spool.name, self._root))
            self._spool.close()
        else:
            self._send()
            parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, 1)]
            patiently(self.path, lambda: self._complete(parts))

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        try:
            self._ask("complete_multipart_upload", MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            # Asked for again, since the answer was lost: the upload is gone because it is complete.
            if int(self._system.info(self._root)["size"]) != self._size:
                raise

    def discard(self) -> None:
        """Forgets what was written."""
        if self._spool is not None:
            self._spool.close()
        if self._upload is not None:
            try:
                patiently(self.path, lambda: self._ask("abort_multipart_upload"), patience=PAUSE)
            except StoreError as fault:  # the store may be what failed; the next run gives up what is left
                _LOG.info("%s: an unfinished upload was left: %s", self.path, fault)

    def _send(self) -> None:
        """The next part, of all that is held."""
        if not self._held:
            return
        if not _speaks_s3(self._system):
            self._spool = self._spool or tempfile.NamedTemporaryFile(prefix="crawlmill-")  # noqa: SIM115 (closed with the upload)
            self._spool.write(self._held)
        else:
            if self._upload is None:
                made = patiently(self.path, lambda: self._ask("create_multipart_upload"))
                self._upload = str(made["UploadId"])
            body, number = bytes(self._held), len(self._tags) + 1
            sent = patiently(self.path, lambda: self._ask("upload_part", PartNumber=number, Body=body))
            self._tags.append(sent["ETag"])
        self._held = bytearray()

    def _ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        bucket, key, _ = self._system.split_path(self._root)
        if self._upload is not None:
            arguments["UploadId"] = self._upload
        return self._system.call_s3(method, Bucket=bucket, Key=key, **arguments)
