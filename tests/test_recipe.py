"""Recipes: what they resolve to, what their digests depend on, and how they are refused."""

import pytest

from pipeline.errors import RecipeError
from pipeline.options import parse_bytes
from pipeline.recipe import dialects, load_recipe, parse_recipe, published_recipes


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "mine.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", published_recipes())
def test_every_shipped_recipe_loads_and_has_rules(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert [signal for _, group in recipe.groups() for signal in group.bounds]


def test_every_dialect_states_its_source() -> None:
    assert all(dialect.source.strip() for dialect in dialects().values())


def test_unknown_key_names_line_and_nearest() -> None:
    message = refusal("name: x\ngates:\n  http:\n    statuses: [200]\n")
    assert "line 4" in message and "gates.http.statuses" in message and "'status'" in message


def test_unknown_signal_names_line_and_nearest() -> None:
    message = refusal("name: x\nrules:\n  mine:\n    bounds:\n      word_cont: [1, 2]\n")
    assert "line 5" in message and "'word_count'" in message


def test_unknown_dialect_names_nearest() -> None:
    assert "'gopher_quality@datatrove'" in refusal("name: x\nrules: {g: gopher_quality@datatrov}\n")


@pytest.mark.parametrize("bound", ["[5, 1]", "[null, null]", "[1]", "7", "[a, 2]"])
def test_impossible_bounds_are_refused(bound: str) -> None:
    message = refusal(f"name: x\nrules:\n  mine:\n    bounds:\n      word_count: {bound}\n")
    assert "line 5" in message and "word_count" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "mapping"),
        ("- a\n- b\n", "mapping"),
        ("name: x\nname: y\n", "stands twice"),
        ("name: [x\n", "not valid YAML"),
        ("gates: {}\n", "name"),
        ("name: x\ngates: {language: {keep: {en: 1.5}}}\n", "gates.language.keep.en"),
        ("name: x\nextraction: {timeout_s: 0}\n", "extraction.timeout_s"),
        ("name: x\nextraction: {max_bytes: 10 parsecs}\n", "not a size"),
        ("name: x\nextraction: {engine: lynx}\n", "extraction.engine"),
        ("name: x\ngates: {url: {domains: [no/such/list.txt]}}\n", "no/such/list.txt"),
    ],
)
def test_bad_recipes_say_what_is_wrong(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match="did you mean 'fineweb'"):
        load_recipe("finweb")


def test_overrides_replace_remove_and_keep_order() -> None:
    recipe = parse_recipe(
        "name: x\nrules:\n  g:\n    dialect: gopher_quality@datatrove\n"
        "    bounds: {word_count: [100, null], mean_word_length: null}\n"
    )
    base = dialects()["gopher_quality@datatrove"].bounds
    (_, group), *_ = recipe.groups()
    assert group.bounds["word_count"] == (100, None)
    assert list(group.bounds) == [signal for signal in base if signal != "mean_word_length"]


def test_digests_tell_thresholds_from_measuring() -> None:
    base = parse_recipe("name: x\nrules: {g: gopher_quality@datatrove}\n")
    renamed = parse_recipe("name: y\nrules:\n  g: gopher_quality@datatrove\n")
    stricter = parse_recipe(
        "name: x\nrules: {g: {dialect: gopher_quality@datatrove, bounds: {word_count: [60, 900]}}}\n"
    )
    other_engine = parse_recipe("name: x\nextraction: {engine: resiliparse}\nrules: {g: gopher_quality@datatrove}\n")
    other_language = parse_recipe(
        "name: x\ngates: {language: {keep: {de: 0.5}}}\nrules: {g: gopher_quality@datatrove}\n"
    )
    assert renamed.digest == base.digest
    assert stricter.digest != base.digest and stricter.extracting == base.extracting
    assert other_engine.extracting != base.extracting
    assert other_language.digest != base.digest and other_language.extracting == base.extracting


def test_changed_word_list_changes_the_digest(tmp_path) -> None:
    listed = tmp_path / "list.txt"
    text = f"name: x\ngates: {{url: {{domains: [{listed}]}}}}\n"
    listed.write_text("a.example\n")
    before = parse_recipe(text).extracting
    listed.write_text("b.example\n")
    assert parse_recipe(text).extracting != before


@pytest.mark.parametrize(("text", "size"), [("10MB", 10**7), ("1 GiB", 2**30), ("512", "512"), ("1.5kb", 1500)])
def test_sizes(text: str, size: object) -> None:
    if size == text:
        with pytest.raises(ValueError, match="not a size"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("dedup", "expected"),
    [
        ("[exat]", "did you mean 'exact'"),
        ("[exact, {minhash: {ngrams: 5}}]", "did you mean 'ngram'"),
        ("[exact, exact]", "'exact' stands twice"),
        ("[{minhash: {bands: 4}}]", "bands and rows together"),
        ("[{minhash: {target: 0.8, bands: 2, rows: 3}}]", "not both"),
        ("[{minhash: {bands: 9, rows: 13, hashes: 100}}]", "need 117 hashes"),
        ("[{minhash: {scope: weekly}}]", "dedup.minhash.scope"),
        ("[{minhash: {verify: 75}}]", "dedup.minhash.verify"),
        ("[{lines: {max_copies: 0}}]", "dedup.lines.max_copies"),
        ("[{prefer: [best]}]", "dedup.prefer"),
        ("[[exact]]", "an entry is a method"),
        ("exact", "dedup"),
    ],
)
def test_bad_dedup_says_what_is_wrong(dedup: str, expected: str) -> None:
    message = refusal(f"name: x\ndedup: {dedup}\n")
    assert expected in message and "line 2" in message


def test_dedup_methods_and_their_bands() -> None:
    recipe = parse_recipe("name: x\ndedup:\n  - url\n  - minhash: {target: 0.8}\n  - upsample: {1: 1, 10: 2.5}\n")
    assert recipe.dedup.url and not recipe.dedup.exact and not recipe.dedup.cuts and recipe.dedup.compares
    hashes, bands, rows = recipe.dedup.minhash.banding()
    assert hashes == 112 and bands * rows <= 112 and 0.75 < (1 / bands) ** (1 / rows) < 0.85
    assert parse_recipe("name: x\ndedup: [minhash]\n").dedup.minhash.banding() == (112, 14, 8)
    assert type(recipe).model_validate(recipe.model_dump(mode="json")).digest == recipe.digest
