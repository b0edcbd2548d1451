"""Personal data over whole runs: planted values are masked, and what the ledger says of them tells nothing."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from jobs.curate import redecide
from jobs.runs import Run
from pipeline.recipe import load_recipe
from pipeline.signals.pii import KINDS

pytestmark = pytest.mark.spark

KIND = {
    "email": "EMAIL_ADDRESS",
    "phone": "PHONE_NUMBER",
    "ip": "IP_ADDRESS",
    "iban": "IBAN_CODE",
    "credit_card": "CREDIT_CARD",
}
DEFAULT = Path(__file__).parents[2] / "pipeline" / "recipes" / "default.yaml"


def planted(run: Run, sample_web: Path) -> list[tuple[dict, dict, str]]:
    """(planted values by kind, ledger row, curated text) of every kept page with personal data."""
    rows = run.folder.scan("ledger", pc.field("outcome") == "kept").to_pylist()
    places = {(Path(row["warc_file"]).name, row["warc_offset"]): row for row in rows}
    texts = {row["id"]: row["text"] for row in run.folder.scan("curated", None, ["id", "text"]).to_pylist()}
    found = []
    for line in (sample_web / "truth.jsonl").read_text().splitlines():
        page = json.loads(line)
        row = places.get((page["file"], page["offset"]))
        if row and page["notes"].get("pii"):
            found.append((page["notes"]["pii"], row, texts[row["doc_id"]]))
    return found


def test_planted_values_are_masked_and_private_addresses_stay(finished: Run, sample_web: Path) -> None:
    pages = planted(finished, sample_web)
    assert len(pages) > 30
    for values, row, text in pages:
        kinds = Counter(hit["kind"] for hit in row["pii"])
        for entry in values:
            if entry["kind"] == "private_ip":
                assert entry["value"] in text
                continue
            assert entry["value"] not in text, entry["kind"]
            assert kinds[KIND[entry["kind"]]] >= 1 and f"<{KIND[entry['kind']]}>" in text
        assert sum(kinds.values()) == sum(entry["kind"] != "private_ip" for entry in values)
    clean = finished.folder.scan("ledger", pc.field("outcome") == "kept", ["pii"]).num_rows
    masked = sum(bool(p) for p in finished.folder.scan("ledger", None, ["pii"]).column("pii").to_pylist())
    assert masked == len(pages) < clean


def test_places_are_those_of_the_extracted_text(finished: Run, sample_web: Path) -> None:
    texts = {
        row["doc_id"]: row["text"] for row in finished.folder.scan("documents", None, ["doc_id", "text"]).to_pylist()
    }
    for values, row, _ in planted(finished, sample_web):
        expected = {(KIND[v["kind"]], v["value"]) for v in values if v["kind"] in KIND}
        text = texts[row["doc_id"]]
        assert {(hit["kind"], text[hit["start"] : hit["end"]]) for hit in row["pii"]} == expected


def test_tokens_join_pages_and_too_much_drops_them(finished: Run, sample_web: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a key that nobody knows")
    recipe = tmp_path / "hash.yaml"
    recipe.write_text(
        DEFAULT.read_text().replace("  how: placeholder\n", f"  how: hash\n  key_file: {key}\n  max_hits: 2\n")
        + "inputs: {tolerate: 1}\n"
    )
    done = redecide(finished.folder.path, load_recipe(recipe), str(tmp_path / "out"))
    dropped = done.folder.scan(
        "ledger", pc.field("reason") == "pii.max_hits", ["doc_id", "pii", "rule_hits"]
    ).to_pylist()
    counts = {row["doc_id"]: len(row["pii"]) for _, row, _ in planted(finished, sample_web)}
    assert {row["doc_id"] for row in dropped} == {doc_id for doc_id, n in counts.items() if n > 2} != set()
    assert all(row["rule_hits"] == ["pii.max_hits"] for row in dropped)
    tokens: dict[str, set[str]] = {}
    for values, _, text in planted(done, sample_web):
        for entry in values:
            if entry["kind"] == "credit_card":
                (token,) = {part.split(">")[0] for part in text.split("<CREDIT_CARD:")[1:]}
                tokens.setdefault(entry["value"], set()).add(token)
    assert tokens and all(len(held) == 1 for held in tokens.values())
    assert len(set.union(*tokens.values())) == len(tokens)


def test_every_kind_is_asked_for_by_default() -> None:
    assert load_recipe("default").pii.mask == KINDS
