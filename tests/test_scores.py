"""Ranks, shares of the best, draws, and what a recipe may ask of scores."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RecipeError
from pipeline.recipe import parse_recipe
from pipeline.rules import score_hits
from pipeline.scores import COMBINED, Histogram, Scoring, dropped, score_columns, with_quality


def scored(values: list[float | None], **quality: object) -> tuple[pa.Table, Scoring]:
    body = {"heads": {"a": {"model": "quality"}}, "quality": {"heads": ["a"], **quality}}
    scoring = Scoring.model_validate(body)
    ids = [f"{i:032x}" for i in range(len(values))]
    table = pa.table({"doc_id": ids, "score_a": pa.array(values, pa.float32())})
    numbers = np.array([np.nan if v is None else v for v in values])
    heads = {"a": Histogram.of(numbers)}
    from pipeline.scores import combined

    heads[COMBINED] = Histogram.of(combined(table, scoring, heads))
    return with_quality(table, scoring, heads), scoring


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_the_best_share_is_kept_whatever_the_ties(share: float) -> None:
    for values in (
        [1.0] * 400 + [0.1] * 600,
        [0.5] * 1000,
        [i / 1000 for i in range(1000)],
        [0.999999] * 250 + [0.2] * 750,
    ):
        table, scoring = scored(values, keep={"top": share})
        kept = ~dropped(table, scoring)
        assert abs(kept.sum() - share * 1000) <= 4 * (share * (1 - share) * 1000) ** 0.5 + 1
        order = np.array(values)
        assert kept.all() or order[kept].min() >= order[~kept].max() - 1e-4
        assert (kept == ~dropped(*scored(values, keep={"top": share}))).all()


def test_bins_are_of_equal_size_and_pages_without_a_score_have_none() -> None:
    table, scoring = scored([i / 1000 for i in range(1000)] + [None] * 3, bins=10, keep={"least": 0.2})
    bins = table.column("quality_bin")
    assert bins.null_count == 3 and np.bincount(bins.drop_null().to_numpy()).tolist() == [100] * 10
    assert dropped(table, scoring).tolist()[-3:] == [True] * 3
    assert dropped(table, scoring).sum() == 200 + 3


def test_a_page_without_a_word_list_breaks_no_bound_on_listed_words() -> None:
    recipe = parse_recipe(
        "name: x\nscore: {listed_words: shipped}\nrules: {w: {bounds: {listed_density: [null, 0.1]}}}\n"
    )
    table = pa.table({"doc_id": ["a", "b", "c"], "listed_density": pa.array([0.0, None, 0.5], pa.float32())})
    assert score_hits(table, recipe) == [(), (), ("w.listed_density",)]


@pytest.mark.parametrize("name", ["shard", "pii", "cluster", "language", "quality"])
def test_a_head_cannot_take_the_name_of_another_column(name: str) -> None:
    with pytest.raises(RecipeError, match="name of another column"):
        parse_recipe(f"name: x\nscore: {{heads: {{{name}: {{model: topic, topics: true}}}}}}\n")


def test_two_heads_cannot_make_one_column() -> None:
    heads = "{a: {model: quality, sentences: true}, a_max_sentence: {model: quality}}"
    with pytest.raises(RecipeError, match="line 2: score: 'score_a_max_sentence'"):
        parse_recipe(f"name: x\nscore: {{heads: {heads}}}\n")
    named = parse_recipe("name: x\nscore: {heads: {topic: {model: topic, topics: true}}}\n")
    assert score_columns(named.score).names == ["topic", "topic_score"]


def test_what_scores_depend_on_is_in_the_digest(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("bother\n")
    text = f"name: x\nscore: {{listed_words: {tmp_path}}}\n"
    before = parse_recipe(text).digest
    (tmp_path / "en").write_text("bother\nblast\n")
    assert parse_recipe(text).digest != before
