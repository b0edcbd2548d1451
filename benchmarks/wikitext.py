"""Wikitext to text: articles a second on one core and what comes through, beside three libraries.

    python benchmarks/wikitext.py --peer-python wikipeer/bin/python --rounds 5

The peers (mwparserfromhell's strip_code, gensim's filter_wiki, wikitextparser's plain_text) run in the interpreter of
--peer-python, each in turn with ours; the ratio of a round is what counts. All read the same articles: those of the dump
below CRAWLMILL_DATA that are no redirects. Kept is counted of what the wikitext holds outside of references:

    marks       lines of the text with wikitext left in them, outside of formulas
    formulas    share of the contents of <math> that stand in the text as they were
    quantities  share of {{convert|N|unit}} whose number stands in the text before a unit
    tables      share of the words in cells of tables (plain ones, no boxes) whose row stands on one line
    drops       share of the names of cited works (titles in references) that are absent, as they should be
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("mwparserfromhell", "gensim", "wikitextparser")


def articles() -> list[tuple[str, str]]:
    """Titles and wikitext."""
    sys.path.insert(0, str(ROOT))
    from pipeline.sources.inputs import InputFile
    from pipeline.sources.wikipedia import pages, splits

    folder = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data")) / "labelled" / "wiki"
    files = [InputFile(str(path), path.stat().st_size, None) for path in sorted(folder.glob("*pages-articles*.bz2"))]
    found = [page for split in splits(files, 1 << 40) for page in pages(split) if page.redirect is None]
    return [(page.title, page.text) for page in found]


def function(name: str) -> Callable[[str], str]:
    if name == "mwparserfromhell":
        import mwparserfromhell

        return lambda text: mwparserfromhell.parse(text).strip_code()
    if name == "gensim":
        from gensim.corpora.wikicorpus import filter_wiki

        return filter_wiki
    if name == "wikitextparser":
        import wikitextparser

        return lambda text: wikitextparser.parse(text).plain_text()
    from pipeline.sources.wikitext import plain_text

    return plain_text


def read(name: str, texts: list[str]) -> tuple[float, list[str]]:
    """Seconds of processor time for all texts, and what came of each."""
    convert = function(name)
    convert("'''One''' [[link]] {{lang|de|Wort}}")
    start = time.process_time()
    out = [convert(text) for text in texts]
    return time.process_time() - start, out


class Peer:
    """A library in the other interpreter, kept running."""

    def __init__(self, python: str, name: str, texts: list[str]) -> None:
        command = [python, str(Path(__file__).resolve()), "--answer", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(texts)

    def _ask(self, message: object) -> list:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def read(self) -> tuple[float, list[str]]:
        """Like the function of this name."""
        seconds, texts = self._ask("again")
        return seconds, texts


def answer(name: str) -> None:
    texts = json.loads(sys.stdin.readline())
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(read(name, texts)), flush=True)


_REF = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?ref|''|<!--|__[A-Z]+__|&nbsp;|</?(?:div|span|br|small|sub|sup)\b"
    r"|^\|(?:[-+}]|\s*\w+\s*=)"
)
_MATH = re.compile(r"<math\b[^<>]*>(.*?)</math>", re.DOTALL)
_CONVERT = re.compile(r"\{\{convert\|([\d.,]+)\|(?![-–]|to\||and\||x\||by\|or\|)", re.IGNORECASE)
_TABLE_ROW = re.compile(r"^\| *([\w][\w ,.]{1,30}) *\|\| *([\w][\w ,.]{1,30}) *\|\|", re.MULTILINE)
_TITLE = re.compile(r"\|\s*title\s*=\s*([^|{}\[\]'<>\n]{20,80})\s*\|")


def kept(sources: list[str], texts: list[str]) -> dict[str, str]:
    """What of the wikitext stands in the texts: shares as percentages, and their bases."""
    marks = 0
    counts = {name: [0, 0] for name in ("formulas", "quantities", "tables", "drops")}

    def count(name: str, there: bool) -> None:
        counts[name][0] += there
        counts[name][1] += 1

    for source, text in zip(sources, texts, strict=True):
        body = _REF.sub("", source)
        flat = " ".join(text.split())
        formulas = [" ".join(found.split()) for found in _MATH.findall(body)]
        bare = text
        for formula in sorted(formulas, key=len, reverse=True):
            count("formulas", formula in flat)
            if len(formula) > 3:  # a letter stands in words as well
                bare = bare.replace(formula, "")
        marks += sum(bool(_MARKS.search(line)) for line in bare.split("\n"))
        for number in _CONVERT.findall(body):
            count("quantities", re.search(rf"(?<![\d.]){re.escape(number)}[ -]?[a-zA-Z°]", flat) is not None)
        lines = text.split("\n")
        for first, second in _TABLE_ROW.findall(body)[:200]:
            count("tables", any(first.strip() in line and second.strip() in line for line in lines))
        for cited in _REF.findall(source):
            for title in _TITLE.findall(cited):
                count("drops", title.strip() not in text)
    shares = {name: f"{there / max(of, 1):.0%} of {of}" for name, (there, of) in counts.items()}
    return {"marks": str(marks), **shares, "characters": f"{sum(map(len, texts)):,}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.answer)
        return
    texts = [text for _, text in articles()]
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts)} articles, {size / 1e6:.1f} MB of wikitext; one core, medians of {options.rounds} rounds\n")
    peers = {name: Peer(options.peer_python, name, texts) for name in PEERS} if options.peer_python else {}
    seconds: dict[str, list[float]] = {name: [] for name in ("crawlmill", *peers)}
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    outputs: dict[str, list[str]] = {}
    for _ in range(options.rounds):
        own, outputs["crawlmill"] = read("crawlmill", texts)
        seconds["crawlmill"].append(own)
        for name, peer in peers.items():
            taken, outputs[name] = peer.read()
            seconds[name].append(taken)
            ratios[name].append(taken / own)
    for peer in peers.values():
        peer.process.terminate()
    columns = ("marks", "formulas", "quantities", "tables", "drops", "characters")
    print(f"{'':18}{'articles/s':>11}{'MB/s':>7}{'ours is':>9}" + "".join(f"{name:>15}" for name in columns))
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = f"{statistics.median(ratios[name]):.2f}x" if name in ratios else ""
        found = kept(texts, outputs[name])
        print(
            f"{name:18}{len(texts) / median:11.0f}{size / 1e6 / median:7.2f}{ratio:>9}"
            + "".join(f"{found[column]:>15}" for column in columns)
        )


if __name__ == "__main__":
    main()
