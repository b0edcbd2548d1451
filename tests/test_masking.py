"""Masking: what is written in place of personal data, and that the data is nowhere afterwards."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edits import apply_edits
from pipeline.errors import RecipeError
from pipeline.masking import Masking, canonical, mask, replacement, substitutes
from pipeline.recipe import parse_recipe
from pipeline.signals.pii import KINDS, Detector

TEXT = (
    "Write to vera.holm@riverside-museum.net or call (212) 555-0188. The server at 193.0.14.129 is down; pay to "
    "DE89 3704 0044 0532 0130 00 with card 4012 8888 8888 1881."
)
VALUES = ("vera.holm@riverside-museum.net", "193.0.14.129", "4012 8888 8888 1881", "DE89 3704 0044 0532 0130 00")


def masked(text: str, **options: object) -> str:
    masking = Masking.model_validate({"mask": KINDS, **options})
    texts = pa.array([text], pa.string())
    done = mask(texts, ["0" * 32], pa.array(["en"]), masking)
    return apply_edits(texts, pa.array(["0" * 32]), done.edits)[0].as_py()


def test_placeholders_name_the_kind() -> None:
    done = masked(TEXT)
    assert not any(value in done for value in VALUES)
    for kind in ("EMAIL_ADDRESS", "IP_ADDRESS", "CREDIT_CARD", "IBAN_CODE"):
        assert f"<{kind}>" in done
    assert done.startswith("Write to <EMAIL_ADDRESS> or call ")


def test_substitutes_are_of_the_kind_and_nobodys() -> None:
    done = masked(TEXT, how="substitute")
    assert not any(value in done for value in VALUES)
    assert any(value in done for value in substitutes()["EMAIL_ADDRESS"])
    assert masked(done, how="substitute") == done
    assert masked(done) == done  # what was masked already stays


def test_a_keyed_token_is_the_same_for_the_same_person(tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_bytes(b"sixteen bytes at least")
    other.write_bytes(b"another key of some length")
    one, two = masked(TEXT, how="hash", key_file=str(key)), masked(TEXT, how="hash", key_file=str(other))
    assert "<EMAIL_ADDRESS:" in one and one != two
    assert one == masked(TEXT, how="hash", key_file=str(key))
    shouted = masked(
        TEXT.replace("vera.holm@riverside-museum.net", "Vera.Holm@Riverside-Museum.NET"), how="hash", key_file=str(key)
    )
    assert shouted == one


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("EMAIL_ADDRESS", "Ann@Mill.example", "ann [at] mill dot example"),
        ("EMAIL_ADDRESS", "ann@mill.example", "ann\u200b@mill.example"),
        ("PHONE_NUMBER", "+44 20 7946 0123", "0044-20-7946-0123"),
        ("CREDIT_CARD", "4111-1111-1111-1111", "4111 1111 1111 1111"),
        ("IBAN_CODE", "de89 3704 0044", "DE8937040044"),
    ],
)
def test_ways_of_writing_one_value(kind: str, one: str, other: str) -> None:
    assert canonical(one, kind) == canonical(other, kind)
    assert replacement(one, kind, "hash", b"k" * 16) == replacement(other, kind, "hash", b"k" * 16)
    assert replacement(one, kind, "substitute") == replacement(other, kind, "substitute")


def test_where_and_what_but_never_the_value() -> None:
    done = mask(pa.array(["", TEXT, None], pa.string()), ["a", "b", "c"], None, Masking(mask=KINDS))
    assert set(done.found.column("doc_id").to_pylist()) == {"b"}
    for row in done.found.to_pylist():
        assert set(row) == {"doc_id", "start", "end", "kind"}
    assert {r.split(".")[0] for r in done.edits.column("reason").to_pylist()} == {"pii"}
    assert not any(value in json.dumps(done.found.to_pylist() + done.edits.to_pylist()) for value in VALUES)


pieces = st.sampled_from(
    ["call ", "(415) 555-0134", "+49 30 901820", "a.b@mill-house.net", " at ", " dot ", "8.8.4.4", "4012888888881881", "\n",
     "é", "\u200b", "v1.2.3.4", "078-05-1120", "ghp_" + "a1B2" * 9, "GB29 NWBK 6016 1331 9268 19", "<EMAIL_ADDRESS>", " "]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces | st.text(max_size=12), max_size=12))
def test_nothing_that_was_found_stands_in_the_masked_text(parts: list[str]) -> None:
    text = "".join(parts)
    texts = pa.array([text], pa.string())
    found = [text[hit["start"] : hit["end"]] for hit in Detector(KINDS).find(texts, pa.array(["en"])).to_pylist()]
    done = masked(text)
    known = {value for values in substitutes().values() for value in values}
    for value in set(found) - known:
        assert value not in done or value in "".join(f"<{kind}>" for kind in KINDS), (text, done)


@pytest.mark.parametrize(
    ("pii", "expected"),
    [
        ("{mask: [EMAIL]}", "unknown kind 'EMAIL'"),
        ("{mask: [EMAIL_ADDRESS], how: hash}", "needs a key_file"),
        ("{mask: [EMAIL_ADDRESS], key_file: k}", "needs a key_file"),
        ("{mask: [EMAIL_ADDRESS], how: hash, key_file: no/such/key}", "cannot read the key"),
        ("{mask: [EMAIL_ADDRESS], how: blur}", "pii.how"),
        ("{max_hits: -1}", "pii.max_hits"),
    ],
)
def test_bad_options_say_what_is_wrong(pii: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        parse_recipe(f"name: x\npii: {pii}\n")


def test_keys_tell_recipes_apart_and_short_ones_are_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    text = f"name: x\npii: {{mask: [IP_ADDRESS], how: hash, key_file: {key}}}\n"
    key.write_bytes(b"one key of some length")
    one = parse_recipe(text)
    digest = one.digest
    assert "one key" not in one.model_dump_json()
    key.write_bytes(b"two key of some length")
    assert parse_recipe(text).digest != digest
    key.write_bytes(b"short\n")
    with pytest.raises(RecipeError, match="has 5 bytes"):
        parse_recipe(text)
