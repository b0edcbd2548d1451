"""The quality and the topic head that are shipped: their training sets, evaluation by sites held out, and cards.

    crawlmill run --recipe default --input 'DATA/crawl/*.warc.gz' --output CRAWL
    crawlmill run --recipe default --input 'DATA/gold/*.warc.gz' --output GOLD
    python -m benchmarks.shipped_heads quality --runs CRAWL GOLD --references REFERENCES LINKS
    python -m benchmarks.shipped_heads topic --runs CRAWL GOLD

DATA is the folder that `CRAWLMILL_DATA` names. Every score of the evaluation is that of a model that has seen nothing of
the example's site (five folds by site); the model that is written has seen all of them. REFERENCES is a folder of the job
`references` over the dump of labelled/wiki, LINKS the list of addresses there. Two runs give the same files.
"""

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from scipy.stats import kendalltau, spearmanr

from benchmarks import head_sets as sets
from classifiers.card import write_card
from classifiers.evaluation import evaluate, length_slices, roc_auc
from classifiers.scoring import Head
from classifiers.topic import by_threshold, evaluate_topics, topics
from classifiers.training import TrainingOptions, train, update_facts
from classifiers.training_set import TRAIN, References, TrainingSetOptions, capped, distinct, length_matched, matched
from jobs.train_classifier import read_references
from pipeline.dedup.repeats import text_number

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "classifiers/models"
FOLDS = 5
MOST_OF_A_TOPIC = 350
POSITIVE, NEGATIVE = "worthwhile", "random"
ARTICLES = ("dragnet", "mozilla_readability", "page_signal", "scrapinghub_aeb", "trafilatura_eval")
"""Sets of pages that people chose because they hold an article."""
NEITHER = ("cleaneval_final", "htmltotext_multi")
"""Sets of gold pages of all kinds: neither articles nor random pages of the crawl."""
PRINT = ("learned", "belles_lettres", "editorial", "reviews", "lore", "hobbies", "government")
"""Genres of the Brown corpus that inform."""
QUALITY = TrainingOptions(max_chars=6000, lr=0.3, dim=16, epoch=15, word_ngrams=2, bucket=100_000, min_count=2, seed=1)
TOPIC = TrainingOptions(max_chars=6000, lr=0.4, dim=24, epoch=25, word_ngrams=2, bucket=60_000, min_count=3, seed=1)


def folds(groups: Sequence[str]) -> np.ndarray:
    """The fold of each group, by a hash of its name."""
    return np.array([text_number(group, "fold:1") % FOLDS for group in groups])


def held_out_heads(examples: pa.Table, options: TrainingOptions, scored: str | None, folder: Path) -> list[Head]:
    """For each fold the model that was trained on the others."""
    number = folds(examples.column("group").to_pylist())
    heads = []
    for fold in range(FOLDS):
        side = examples.filter(pa.array(number != fold))
        name = folder / f"fold{fold}"
        heads.append(train(side.column("text"), side.column("label"), options, name, scored=scored))
    return heads


def held_out_scores(heads: list[Head], texts: Sequence[str], groups: Sequence[str]) -> np.ndarray:
    """float64: the score of each text by the model that has not seen its group; NaN for none."""
    number, scores = folds(groups), np.full(len(texts), np.nan)
    for fold, head in enumerate(heads):
        rows = np.flatnonzero(number == fold)
        found = head.score(pa.array([texts[i] for i in rows], pa.large_string()))
        scores[rows] = [np.nan if s is None else s for s in found.to_pylist()]
    return scores


def quality_examples(pages: list[sets.LabelledPage]) -> tuple[pa.Table, dict[str, Any]]:
    """Articles and informing print against random pages of the crawl and lists of the gold sets, of equal lengths."""
    positive, negative = [], []
    for page in pages:
        own = f"{page.dataset}:{page.doc_id}" if page.dataset == "page_signal" else None
        if page.dataset in ARTICLES or page.page_type in ("article", "documentation"):
            positive.append(page.example(POSITIVE, own))
        elif page.page_type is not None or page.dataset not in NEITHER:
            negative.append(page.example(NEGATIVE))
    printed = [("brown", text) for genre, _, text in sets.brown() if genre in PRINT]
    wiki = [("wikipedia", text) for _, text in sets.encyclopedia()]
    tables = [sets.from_pages(positive), sets.from_pages(negative)]
    tables += [sets.from_texts(printed, POSITIVE, "brown"), sets.from_texts(wiki, POSITIVE, "wikipedia")]
    options = TrainingSetOptions(positive=POSITIVE, negative=NEGATIVE, per_domain=150, negatives=1.0)
    table = pa.concat_tables(tables)
    account: dict[str, Any] = {"candidates": counts(table)}
    table = distinct(table, options.near, POSITIVE)
    account["distinct"] = counts(table)
    table = capped(table, options.per_domain)
    account["at most 150 of a site"] = counts(table)
    one_side = table.set_column(2, "split", pa.array([TRAIN] * table.num_rows))
    table = length_matched(one_side.cast(table.schema), options)
    account["of equal lengths"] = counts(table)
    return table.sort_by("doc_id"), account


def counts(table: pa.Table) -> dict[str, int]:
    """Examples by label."""
    return dict(sorted(Counter(table.column("label").to_pylist()).items()))


def by_source(table: pa.Table) -> list[dict[str, Any]]:
    """Examples and sites by label and source."""
    rows = zip(*(table.column(c).to_pylist() for c in ("label", "source", "group")), strict=True)
    found: dict[tuple[str, str], list[str]] = {}
    for label, source, group in rows:
        found.setdefault((label, source), []).append(group)
    return [
        {"label": label, "source": source, "examples": len(groups), "sites": len(set(groups))}
        for (label, source), groups in sorted(found.items())
    ]


def referenced(pages: list[sets.LabelledPage], references: References, heads: list[Head]) -> dict[str, Any]:
    """How the head ranks pages of hosts that Wikipedia cites above other pages of the crawl, which it was not told."""
    crawl = [page for page in pages if page.page_type is None and page.dataset not in ARTICLES]
    table = pa.table({"url": [p.url for p in crawl], "host": [p.host for p in crawl]})
    rows: dict[str, Any] = {"references": len(references.urls), "pages": len(crawl)}
    rows["pages that are cited"] = int(matched(table, references).sum())
    cited = matched(table, references, "host")
    rows["pages of cited hosts"] = int(cited.sum())
    rows["cited hosts"] = len({p.host for p, c in zip(crawl, cited, strict=True) if c})
    scores = held_out_scores(heads, [p.text for p in crawl], [p.group for p in crawl])
    if cited.any():
        rows["ROC AUC of the score for pages of cited hosts"] = roc_auc(scores, cited)
        seen: Counter[str] = Counter()
        few = []
        for i, page in enumerate(crawl):
            seen[page.group] += 1
            few.append(seen[page.group] <= 10 and not np.isnan(scores[i]))
        chosen = np.array(few)
        rows["the same, at most 10 pages of a site"] = roc_auc(scores[chosen], cited[chosen])
    return rows


def inspected(pages: list[sets.LabelledPage], heads: list[Head], head: Head) -> tuple[list[dict[str, Any]], str]:
    """The pages of inspected_pages.tsv with grade and scores, and how the two agree."""
    with (HERE / "inspected_pages.tsv").open(newline="", encoding="utf-8") as file:
        grades = {row["doc_id"]: int(row["grade"]) for row in csv.DictReader(file, delimiter="\t")}
    found = [page for page in pages if page.doc_id in grades]
    texts = [page.text for page in found]
    unseen = held_out_scores(heads, texts, [page.group for page in found])
    shipped = np.array(head.score(pa.array(texts, pa.large_string())).to_pylist(), float)
    grade = np.array([grades[page.doc_id] for page in found])
    rows = [
        {"page": p.url, "grade": int(g), "score": float(a), "shipped": float(b)}
        for p, g, a, b in zip(found, grade, unseen, shipped, strict=True)
    ]
    rho, tau = spearmanr(grade, unseen), kendalltau(grade, unseen)
    ours = spearmanr(grade, shipped)
    random = np.random.default_rng(1)
    draws = [random.integers(0, len(grade), len(grade)) for _ in range(1000)]
    low, high = np.quantile([spearmanr(grade[d], unseen[d]).statistic for d in draws], [0.025, 0.975])
    means = ", ".join(f"{g}: {unseen[grade == g].mean():.2f} ({(grade == g).sum()})" for g in range(4))
    said = (
        f"{len(rows)} English pages of the crawl, those of the smallest hashes of their ids with at most three of one set, "
        "were graded before any model was made, by their address, length, first 330 characters and 230 from the middle, not "
        "read to the end: 0 nothing to learn from (lists, forms, boilerplate), 1 thin "
        "(short messages, advertising, release notes), 2 decent, 3 worth learning from. One reader; grades are rough. "
        f"`score` is by the model that has not seen the site: Spearman {rho.statistic:.3f} (95 % {low:.3f} to {high:.3f}), "
        f"Kendall {tau.statistic:.3f}; AUC for grades 2 and 3 against 0 and 1: {roc_auc(unseen, grade >= 2):.3f}; mean score "
        f"by grade (pages): {means}. `shipped` is by the shipped model, which has seen some of these pages as random ones: "
        f"Spearman {ours.statistic:.3f}."
    )
    return sorted(rows, key=lambda row: -row["score"]), said


def make_quality(runs: list[str], references: list[str]) -> dict[str, Any]:
    """Writes classifiers/models/quality.*; returns the figures."""
    cited_by = (
        References.of(pa.concat_tables([read_references(source) for source in references])) if references else None
    )
    pages = sets.labelled_pages(runs)
    examples, account = quality_examples(pages)
    command = "python -m benchmarks.shipped_heads quality --runs CRAWL GOLD --references REFERENCES LINKS"
    truth = np.array([label == POSITIVE for label in examples.column("label").to_pylist()])
    texts, groups = examples.column("text").to_pylist(), examples.column("group").to_pylist()
    data = {
        f"{r['label']}: {r['source']}": {"examples": r["examples"], "sites": r["sites"]} for r in by_source(examples)
    }
    with tempfile.TemporaryDirectory() as folder:
        heads = held_out_heads(examples, QUALITY, POSITIVE, Path(folder))
        scores = held_out_scores(heads, texts, groups)
        head = train(
            examples.column("text"), examples.column("label"), QUALITY, MODELS / "quality", scored=POSITIVE,
            data=data, command=command,
        )  # fmt: skip
        slices = {
            "length": length_slices(examples.column("n_words").to_pylist()),
            "host": examples.column("host").to_pylist(),
            "language": examples.column("language").to_pylist(),
            "source": examples.column("source").to_pylist(),
        }
        found = evaluate(scores, truth, groups=groups, slices=slices)
        web = np.array([source not in ("brown", "wikipedia") for source in examples.column("source").to_pylist()])
        of_web = [g for g, w in zip(groups, web, strict=True) if w]
        web_only = evaluate(scores[web], truth[web], groups=of_web)
        update_facts(head.path, calibration=found["calibration"])
        head = Head.open(head.path)
        rows, said = inspected(pages, heads, head)
        cited = referenced(pages, cited_by, heads) if cited_by else {}
    few = {k: web_only[k] for k in ("examples", "positives", "groups")} | {
        k: f"{web_only[k]['value']:.3f} ({web_only[k]['low']:.3f} to {web_only[k]['high']:.3f})"
        for k in ("roc_auc", "average_precision")
    }
    sections = {
        "Web pages only": [{"": k, "value": v} for k, v in few.items()],
        "Pages of hosts that Wikipedia cites": [{"": k, "value": v} for k, v in cited.items()],
        "How the training set came about": [{"step": step, **n} for step, n in account.items()],
        "Fifty pages, looked at": said,
        "The fifty pages": rows,
    }
    notes = yaml.safe_load((HERE / "head_notes.yaml").read_text(encoding="utf-8"))["quality"]
    write_card(
        head, {"sites that a fold's model has not seen": found}, purpose=notes["purpose"], failures=notes["failures"],
        sections=sections,
    )  # fmt: skip
    return {"account": account, "found": found, "web": few, "cited": cited, "said": said}


def _label(page: sets.LabelledPage, labels: dict[str, Any]) -> tuple[str, str] | None:
    """Topic and group of a page, or None where its set says nothing."""
    if page.page_type is not None:
        topic = labels["page_types"].get(page.page_type)
        return (topic, page.group) if topic else None
    of = labels["pages"].get(page.dataset)
    if of is None or of.get("host", page.host) != page.host:
        return None
    group = {"text": page.doc_id, "path": Path(page.path).parent.name}.get(of.get("group", "site"), page.group)
    return of["topic"], group


def topic_examples(pages: list[sets.LabelledPage]) -> pa.Table:
    """Pages and texts with the topic of the set that they come from; at most 120 of a topic from one site."""
    labels = yaml.safe_load((HERE / "topic_labels.yaml").read_text(encoding="utf-8"))
    rows = [page.example(of[0], of[1]) for page in pages if (of := _label(page, labels))]
    tables = [sets.from_pages(rows)]
    by_topic: dict[str, list[tuple[str, str]]] = {}
    spans = [tuple(span.split("-")) for span in labels["brown_files"]["science"]]
    for genre, name, text in sets.brown():
        if genre in labels["brown"]:
            by_topic.setdefault(labels["brown"][genre], []).append((genre, text))
        elif genre == "learned" and any(a <= name <= b for a, b in spans):
            by_topic.setdefault("science", []).append((name, text))
    for topic, texts in sorted(by_topic.items()):
        tables.append(sets.from_texts(texts, topic, "brown"))
    # Where a topic has one collection only, each of its texts is a site of its own; the card says so.
    tables.append(sets.from_texts([(n, t) for n, t in sets.movie_reviews()[::6]], "entertainment", "movie_reviews"))
    tables.append(sets.from_texts([("all", t) for t in sets.news_articles()[::4]], "news", "neardup_articles"))
    tables.append(sets.from_texts(sets.books(), "fiction", "gutenberg"))
    tables.append(sets.from_texts(sets.encyclopedia(), "reference", "wikipedia"))
    return of_each_topic(capped(distinct(pa.concat_tables(tables), 0.75), 120), MOST_OF_A_TOPIC).sort_by("doc_id")


def of_each_topic(examples: pa.Table, most: int) -> pa.Table:
    """At most so many examples of each topic, those of the smallest hashes."""
    ids, labels = examples.column("doc_id").to_pylist(), examples.column("label").to_pylist()
    kept, seen = [], Counter[str]()
    for row in sorted(range(len(ids)), key=lambda i: text_number(ids[i], "topic:1")):
        seen[labels[row]] += 1
        if seen[labels[row]] <= most:
            kept.append(row)
    return examples.take(pa.array(sorted(kept)))


def make_topic(runs: list[str]) -> dict[str, Any]:
    """Writes classifiers/models/topic.*; returns the figures."""
    examples = topic_examples(sets.labelled_pages(runs))
    texts, groups = examples.column("text").to_pylist(), examples.column("group").to_pylist()
    truth, sources = examples.column("label").to_pylist(), examples.column("source").to_pylist()
    data = {
        f"{r['label']}: {r['source']}": {"examples": r["examples"], "sites": r["sites"]} for r in by_source(examples)
    }
    predicted: list[str | None] = [None] * len(texts)
    sure: list[float | None] = [None] * len(texts)
    with tempfile.TemporaryDirectory() as folder:
        number = folds(groups)
        for fold, head in enumerate(held_out_heads(examples, TOPIC, None, Path(folder))):
            rows = np.flatnonzero(number == fold)
            names, scores = head.topics(pa.array([texts[i] for i in rows], pa.large_string()))
            for i, name, score in zip(rows.tolist(), names.to_pylist(), scores.to_pylist(), strict=True):
                predicted[i], sure[i] = name, score
    command = "python -m benchmarks.shipped_heads topic --runs CRAWL GOLD"
    head = train(examples.column("text"), truth, TOPIC, MODELS / "topic", data=data, command=command)
    found = evaluate_topics(truth, predicted, groups)
    modern = [i for i, source in enumerate(sources) if source == "wcxb"]
    wcxb = evaluate_topics([truth[i] for i in modern], [predicted[i] for i in modern], [groups[i] for i in modern])
    first = {key: found[key] for key in ("examples", "groups", "accuracy", "macro_f1")}
    second = {key: wcxb[key] for key in ("examples", "groups", "accuracy", "macro_f1")}
    sections = {
        "Topics": [{"topic": name, "meaning": meaning} for name, meaning in topics().meanings.items()],
        "By topic": found["classes"],
        "Confusion: truth down, answer across": found["confusion"],
        "Modern pages of many sites (wcxb), by topic": wcxb["classes"],
        "Thresholds": by_threshold(truth, predicted, sure, (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    }
    notes = yaml.safe_load((HERE / "head_notes.yaml").read_text(encoding="utf-8"))["topic"]
    evaluations = {"sites that a fold's model has not seen": first, "of those, the pages of wcxb": second}
    write_card(head, evaluations, purpose=notes["purpose"], failures=notes["failures"], sections=sections, words=15)
    return {"found": found, "wcxb": wcxb, "thresholds": sections["Thresholds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("head", choices=("quality", "topic"))
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--references", nargs="*", default=[], help="folders of the job, or lists of addresses")
    given = parser.parse_args()
    figures = make_quality(given.runs, given.references) if given.head == "quality" else make_topic(given.runs)
    for name, value in figures.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
