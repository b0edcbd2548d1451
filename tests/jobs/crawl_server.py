"""A crawl laid out as Common Crawl lays out its own, and a server of it that can misbehave."""

import gzip
import hashlib
import http.server
import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.archive import Record, read_archive
from pipeline.sources.crawl import INDEX

CRAWL = "CC-MAIN-2025-26"
PART = 300_000
"""Bytes of the parts in which large objects pretend to have been uploaded: none that clients use."""


def archives(web: Path) -> list[Path]:
    """The sample's archives that are whole, and compressed by record."""
    return sorted(path for path in web.glob("*.warc.gz") if re.search(r"-0000\d\.warc\.gz$", path.name))


def lay_out(web: Path, folder: Path) -> Path:
    """Copies the sample's archives to where a crawl has them, with lists of paths and a columnar index; returns `folder`."""
    truth = {}
    for line in (web / "truth.jsonl").read_text().splitlines():
        row = json.loads(line)
        truth[(row.get("file"), row.get("offset"))] = row
    top = f"crawl-data/{CRAWL}"
    warcs, rows = [], []
    for number, source in enumerate(archives(web)):
        segment = f"17500000{number // 2}.{number // 2}"
        name = f"{top}/segments/{segment}/warc/CC-MAIN-20250612034500-20250612064500-{number:05d}.warc.gz"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
        warcs.append(name)
        with source.open("rb") as file:
            for record in read_archive(file, name):
                if isinstance(record, Record) and record.record_type == "response" and record.url:
                    rows.append(
                        index_row(record, segment, (truth.get((source.name, record.offset)) or {}).get("language"))
                    )
    wet = f"{top}/segments/175000000.0/wet/CC-MAIN-20250612034500-20250612064500-00000.warc.wet.gz"
    (folder / wet).parent.mkdir(parents=True)
    shutil.copyfile(next(iter(web.glob("*.wet.gz"))), folder / wet)
    tables = []
    for subset, of in (("crawldiagnostics", False), ("warc", True)):
        chosen = sorted(
            (r for r in rows if (r["fetch_status"] == 200) is of), key=lambda r: (r["url_surtkey"], r["url"])
        )
        half = len(chosen) // 2
        for number, part in enumerate((chosen[:half], chosen[half:])):
            name = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset={subset}/part-{number:05d}-0000.c000.gz.parquet"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_index(folder / name, part)
            tables.append(name)
    for kind, names in (("warc", warcs), ("wet", [wet]), ("cc-index-table", tables)):
        listed = gzip.compress("".join(f"{name}\n" for name in names).encode(), mtime=0)
        (folder / top / f"{kind}.paths.gz").write_bytes(listed)
    (folder / "collinfo.json").write_text(
        json.dumps(
            [{"id": CRAWL, "name": "June 2025 Index", "from": "2025-06-12T01:00:00", "to": "2025-06-25T01:00:00"}]
        )
    )
    return folder


def index_row(record: Record, segment: str, language: str | None) -> dict[str, object]:
    host = urlsplit(record.url or "").hostname or ""
    labels = host.split(".")
    return {
        **dict.fromkeys(INDEX.names),
        "url_surtkey": f"{','.join(reversed(labels))}){urlsplit(record.url or '').path}",
        "url": record.url,
        "url_host_name": host,
        "url_host_tld": labels[-1],
        "url_host_registered_domain": ".".join(labels[-2:]),
        "url_protocol": urlsplit(record.url or "").scheme,
        "url_path": urlsplit(record.url or "").path,
        "fetch_time": record.date or datetime(2025, 6, 12, tzinfo=UTC),
        "fetch_status": record.http_status or 0,
        "content_digest": record.digest.removeprefix("sha1:"),
        "content_mime_type": record.http_headers.get("content-type", "").partition(";")[0],
        "content_mime_detected": record.http_headers.get("content-type", "").partition(";")[0] or None,
        "content_languages": {"en": "eng", "de": "deu,eng", "is": "isl"}.get(language or "", language),
        "warc_filename": record.file,
        "warc_record_offset": record.offset,
        "warc_record_length": record.length,
        "warc_segment": segment,
    }


def write_index(path: Path, rows: list[dict[str, object]], row_group: int = 100) -> None:
    """A file of the index with the types of the real ones: 32-bit places, times of 96 bits, no partition columns."""
    schema = pa.schema(
        [
            pa.field(f.name, pa.int32() if f.name in ("warc_record_offset", "warc_record_length") else f.type)
            for f in INDEX
            if f.name not in ("crawl", "subset")
        ]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, row_group_size=row_group, use_deprecated_int96_timestamps=True, compression="gzip")


@dataclass
class Asked:
    """A request, as it came."""

    method: str
    path: str
    range: str | None
    agent: str
    time: float


@dataclass
class Behaviour:
    """How the server answers. `faults`: what goes wrong with the next requests whose path ends so, one after the other:
    a status (`503`, `429:1` with Retry-After), `cut` (half of the body, then the connection ends), `spoiled` (a byte is
    another), `short` (a Content-Length below the truth), `ignore` (all of the file, though a range was asked for)."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    ranges: bool = True
    etags: str = "md5"
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def fault(self, path: str) -> str:
        for ending, waiting in self.faults.items():
            if path.endswith(ending) and waiting:
                return waiting.pop(0)
        return ""

    def gets(self, ending: str = "") -> int:
        return sum(a.method == "GET" and a.path.endswith(ending) for a in self.asked)


class Server(http.server.ThreadingHTTPServer):
    """A server of one folder on loopback."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.lock = threading.Lock()
        self.behaviour = Behaviour()
        self.address = f"http://127.0.0.1:{self.server_port}/"

    def behave(self, **how: object) -> Behaviour:
        """Begins anew."""
        self.behaviour = Behaviour(**how)  # type: ignore[arg-type]
        return self.behaviour


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._counted(body=False)

    def do_GET(self) -> None:
        self._counted(body=True)

    def _counted(self, body: bool) -> None:
        how = self.server.behaviour
        with self.server.lock:
            how.at_once += 1
            how.most_at_once = max(how.most_at_once, how.at_once)
            agent, asked = self.headers.get("User-Agent", ""), self.headers.get("Range")
            how.asked.append(Asked(self.command, self.path, asked, agent, time.monotonic()))
            fault = how.fault(self.path) if body else ""
        try:
            self._answer(how, fault, body)
        finally:
            with self.server.lock:
                how.at_once -= 1

    def _answer(self, how: Behaviour, fault: str, body: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if re.match(r"\d{3}", fault):
            status, _, after = fault.partition(":")
            return self._say(int(status), {"Retry-After": after} if after else {})
        if not path.is_file():
            return self._say(404)
        data = path.read_bytes()
        headers = {"Last-Modified": self.date_time_string(int(path.stat().st_mtime)), "Accept-Ranges": "bytes"}
        if how.etags == "md5":
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        elif how.etags == "parts":
            parts = [hashlib.md5(data[i : i + PART]).digest() for i in range(0, len(data), PART)]
            headers["ETag"] = f'"{hashlib.md5(b"".join(parts)).hexdigest()}-{len(parts)}"'
        elif how.etags == "wrong":
            headers["ETag"] = f'"{"0" * 32}"'
        start, end, status = 0, len(data), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        current = self.headers.get("If-Range") in (None, headers.get("ETag"), headers["Last-Modified"])
        if asked and how.ranges and current and fault != "ignore":
            start, end = int(asked[1]), min(len(data), int(asked[2] or len(data)) + bool(asked[2]))
            if start >= len(data):
                return self._say(416, {"Content-Range": f"bytes */{len(data)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(data)}"
        piece = data[start:end]
        if fault == "spoiled":
            piece = piece[: len(piece) // 2] + bytes([piece[len(piece) // 2] ^ 0x55]) + piece[len(piece) // 2 + 1 :]
        if fault == "short":
            piece = piece[:-10]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(piece))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return None
        if fault == "cut":
            self.wfile.write(piece[: len(piece) // 2])
            self.close_connection = True
            return None
        self.wfile.write(piece)
        return None

    def _say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[Server]:
    """The server, while the block runs."""
    server = Server(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def kinds_of(rows: list[dict[str, object]], column: str) -> Counter[object]:
    """How often each value comes."""
    return Counter(row[column] for row in rows)
