"""Toxicity of the shipped head beside alt-profanity-check and better-profanity, and where all of them are wrong.

    python -m benchmarks.toxicity --peer-python PEERS/bin/python [--card] > benchmarks/toxicity.txt

PEERS is a virtual environment of its own with alt-profanity-check and better-profanity. `--card` writes the model's card.
Everything is measured on `test` parts (classifiers.toxicity_sets), pages of the crawl on hosts that training did not see.
"""

import argparse
import gzip
import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from classifiers.card import write_card
from classifiers.evaluation import average_precision, evaluate, roc_auc
from classifiers.scoring import Head, sentence_columns
from classifiers.toxicity import identity_examples, notes
from classifiers.toxicity_sets import Example, Page, background, crawl, labelled, part
from classifiers.wordlists import WordLists

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
MODEL = ROOT / "classifiers" / "models" / "toxicity"
PEERS = ("alt-profanity-check", "better-profanity")
CUTS = (0.5, 0.8, 0.9, 0.95)
CAREFUL = {
    "medical questions": (
        "anatomy",
        "clinical_knowledge",
        "college_medicine",
        "medical_genetics",
        "professional_medicine",
    ),
    "sexual health questions": ("human_sexuality",),
    "legal questions": ("professional_law", "international_law", "jurisprudence"),
}
PEER = """
import json, sys
texts = json.load(sys.stdin)
from profanity_check import predict_prob
from better_profanity import profanity
profanity.load_censor_words()
graded = [float(p) for p in predict_prob(texts)]
listed = [float(profanity.contains_profanity(t)) for t in texts]
json.dump([graded, listed], sys.stdout)
"""
Rows = list[dict[str, Any]]


class Peers:
    """Both peers on any texts; what they have said once stays in a file, because better-profanity takes long."""

    def __init__(self, python: str | None, memory: Path | None):
        self.python, self.memory = python, memory
        self.known: dict[str, list[float]] = json.loads(memory.read_text()) if memory and memory.exists() else {}

    def score(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores by peer; none without an environment of theirs."""
        if not self.python:
            return {}
        new = sorted({text for text in texts if text not in self.known})
        if new:
            done = subprocess.run(
                [self.python, "-W", "ignore", "-c", PEER],
                input=json.dumps(new),
                capture_output=True,
                text=True,
                check=True,
            )
            self.known |= {
                text: list(pair) for text, pair in zip(new, zip(*json.loads(done.stdout), strict=True), strict=True)
            }
            if self.memory:
                self.memory.write_text(json.dumps(self.known))
        return {name: np.array([self.known[text][i] for text in texts]) for i, name in enumerate(PEERS)}


class Scored:
    """Examples with their scores by system."""

    def __init__(self, examples: Sequence[Example], head: Head, peers: Peers | None = None):
        self.examples = list(examples)
        self.truth = np.array([e.toxic for e in examples])
        texts = [e.text for e in examples]
        own = [0.0 if s is None else s for s in head.score(pa.array(texts, pa.large_string())).to_pylist()]
        self.scores = {head.name: np.array(own)} | (peers.score(texts) if peers else {})

    def where(self, wanted: Callable[[Example], bool]) -> np.ndarray:
        """Numbers of the examples that are wanted."""
        return np.array([i for i, e in enumerate(self.examples) if wanted(e)], int)

    def ranking(self, name: str, rows: np.ndarray) -> dict[str, Any]:
        """A line of areas, where both classes are there."""
        truth = self.truth[rows]
        line = {"set": name, "n": len(rows), "toxic": int(truth.sum())}
        for system, scores in self.scores.items():
            line[f"{system} AUC"] = round(roc_auc(scores[rows], truth), 3)
            line[f"{system} AP"] = round(average_precision(scores[rows], truth), 3)
        return line

    def alarms(self, name: str, rows: np.ndarray) -> dict[str, Any]:
        """A line of the shares that each system takes for toxic: the head at cuts, the others as they decide."""
        line: dict[str, Any] = {"text": name, "n": len(rows)}
        for system, scores in self.scores.items():
            for cut in CUTS if system not in PEERS else (0.5,):
                title = f"≥ {cut}" if system not in PEERS else system
                line[title] = round(float((scores[rows] >= cut).mean()), 4)
        return line


def spread(examples: Iterable[Example], most: int) -> list[Example]:
    """Every so-manieth from the first on, at most `most`."""
    given = list(examples)
    return given[:: max(1, len(given) // most)][:most]


def each(examples: Sequence[Example], key: Callable[[Example], str], most: int) -> list[Example]:
    """At most so many of each kind."""
    return [e for rows in by(examples, key).values() for e in spread((examples[i] for i in rows), most)]


def careful() -> list[Example]:
    """Questions of medicine and law: harmless text full of words that filters stumble over."""
    found = []
    with gzip.open(DATA / "labelled" / "bench" / "mmlu.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            for name, subjects in CAREFUL.items():
                if row["subject"] in subjects:
                    found.append(Example("mmlu", row["question"], False, "mmlu", slice=name))
    return found


def by(examples: Sequence[Example], key: Callable[[Example], str]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for i, example in enumerate(examples):
        found[key(example)].append(i)
    return dict(sorted(found.items()))


def rankings(scored: Scored, whole: Scored) -> Rows:
    """Areas on a sample of each set for all systems, and of the head on all rows of `whole`."""
    lines = [
        scored.ranking("all labelled sets", scored.where(_labelled)),
        scored.ranking("all of them in English", scored.where(lambda e: _labelled(e) and e.language == "en")),
        scored.ranking("all and clean text", np.arange(len(scored.examples))),
    ]
    for name, rows in by(scored.examples, _set).items():
        if 0 < scored.truth[rows].sum() < len(rows):
            lines.append(scored.ranking(name, np.array(rows)))
    head = next(iter(whole.scores))
    all_rows = {
        "all labelled sets": whole.where(_labelled),
        "all of them in English": whole.where(lambda e: _labelled(e) and e.language == "en"),
        "all and clean text": np.arange(len(whole.examples)),
    }
    all_rows |= {name: np.array(rows) for name, rows in by(whole.examples, _set).items()}
    for line in lines:
        rows = all_rows[line["set"]]
        line |= {
            "all rows": len(rows),
            f"{head} AUC, all": round(roc_auc(whole.scores[head][rows], whole.truth[rows]), 3),
        }
    return lines


def _labelled(example: Example) -> bool:
    return not example.slice.startswith("clean:")


def _set(example: Example) -> str:
    return f"mhc {example.language}" if example.source == "mhc" else example.source


def templates(scored: Scored) -> tuple[Rows, Rows]:
    """False alarms on harmless rows of the template sets by functionality and by whom they are about; and hits."""
    rows = scored.where(lambda e: e.source in ("hatecheck", "mhc"))
    groups: dict[str, dict[str, list[int]]] = {"functionality": defaultdict(list), "identity": defaultdict(list)}
    for i in rows:
        example = scored.examples[i]
        if not example.toxic:
            groups["functionality"][
                f"{'HateCheck' if example.source == 'hatecheck' else 'MHC'} {example.slice}"
            ].append(i)
            if example.identity and example.slice in ("ident_neutral_nh", "ident_pos_nh"):
                groups["identity"][example.identity].append(i)
    return tuple([scored.alarms(n, np.array(r)) for n, r in sorted(g.items())] for g in groups.values())  # type: ignore[return-value]


def pages_table(head: Head, pages: Sequence[Page]) -> tuple[Rows, Rows, float]:
    """What page rules and sentence cuts would take of pages nobody complained about; and pages scored a second."""
    texts = pa.array([p.text for p in pages], pa.large_string())
    start = time.perf_counter()
    whole = np.array([0.0 if s is None else s for s in head.score(texts).to_pylist()])
    speed = len(pages) / (time.perf_counter() - start)
    found = head.score_sentences(texts)
    rules, cuts = [], []
    for cut in (0.3, 0.5, 0.8, 0.9):
        rules.append({"rule": f"page score ≥ {cut}", **_taken(whole >= cut)})
    for cut in (0.5, 0.8, 0.9, 0.95, 0.99):
        most, share = (c.fill_null(0).to_numpy(zero_copy_only=False) for c in sentence_columns(found, len(pages), cut))
        over = found.scores >= cut
        cuts.append(
            {
                "cut": f"sentence ≥ {cut}",
                "sentences": int(over.sum()),
                "of all": round(float(over.mean()), 5),
                "pages with one": round(float((most >= cut).mean()), 4),
            }
        )
        for least in (0.05, 0.1, 0.2):
            rules.append({"rule": f"characters in sentences ≥ {cut}: share ≥ {least}", **_taken(share >= least)})
    return rules, cuts, speed


def made_pages(head: Head, known: Sequence[Example]) -> Rows:
    """Pages put together of 20 comments each, some of them toxic: what the proposed page rule takes."""
    sets = ("davidson", "olid", "surge_toxicity", "unintended_bias", "jigsaw_sample")
    toxic, clean = ([e.text for e in known if e.source in sets and e.toxic is kind] for kind in (True, False))
    random, lines = np.random.default_rng(1), []
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        pages = []
        for _ in range(200):
            n = round(20 * share)
            drawn = [*random.choice(toxic, n), *random.choice(clean, 20 - n)]
            pages.append("\n".join(drawn[i] for i in random.permutation(20)))
        texts = pa.array(pages, pa.large_string())
        whole = np.array([s or 0.0 for s in head.score(texts).to_pylist()])
        _, part_of = sentence_columns(head.score_sentences(texts), len(pages), 0.9)
        shares = part_of.to_numpy(zero_copy_only=False)
        lines.append(
            {
                "toxic comments": f"{share:.0%}",
                "pages": len(pages),
                "page score ≥ 0.5": round(float((whole >= 0.5).mean()), 3),
                "share ≥ 0.2": round(float((shares >= 0.2).mean()), 3),
                "either": round(float(((whole >= 0.5) | (shares >= 0.2)).mean()), 3),
            }
        )
    return lines


def _taken(hit: np.ndarray) -> dict[str, Any]:
    return {"pages": int(hit.sum()), "of all": round(float(hit.mean()), 4)}


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{title}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    for line in (columns, *cells):
        first, *rest = (v.rjust(w) for v, w in zip(line, widths, strict=True))
        print("  ", line[0].ljust(len(first)), *rest, sep="  ")


def list_speed(pages: Sequence[Page]) -> float:
    lists, texts = WordLists.own(), pa.array([p.text for p in pages], pa.large_string())
    languages = [p.language or None for p in pages]
    lists.densities(texts[:10], languages[:10])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        lists.densities(texts, languages)
        times.append(time.perf_counter() - start)
    return len(pages) / sorted(times)[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toxicity", description=__doc__)
    parser.add_argument("--peer-python", help="python of an environment with both peers; without it, only the head")
    parser.add_argument("--peer-memory", type=Path, help="file that keeps what the peers said, for the next run")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--card", action="store_true", help="write the card beside the model")
    given = parser.parse_args()
    head, peers = Head.open(given.model), Peers(given.peer_python, given.peer_memory)
    known = [e for e in labelled(DATA) if e.part == "test"]
    clean = [e for e in background(DATA, pages=False) if e.part == "test"]
    pages = [p for p in crawl(DATA) if part(f"crawl:{p.host}") != "train"]
    ordinary = [e._replace(slice="clean:" + e.slice) for e in clean if e.source in ("brown", "books", "wikitext2")]
    whole = Scored(known + ordinary, head)
    scored = Scored(each(known + ordinary, _set, 1000), head, peers)
    ranked = rankings(scored, whole)
    functionality, identity = templates(whole)
    words = Scored(spread(identity_examples("evaluation"), 600), head, peers)
    own = [words.alarms(f"{e[0]} {e[1]}", np.array(r)) for e, r in _own_groups(words.examples).items()]
    texts = [e._replace(slice=f"Brown {e.slice}") for e in clean if e.source == "brown"] + careful()
    texts = each(texts, lambda e: e.slice, 1000)
    plain = Scored(texts, head)
    genres = [plain.alarms(name, np.array(r)) for name, r in by(texts, lambda e: e.slice).items()]
    few = each(texts, lambda e: e.slice, 100)
    beside = Scored(few, head, peers)
    sampled = [beside.alarms(name, np.array(r)) for name, r in by(few, lambda e: e.slice).items()]
    news = Scored([e for e in clean if e.source == "lingua"], head)
    languages = [news.alarms(f"news {s}", np.array(r)) for s, r in by(news.examples, lambda e: e.language).items()]
    languages.sort(key=lambda row: (-row["≥ 0.8"], row["text"]))
    rules, cuts, speed = pages_table(head, pages)
    kinds = [
        {"pages of": name, "n": len(of), **_kind(head, of)} for name, of in _datasets(pages).items() if len(of) > 9
    ]
    sections: dict[str, Any] = {
        "Beside other filters, on test parts": ranked,
        "What each finds of toxic test rows (same sample)": [
            scored.alarms("toxic, English", scored.where(lambda e: e.toxic and e.language == "en")),
            scored.alarms("toxic, other languages", scored.where(lambda e: e.toxic and e.language != "en")),
        ],
        "False alarms on harmless template rows, by functionality": functionality,
        "False alarms on harmless template rows, by whom they are about": identity,
        "False alarms on harmless sentences about groups (identity.yaml, evaluation)": own,
        "False alarms on ordinary, medical and legal text, by sentence or question": genres,
        "The same on a sample, beside the others": sampled,
        "False alarms on news sentences, the 20 worst of 75 languages": languages[:20],
        f"What page rules take of {len(pages):,} pages of the crawl on hosts not trained on": rules,
        "What sentence cuts take of them": cuts,
        "What the page rule takes of pages made of 20 test comments": made_pages(head, known),
        "Sentences at or above 0.9 by kind of page": kinds,
    }
    print(f"{head.path.name}, {head.path.stat().st_size:,} bytes; {len(known):,} labelled test examples")
    for title, rows in sections.items():
        show(title, rows)
    print(
        f"\n{speed:,.0f} pages/s scored whole; {list_speed(pages):,.0f} pages/s of word lists, normalisation included"
    )
    if given.card:
        rows = whole.where(_labelled)
        held = [whole.examples[i] for i in rows]
        found = evaluate(
            whole.scores[head.name][rows],
            whole.truth[rows],
            groups=[e.group for e in held],
            slices={"set": [e.source for e in held], "language": [e.language for e in held]},
            draws=200,
        )
        write_card(
            head,
            {"test parts of the labelled sets": found},
            purpose=notes()["purpose"],
            failures=notes()["failures"],
            sections={**sections, **notes()["sections"]},
            hidden_words=[
                *notes()["hidden_words"],
                *(t for one in WordLists.own().lists for of in one.terms.values() for t in of),
            ],
        )


def _own_groups(examples: Sequence[Example]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, e in enumerate(examples):
        found[e.language, "all"].append(i)
        if e.language == "en":
            found[e.language, e.identity].append(i)
    return dict(sorted(found.items()))


def _datasets(pages: Sequence[Page]) -> dict[str, list[Page]]:
    found = defaultdict(list)
    for page in pages:
        found[page.dataset].append(page)
    return dict(sorted(found.items()))


def _kind(head: Head, pages: Sequence[Page]) -> dict[str, Any]:
    scores = head.score_sentences(pa.array([p.text for p in pages], pa.large_string())).scores
    return {
        "sentences": len(scores),
        "≥ 0.9": int((scores >= 0.9).sum()),
        "share": round(float((scores >= 0.9).mean()), 5),
    }


if __name__ == "__main__":
    main()
