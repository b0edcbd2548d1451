"""Scores in a run: measured once, ranked over all pages, bounded by rules, in the ledger and the shards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from classifiers.training import TrainingOptions, train
from jobs.curate import redecide
from jobs.run import run
from jobs.runs import Run
from pipeline.errors import InputError, UsageError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.scores import Keep, Scoring

FOLDER: dict[str, Path] = {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, finished: Run) -> Path:
    """Two small heads that tell pages with numbers from others, and one of topics by the length of words."""
    folder = tmp_path_factory.mktemp("models")
    texts = finished.folder.scan("documents", None, ["text"]).column("text").to_pylist()
    sentences = [s for text in texts[:400] for s in text.split(". ")][:4000]
    options = TrainingOptions(dim=4, epoch=3, bucket=1000, quantise=None, normalisation="words")
    for name, wanted in (("digits", lambda s: any(c.isdigit() for c in s)), ("long", lambda s: len(s) > 60)):
        labels = ["yes" if wanted(s) else "no" for s in sentences]
        train(sentences, labels, options, folder / name, scored="yes")
    train(
        sentences,
        ["short" if len(s) < 40 else "middle" if len(s) < 80 else "long" for s in sentences],
        options,
        folder / "kind",
    )
    return folder


def scoring(models: Path, tolerant: Recipe, more: dict | None = None, **quality: object) -> Recipe:
    heads = {
        "digits": {"model": str(models / "digits.bin"), "sentences": True},
        "long": {"model": str(models / "long.bin")},
        "topic": {"model": str(models / "kind.bin"), "topics": True},
    }
    heads["digits"] |= more or {}
    body = {"heads": heads, "quality": {"heads": ["digits", "long"], **quality}}
    return tolerant.model_copy(update={"score": Scoring.model_validate(body)})


@pytest.fixture(scope="module")
def scored(finished: Run, models: Path, tolerant: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return redecide(finished.folder.path, scoring(models, tolerant), str(tmp_path_factory.mktemp("scored") / "out"))


def test_a_head_that_is_called_quality_is_not_taken_for_all_heads_together(finished: Run) -> None:
    # The default recipe's head has that name, and ranks of the two lay in one file once.
    assert finished.recipe.score.quality.heads == ("quality",)
    bins = finished.folder.scan("ledger", pc.field("quality_bin").is_valid(), ["quality_bin"]).column("quality_bin")
    sizes = np.bincount(bins.to_numpy(), minlength=20)
    assert len(sizes) == 20 and sizes.max() - sizes.min() <= 0.2 * sizes.mean()


def shards(folder: str) -> dict[str, bytes]:
    files = [*Path(folder).glob("ledger/*.parquet"), *Path(folder).glob("curated/*.parquet")]
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in files}


def test_every_page_that_rules_keep_has_all_scores_and_an_equal_bin(scored: Run, finished: Run) -> None:
    ledger = scored.folder.scan("ledger", None)
    names = ["score_digits", "score_digits_max_sentence", "score_digits_sentence_share", "score_long", "topic_score"]
    asked = pc.or_(
        pc.equal(ledger.column("outcome"), "kept"), pc.starts_with(ledger.column("reason").fill_null(""), "dedup.")
    )
    for name in (*names, "topic", "quality", "quality_bin"):
        assert ledger.column(name).is_valid().equals(asked), name
    rows = ledger.filter(asked)
    for name in (*names, "quality"):
        values = rows.column(name).to_numpy()
        assert values.min() >= 0 and values.max() <= 1
    sizes = np.bincount(rows.column("quality_bin").to_numpy(), minlength=20)
    assert len(sizes) == 20 and sizes.max() - sizes.min() <= 0.2 * sizes.mean()
    assert set(rows.column("topic").to_pylist()) <= {"short", "middle", "long"}
    # The rank is monotone in the heads: higher in both, higher in quality.
    both = np.lexsort((rows.column("score_long").to_numpy(), rows.column("score_digits").to_numpy()))
    best = rows.take(pa.array([both[-1]])).to_pylist()[0]
    assert best["quality"] > 0.5
    curated = scored.folder.scan("curated", None)
    known = {row["doc_id"]: (row["quality"], row["quality_bin"], row["topic"]) for row in rows.to_pylist()}
    for row in curated.to_pylist():
        assert (row["quality"], row["quality_bin"], row["topic"]) == known[row["id"]]


def test_the_best_share_the_least_score_and_the_draw_keep_what_they_say(
    finished: Run, scored: Run, models: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    plain = tolerant.model_copy(
        update={"dedup": tolerant.dedup.model_copy(update={"url": None, "exact": None, "minhash": None})}
    )
    everything = redecide(finished.folder.path, scoring(models, plain), str(tmp_path / "all"))
    rows = everything.folder.scan("ledger", pc.field("outcome") == "kept").to_pylist()
    n = len(rows)
    mean = {row["doc_id"]: (row["score_digits"] + row["score_long"]) / 2 for row in rows}
    quality = {row["doc_id"]: row["quality"] for row in rows}
    for keep, expected in (
        ({"top": 0.25}, {doc_id for doc_id, rank in quality.items() if rank >= 0.75}),
        ({"least": 0.5}, {doc_id for doc_id, score in mean.items() if np.float32(score) >= np.float32(0.5)}),
    ):
        done = redecide(finished.folder.path, scoring(models, plain, keep=keep), str(tmp_path / next(iter(keep))))
        kept = done.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id"]).column("doc_id").to_pylist()
        # The page in which the best share ends may stay or go, by its draw.
        assert len(set(kept) ^ expected) <= (1 if "top" in keep else 0)
        dropped = done.folder.scan("ledger", pc.field("reason") == "score.quality", ["doc_id"])
        assert dropped.num_rows == n - len(kept)
    assert abs(len([r for r in quality.values() if r >= 0.75]) - n / 4) <= 2
    drawn = redecide(finished.folder.path, scoring(models, plain, keep="gpt3"), str(tmp_path / "drawn"))
    kept = set(drawn.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id"]).column("doc_id").to_pylist())
    chance = sum((2 - score) ** -9 for score in mean.values())
    assert abs(len(kept) - chance) < 4 * chance**0.5 + 1


def test_rules_bound_scores_and_sentences_are_cut(
    finished: Run, scored: Run, models: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    rules = parse_recipe(
        "name: x\nscore: {heads: {digits: {model: %s, sentences: true}}}\n"
        "rules: {scores: {bounds: {score_digits: [null, 0.5]}}}\n" % (models / "digits.bin")
    ).rules
    recipe = scoring(models, tolerant, {"cut_sentences": 0.8})
    recipe = recipe.model_copy(update={"rules": {**recipe.rules, **rules}})
    done = redecide(finished.folder.path, recipe, str(tmp_path / "out"))
    before = {row["doc_id"]: row for row in scored.folder.scan("ledger", None).to_pylist()}
    after = {row["doc_id"]: row for row in done.folder.scan("ledger", None).to_pylist()}
    bounded = [row for row in before.values() if row["score_digits"] is not None]
    assert {row["doc_id"] for row in bounded if not row["score_digits"] <= 0.5} == {
        row["doc_id"] for row in after.values() if "scores.score_digits" in row["rule_hits"]
    }
    texts = {row["id"]: row["text"] for row in done.folder.scan("curated", None).to_pylist()}
    whole = {
        row["doc_id"]: row["text"] for row in finished.folder.scan("documents", None, ["doc_id", "text"]).to_pylist()
    }
    cuts = done.folder.scan("sentences", pc.field("score") >= 0.8).to_pylist()
    assert any(cut["doc_id"] in texts for cut in cuts)
    for cut in cuts:
        sentence = whole[cut["doc_id"]][cut["start"] : cut["end"]]
        if cut["doc_id"] in texts and whole[cut["doc_id"]].count(sentence) == 1:
            assert sentence not in texts[cut["doc_id"]]


def test_the_result_does_not_depend_on_partitions_or_on_what_was_scored_before(
    scored: Run,
    finished: Run,
    sample_web: Path,
    models: Path,
    tolerant: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = scoring(models, tolerant)
    done = run(recipe, [str(sample_web)], str(tmp_path / "run"), partitions=3, master="local[2]")
    assert shards(done.folder.path) == shards(scored.folder.path)
    # Other thresholds on the same scores open no text again.
    from jobs import score

    class Blind:
        def score(self, texts: pa.Array, languages: pa.Array) -> tuple[pa.Table, pa.Table]:
            assert len(texts) == 0
            return real.score(texts, languages)

    real = score._scorer(recipe.score)
    monkeypatch.setattr(score, "_scorer", lambda _: Blind())
    again = redecide(done.folder.path, scoring(models, tolerant, keep={"top": 0.5}), str(tmp_path / "again"))
    assert again.folder.scan("curated", None, ["id"]).num_rows < done.folder.scan("curated", None, ["id"]).num_rows


def test_a_model_that_cannot_be_used_is_an_error_before_anything_is_done(
    finished: Run, tolerant: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "bad.ftz").write_bytes(b"no model at all")
    recipe = tolerant.model_copy(
        update={
            "score": Scoring.model_validate(
                {"heads": {"bad": {"model": str(tmp_path / "bad.ftz"), "normalisation": "plain", "label": "x"}}}
            )
        }
    )
    with pytest.raises(InputError, match=r"bad\.ftz"):
        redecide(finished.folder.path, recipe, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    topics = Scoring.model_validate({"heads": {"kind": {"model": "topic"}}})
    with pytest.raises(UsageError, match="topics: true"):
        redecide(finished.folder.path, tolerant.model_copy(update={"score": topics}), str(tmp_path / "out"))


def test_published_ways_of_keeping_have_names() -> None:
    assert (Keep.model_validate("redpajama").least, Keep.model_validate("dclm").top) == (0.25, 0.1)
    with pytest.raises(ValueError, match="no way of keeping"):
        Keep.model_validate("gpt5")
