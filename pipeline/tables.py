"""The schema of every table, and how ids are made.

Every column carries its meaning, unit and source as Arrow field metadata; `describe` prints them, and the docs page on
tables is made from it.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

import pyarrow as pa

from pipeline.signals.base import field


class Outcome(StrEnum):
    """What became of a record. Every record that is read ends as exactly one of these."""

    KEPT = "kept"
    DROPPED = "dropped"
    ERROR = "error"


UNKNOWN_DUMP = "unknown"
"""The dump, where a name is needed, of records whose crawl is not known."""

TIMESTAMP = pa.timestamp("s", tz="UTC")

RECORDS = pa.schema(
    [
        field("doc_id", pa.string(), "128-bit hash of record id, url, date and payload digest", "hex"),
        field("source", pa.string(), "name of the source this record belongs to, such as web"),
        field("dump", pa.string(), "crawl that the record comes from, such as CC-MAIN-2024-22; null when unknown"),
        field("warc_file", pa.string(), "input file as it was named to the run, of whatever format"),
        field(
            "warc_offset",
            pa.int64(),
            "where the record (its gzip member) starts in the file; in Parquet its row",
            "bytes",
        ),
        field("warc_length", pa.int64(), "length of the record (its gzip member) in the file; in Parquet 1", "bytes"),
        field(
            "record_type",
            pa.string(),
            "WARC-Type, `arc` for ARC records, `damaged` for an unreadable stretch; of other sources `page` (of a wiki), "
            "`row`, `file`, `member` (of a zip or tar file)",
        ),
        field("record_id", pa.string(), "WARC-Record-ID, null in ARC files; `wiki:page:revision`; the id of a row"),
        field(
            "url", pa.string(), "target URI, without the angle brackets of old wget; of a file its path in the input"
        ),
        field("host", pa.string(), "host name in lower case, without port"),
        field("domain", pa.string(), "registered domain under the bundled public suffix list"),
        field("date", TIMESTAMP, "WARC-Date, time of the revision, or date of the row", "UTC"),
        field("http_status", pa.int16(), "HTTP status code; null when the status line does not hold one"),
        field(
            "media_type",
            pa.string(),
            "media type from the HTTP header, lower case, without parameters; text/x-NAME of code",
        ),
        field("charset", pa.string(), "character encoding that the page was decoded with"),
        field("digest", pa.string(), "SHA-1 of the payload as stored, in the notation of WARC-Payload-Digest"),
        field("n_payload_bytes", pa.int64(), "length of the payload as stored", "bytes"),
        field("flaws", pa.list_(pa.string()), "what was wrong with the record but could be lived with"),
        field("outcome", pa.string(), "dropped or error where a gate or a failure decided; null while undecided"),
        field("reason", pa.string(), "first rule or failure that decided, as `gates.http.status`"),
        field("gate_hits", pa.list_(pa.string()), "every gate that the record broke"),
        field("error", pa.string(), "the failure in words, for records with outcome error"),
    ]
)

DOCUMENTS = pa.schema(
    [
        field("doc_id", pa.string(), "key into records", "hex"),
        field("text", pa.string(), "text as extracted"),
        field("title", pa.string(), "title of the page, where it has one"),
        field("date_published", pa.string(), "main date that the page states, ISO 8601, where it states one"),
        field("language", pa.string(), "most likely language", "ISO 639 code of lid.176", "lid.176.ftz"),
        field("language_score", pa.float32(), "probability of that language", "0..1", "lid.176.ftz"),
        field("script_share", pa.float32(), "share of letters in scripts that the language is written in", "0..1"),
        field("engine", pa.string(), "extraction engine whose text was kept"),
        field("engine_version", pa.string(), "version of that engine"),
    ]
)

EDITS = pa.schema(
    [
        field("doc_id", pa.string(), "key into records", "hex"),
        field("start", pa.int32(), "first character of the span", "characters of the extracted text"),
        field("end", pa.int32(), "one past the last character of the span", "characters of the extracted text"),
        field("replacement", pa.string(), "what stands there afterwards; empty for a cut"),
        field("reason", pa.string(), "rule that asked for the edit"),
    ]
)

PII = pa.schema(
    [
        field("doc_id", pa.string(), "key into records", "hex"),
        field("start", pa.int32(), "first character of what was found", "characters of the extracted text"),
        field("end", pa.int32(), "one past its last character", "characters of the extracted text"),
        field("kind", pa.string(), "kind of personal data, such as EMAIL_ADDRESS; never the value"),
    ]
)

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))

CONTAMINATION = pa.schema(
    [
        field("doc_id", pa.string(), "page that holds the item, among those that rules and deduplication keep", "hex"),
        field("benchmark", pa.string(), "benchmark that the item belongs to"),
        field("item", pa.string(), "the item's id in its benchmark"),
        field(
            "decoy", pa.bool_(), "whether the item was made of pieces of others, to count false alarms; never acted on"
        ),
        field(
            "score", pa.float32(), "how much of the item stands in the page, as the recipe's mode measures it", "0..1"
        ),
        field("question", pa.float32(), "share of the question that was matched; null where it has none", "0..1"),
        field(
            "answer", pa.float32(), "share of its choices or answer that was matched; null where it has none", "0..1"
        ),
        field("passage", pa.float32(), "share of its passage that was matched; null where it has none", "0..1"),
        field("n_grams", pa.int32(), "n-grams of the item that were matched, common ones left out"),
        field("start", pa.int32(), "first character of what was matched", "characters of the extracted text"),
        field("end", pa.int32(), "one past its last character", "characters of the extracted text"),
        field("spans", SPANS, "every stretch that was matched", "characters of the extracted text"),
    ]
)

BENCHMARK_ITEMS = pa.schema(
    [
        field("benchmark", pa.string(), "benchmark"),
        field("item", pa.string(), "the item's id in its benchmark"),
        field("task", pa.string(), "task of lm-evaluation-harness; null where the benchmark's description names none"),
        field("doc", pa.int32(), "number of the item in that task"),
        field("decoy", pa.bool_(), "whether it was made of pieces of other items"),
        field(
            "status", pa.string(), "ok; short or empty: cannot be matched; duplicate: matched as the item it repeats"
        ),
        field(
            "duplicate_of", pa.string(), "first item with the same words, as BENCHMARK/ITEM; null where it is the first"
        ),
        field("n_words", pa.int32(), "length", "words"),
        field("n", pa.int32(), "length of its n-grams", "words"),
        field("n_pages", pa.int32(), "pages that hold it"),
        field("best_score", pa.float32(), "highest score of a page; null where no page holds it", "0..1"),
        field("best_doc_id", pa.string(), "the page of that score, of several the one with the smallest id", "doc_id"),
        field("best_url", pa.string(), "address of that page"),
        field("text", pa.string(), "the item as the benchmark has it; null where no page holds it"),
        field("excerpt", pa.string(), "what that page says there, personal data masked as in the curated text"),
        field("marks", SPANS, "what of the excerpt was matched", "characters of excerpt"),
    ]
)

INPUTS = pa.schema(
    [
        field("warc_file", pa.string(), "input file as it was named to the run"),
        field("start", pa.int64(), "first byte of the split that this row accounts for", "bytes"),
        field("n_read", pa.int64(), "records read: one row of the ledger each"),
        field("n_damaged", pa.int64(), "of those, stretches that could not be read"),
        field("n_bytes_lost", pa.int64(), "bytes in those stretches", "bytes"),
        field("n_skipped", pa.int64(), "records that hold no page (request, metadata, warcinfo, revisit, …)"),
        field("skipped_types", pa.map_(pa.string(), pa.int64()), "those by record type"),
    ]
)

DUPLICATES = pa.schema(
    [
        field("doc_id", pa.string(), "page that the rules keep, or would have kept", "hex"),
        field("removed_by", pa.string(), "method that removes it: url, exact or minhash; null where it is kept"),
        field("url_keeper", pa.string(), "newest capture of its canonical address", "doc_id"),
        field("url_size", pa.int32(), "captures of that address", "pages"),
        field("text_hash", pa.string(), "hash of its normalised text; null for an outdated capture", "hex"),
        field("exact_keeper", pa.string(), "page that is kept of those with this text", "doc_id"),
        field("exact_size", pa.int32(), "pages with this text", "pages"),
        field("cluster", pa.string(), "id of its near-duplicate cluster; null where its text is like no other", "hex"),
        field("keeper", pa.string(), "page that is kept of the cluster", "doc_id"),
        field("similarity", pa.float32(), "similarity of its text to the keeper's, as the recipe measures it", "0..1"),
        field("cluster_size", pa.int32(), "pages of the cluster, exact copies included; 1 for a page that is alone"),
    ]
)

CURATED = pa.schema(
    [
        field("id", pa.string(), "doc_id; that of several rows where the page was cut in pieces", "hex"),
        field(
            "piece", pa.int32(), "number of the piece, where a benchmark overlap cut the page in several; otherwise 0"
        ),
        field("text", pa.string(), "text after edits"),
        field("url", pa.string(), "address of the page"),
        field("date", TIMESTAMP, "when it was crawled", "UTC"),
        field("source", pa.string(), "name of the source"),
        field("dump", pa.string(), "crawl; null when unknown"),
        field("language", pa.string(), "most likely language", "ISO 639 code of lid.176"),
        field("language_score", pa.float32(), "probability of that language", "0..1"),
        field(
            "quality", pa.float32(), "rank by quality among the pages that rules keep; null if not asked for", "0..1"
        ),
        field("quality_bin", pa.int16(), "bin of equal size by that, 0 the least"),
        field("topic", pa.string(), "likeliest class of the head named topic; null where the recipe has none"),
        field("cluster_size", pa.int32(), "pages of its near-duplicate cluster; null where the recipe compares none"),
        field("upsample", pa.float32(), "weight by the recipe's curve over cluster_size; 1 without a curve"),
        field("n_words", pa.int32(), "white-space separated words of text"),
        field("n_bytes", pa.int32(), "length of text in UTF-8", "bytes"),
        field("warc_file", pa.string(), "input file that the page came from"),
        field("warc_offset", pa.int64(), "where its record starts; in Parquet its row", "bytes"),
        field("warc_length", pa.int64(), "length of its record; in Parquet 1", "bytes"),
    ]
)


TOKEN_DOCUMENTS = pa.schema(
    [
        field("id", pa.string(), "id of the curated row; for other Parquet files their id, or a hash of the text"),
        field("piece", pa.int32(), "number of the piece of that page; otherwise 0"),
        field("key", pa.uint64(), "hash of id and piece, by which documents are shuffled and drawn"),
        field("source", pa.string(), "name of the source"),
        field("language", pa.string(), "most likely language; null where the file does not say"),
        field("topic", pa.string(), "topic; null where the file does not say"),
        field("quality_bin", pa.int16(), "bin of equal size by quality, 0 the least; null where the file does not say"),
        field("cluster_size", pa.int32(), "pages of its near-duplicate cluster; null where the file does not say"),
        field("n_tokens", pa.int64(), "tokens as stored, that of the end of the text included", "tokens"),
        field("n_bytes", pa.int64(), "length of the text in UTF-8", "bytes"),
        field("file", pa.string(), "file that the text was read from, relative to the run where it was one"),
        field("row", pa.int64(), "row of that file, from 0"),
        field("warc_file", pa.string(), "input file that the page came from; null where the file does not say"),
        field("warc_offset", pa.int64(), "where its record starts", "bytes"),
        field("warc_length", pa.int64(), "length of its record", "bytes"),
    ]
)

MIXED_DOCUMENTS = pa.schema(
    [
        *TOKEN_DOCUMENTS,
        field("tokens", pa.string(), "folder of token shards that it was taken from"),
        field("shard", pa.string(), "shard of that folder"),
        field("document", pa.int64(), "number of the document in that shard, from 0"),
        field("epoch", pa.int32(), "how often the text came before, in this phase and the phases before it"),
        field("first", pa.int64(), "first token that was taken: 0 but where a phase begins inside of a text", "tokens"),
    ]
)


def document_id(record_id: str | None, url: str | None, date: datetime | None, digest: str | None) -> str:
    """The 128-bit id (32 hex digits) of a record: a function of what it is, never of where or when it was read.

    A record without id, url, date and digest (a damaged stretch) must be given something else that is its own as
    `record_id`, such as its file name and offset.
    """
    parts = (record_id or "", url or "", date.isoformat() if date else "", digest or "")
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def describe(schema: Iterable[pa.Field]) -> list[tuple[str, str, str]]:
    """Rows of (column, type, meaning with unit and source) for docs and reports."""
    rows = []
    for column in schema:
        metadata = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
        extra = ", ".join(v for k in ("unit", "source") if (v := metadata.get(k)))
        meaning = metadata.get("meaning", "") + (f" ({extra})" if extra else "")
        rows.append((column.name, str(column.type), meaning))
    return rows
