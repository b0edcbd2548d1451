"""PII found: precision and recall by kind, and time a page, beside Presidio, datatrove and rules like Dolma's.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]'
    python -m benchmarks.pii --peer-python peer/bin/python > benchmarks/pii.txt
    python -m benchmarks.pii --inspect 200 --seed 1

Needs presidio-analyzer and CRAWLMILL_DATA. A label counts as found when at least half of its characters are covered by
hits of its kind, and as exact when one hit has its very span. A false positive is a hit that touches no label of its
kind. The labelled sets hold five or six kinds, so made-up texts with seeded values cover the rest, with texts that
only look like PII. `--inspect` prints what would be masked in the sample crawl, for a person to judge; it is never
written to a file. Texts are named by set and row (from 0), values are not shown.

on others: false positives on labels of other types. forgotten: false positives that are PII which the set did not
label. Reviewed labels have those too and lack three labels that are not what they say (`pii_texts.py` lists both); what is
reviewed is what any contender found, so recall of CRYPTO, which has no other labels, says nothing there.
"""

import argparse
import importlib.metadata
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import phonenumbers
import pyarrow as pa

from benchmarks.pii_peer import Find, Hit, dolma, presidio
from benchmarks.pii_texts import (
    KINDS,
    LEFT_OUT,
    SETS,
    UNLABELLED,
    UNSOUND,
    Made,
    Text,
    crawl,
    labelled,
    luhn,
    made,
)

ABILITY = {
    "crawlmill": KINDS,
    "presidio": KINDS[:7],
    "datatrove": ("EMAIL_ADDRESS", "IP_ADDRESS"),
    "dolma rules": KINDS[:3],
}


# Contenders


def ours() -> Callable[[Sequence[Text]], list[list[Hit]]]:
    from pipeline.signals.pii import Detector

    detector = Detector(kinds=KINDS)

    def find(texts: Sequence[Text]) -> list[list[Hit]]:
        found = detector.find(pa.array([text.text for text in texts]), [text.language for text in texts])
        hits: list[list[Hit]] = [[] for _ in texts]
        for hit in found.to_pylist():
            hits[hit["row"]].append(Hit(hit["start"], hit["end"], hit["kind"]))
        return hits

    return find


def one_by_one(find: Find) -> Callable[[Sequence[Text]], list[list[Hit]]]:
    return lambda texts: [find(text.text) for text in texts]


class Peer:
    """datatrove in an interpreter of its own."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("pii_peer.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: dict[str, list[str]]) -> Any:
        """The answer to one question."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the peer was started without pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise SystemExit(f"the peer stopped: {self._process.args!r}")
        return json.loads(reply)

    def find(self, texts: Sequence[Text]) -> list[list[Hit]]:
        """Its hits on each text."""
        return [[Hit(*hit) for hit in hits] for hits in self.ask({"texts": [text.text for text in texts]})]

    def close(self) -> None:
        """Waits until it has ended."""
        self._process.communicate()


# Scores


class Score:
    """Counts of one contender for one kind."""

    def __init__(self) -> None:
        self.labels = self.found = self.exact = self.hits = self.wrong = self.on_others = self.forgotten = 0

    @property
    def recall(self) -> float:
        """Share of the labels that were found."""
        return self.found / self.labels if self.labels else math.nan

    @property
    def precision(self) -> float:
        """Share of the hits that touch a label of their kind."""
        return 1 - self.wrong / self.hits if self.hits else math.nan


def touch(a: Hit, b: Hit) -> bool:
    return a.start < b.end and b.start < a.end


def covered(label: Hit, hits: Sequence[Hit]) -> int:
    return len({i for hit in hits for i in range(max(hit.start, label.start), min(hit.end, label.end))})


def is_among(hit: Hit, hits: Sequence[Hit]) -> bool:
    return any(touch(hit, other) and hit.kind == other.kind for other in hits)


def is_found(label: Hit, hits: Sequence[Hit]) -> bool:
    return 2 * covered(label, [hit for hit in hits if hit.kind == label.kind]) >= label.end - label.start


def score(texts: Sequence[Text], found: Sequence[Sequence[Hit]], reviewed: bool = False) -> dict[str, Score]:
    """Counts by kind. Reviewed: forgotten PII is a label too, unsound labels and the hits on them count for nothing."""
    scores = {kind: Score() for kind in KINDS}
    for text, hits in zip(texts, found, strict=True):
        forgotten = UNLABELLED.get(text.name, [])
        unsound = UNSOUND.get(text.name, []) if reviewed else []
        gold = [label for label in text.gold if label not in unsound] + (forgotten if reviewed else [])
        for label in gold:
            to = scores[label.kind]
            to.labels += 1
            to.found += is_found(label, hits)
            to.exact += label in hits
        for hit in hits:
            if is_among(hit, unsound) and not is_among(hit, gold):
                continue
            to = scores[hit.kind]
            to.hits += 1
            if not is_among(hit, gold):
                to.wrong += 1
                to.on_others += any(touch(hit, label) for label in (*gold, *text.other))
                to.forgotten += is_among(hit, forgotten)
    return scores


def show(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.3f}"


def report(title: str, scores: dict[str, dict[str, Score]]) -> None:
    """A row for each kind and contender, then a line for each kind: is our recall the best, and our precision no lower
    than Presidio's?
    """
    print(title)
    head = f"{'kind':17}{'contender':13}{'labels':>7}{'recall':>8}{'exact':>8}{'hits':>7}{'precision':>11}{'wrong':>7}"
    print(f"{head}{'on others':>11}{'forgotten':>11}")
    for kind in KINDS:
        for name, of in scores.items():
            to = of[kind]
            if kind not in ABILITY[name] or not (to.labels or to.hits):
                continue
            exact = to.exact / to.labels if to.labels else math.nan
            print(
                f"{kind:17}{name:13}{to.labels:>7}{show(to.recall):>8}{show(exact):>8}{to.hits:>7}"
                f"{show(to.precision):>11}{to.wrong:>7}{to.on_others:>11}{to.forgotten:>11}"
            )
    print()
    if "crawlmill" not in scores:
        return
    print("recall the best, and precision no lower than Presidio's?")
    for kind in KINDS:
        mine = scores["crawlmill"][kind]
        others = {name: of[kind] for name, of in scores.items() if name != "crawlmill" and kind in ABILITY[name]}
        if not mine.labels:
            print(f"  {kind:17}no labels")
            continue
        best = max(others, key=lambda name: others[name].recall, default="")
        rival = others[best].recall if best else 0.0
        bar = others["presidio"].precision if "presidio" in others else math.nan
        holds = mine.recall >= rival and not mine.precision < bar
        print(
            f"  {kind:17}{'holds' if holds else 'DOES NOT HOLD':15}recall {show(mine.recall)}, best other {show(rival)} "
            f"{best or 'nobody'}; precision {show(mine.precision)}, Presidio {show(bar)}"
        )
    print()


def well_formed(text: Text, label: Hit) -> bool:
    """Whether a label's value is what its type says, by check digits and ranges; kinds without any are."""
    value = text.text[label.start : label.end]
    plain = "".join(filter(str.isalnum, value)).upper()
    if label.kind == "CREDIT_CARD":
        return luhn(plain)
    if label.kind == "IBAN_CODE":
        return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
    if label.kind == "US_SSN":
        return len(plain) == 9 and plain[:3] not in ("000", "666") and plain[0] != "9" and plain[3:5] != "00"
    if label.kind == "IP_ADDRESS":
        return ip_address(value).is_global
    if label.kind == "PHONE_NUMBER":
        regions = ("US", "GB", "DE", "FR", "NL", "ES", "IT", "SE", "CH", "DK", "AU", "BR")
        return any(is_phone(value, region) for region in regions)
    return True


def is_phone(value: str, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(value, region))
    except phonenumbers.NumberParseException:
        return False


def labels(texts: Sequence[Text]) -> None:
    print(f"{'labels':24}" + "".join(f"{name:>12}" for name in SETS) + f"{'all':>8}{'well-formed':>13}")
    for kind in KINDS:
        of = [(text, label) for text in texts for label in text.gold if label.kind == kind]
        by_set = Counter(text.name.partition(":")[0] for text, _ in of)
        sound = sum(well_formed(*pair) for pair in of)
        print(f"{kind:24}" + "".join(f"{by_set[name]:>12}" for name in SETS) + f"{len(of):>8}{sound:>13}")
    counts = Counter(label.kind for text in texts for label in text.other)
    for reason, types in LEFT_OUT.items():
        print(f"left out, {reason}: " + ", ".join(f"{name} {counts[name]}" for name in types))
    print(
        "well-formed: check digits (cards, IBANs), ranges (SSNs), public address, a number of one of 12 countries' plans\n"
    )


def by_form(rows: Sequence[Made], found: dict[str, list[list[Hit]]]) -> None:
    """Recall of each form, and false positives of each class of look-alikes."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        places[row.kind, row.form].append(i)
    print(f"{'recall by form':44}" + "".join(f"{name:>13}" for name in found))
    for (kind, form), of in places.items():
        if kind:
            cells = [
                show(score([rows[i].text for i in of], [hits[i] for i in of])[kind].recall) for hits in found.values()
            ]
            able = [cell if kind in ABILITY[name] else "" for name, cell in zip(found, cells, strict=True)]
            print((f"{kind:17}{form:27}" + "".join(f"{cell:>13}" for cell in able)).rstrip())
    print(
        f"\n{'hits in a hundred look-alikes, by class':44}"
        + "".join(f"{name:>13}" for name in found)
        + "  kinds (ours)"
    )
    for (kind, form), of in places.items():
        if not kind:
            cells = [f"{sum(len(hits[i]) for i in of) / len(of) * 100:.0f}" for hits in found.values()]
            kinds = Counter(hit.kind for i in of for hit in found.get("crawlmill", {i: []})[i])
            line = f"{form:44}" + "".join(f"{cell:>13}" for cell in cells) + "  " + ", ".join(sorted(kinds))
            print(line.rstrip())
    print()


def speed(pages: list[Text], n_pages: int, rounds: int, stock: Find, peer: Peer | None) -> None:
    """Processor time a page, all contenders on the same pages in turn, in an order that rotates."""
    some = random.Random(1).sample(pages, min(n_pages, len(pages)))
    found = ours()
    just = [text.text for text in some]

    def took(work: Callable[[], Any]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    runs: dict[str, Callable[[], float]] = {
        "crawlmill": lambda: took(lambda: found(some)),
        "presidio": lambda: took(lambda: [stock(text) for text in just]),
        "dolma rules": lambda: took(lambda: [dolma(text) for text in just]),
    }
    if peer is not None:
        runs["datatrove"] = lambda: peer.ask({"time": just})
    for name in runs:
        if name != "presidio":
            runs[name]()  # what a first call builds is no part of a page
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(runs[name]() / len(some) * 1000)
    print(
        f"{len(some)} pages of the crawl, {sum(map(len, just)) / len(some):,.0f} characters each, {rounds} rounds in turn"
    )
    print(f"{'contender':14}{'ms a page':>11}{'over ours':>11}")
    for name in runs:
        ratio = statistics.median(a / b for a, b in zip(taken[name], taken["crawlmill"], strict=True))
        print(f"{name:14}{statistics.median(taken[name]):>11.3f}{ratio:>11.2f}")
    mine = found(some)
    others = {"presidio": one_by_one(stock)(some), "dolma rules": one_by_one(dolma)(some)}
    others |= {"datatrove": peer.find(some)} if peer is not None else {}
    print(f"\nhits on these pages{'':6}crawlmill" + "".join(f"{name:>13}   not ours" for name in others))
    for kind in KINDS:
        row = f"{kind:25}{sum(hit.kind == kind for hits in mine for hit in hits):>9,}"
        for name, theirs in others.items():
            of_kind = [(hit, own) for hits, own in zip(theirs, mine, strict=True) for hit in hits if hit.kind == kind]
            new = sum(not any(touch(hit, other) for other in own) for hit, own in of_kind)
            row += f"{len(of_kind):>13,}{new:>11,}" if kind in ABILITY[name] else f"{'':24}"
        print(row.rstrip())
    print("not ours: hits that touch none of ours, of any kind; role addresses are left out by ours\n")
    whole = statistics.median(took(lambda: found(pages)) for _ in range(rounds))
    counts = Counter(hit.kind for hits in found(pages) for hit in hits)
    print(f"crawlmill on all {len(pages):,} pages: {whole / len(pages) * 1000:.3f} ms a page")
    print("hits: " + ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS))


def inspect(n: int, seed: int) -> None:
    """Prints `n` random hits of the crawl with what stands around them."""
    pages = crawl()
    hits = [(text, hit) for text, of in zip(pages, ours()(pages), strict=True) for hit in of]
    print(f"{len(hits):,} hits on {len(pages):,} pages; {min(n, len(hits))} of them, seed {seed}")
    for i, (text, hit) in enumerate(random.Random(seed).sample(hits, min(n, len(hits)))):
        before, after = text.text[max(0, hit.start - 40) : hit.start], text.text[hit.end : hit.end + 40]
        line = f"{before}>>>{text.text[hit.start : hit.end]}<<<{after}"
        print(f"{i:3} {text.name:16} {text.language:3} {hit.kind:15} {' '.join(line.split())}")


def misses(texts: Sequence[Text], found: dict[str, list[list[Hit]]]) -> None:
    """Labels that another finds and we do not, and our hits on no label of their kind, by text."""
    print("missed, and found by these; false, and what it is on")
    for i, text in enumerate(texts):
        for label in text.gold:
            finders = [name for name, hits in found.items() if is_found(label, hits[i])]
            if finders and "crawlmill" not in finders:
                note = ", unsound" if is_among(label, UNSOUND.get(text.name, [])) else ""
                print(f"  missed {text.name} {label.start}-{label.end} {label.kind}: {', '.join(finders)}{note}")
        for hit in found["crawlmill"][i]:
            if not is_among(hit, text.gold):
                on = [label.kind for label in (*text.gold, *text.other) if touch(hit, label)]
                on += ["forgotten PII"] * is_among(hit, UNLABELLED.get(text.name, []))
                print(f"  false  {text.name} {hit.start}-{hit.end} {hit.kind}: {', '.join(on) or 'nothing'}")
    print()


def main() -> None:
    """Runs all contenders on all texts and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has datatrove; without it that peer is left out")
    parser.add_argument("--per-form", type=int, default=30, help="made-up texts of each form")
    parser.add_argument("--pages", type=int, default=300, help="pages that all contenders are timed on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-speed", action="store_true", help="skip the timing")
    parser.add_argument("--no-ours", action="store_true", help="only the others")
    parser.add_argument("--misses", action="store_true", help="list the texts where ours is worse, by name")
    parser.add_argument("--inspect", type=int, metavar="N", help="print N random hits of the crawl and stop")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.inspect:
        inspect(options.inspect, options.seed)
        return
    stock = presidio()
    peer = Peer(str(Path(options.peer_python).absolute())) if options.peer_python else None
    contenders: dict[str, Callable[[Sequence[Text]], list[list[Hit]]]] = {}
    if not options.no_ours:
        contenders["crawlmill"] = ours()
    contenders["presidio"] = one_by_one(stock)
    if peer is not None:
        contenders["datatrove"] = peer.find
    contenders["dolma rules"] = one_by_one(dolma)
    print(" ".join(["python", "-m", "benchmarks.pii", *sys.argv[1:]]))
    version = importlib.metadata.version("presidio-analyzer")
    print(f"presidio-analyzer {version}, scores of any height, English")
    if peer is not None:
        print(f"datatrove {peer.ask({'version': []})}")
    print("ours was built with the labelled and the made-up texts in sight\n")

    texts = labelled()
    print(f"Labelled sets: {len(texts):,} texts\n")
    labels(texts)
    found = {name: find(texts) for name, find in contenders.items()}
    for title, reviewed in (("labels as they are", False), ("labels reviewed", True)):
        report(title, {name: score(texts, hits, reviewed) for name, hits in found.items()})
    if options.misses:
        misses(texts, found)

    rows = made(options.per_form, options.seed)
    texts = [row.text for row in rows]
    n_forms = len({(row.kind, row.form) for row in rows})
    print(f"Made-up texts: {len(rows):,}, {options.per_form} of each of {n_forms} forms, seed {options.seed}\n")
    found = {name: find(texts) for name, find in contenders.items()}
    by_form(rows, found)
    report("all made-up texts", {name: score(texts, hits) for name, hits in found.items()})
    if options.misses:
        misses(texts, found)
    if not (options.no_ours or options.no_speed):
        speed(crawl(), options.pages, options.rounds, stock, peer)
    if peer is not None:
        peer.close()


if __name__ == "__main__":
    main()
