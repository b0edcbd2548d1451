"""Records to rows: gates, decoding, extraction and language, one row a record and nothing lost.

The gates on address and response are decided outside the sandbox, since they look only at short strings. Everything
that touches the bytes of a page happens inside it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.extraction import Extraction, ExtractionOptions, extract, extract_fast, extract_plain, preload, refine
from pipeline.extraction.sandbox import Failure, Result, Sandbox
from pipeline.recipe import Recipe, UrlGate, UrlWords, data_file
from pipeline.signals.language import Language, identify, script_share
from pipeline.signals.urls import UrlRules, split_url
from pipeline.sources.archive import NO_RECORD, Damage, Record, Skipped
from pipeline.sources.books import book
from pipeline.sources.charset import decode_text
from pipeline.sources.documents import Document, Form
from pipeline.sources.http import decode_body
from pipeline.sources.reading import Read, preload_form, read_document
from pipeline.tables import DOCUMENTS, INPUTS, RECORDS, Outcome, document_id

BATCH_PAGES = 64
BATCH_BYTES = 8_000_000
"""Pages are handed to the sandbox so many at a time: enough to make the hand-over cheap, little enough to hold."""

Item = Record | Document | Damage | Skipped

_DUMP = re.compile(r"CC-MAIN-\d{4}-\d{2}")
_WIKI_DUMP = re.compile(r"[a-z_]{2,40}wik[a-z]{1,12}-\d{8}(?=-)")

FETCHED = ("html", "plain")
"""Forms of what was fetched from the web, with the headers that came with it."""


class PageBytes(NamedTuple):
    """One page as it goes into the sandbox. `form` says how its bytes become text; `title` and `wiki` are what its source
    says of it."""

    payload: bytes
    headers: dict[str, str]
    url: str | None
    form: Form
    title: str | None = None
    wiki: str = ""


class PageText(NamedTuple):
    """One page as it comes out. `drop` names the gate that turned it away, and then there is no text."""

    drop: str | None
    charset: str | None = None
    flaws: tuple[str, ...] = ()
    extraction: Extraction | None = None
    language: str | None = None
    language_score: float = 0.0
    script_share: float = 1.0


SHARED_LIST_BYTES = 1_000_000
"""Lookup tables of larger lists are kept on disk and shared by the workers of a machine; smaller ones are built at once."""


def _table_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "crawlmill"


@cache
def url_rules(gate: UrlGate) -> UrlRules:
    """The rules of a recipe's URL gate, built once a process: lists can have millions of entries."""
    words = (
        gate.words.model_dump() if isinstance(gate.words, UrlWords) else data_file(gate.words) if gate.words else None
    )
    lists = {kind: gate.entries(kind) for kind in ("domains", "hosts", "urls", "curated", "allow")}
    sizes = [entry.stat().st_size for entries in lists.values() for entry in entries if isinstance(entry, Path)]
    return UrlRules(
        **lists,
        words=words,
        soft_threshold=gate.soft_minimum,
        cache_dir=_table_cache() if max(sizes, default=0) > SHARED_LIST_BYTES else None,
    )


def read_page(page: PageBytes, recipe: Recipe) -> PageText:
    """Bytes of one page to its text and language. The in-process core of extraction: no isolation, no time limit."""
    if page.form not in FETCHED:
        return _settled(page, read_document(page, recipe.gates.code))
    limits = recipe.extraction
    body = decode_body(page.payload, page.headers, limits.max_bytes)
    if "body_capped" in body.flaws:
        return PageText("gates.size", flaws=body.flaws)
    if not body.content.strip():
        return PageText("extraction.empty", flaws=body.flaws)
    if _is_binary(body.content):
        return PageText("gates.http.content", flaws=body.flaws)
    decoded = decode_text(body.content, page.headers.get("content-type"))
    flaws = (*body.flaws, *decoded.flaws)
    options = ExtractionOptions()
    plain = page.form == "plain"
    if plain:
        extraction = extract_plain(decoded.text)
    elif limits.engine == "cascade":
        extraction = extract_fast(decoded.text, options)
    else:
        extraction = extract(decoded.text, page.url, limits.engine, options)
    language = identify(extraction.text)
    if limits.engine == "cascade" and not plain and _worth_refining(extraction.text, language, recipe):
        extraction = refine(decoded.text, extraction, page.url, options)
        language = identify(extraction.text)
    if extraction.title is None and page.title is not None:
        extraction = replace(extraction, title=page.title)
    if recipe.inputs.format == "books":
        extraction = replace(extraction, text=book(extraction.text).text)
    return _page_text(decoded.charset, flaws, extraction, language)


def _settled(page: PageBytes, read: Read) -> PageText:
    if read.drop is not None:
        return PageText(read.drop, read.charset, read.flaws)
    extraction = Extraction(
        read.text, read.title or page.title, read.date, engine=read.reader, engine_version=read.version
    )
    return _page_text(read.charset, read.flaws, extraction, identify(extraction.text))


def _page_text(charset: str | None, flaws: tuple[str, ...], extraction: Extraction, language: Language) -> PageText:
    if not extraction.text.strip():
        return PageText("extraction.empty", charset, flaws)
    return PageText(
        None,
        charset,
        flaws,
        extraction,
        language.code,
        language.score,
        script_share(extraction.text[:2000], language.code or ""),
    )


def _worth_refining(text: str, language: Language, recipe: Recipe) -> bool:
    """The slow engine pays for pages in a wanted language, and where the fast one found too little to tell."""
    keep = recipe.gates.language.keep
    wanted = not keep or language.score >= keep.get(language.code or "", 2.0)
    return wanted or len(text) < recipe.extraction.trusted_chars


# Signatures of what is sometimes served as text/html; each is two to eight bytes that no text begins with.
_BINARY = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x00\x00\x01\x00",
    b"RIFF",
    b"\x7fELF",
    b"OggS",
)


def _is_binary(content: bytes) -> bool:
    return content.startswith(_BINARY)


@dataclass
class Part:
    """What became of one split of an input file: co-partitioned rows, and the account of the input."""

    records: pa.Table
    documents: pa.Table
    inputs: pa.Table


@dataclass
class _Account:
    n_read: int = 0
    n_damaged: int = 0
    n_bytes_lost: int = 0
    skipped: Counter = field(default_factory=Counter)


class Extractor:
    """Turns the items of an archive into tables, under one recipe. A context manager: it owns a sandbox."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.url_rules = url_rules(recipe.gates.url)
        limits = recipe.extraction
        # Children are forked from here, so what is loaded now they need not load again.
        if recipe.inputs.format == "archive" or recipe.inputs.fields.html:
            preload(limits.engine)
        preload_form({"wikipedia": "wikitext", "books": "book"}.get(recipe.inputs.format, ""))
        identify("a few words")
        self._sandbox = Sandbox(
            partial(read_page, recipe=recipe),
            timeout_s=limits.timeout_s,
            memory_mb=limits.memory // 1_000_000,
        )

    def __enter__(self) -> "Extractor":
        self._sandbox.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sandbox.__exit__(*exc)

    def extract(self, items: Iterable[Item], file: str, start: int = 0) -> Part:
        """One row of records for each Record, Document and Damage, in order; one of documents for each that has text; and
        one of inputs for each file, `file` first."""
        account: dict[str, _Account] = {file: _Account()}
        records: list[dict[str, Any]] = []
        documents: list[dict[str, Any]] = []
        for batch in self._batches(items, account):
            pages = [page for _, page in batch if page is not None]
            outcomes = iter(self._sandbox.map(pages))
            for row, page in batch:
                if page is not None:
                    document = _settle_page(row, next(outcomes))
                    if document is not None:
                        documents.append(document)
                records.append(row)
        inputs = [
            {
                "warc_file": _clean(name),
                "start": start,
                "n_read": own.n_read,
                "n_damaged": own.n_damaged,
                "n_bytes_lost": own.n_bytes_lost,
                "n_skipped": own.skipped.total(),
                "skipped_types": sorted(own.skipped.items()),
            }
            for name, own in account.items()
        ]
        return Part(
            pa.Table.from_pylist(records, RECORDS),
            pa.Table.from_pylist(documents, DOCUMENTS),
            pa.Table.from_pylist(inputs, INPUTS),
        )

    def _batches(
        self, items: Iterable[Item], accounts: dict[str, _Account]
    ) -> Iterator[list[tuple[dict[str, Any], PageBytes | None]]]:
        batch: list[tuple[dict[str, Any], PageBytes | None]] = []
        size = 0
        first = next(iter(accounts))
        for item in items:
            account = accounts.setdefault(item.file or first, _Account())
            if isinstance(item, Skipped):
                if item.record_type not in NO_RECORD:
                    account.skipped[item.record_type] += 1
                continue
            account.n_read += 1
            if isinstance(item, Damage):
                account.n_damaged += 1
                # Bytes inside a file that is compressed as a whole are not bytes of the file.
                account.n_bytes_lost += 0 if item.inflated else item.length
                batch.append((self._damage_row(item), None))
            else:
                row, page = self._record_row(item) if isinstance(item, Record) else self._document_row(item)
                size += len(page.payload) if page is not None else 0
                batch.append((row, page))
            if len(batch) >= BATCH_PAGES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _damage_row(self, item: Damage) -> dict[str, Any]:
        name = item.file.rsplit("/", 1)[-1]
        row = self._row(item, document_id(f"{name}:{item.offset}", None, None, None), "damaged")
        return row | {"flaws": []} | _decided(Outcome.ERROR, ["source.damaged"], item.reason)

    def _record_row(self, item: Record) -> tuple[dict[str, Any], PageBytes | None]:
        media_type = _media_type(item.http_headers.get("content-type"))
        row = self._identified(item, item.n_payload, media_type) | {"http_status": item.http_status}
        gate_hits = self._gate_hits(item, media_type)
        if gate_hits:
            return row | _decided(Outcome.DROPPED, gate_hits), None
        form: Form = "plain" if item.record_type == "conversion" or media_type == "text/plain" else "html"
        return row | _UNDECIDED, PageBytes(item.payload, dict(item.http_headers), item.url, form)

    def _document_row(self, item: Document) -> tuple[dict[str, Any], PageBytes | None]:
        row = self._identified(item, item.n_content, item.media_type)
        if item.error is not None:
            return row | _decided(Outcome.ERROR, ["source.no_text"], item.error), None
        gate_hits = [*self._url_hits(item.url), *item.gates]
        if item.n_content > self.recipe.extraction.max_bytes:
            gate_hits.append("gates.size")
        if gate_hits:
            return row | _decided(Outcome.DROPPED, gate_hits), None
        return row | _UNDECIDED, PageBytes(
            item.content,
            dict(_UTF8) if item.record_type == "row" else {},
            item.url,
            item.form,
            _clean(item.title),
            item.wiki,
        )

    def _row(self, item: Record | Document | Damage, doc_id: str, record_type: str) -> dict[str, Any]:
        return {
            "doc_id": doc_id,
            "source": self.recipe.source,
            "dump": _clean(self._dump(item.file)),
            "warc_file": _clean(item.file),
            "warc_offset": item.offset,
            "warc_length": item.length,
            "record_type": record_type,
        }

    def _identified(self, item: Record | Document, n_bytes: int, media_type: str | None) -> dict[str, Any]:
        parts = split_url(item.url)
        return self._row(item, document_id(item.record_id, item.url, item.date, item.digest), item.record_type) | {
            "record_id": _clean(item.record_id),
            "url": _clean(item.url),
            "host": _clean(parts.host),
            "domain": _clean(parts.domain),
            "date": item.date,
            "media_type": _clean(media_type),
            "charset": None,
            "digest": item.digest,
            "n_payload_bytes": n_bytes,
            "flaws": list(item.flaws),
        }

    def _url_hits(self, url: str | None) -> list[str]:
        return [_clean(f"gates.url.{hit}") or "" for hit in self.url_rules.check(url).hits]

    def _gate_hits(self, item: Record, media_type: str | None) -> list[str]:
        http = self.recipe.gates.http
        found = self._url_hits(item.url)
        if item.http_status is None:
            # WET and resource records carry no response; they hold what was fetched.
            if not http.unknown_status and item.record_type in ("response", "arc"):
                found.append("gates.http.status")
        elif item.http_status not in http.status:
            found.append("gates.http.status")
        if media_type is None:
            if not http.unknown_media_type and item.record_type != "conversion":
                found.append("gates.http.media_type")
        elif media_type not in http.media_types:
            found.append("gates.http.media_type")
        if item.n_payload > self.recipe.extraction.max_bytes:
            found.append("gates.size")
        return found

    def _dump(self, file: str) -> str | None:
        if self.recipe.dump is not None:
            return self.recipe.dump
        found = (_WIKI_DUMP if self.recipe.inputs.format == "wikipedia" else _DUMP).search(file)
        return found.group() if found else None


_UTF8 = {"content-type": "text/html; charset=utf-8"}
_UNDECIDED: dict[str, Any] = {"gate_hits": [], "outcome": None, "reason": None, "error": None}


def _decided(outcome: Outcome, hits: list[str], error: str | None = None) -> dict[str, Any]:
    """The columns of a record that a gate or a failure decided."""
    reason = hits[0].split(":", 1)[0]
    return {"gate_hits": hits, "outcome": outcome.value, "reason": reason, "error": _clean(error)}


def _settle_page(row: dict[str, Any], outcome: Result[PageText] | Failure) -> dict[str, Any] | None:
    """Completes the record's row; returns the documents row if the page has text."""
    if isinstance(outcome, Failure):
        reason = f"extraction.{outcome.kind}"
        row |= _decided(Outcome.ERROR, [reason], outcome.message)
        return None
    result = outcome.value
    row["charset"] = result.charset
    row["flaws"] = [*row["flaws"], *result.flaws]
    if result.drop is not None or result.extraction is None:
        row |= _decided(Outcome.DROPPED, [result.drop or "extraction.empty"])
        return None
    return {
        "doc_id": row["doc_id"],
        "text": result.extraction.text,
        "title": result.extraction.title,
        "date_published": result.extraction.date_published,
        "language": result.language,
        "language_score": result.language_score,
        "script_share": result.script_share,
        "engine": result.extraction.engine,
        "engine_version": result.extraction.engine_version,
    }


def _media_type(content_type: str | None) -> str | None:
    if not content_type:
        return None
    return content_type.split(";", 1)[0].split(",", 1)[0].strip().lower() or None


def _clean(value: str | None) -> str | None:
    """Text that Arrow can hold: headers and addresses of the wild carry lone surrogates."""
    return value if value is None else value.encode("utf-8", "replace").decode("utf-8")
