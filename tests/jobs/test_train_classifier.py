"""From a finished run and a list of addresses to a model with its card."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from classifiers.scoring import Head
from classifiers.training import TrainingOptions
from classifiers.training_set import TrainingSetOptions
from jobs.runs import Run
from jobs.session import session
from jobs.train_classifier import TextFile, _command, read_references, train_classifier
from pipeline.dedup.addresses import canonical_url
from pipeline.errors import InputError, UsageError

TRAINING = TrainingOptions(dim=4, epoch=2, bucket=2000)


@pytest.fixture(scope="module")
def cited(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of the pages that the run keeps, one that it does not hold, and one of Wikipedia."""
    pages = finished.folder.scan("curated", None, ["id", "url"]).sort_by("id").column("url").to_pylist()
    path = tmp_path_factory.mktemp("cited") / "urls.txt"
    path.write_text("\n".join([*pages[::3], "https://nowhere.example/page", "https://en.wikipedia.org/wiki/A"]))
    return path


@pytest.fixture(scope="module")
def trained(finished: Run, cited: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("trained") / "quality"
    options = TrainingSetOptions(held_out=0.4)
    facts = train_classifier(None, finished, str(output), references=str(cited), options=options, training=TRAINING)
    return output, facts


def test_a_run_and_references_become_a_model_with_its_card(trained: tuple[Path, dict]) -> None:
    output, facts = trained
    examples = pq.read_table(output / "examples/part-00000.parquet")
    labels, splits = examples.column("label").to_pylist(), examples.column("split").to_pylist()
    assert labels.count("reference") == labels.count("random") > 10
    groups = {
        s: {g for g, t in zip(examples.column("group").to_pylist(), splits, strict=True) if t == s} for s in splits
    }
    assert not groups["train"] & groups["test"]
    head = Head.open(output / "models/quality")
    assert head.scored == "reference" and head.facts["data"]["training_set"] == facts["training_set"]
    assert head.facts["calibration"] == facts["evaluation"]["calibration"]
    assert "domains that were held out" in (output / "models/quality.md").read_text()
    assert facts["evaluation"]["examples"] == splits.count("test")


def test_what_the_run_does_not_hold_is_listed(trained: tuple[Path, dict], cited: Path) -> None:
    output, facts = trained
    listing = pq.read_table(output / "missing/part-00000.parquet")
    assert listing.column("canonical").to_pylist() == ["nowhere.example/page"]
    distinct = {canonical_url(url) for url in cited.read_text().splitlines()}
    assert facts["references"] == facts["references_held"] + 1 == len(distinct) - 1  # Wikimedia's own is none


@pytest.mark.spark
def test_spark_gives_the_same_bytes(finished: Run, cited: Path, trained: tuple[Path, dict], tmp_path: Path) -> None:
    output, facts = trained
    spark = session("test", "local[2]")
    again = train_classifier(
        spark,
        finished,
        str(tmp_path / "q"),
        references=str(cited),
        options=TrainingSetOptions(held_out=0.4),
        training=TRAINING,
        partitions=3,
    )
    assert again["sha256"] == facts["sha256"]
    name = "examples/part-00000.parquet"
    assert (tmp_path / "q" / name).read_bytes() == (output / name).read_bytes()


def test_a_training_is_taken_up_again_and_another_refused(
    finished: Run, cited: Path, trained: tuple[Path, dict]
) -> None:
    output, facts = trained
    ask = {"references": str(cited), "options": TrainingSetOptions(held_out=0.4)}
    assert train_classifier(None, finished, str(output), training=TRAINING, **ask)["sha256"] == facts["sha256"]
    with pytest.raises(UsageError, match=r"another training \(other training\)"):
        train_classifier(None, finished, str(output), **ask)
    with pytest.raises(UsageError, match="holds no training"):
        train_classifier(None, finished, finished.folder.path, **ask)


def test_files_of_texts_are_positives_without_references(finished: Run, tmp_path: Path) -> None:
    books = tmp_path / "books.jsonl"
    rows = [{"text": " ".join(f"word{i}of{j}" for i in range(400)), "author": f"a{j}"} for j in range(30)]
    books.write_text("\n".join(map(json.dumps, rows)))
    facts = train_classifier(
        None,
        finished,
        str(tmp_path / "out"),
        files=[TextFile("books", str(books), group="author", piece_words=150)],
        options=TrainingSetOptions(positive="book", negatives=0.2, held_out=0.3),
        training=TRAINING,
    )
    assert facts["training_set"]["sources"]["books"] > 10
    assert Head.open(facts["model"]).scored == "book"
    with pytest.raises(UsageError, match="nothing says what a positive is"):
        train_classifier(None, finished, str(tmp_path / "none"))


def test_references_come_from_lists_and_tables(tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text("https://a.example/1\n\nhttps://a.example/1#x\nmailto:x@a.example\n")
    table = read_references(str(listed))
    assert table.column("canonical").to_pylist() == ["a.example/1"]
    pq.write_table(table, tmp_path / "refs.parquet")
    assert read_references(str(tmp_path / "refs.parquet")).equals(table)
    for name, said in (("none.txt", "cannot read"), ("bad.parquet", "cannot read"), ("bad.gz", "cannot read")):
        (tmp_path / name).write_bytes(b"") if name.startswith("bad") else None
        with pytest.raises(InputError, match=f"{said}|holds no address"):
            read_references(str(tmp_path / name))
    with pytest.raises(InputError, match="holds no references"):
        read_references(str(tmp_path))


def test_the_command_line_says_what_is_wrong_in_one_line(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--run", str(tmp_path / "nothing"), "--output", str(tmp_path / "out"), "--references", "x"]
    with pytest.raises(SystemExit) as stopped:
        _command(asked)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()
