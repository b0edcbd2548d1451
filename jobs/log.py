"""Structured logs: what happens to a run, one event a line, as JSON or as text. Nothing is written unless it is asked for.

`CRAWLMILL_LOG` names a file, or `-` for stderr; `CRAWLMILL_LOG_FORMAT` is json or text. Credentials are masked.
"""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UsageError

FORMATS = ("json", "text")

_LOGGER = logging.getLogger("crawlmill")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False

_context: dict[str, Any] = {}


class Settings(NamedTuple):
    """Where events go (a file, or - for stderr) and in which of FORMATS."""

    target: str
    format: str = "json"


_settings: Settings | None = None


_SECRETS = (
    # user:password@ of an address
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE), r"\1***@"),
    # what signs a request: of S3, Google, Azure and others
    (
        re.compile(
            r"(?i)([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid|"
            r"key-pair-id|policy|(?:access_?|auth_?|api_?|session_?|refresh_?)?(?:key|token|secret)|password|passwd|pwd)=)"
            r"[^&\s\"'<>]+"
        ),
        r"\1***",
    ),
    # settings: aws_secret_access_key=…, "password": "…", fs.s3a.secret.key …
    (
        re.compile(
            r"(?i)((?:secret|password|passwd|token|credential|access[._-]?key)(?!s\b)[\w.-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]+"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9+/_.=-]{8,}"), r"\1 ***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
)


def masked(text: str) -> str:
    """The text without credentials: those of addresses, of signed requests and of settings."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def event(name: str, level: int = logging.INFO, **facts: Any) -> None:
    """Tells of an event, `stage.end`, with its facts, beside what `about` says of where it happens. None is left out.

    What cannot import this tells by `logging.getLogger("crawlmill.NAME")`: in words, which are the event's `message`.
    """
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, name, extra={"facts": facts})


@contextlib.contextmanager
def about(**facts: Any) -> Iterator[None]:
    """While it is open, events of this process's every thread have these facts: run, stage, step."""
    before = dict(_context)
    _context.update(facts)
    try:
        yield
    finally:
        _context.clear()
        _context.update(before)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": _event(record),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.gmtime(record.created))
        said = " ".join(f"{key}={_word(value)}" for key, value in _facts(record).items())
        return f"{clock} {record.levelname.lower():<7} {_event(record)} {said}".rstrip()


def _event(record: logging.LogRecord) -> str:
    """Its name; of what tells in words only, the name of its logger: `stores`."""
    return record.getMessage() if hasattr(record, "facts") else record.name.removeprefix("crawlmill.")


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """What is said of where an event happened, and of itself."""
    known = {**_context, **getattr(record, "facts", {})}
    if not hasattr(record, "facts"):
        known["message"] = record.getMessage()
    return {name: _plain(value) for name, value in known.items() if value is not None}


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[\s\"=]", text) and isinstance(value, str) else text


def _plain(value: Any) -> Any:
    """A value that JSON has, its texts masked."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int | float):
        return value
    return masked(str(value))


def asked(target: str | None = None, format_: str | None = None) -> Settings | None:
    """Where events are to go: what is said here, else what the environment says, else nowhere.

    A format without a target means stderr. Raises UsageError where there is no such format.
    """
    target = target or os.environ.get("CRAWLMILL_LOG")
    format_ = format_ or os.environ.get("CRAWLMILL_LOG_FORMAT")
    if format_ and format_ not in FORMATS:
        raise UsageError(f"no log format named {format_!r}; formats: {', '.join(FORMATS)}")
    return Settings(target or "-", format_ or "json") if target or format_ else None


def start(settings: Settings | None) -> None:
    """Sends events there from now on, in place of where they went before; None sends them nowhere.

    Raises UsageError where the file cannot be opened.
    """
    global _settings
    for handler in list(_LOGGER.handlers):
        _LOGGER.removeHandler(handler)
        handler.close()
    _settings = settings
    if settings is None:
        _LOGGER.addHandler(logging.NullHandler())
        _LOGGER.setLevel(logging.CRITICAL + 1)
        return
    handler = _stderr() if settings.target == "-" else _file(settings.target)
    handler.setFormatter(_Json() if settings.format == "json" else _Text())
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)


def _stderr() -> logging.Handler:
    return logging.StreamHandler(sys.stderr)


def _file(name: str) -> logging.Handler:
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(name, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the log to {name}: {error.strerror or error}") from error


def settings() -> Settings | None:
    """Where events go now."""
    return _settings


def start_in_worker(wanted: Settings | None, **facts: Any) -> None:
    """Sends events of a worker's tasks to its stderr, which Spark keeps with the executor; `facts` say what it works at."""
    if wanted is not None and _settings is None:
        start(Settings("-", wanted.format))
    _context.clear()
    _context.update(facts)


start(None)
