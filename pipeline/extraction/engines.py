"""The extraction engines by name, and the cascade that chooses between them."""

import functools
import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version

from pipeline.errors import UsageError
from pipeline.extraction.markup import flatten, write_mathematics
from pipeline.extraction.metadata import read_metadata


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """Settings of an extraction. The defaults are those of benchmarks/extraction.txt."""

    max_depth: int = 200
    """Tags nested deeper are dropped and what they enclose stays. libxml2 gives up at 256."""
    metadata: bool = True
    """Whether title, date and declared language are read."""
    fallback: bool = True
    """Cascade: a page in which `blocks` finds no content keeps the text of the fast engine, where that has any."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """Text of one page. `text` may be empty; `engine` names the engine whose text it is."""

    text: str
    title: str | None = None
    date_published: str | None = None
    """Main date that the page states, ISO 8601 day."""
    declared_language: str | None = None
    """Language tag of the page, lower case and otherwise as it stands there: often wrong."""
    engine: str = "plain"
    engine_version: str = "1"


Engine = Callable[[str], str]
_FAST, _SLOW = "resiliparse", "blocks"


def extract(
    html: str, url: str | None = None, engine: str = "cascade", options: ExtractionOptions | None = None
) -> Extraction:
    """Text and metadata of the page `html` by the engine of that name (see `ENGINES`).

    Raises UsageError for an unknown engine. Whatever a parser raises passes through, panics of native code included:
    run it in a `Sandbox` where pages are not trusted.
    """
    options = options or ExtractionOptions()
    if engine == "plain":
        return extract_plain(html)
    markup = prepare(html, options)
    if engine != "cascade":
        return _labelled(html, _text_of(engine, markup), engine, options)
    for step in (_SLOW, _FAST) if options.fallback else (_SLOW,):
        text = _text_of(step, markup)
        if text:
            return _labelled(html, text, step, options)
    return _labelled(html, "", _SLOW, options)


def extract_fast(html: str, options: ExtractionOptions | None = None) -> Extraction:
    """The first step of the cascade: main content by Resiliparse, for gates to decide whether `refine` pays."""
    return extract(html, engine=_FAST, options=options)


def refine(html: str, fast: Extraction, url: str | None = None, options: ExtractionOptions | None = None) -> Extraction:
    """The second step of the cascade for a page that `extract_fast` has seen: the same as `extract` in one step."""
    options = options or ExtractionOptions()
    text = _text_of(_SLOW, prepare(html, options))
    if not text and fast.text and options.fallback:
        return fast
    return replace(fast, text=text, engine=_SLOW, engine_version=_version(_SLOW))


def extract_plain(text: str) -> Extraction:
    """Plain text, or the text of a WET record, as an extraction: no engine, line breaks and NULs made regular."""
    return Extraction(valid(text).strip(), engine="plain", engine_version="1")


def preload(engine: str = "cascade") -> None:
    """Imports and warms what `engine` needs, so that forked children have it."""
    for name in (_SLOW, _FAST) if engine == "cascade" else (engine,):
        extract("<p>A few words.</p>", engine=name)


@functools.lru_cache(maxsize=1)  # the two steps of the cascade follow each other on the same page
def prepare(html: str, options: ExtractionOptions) -> str:
    """Markup that every engine can take: bounded depth, formulas as text, no NUL, no lone surrogate."""
    return write_mathematics(flatten(valid(html), options.max_depth))


def valid(text: str) -> str:
    """`text` with `\\n` line ends, without NUL and with U+FFFD for each lone surrogate, so that it encodes as UTF-8."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


_LINE_SPACE = re.compile(r"[ \t\f\v\u00a0]+\n")
_BLANK_LINES = re.compile(r"\n{2,}")
_CELLS = re.compile(r"(?<=\S)\t+")


def tidy(text: str) -> str:
    """`text` in the shape that all engines share: no blank lines, no space at line ends, valid Unicode."""
    return _BLANK_LINES.sub("\n", _LINE_SPACE.sub("\n", valid(text) + "\n")).strip("\n")


def _resiliparse(markup: str, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(markup, main_content=main_content, alt_texts=False)
    return _CELLS.sub(" | ", text) if "\t" in text else text


def _trafilatura(markup: str) -> str:
    return _import_trafilatura().extract(markup, deduplicate=False, with_metadata=False) or ""


def _blocks(markup: str) -> str:
    from pipeline.extraction import blocks, classifier

    return classifier.content(blocks.read_blocks(markup))


@functools.cache
def _import_trafilatura():  # type: ignore[no-untyped-def]
    """The library, imported only where it is used (about a second) and kept from logging every odd page."""
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL + 1)
    return importlib.import_module("trafilatura")


ENGINES: dict[str, tuple[Engine | None, str | None]] = {
    "resiliparse": (functools.partial(_resiliparse, main_content=True), "resiliparse"),
    "resiliparse_all": (functools.partial(_resiliparse, main_content=False), "resiliparse"),
    "trafilatura": (_trafilatura, "trafilatura"),
    "blocks": (_blocks, None),
    "cascade": (None, None),
    "plain": (None, None),
}
"""Name of each engine: markup -> text, and the distribution that its version is taken from."""


def _text_of(engine: str, markup: str) -> str:
    function = ENGINES[engine][0] if engine in ENGINES else None
    if function is None:
        raise UsageError(f"unknown extraction engine {engine!r}; there are: {', '.join(ENGINES)}")
    return tidy(function(markup)) if "<" in markup else tidy(markup)


@functools.cache
def _version(engine: str) -> str:
    distribution = ENGINES[engine][1]
    if distribution:
        return version(distribution)
    from pipeline.extraction import classifier

    return classifier.network().version


def _labelled(html: str, text: str, engine: str, options: ExtractionOptions) -> Extraction:
    if not options.metadata:
        return Extraction(text, engine=engine, engine_version=_version(engine))
    found = read_metadata(html)
    return Extraction(text, found.title, found.date_published, found.language, engine, _version(engine))
