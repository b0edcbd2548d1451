"""Job: dumps of Wikipedia to the addresses that it cites, one row an address. `spark-submit jobs/references.py --help`.

Splits of dumps become citations, a work file at a time; these travel to the address that they cite, and addresses to
their host, where the cap is. Nothing depends on how the dumps were split, in what order, or in which of them a page
stands twice.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.references import KINDS, TABLE, Citation, citation_of, cited
from jobs.exchange import Hop, Parcel, Received, by_bucket, exchange
from jobs.runs import SPLIT_BYTES, code_version
from jobs.session import Watch, for_each, session
from jobs.store import RunFolder
from pipeline.dedup.candidates import ranges
from pipeline.dedup.repeats import text_number
from pipeline.errors import CrawlmillError, InputError, UsageError
from pipeline.signals.base import field
from pipeline.sources.inputs import expand
from pipeline.sources.wikipedia import LINKS, Account, DumpSplit, external_links, is_index, pages, splits

STAGE = "references"
READ = "read"
WORK = f"{STAGE}_work"
"""What tasks leave for each other; removed when the job is done."""

PER_HOST = 1000
"""Addresses of a host that are kept by default, so that a few sites, such as Google Books, are not what most are of."""

MOST_ROWS = 250_000
"""Citations of a work file: 100 MB in memory, however long the dump."""

BYTES_A_PART = 256_000_000
"""Bytes of the dumps for each part of the result."""

MOST_LISTED = 1000
"""Damaged stretches that the account lists; all of them are counted."""

REFERENCES = pa.schema(
    [
        field(
            "canonical",
            pa.string(),
            "address without scheme, fragment and tracking parameters; crawls are joined on it",
        ),
        field("url", pa.string(), "the address as it is cited most often"),
        field("host", pa.string(), "host name in lower case, without port"),
        field("domain", pa.string(), "registered domain under the bundled public suffix list; null for an IP address"),
        field("n_citations", pa.int64(), "citations of the address, over all articles"),
        field("n_articles", pa.int64(), "articles that cite it"),
        field("kinds", pa.list_(pa.string()), "where citations stand: " + ", ".join(KINDS)),
        field(
            "article",
            pa.string(),
            "title of the first of these by wiki and page id; null where only its id is known",
        ),
        field("article_id", pa.int64(), "page id of that article"),
        field("wiki", pa.string(), "database name of its wiki, such as enwiki"),
    ]
)

_CITATIONS = pa.schema(
    [
        ("number", pa.uint64()),
        ("canonical", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("domain", pa.string()),
        ("kind", pa.int8()),
        ("wiki", pa.string()),
        ("page_id", pa.int64()),
        ("title", pa.string()),
        ("n", pa.int64()),
    ]
)


@dataclass(frozen=True)
class _Task:
    """A split and the name of its work files."""

    name: str
    split: DumpSplit


@dataclass(frozen=True)
class _Job:
    """All that a task needs to know."""

    output: str
    per_host: int | None
    kinds: tuple[str, ...]
    n_parts: int

    def read(self, task: _Task) -> None:
        """A split's citations as work files, then its account, which makes them count."""
        folder = RunFolder(self.output)
        account, dropped, kinds = Account(), Counter[str](), Counter[str]()
        problem = None
        n_files = 0
        rows: Counter[tuple] = Counter()
        last = None
        try:
            for page_id, title, citation in _citations(task.split, account, dropped):
                kinds[citation.kind] += 1
                if citation.kind not in self.kinds:
                    continue
                # A page's rows stay in one file, so that repeats within it are told from repeats of it.
                if len(rows) >= MOST_ROWS and page_id != last:
                    n_files = self._write(folder, task, n_files, rows)
                url, canonical, host, domain, kind, _ = citation
                rows[(canonical, url, host, domain, KINDS.index(kind), page_id, title)] += 1
                last = page_id
        except InputError as error:
            problem = str(error)
        if rows:
            n_files = self._write(folder, task, n_files, rows)
        folder.write_json(
            f"_manifests/{READ}/{task.name}.json",
            {
                "part": task.name,
                "path": task.split.path,
                "n_files": n_files,
                "problem": problem,
                "pages": account.pages,
                "redirects": account.redirects,
                "other_namespaces": account.other_namespaces,
                "table_rows": account.links,
                "citations": dict(sorted(kinds.items())),
                "dropped": dict(sorted(dropped.items())),
                "n_damages": len(account.damages),
                "bytes_lost": account.bytes_lost,
                "damages": [damage._asdict() for damage in account.damages[:MOST_LISTED]],
            },
        )

    def _write(self, folder: RunFolder, task: _Task, number: int, rows: Counter[tuple]) -> int:
        columns = list(zip(*rows, strict=True))
        canonical, url, host, domain, kind, page_id, title = columns
        numbers = [text_number(address, "url") for address in canonical]
        wiki = [task.split.wiki] * len(canonical)
        counts = list(rows.values())
        values = (numbers, canonical, url, host, domain, kind, wiki, page_id, title, counts)
        table = pa.table([pa.array(v, f.type) for v, f in zip(values, _CITATIONS, strict=True)], schema=_CITATIONS)
        folder.write_table(f"{WORK}/{task.name}-{number:04d}.parquet", table)
        rows.clear()
        return number + 1

    def send(self, name: str) -> Iterator[Parcel]:
        """A work file's citations, apart by address."""
        table = RunFolder(self.output).read_table(f"{WORK}/{name}.parquet")
        yield from by_bucket(table, ranges(table.column("number").to_numpy(), self.n_parts), "citations")

    def merge(self, _: int, received: Received) -> Iterator[Parcel]:
        """One row an address, apart by host."""
        if "citations" in received:
            merged = _merged(received["citations"].cast(_CITATIONS))
            numbers: dict[str, int] = {
                host: text_number(host, "host") for host in set(merged.column("host").to_pylist())
            }
            hosts = np.array([numbers[host] for host in merged.column("host").to_pylist()], np.uint64)
            yield from by_bucket(merged, ranges(hosts, self.n_parts), "addresses")

    def write(self, part: int, received: Received) -> None:
        """The addresses of the hosts of a part, of each host at most so many: those of the smallest numbers."""
        folder = RunFolder(self.output)
        rows = received.get("addresses", _ADDRESSES.empty_table())
        rows = rows.sort_by([("host", "ascending"), ("number", "ascending"), ("canonical", "ascending")])
        hosts = rows.column("host").to_pylist()
        rank = np.zeros(len(hosts), np.int64)
        for i in range(1, len(hosts)):
            rank[i] = rank[i - 1] + 1 if hosts[i] == hosts[i - 1] else 0
        n_found = rows.num_rows
        if self.per_host is not None:
            rows = rows.filter(pa.array(rank < self.per_host))
        name = f"part-{part:05d}"
        table = rows.select(REFERENCES.names).cast(REFERENCES)
        written = folder.write_table(f"{STAGE}/{name}.parquet", table)
        facts = {
            "hosts": int((rank == 0).sum()),
            "hosts_capped": int((rank == self.per_host).sum()) if self.per_host is not None else 0,
            "over_cap": n_found - rows.num_rows,
        }
        folder.write_json(f"_manifests/{STAGE}/{name}.json", {"part": name, "tables": {STAGE: written}, **facts})


_ADDRESSES = pa.schema([pa.field("number", pa.uint64()), *REFERENCES])


def _citations(split: DumpSplit, account: Account, dropped: Counter[str]) -> Iterator[tuple[int, str | None, Citation]]:
    if split.content == LINKS:
        for link in external_links(split, account):
            citation = citation_of(link.url, TABLE, "", dropped)
            if citation is not None:
                yield link.page_id, None, citation
        return
    for page in pages(split, account):
        for citation in cited(page, dropped):
            yield page.page_id, page.title, citation


def _merged(citations: pa.Table) -> pa.Table:
    """One row an address (schema _ADDRESSES), of all its citations.

    A page that several dumps hold is one article; of its counts in each the largest holds.
    """
    # One row an article and form of the address, of the dump where it stands most often.
    article = ["canonical", "url", "kind", "wiki", "page_id"]
    found = citations.group_by(article).aggregate(
        [("n", "max"), ("number", "min"), ("host", "min"), ("domain", "min"), ("title", "min")]
    )
    found = found.rename_columns([name.removesuffix("_max").removesuffix("_min") for name in found.column_names])
    # The table of links has each address of a page once more than its text.
    text = pc.not_equal(found.column("kind"), KINDS.index(TABLE))
    place = ["canonical", "wiki", "page_id"]
    held = found.filter(text).group_by(place).aggregate([])
    if held.num_rows and not pc.all(text).as_py():
        doubled = found.filter(pc.invert(text)).join(held, place, join_type="left anti")
        found = pa.concat_tables([found.filter(text), doubled.select(found.column_names)])
    forms = found.group_by(["canonical", "url"]).aggregate(
        [("n", "sum"), ("number", "min"), ("host", "min"), ("domain", "min")]
    )
    forms = _first(forms.sort_by([("canonical", "ascending"), ("n_sum", "descending"), ("url", "ascending")]))
    sums = found.group_by("canonical").aggregate([("n", "sum")]).sort_by("canonical")
    articles = found.group_by(place).aggregate([("title", "min")])
    counts = articles.group_by("canonical").aggregate([("page_id", "count")]).sort_by("canonical")
    first = _first(articles.sort_by([(name, "ascending") for name in place]))
    kinds = found.group_by(["canonical", "kind"]).aggregate([])
    kinds = kinds.sort_by([("canonical", "ascending"), ("kind", "ascending")])
    offsets = np.append(_starts(kinds), kinds.num_rows).astype(np.int32)
    names = pa.array(KINDS).take(kinds.column("kind").combine_chunks())
    columns = [
        forms.column("number_min"),
        forms.column("canonical"),
        forms.column("url"),
        forms.column("host_min"),
        forms.column("domain_min"),
        sums.column("n_sum"),
        counts.column("page_id_count"),
        pa.ListArray.from_arrays(pa.array(offsets), names),
        first.column("title_min"),
        first.column("page_id"),
        first.column("wiki"),
    ]
    return pa.table(columns, names=_ADDRESSES.names).cast(_ADDRESSES)


def _starts(table: pa.Table) -> np.ndarray:
    """Where each address begins in a table sorted by it."""
    canonical = table.column("canonical").combine_chunks()
    if len(canonical) < 2:
        return np.arange(len(canonical))
    other = pc.not_equal(canonical[1:], canonical[:-1]).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.append(True, other))


def _first(table: pa.Table) -> pa.Table:
    return table.take(pa.array(_starts(table)))


def references(
    spark: Any | None,
    inputs: Sequence[str],
    output: str,
    *,
    per_host: int | None = PER_HOST,
    kinds: Sequence[str] = KINDS,
    tolerate: float = 0.01,
    split_bytes: int = SPLIT_BYTES,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """The addresses that dumps cite, as the table `references` in the folder `output`, and the account (also in
    `references.json`). `spark` is a session, or a function that starts one when there is work; without, all is done in
    this process.

    `inputs` are dumps of pages or of the table externallinks; `per_host` is how many addresses of a host are kept, None
    for all; `kinds` which citations count. What was done before a run was stopped is not done again.

    Raises UsageError for an output that holds something else, and InputError, when all that could be read is done,
    where more than the share `tolerate` of files or bytes could not.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise UsageError(f"no kind of citation named {unknown[0] if unknown else ''!r}; kinds: {', '.join(KINDS)}")
    if per_host is not None and per_host < 1:
        raise UsageError(f"per_host must be at least 1, not {per_host}")
    folder = RunFolder(output)
    tasks, files = _plan(inputs, split_bytes)
    wanted = {"inputs": files, "per_host": per_host, "kinds": sorted(set(kinds)), "crawlmill": code_version()}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    info = folder.read_json("run.json")
    if info is None and not folder.is_empty():
        raise UsageError(f"output {output} is not empty and holds no references; choose a new folder")
    if info is not None and info.get("digest") != digest:
        raise UsageError(f"output {output} holds another run (other inputs, options or version); choose a new folder")
    size = sum(file["size"] or 0 for file in files)
    job = _Job(folder.path, per_host, tuple(k for k in KINDS if k in kinds), 1 + size // BYTES_A_PART)
    with folder.lock():
        folder.sweep()
        if info is None:
            # The splits of the first attempt are those of every later one.
            info = {"job": STAGE, "digest": digest, **wanted, "tasks": [asdict(task) for task in tasks], "done": False}
            folder.write_json("run.json", info)
        tasks = [_Task(task["name"], DumpSplit(**task["split"])) for task in info["tasks"]]
        if not info["done"]:
            _run(spark, job, tasks, size, partitions, watch)
            folder.write_json("references.json", _account(folder, files, tasks))
            folder.write_json("run.json", {**info, "done": True})
            folder.remove_tree(WORK)
    account: dict[str, Any] = folder.read_json("references.json") or {}
    _check(account, size, tolerate, output)
    return account


def _run(
    spark: Any | None, job: _Job, tasks: list[_Task], size: int, partitions: int | None, watch: Watch | None
) -> None:
    folder = RunFolder(job.output)
    done = {name.rsplit("/", 1)[-1].removesuffix(".json") for name in folder.list(f"_manifests/{READ}", ".json")}
    left = [task for task in tasks if task.name not in done]
    least = -(-size // SPLIT_BYTES)
    if callable(spark):
        spark = spark()
    if spark is None:
        for task in left:
            job.read(task)
    else:
        for_each(spark, left, job.read, "reading dumps", partitions, least, watch)
    manifests = _manifests(folder, READ)
    names = [f"{m['part']}-{number:04d}" for m in manifests for number in range(m["n_files"])]
    hops = [Hop(job.n_parts, job.merge, light=True), Hop(job.n_parts, job.write, light=True)]
    exchange(spark, STAGE, names, job.send, hops, partitions=partitions, least=least, watch=watch)


def _plan(inputs: Sequence[str], split_bytes: int) -> tuple[list[_Task], list[dict[str, Any]]]:
    """Splits, and files with what is wrong with them. Raises InputError where nothing can be read at all."""
    tasks: list[_Task] = []
    files: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for pattern in dict.fromkeys(p for p in inputs if p):
        try:
            if "://" not in pattern and Path(pattern).is_dir():
                raise InputError(
                    f"{pattern}: is a folder; name its dumps, such as '{pattern}/*-pages-articles*.xml*.bz2'"
                )
            found = [file for file in expand([pattern]) if not is_index(file.path)]
        except InputError as error:
            problems.append(str(error))
            files[pattern] = {"path": pattern, "size": 0, "version": None, "problem": str(error)}
            continue
        for file in found:
            if file.path in files:
                continue
            files[file.path] = {"path": file.path, "size": file.size, "version": file.version}
            try:
                parts = splits([file], split_bytes)
            except InputError as error:
                problems.append(str(error))
                files[file.path]["problem"] = str(error)
                continue
            files[file.path] |= {"content": parts[0].content, "codec": parts[0].codec, "wiki": parts[0].wiki}
            key = hashlib.sha256(file.path.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            tasks += [_Task(f"{key}-{part.start:014d}", part) for part in parts]
    if not tasks:
        raise InputError("; ".join(problems) or "no dump given; name files such as enwiki-…-pages-articles.xml.bz2")
    return sorted(tasks, key=lambda task: task.split), [files[path] for path in sorted(files)]


def _manifests(folder: RunFolder, stage: str) -> list[dict[str, Any]]:
    return [facts for name in folder.list(f"_manifests/{stage}", ".json") if (facts := folder.read_json(name))]


def _account(folder: RunFolder, files: list[dict[str, Any]], tasks: list[_Task]) -> dict[str, Any]:
    """What was read, left out, lost and written, over all splits and parts."""
    read, written = _manifests(folder, READ), _manifests(folder, STAGE)
    problems = {m["path"]: m["problem"] for m in read if m["problem"]}
    counted: dict[str, Any] = {
        name: sum(m[name] for m in read)
        for name in ("pages", "redirects", "other_namespaces", "table_rows", "n_damages", "bytes_lost")
    }
    for name in ("citations", "dropped"):
        total: Counter[str] = Counter()
        for manifest in read:
            total.update(manifest[name])
        counted[name] = dict(sorted(total.items()))
    ways: Counter[str] = Counter(task.split.path for task in tasks)
    listed = [
        {
            **file,
            "splits": ways[file["path"]],
            **({"problem": problems[file["path"]]} if file["path"] in problems else {}),
        }
        for file in files
    ]
    return {
        "inputs": listed,
        **counted,
        "damages": [damage for m in read for damage in m["damages"]][:MOST_LISTED],
        "references": sum(m["tables"][STAGE]["rows"] for m in written),
        **{name: sum(m[name] for m in written) for name in ("hosts", "hosts_capped", "over_cap")},
    }


def _check(account: dict[str, Any], size: int, tolerate: float, output: str) -> None:
    bad = [file["problem"] for file in account["inputs"] if file.get("problem")]
    n_files = len(account["inputs"])
    lost = account["bytes_lost"]
    if len(bad) > tolerate * n_files or lost > tolerate * max(1, size):
        why = f" ({bad[0]})" if bad else ""
        raise InputError(
            f"{len(bad)} of {n_files} dumps could not be read{why}, {lost:,} of {size:,} bytes are damaged; tolerated are "
            f"{tolerate:.1%} (--tolerate). Everything else was read; {output}/references.json lists what was not"
        )


def _command(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="jobs/references.py",
        description="Reads dumps of Wikipedia and writes the addresses that it cites; what is done already in the output "
        "folder is not done again.",
        epilog="example: spark-submit jobs/references.py --input 'enwiki-*-pages-articles-multistream*.xml*.bz2' "
        "--output references",
    )
    parser.add_argument("--input", nargs="+", required=True, help="dumps: files, globs, https:// or s3:// addresses")
    parser.add_argument("--output", required=True, help="folder: a path or an s3:// address")
    parser.add_argument(
        "--per-host", type=int, default=PER_HOST, help=f"addresses kept of a host (default {PER_HOST}), 0: all"
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help=f"citations that count: {', '.join(KINDS)}")
    parser.add_argument("--tolerate", type=float, default=0.01, help="share of files or bytes that may be unreadable")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    # Pickled by reference, so that executors find it whether this file was submitted or imported.
    from jobs import references as job

    ask = partial(job.references, per_host=options.per_host or None, kinds=options.kinds, tolerate=options.tolerate)
    try:
        account = ask(partial(session, STAGE), options.input, options.output, partitions=options.partitions)
    except CrawlmillError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(" ".join(f"{name}={account[name]}" for name in ("pages", "references", "hosts", "bytes_lost")))


if __name__ == "__main__":
    _command()
