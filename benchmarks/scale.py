"""What a whole crawl of Common Crawl costs, and a hundred: the figures of docs/scale.md.

    python -m benchmarks.scale                    prints them
    python -m benchmarks.scale --rates plan.json  takes what was measured from a plan (crawlmill plan --plan) first
    python -m benchmarks.scale --write            puts them into the page

Rates stand in benchmarks/scale.json: processor time by record and by byte of text, bytes of tables and of exchanges by row,
as `crawlmill plan` measured them on the sample crawl. What a crawl is stands here, each number with its source.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.throughput import ROOT
from pipeline.planning import parcels

RATES = Path(__file__).with_name("scale.json")
PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- python -m benchmarks.scale -->", "<!-- end -->"


@dataclass(frozen=True)
class Crawl:
    """One crawl of Common Crawl and what the default recipe makes of it."""

    files: int = 90_000
    n_bytes: float = 80e12  # 0.9 GB a file; that of September 2016 had 28.94 TiB in 30,374 files, 1.05 GB each
    pages: float = 2.14e9  # July 2026 (commoncrawl.org/blog/july-2026-crawl-archive-now-available)
    page_bytes: float = 364.01 * 2**40 / 2.14e9  # uncompressed, the same page; 160 kB in December 2024
    text_bytes: float = 5_500  # 1,179 to 1,329 tokens a page (DCLM, App. K, Table 16) of some 4.4 bytes
    ruled: float = (
        0.199  # of pages after language and rules, before duplicates (DCLM, figure of its funnel; Dolma 3: 0.15)
    )
    duplicates: float = 0.44  # of these, within one crawl (FineWeb: 36 T tokens to 20 T)
    edges: float = 5.0  # verified pairs a duplicate: clusters are stars or small cliques


@dataclass(frozen=True)
class Cluster:
    """What it runs on and what that costs."""

    cores: int = 1_000
    core_hour: float = 0.04  # a core of a general-purpose spot machine with 4 GB, in USD
    put: float = 0.005 / 1000  # S3's list prices in us-east-1, in USD: a PUT, a GET, a GB kept for a month
    get: float = 0.0004 / 1000
    gb_month: float = 0.023


HTML_MS_PER_KB = (6.27 - 2.11) / (119 - 24)
"""Milliseconds that a kB of HTML costs the cascade (benchmarks/extraction.txt: pages of 24 kB and of 119 kB)."""

STAR_STEP_SECONDS = 147.2 / 7 / 2e6
"""Processor time of an edge in an iteration of star steps (benchmarks/components.txt, random-2m)."""

STAR_STEPS = 10
ONE_TASK_EDGES = 5_000_000
SAMPLE_PAGE_BYTES, LINES_A_PAGE = 23_400, 25
"""Of the sample crawl: bytes of HTML of a page, and lines of a page that passes the rules, on average."""

GETS_A_TABLE = 5
"""Ranged reads of one Parquet file: footer, and columns in a few stretches."""

PART_SLOPE = 5.0
"""Bytes that a task holds for each byte of text of its part. All 42 MB of the sample crawl as one part (29 MB of text)
took 0.60 GB to extract, 0.51 to annotate and 0.68 to score; its parts of 2.4 MB of text 0.48, 0.38 and 0.57."""

READS_A_PART = 26
"""Files of a part that the stages open one after the other (jobs/runs.py, read_part to read_compared)."""


def load() -> dict[str, Any]:
    """What was measured."""
    return dict(json.loads(RATES.read_text()))


class Projection:
    """One crawl under the rates."""

    def __init__(self, rates: dict[str, Any], crawl: Crawl | None = None, cluster: Cluster | None = None) -> None:
        self.rates, self.crawl, self.cluster = rates, crawl or Crawl(), cluster or Cluster()
        seen, c = rates["seen"], self.crawl
        documents = c.pages * seen["documents"] / seen["records"]
        text = documents * c.text_bytes
        longer = (seen["ruled text"] / seen["ruled"]) / (seen["text"] / seen["documents"])
        ruled = c.pages * c.ruled
        kept = ruled * (1 - c.duplicates)
        stays = seen["curated"] / (seen["ruled text"] * seen["kept"] / seen["ruled"])
        self.units = {
            "records": c.pages,
            "documents": documents,
            "text": text,
            "ruled": ruled,
            "ruled text": ruled * c.text_bytes * longer,
            "kept": kept,
            "curated": kept * c.text_bytes * longer * stays,
        }
        self.parts = max(c.files, -(-int(c.n_bytes) // rates["most_split_bytes"]))
        self.shards = -(-int(text) // rates["shard_bytes"])
        self.index_shards = -(-int(text) // rates["index_shard_bytes"])

    def work(self) -> dict[str, float]:
        """Core-hours by stage."""
        found = {}
        for stage, rate in self.rates["work"].items():
            seconds = rate["seconds"] * self.units[rate["driver"]]
            if stage == "extract":
                seen = self.rates["seen"]
                more = max(0.0, self.crawl.page_bytes - self.rates["page_bytes"]) / 1000
                a_page = rate["seconds"] * seen["text"] / seen["records"] + HTML_MS_PER_KB * more / 1000
                seconds = a_page * self.units["records"]
            found[stage] = seconds / 3600
        edges = self.edges()
        rounds = STAR_STEPS if edges > ONE_TASK_EDGES else 0
        found["star steps of near-duplicates"] = edges * rounds * STAR_STEP_SECONDS / 3600
        found["small tables that travel"] = sum(n * ms for n, ms in self._messages()) / 1000 / 3600
        return found

    def edges(self) -> float:
        """Verified pairs of near-duplicates."""
        return self.units["ruled"] * self.crawl.duplicates * self.crawl.edges

    def _messages(self) -> list[tuple[float, float]]:
        """How many tables travel in each exchange, and what one costs in milliseconds."""
        return [(e["tables"], self.rates["tables"][e["kind"]]["ms"]) for e in self.exchanges().values()]

    def exchanges(self) -> dict[str, dict[str, Any]]:
        """By exchange: rows, the bytes that these are, the tables in which they travel, the bytes that those begin with."""
        ruled, records = self.units["ruled"], self.units["records"]
        rows = {
            "repeated lines": ("lines", ruled * self.rates["lines_a_page"], self.parts, self.index_shards),
            "pages to the index": ("pages", ruled, self.parts, self.index_shards),
            "sketches to the index": ("sketches", ruled, self.parts, self.index_shards),
            "band keys to the index": ("bands", ruled * self.rates["bands"], self.parts, self.index_shards),
            "pages by address, and back": ("pages", 2 * ruled, 2 * self.index_shards, self.index_shards),
            "candidate pairs with a sketch": ("sketches", self.edges(), self.index_shards, self.index_shards),
            "clusters and verdicts": ("verdicts", ruled, self.index_shards, self.parts),
            "decided rows (curate)": ("decided", records, self.parts, self.shards),
        }
        found = {}
        for name, (kind, n, tasks, buckets) in rows.items():
            measured = self.rates["tables"][kind]
            tables = parcels(n / tasks, tasks, buckets)
            found[name] = {
                "kind": kind,
                "rows": n,
                "row_bytes": n * measured["row_bytes"],
                "tables": tables,
                "table_bytes": tables * measured["table_bytes"],
            }
        return found

    def folder(self) -> dict[str, tuple[float, float]]:
        """By table: bytes and files."""
        found = {}
        for name, rate in self.rates["bytes"].items():
            files = {"ledger": self.shards, "curated": self.shards, "dedup": 2 * self.index_shards}.get(
                name, self.parts
            )
            found[name] = (rate["bytes"] * self.units[rate["driver"]] + rate["file_bytes"] * files, float(files))
        manifests = 3 * self.parts + self.shards
        found["_manifests"] = (900.0 * manifests, float(manifests))
        return found

    def requests(self) -> tuple[float, float]:
        """PUT and GET requests of an object store."""
        files = sum(n for _, n in self.folder().values())
        return (
            files,
            READS_A_PART * self.parts * GETS_A_TABLE + self.index_shards * 12 * GETS_A_TABLE + self.crawl.n_bytes / 4e6,
        )

    def memory(self) -> dict[str, float]:
        """Most bytes of a task, by stage."""
        found = {}
        text_a_part = self.units["text"] / self.parts
        for stage, rate in self.rates["memory"].items():
            wanted = self.units["records"] / self.shards if stage == "curate" else text_a_part
            found[stage] = rate["bytes"] + rate["slope"] * max(0.0, wanted - rate["given"])
        return found


def figures(rates: dict[str, Any]) -> str:
    """The figures of the page, as Markdown."""
    one = Projection(rates)
    c, cluster = one.crawl, one.cluster
    work, exchanges, folder, memory = one.work(), one.exchanges(), one.folder(), one.memory()
    hours = sum(work.values())
    puts, gets = one.requests()
    n_bytes = sum(size for size, _ in folder.values())
    lines = [
        f"One crawl: {c.files:,} files, {_size(c.n_bytes)}, {_count(c.pages)} pages of {c.page_bytes / 1000:.0f} kB. "
        f"{_count(one.units['ruled'])} pages pass the rules, {_count(one.units['kept'])} are kept: "
        f"{_size(one.units['curated'])} of text.",
        "",
        "| | one crawl | a hundred |",
        "|---|---:|---:|",
    ]
    price = hours * cluster.core_hour
    asked = puts * cluster.put + gets * cluster.get
    for name, value, show in (
        ("parts", float(one.parts), _count),
        ("curated shards", float(one.shards), _count),
        ("shards of the band index", float(one.index_shards), _count),
        ("core-hours", hours, _count),
        (f"hours on {cluster.cores:,} cores", hours / cluster.cores / rates["busy"], _count),
        ("price of the cores, USD", price / rates["busy"], _count),
        ("objects written", puts, _count),
        ("requests to read", gets, _count),
        ("price of requests, USD", asked, _count),
        ("run folder", n_bytes, _size),
        ("its price a month, USD", n_bytes / 1e9 * cluster.gb_month, _count),
        ("verified pairs of near-duplicates", one.edges(), _count),
    ):
        lines.append(f"| {name} | {show(value)} | {show(100 * value)} |")
    lines += ["", "| stage | core-hours | share | most memory of a task |", "|---|---:|---:|---:|"]
    for stage, value in work.items():
        held = _size(memory[stage]) if stage in memory else ""
        lines.append(f"| {stage} | {_count(value)} | {value / hours:.0%} | {held} |")
    lines += [
        "",
        "| exchange | rows | bytes of rows | tables that travel | bytes they begin with |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, e in exchanges.items():
        lines.append(
            f"| {name} | {_count(e['rows'])} | {_size(e['row_bytes'])} | {_count(e['tables'])} | {_size(e['table_bytes'])} |"
        )
    lines += ["", "| table | bytes | files |", "|---|---:|---:|"]
    lines += [f"| {name} | {_size(size)} | {_count(n)} |" for name, (size, n) in folder.items()]
    return "\n".join(lines)


def _size(value: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _count(value: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def measured(plan: dict[str, Any]) -> dict[str, Any]:
    """The rates of a plan, and what tables weigh that travel."""
    from benchmarks.scale_tables import tables
    from jobs.band_index import SHARD_BYTES
    from jobs.plan_foresight import BUSY
    from jobs.runs import MOST_SPLIT_BYTES
    from pipeline.recipe import load_recipe

    recipe = load_recipe(plan["recipe"])
    rates = plan["rates"]
    for stage, rate in rates["memory"].items():
        seen, n_bytes = rates["seen"]["records" if stage == "curate" else "text"], plan["sample"]["bytes"]
        rate["given"] *= seen / n_bytes
        rate["slope"] = rate["slope"] * n_bytes / seen if stage == "curate" else PART_SLOPE
    banding = recipe.dedup.minhash.banding() if recipe.dedup.minhash else (0, 0, 0)
    weights = tables(recipe)
    # Random numbers do not compress; decided rows are mostly small numbers that do.
    sent = [rate for name, rate in rates["shuffle"].items() if name.startswith("curate: ")]
    weights["decided"]["row_bytes"] = round(sum(rate["bytes"] for rate in sent))
    return {
        **rates,
        "tables": weights,
        "lines_a_page": LINES_A_PAGE,
        "bands": banding[1],
        "page_bytes": SAMPLE_PAGE_BYTES,
        "busy": BUSY,
        "most_split_bytes": MOST_SPLIT_BYTES,
        "shard_bytes": recipe.output.shard_bytes,
        "index_shard_bytes": SHARD_BYTES,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, help="a plan to take the rates from")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/scale.md")
    options = parser.parse_args()
    if options.rates:
        RATES.write_text(json.dumps(measured(json.loads(options.rates.read_text())), indent=1) + "\n")
    text = figures(load())
    print(text)
    if options.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
        print(f"{PAGE} written", file=sys.stderr)


if __name__ == "__main__":
    main()
