"""`crawlmill tokenizer …`: from runs and files to a tokenizer, its report, and the report of shards."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.runs import Run
from jobs.session import session
from jobs.tokenise import tokenise
from jobs.train_tokenizer import train_tokenizer
from pipeline.errors import CrawlmillError, InputError, RecipeError, UsageError
from pipeline.tokenizer.files import load
from pipeline.tokenizer.training import Options

WORDS = [
    "the",
    "mill",
    "turns",
    "slowly",
    "because",
    "water",
    "from",
    "our",
    "river",
    "drives",
    "its",
    "heavy",
    "wooden",
    "wheel",
    "all",
    "night",
]


def crawlmill(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def sentences(seed: int, n: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 30)) + "." for _ in range(n)]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "books.parquet"
    rows = {"text": sentences(1, 300), "id": [f"book-{i}" for i in range(300)], "language": ["en"] * 300}
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def trained(finished: Run, books: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("trained") / "tokenizer"
    done = crawlmill(
        "tokenizer", "train", finished.folder.path, f"books={books}", "--output", output, "--vocab-size", 600
    )
    assert done.exit_code == 0, (done.output, done.exception)
    return output, done


def test_a_tokenizer_is_trained_and_reported_on(finished: Run, books: Path, trained: tuple[Path, Result]) -> None:
    output, done = trained
    tokenizer = load(output)
    assert tokenizer.vocab_size == 600 and tokenizer.eos == 599 and tokenizer.lossless
    info = json.loads((output / "training.json").read_text())
    assert info["done"] and info["sources"].keys() == {"books", "web"}
    assert info["sources"]["books"]["documents"] == 300
    assert not (output / "sample").exists()
    report = json.loads((output / "report.json").read_text())
    assert report["all"]["round_trips"] == 1 and report["sources"].keys() == {"books", "web"}
    assert report["sources"]["books"]["tokens_per_word"] < 1.6
    held = pq.read_table(output / "held")
    assert report["all"]["documents"] == held.num_rows
    assert "learned from" in done.output and "most frequent" in done.output and "gigatoken" in done.output
    # A document is learned from or held out.
    assert sum(size["sample_bytes"] for size in info["sources"].values()) + report["all"]["bytes"] == sum(
        size["bytes"] for size in info["sources"].values()
    )
    before = (output / "tokenizer.json").stat().st_mtime_ns
    again = crawlmill(
        "tokenizer", "train", finished.folder.path, f"books={books}", "--output", output, "--vocab-size", 600
    )
    assert again.exit_code == 0 and (output / "tokenizer.json").stat().st_mtime_ns == before


@pytest.mark.spark
def test_spark_and_other_files_train_the_same(
    finished: Run, books: Path, trained: tuple[Path, Result], tmp_path: Path
) -> None:
    rows = pq.read_table(books)
    for number, part in enumerate((rows.slice(200), rows.slice(0, 200))):
        (tmp_path / "parts").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "parts" / f"{number}.parquet")
    inputs = [f"books={tmp_path / 'parts'}", finished.folder.path]
    train_tokenizer(session("test", "local[2]"), inputs, str(tmp_path / "out"), Options(vocab_size=600))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (trained[0] / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "report.json").read_text() == (trained[0] / "report.json").read_text()


def test_a_sample_is_a_part_and_another_seed_another(books: Path, tmp_path: Path) -> None:
    found = {}
    for seed in (0, 1):
        output = tmp_path / str(seed)
        options = Options(vocab_size=300, bytes=20_000, held_out=5000, seed=seed)
        info = train_tokenizer(None, [f"books={books}"], str(output), options)
        found[seed] = set(pq.read_table(output / "held").column("text").to_pylist())
        assert 10_000 < info["sources"]["books"]["sample_bytes"] < 32_000
        assert 2000 < sum(map(len, found[seed])) < 9000
    assert found[0] != found[1]


def test_a_training_that_was_interrupted_goes_on(books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import train_tokenizer as job

    def broken(*_: object) -> bytes:
        raise KeyboardInterrupt

    options = Options(vocab_size=300)
    monkeypatch.setattr(job, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(None, [str(books)], str(tmp_path / "one"), options)
    with pytest.raises(UsageError, match="the training is not finished"):
        job.trained(str(tmp_path / "one"))
    monkeypatch.undo()
    monkeypatch.setattr(job._Take, "__call__", broken)  # what was taken is not taken again
    train_tokenizer(None, [str(books)], str(tmp_path / "one"), options)
    monkeypatch.undo()
    train_tokenizer(None, [str(books)], str(tmp_path / "two"), options)
    one, other = (load(tmp_path / name).sha256 for name in ("one", "two"))
    assert one == other


def test_what_cannot_be_trained(books: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    def refused(kind: type[CrawlmillError], words: str, inputs: list[str], output: Path, **options: object) -> None:
        with pytest.raises(kind, match=words):
            train_tokenizer(None, inputs, str(output), Options.model_validate(options))

    refused(UsageError, "holds another training .other inputs, options", [str(books)], trained[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refused(UsageError, "is not empty and holds no training", [str(books)], tmp_path / "full")
    refused(InputError, "nothing.parquet", [str(tmp_path / "nothing.parquet")], tmp_path / "a")
    pq.write_table(pa.table({"text": ["", None], "source": ["void", "void"]}), tmp_path / "empty.parquet")
    refused(InputError, "source 'void' holds no text", [str(books), str(tmp_path / "empty.parquet")], tmp_path / "b")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "other.parquet")
    refused(InputError, "no column 'text'", [str(tmp_path / "other.parquet")], tmp_path / "c")
    refused(RecipeError, "the sources are unknown", [str(books)], tmp_path / "d", shares={"books": 1})
    refused(InputError, "merges that occur", [str(books)], tmp_path / "e", vocab_size=30_000)
    (tmp_path / "run").mkdir()
    info = {"recipe": {"name": "x"}, "stages": {}, "inputs": [], "tasks": []}
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    refused(UsageError, "is not finished; run the same", [str(tmp_path / "run")], tmp_path / "f")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vocab-size", "100"], "vocab_size 100 is too small"),
        (["--words", "bert"], "words: "),
        (["--shares", "books"], "--shares is equal, proportional or SOURCE:WEIGHT"),
        (["--shares", "books:2,web:1"], "source 'web' is not there"),
        (["--bytes", "lots"], "not a size"),
    ],
)
def test_options_are_checked(arguments: list[str], words: str, books: Path, tmp_path: Path) -> None:
    done = crawlmill("tokenizer", "train", f"books={books}", "--output", tmp_path / "out", *arguments)
    assert done.exit_code != 0 and words in str(done.exception)


def test_options_come_from_a_file_and_the_command_line(books: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("vocab_size: 300\ndigits: single\nshares: {books: 1}\n")
    done = crawlmill(
        "tokenizer", "train", f"books={books}", "--output", tmp_path / "out", "--config", tmp_path / "options.yaml",
        "--special", "<|end|>", "--special", "<|pad|>", "--spaces", "single", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(done.output)
    assert report["tokenizer"]["special"] == {"<|end|>": 298, "<|pad|>": 299}
    options = json.loads((tmp_path / "out" / "training.json").read_text())["options"]
    assert (options["digits"], options["spaces"], options["end_of_text"]) == ("single", "single", "<|end|>")
    again = crawlmill("tokenizer", "report", tmp_path / "out", "--json")
    assert json.loads(again.output)["all"] == report["all"]


def test_a_report_on_texts_and_on_shards_agree(books: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    tokenizer = trained[0] / "tokenizer.json"
    texts = json.loads(crawlmill("tokenizer", "report", tokenizer, "--texts", f"books={books}", "--json").output)
    tokenise([str(books)], str(tmp_path / "tokens"), load(tokenizer), source="books", spark=False)
    done = crawlmill("tokenizer", "report", tmp_path / "tokens", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    shards = json.loads(done.output)
    assert shards["all"]["documents"] == texts["all"]["documents"] == 300
    assert shards["all"]["bytes"] == texts["all"]["bytes"]
    assert shards["all"]["tokens"] == texts["all"]["tokens"] + 300  # with the end of each text
    assert shards["unused"] == texts["unused"] and shards["sources"].keys() == {"books"}
    shown = crawlmill("tokenizer", "report", tmp_path / "tokens")
    assert shown.exit_code == 0 and "unused" in shown.output
    (tmp_path / "tokens" / "tokenizer.json").write_bytes(tokenizer.read_bytes() + b"\n")
    other = crawlmill("tokenizer", "report", tmp_path / "tokens")
    assert other.exit_code != 0 and "another tokenizer" in str(other.exception)


def test_a_report_needs_texts(trained: tuple[Path, Result]) -> None:
    done = crawlmill("tokenizer", "report", trained[0] / "tokenizer.json")
    assert done.exit_code != 0 and "name runs or Parquet files with --texts" in str(done.exception)
