"""Ablations: a worse set is found, an equal one is not, held-out text stands in neither set, a killed one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import ablation_models, ablation_texts
from jobs.ablate import Asked, ablate, base_config, dry_run
from jobs.ablation_texts import HELD, UNREAD, HeldOut, Set, deal, open_set, shared_lines
from jobs.runs import Run
from jobs.store import RunFolder
from jobs.tokenise import tokenise
from pipeline.errors import CrawlmillError, InputError, UsageError
from pipeline.tokenizer.files import TokenizerFile
from trainer.config import ConfigError

CONFIG = """
[model]
layers = 1
width = 32
heads = 2
kv_heads = 2
head_dim = 16
ffn = 64
[data]
seq_len = 64
batch_tokens = 256
[optim]
lr = 3e-3
"""

NOTICE = "We value your privacy and so do our 812 partners, who store things on your device. Accept all. Reject all.\n"


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of many threads may come in another order."""
    monkeypatch.setattr(ablation_models, "_cores", lambda: 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(CONFIG)
    return str(path)


def pages(n: int, seed: int = 0) -> list[str]:
    """Texts in a language of 80 words of which each calls for three others, in lines."""
    rng = np.random.default_rng(seed)
    language = np.random.default_rng(99)
    words = ["".join(language.choice(list("abcdefghiklmnoprstu"), language.integers(2, 5))) for _ in range(80)]
    follows = language.integers(0, 80, (80, 3))
    found = []
    for _ in range(n):
        at, said = int(rng.integers(80)), []
        for number in range(int(rng.integers(60, 160))):
            said.append(words[at] + (".\n" if number % 12 == 11 else ""))
            at = int(follows[at, rng.integers(3)])
        found.append(" ".join(said) + "\n")
    return found


def write(path: Path, texts: list[str], ids: list[str] | None = None) -> str:
    table = pa.table({"id": ids or [f"p{i}" for i in range(len(texts))], "text": texts})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def spoiled(texts: list[str]) -> tuple[list[str], list[str]]:
    """The same pages under a notice, and many copies of a few of them."""
    worse = [NOTICE * 3 + text for text in texts]
    copies = [worse[i % 12] for i in range(len(texts))]
    return worse + copies, [f"p{i}" for i in range(len(texts))] + [f"copy{i}" for i in range(len(copies))]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("two")
    clean = pages(420)
    return write(folder / "clean.parquet", clean), write(folder / "raw.parquet", *spoiled(clean))


@pytest.fixture(scope="module")
def asked(two: tuple[str, str], config: str) -> Asked:
    return Asked(two, names=("clean", "raw"), config=config, seeds=3, vocabulary=400, tokens=40_000)


@pytest.fixture(scope="module")
def done(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An ablation of a good set and the same set spoiled, in this process."""
    output = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation_models, "_cores", lambda: 1)
        return output, ablate(asked, str(output), 1, lambda line: None)


def test_a_set_of_boilerplate_and_copies_is_found_to_be_worse(done: tuple[Path, dict[str, Any]]) -> None:
    _, report = done
    found = report["results"]["common"]
    assert found["verdict"] == "a" and found["interval"][0] > 0 and min(found["by_seed"]) > 0.05
    assert report["verdict"].startswith("clean is better than raw by 0.")
    assert report["verdict"].endswith("bits per byte on common, three seeds")


def test_both_sets_get_the_same_tokens_and_the_report_says_how_often_and_how_much_of_it_is_new(
    done: tuple[Path, dict[str, Any]],
) -> None:
    output, report = done
    clean, raw = report["sets"]["a"], report["sets"]["b"]
    assert report["tokens"] == 156 * 256
    assert {of["steps"] for of in report["models"].values()} == {156}
    assert clean["epochs"] == [report["tokens"] / n for n in clean["tokens"]] and min(clean["epochs"]) > 1
    assert clean["unique_share"] == pytest.approx(1 / max(clean["epochs"]), abs=0.01)
    # More than a third of it are copies of a few pages.
    assert max(raw["epochs"]) < 1 and 0.4 < raw["unique_share"] < 0.7
    tasks = [json.loads((output / "tasks" / f"{name}.json").read_bytes())["options"] for name in report["models"]]
    of_pair = [task for task in tasks if task["seed"] == 0]
    assert (
        len(of_pair) == 2 and of_pair[0]["optim"] == of_pair[1]["optim"] and of_pair[0]["phase"] == of_pair[1]["phase"]
    )
    assert tasks[0]["model"]["width"] == 32 and tasks[0]["checkpoint"]["keep"] == 1


def test_the_report_can_be_traced(done: tuple[Path, dict[str, Any]]) -> None:
    output, report = done
    rows = pq.read_table(output / "documents.parquet")
    bits = np.array([[rows.column(f"{letter}-{pair}").to_numpy() for pair in range(3)] for letter in "ab"])
    per_byte = bits.sum(2) / rows.column("bytes").to_numpy().sum()
    assert report["results"]["common"]["bits_per_byte"]["a"] == pytest.approx(per_byte[0])
    assert report["results"]["common"]["difference"] == pytest.approx((per_byte[1] - per_byte[0]).mean())
    told = (output / "report.md").read_text()
    for what in (report["verdict"], report["sets"]["a"]["digest"][:12], report["tokenizer"]["sha256"][:12]):
        assert what in told
    assert (output / "ablation.png").stat().st_size > 10_000


def test_held_out_pages_are_read_by_no_model_and_are_what_both_sets_keep(
    done: tuple[Path, dict[str, Any]], two: tuple[str, str]
) -> None:
    output, report = done
    held = pq.read_table(output / "held_out" / "common.parquet").to_pylist()
    assert len(held) == report["held_out"]["common"]["documents"] > 50
    assert not any("privacy" in row["text"] for row in held)
    clean = pq.read_table(two[0]).to_pylist()
    assert {row["text"] for row in held} < {row["text"] for row in clean}
    ids = {row["id"] for row in held}
    read: dict[str, set[str]] = {}
    for name in ("a-0", "a-1", "b-0", "b-1"):
        rows = pq.read_table(output / "texts" / f"{name}.parquet").to_pylist()
        read[name] = {row["id"] for row in rows}
        assert not read[name] & ids
        assert not {row["text"].removeprefix(NOTICE * 3) for row in rows} & {row["text"] for row in held}
    assert not read["a-0"] & read["a-1"] and not read["b-0"] & read["b-1"]
    # The pages that both have are read by the same pair.
    assert read["a-0"] < read["b-0"]


def test_run_again_it_makes_no_model_again_and_other_questions_are_refused(
    done: tuple[Path, dict[str, Any]], asked: Asked, config: str
) -> None:
    output, report = done
    before = {path: path.stat().st_mtime_ns for path in output.glob("scores/*.json")}
    body = (output / "report.json").read_bytes()
    (output / "report.md").unlink()
    assert ablate(asked, str(output), 1, lambda line: None) == report
    assert {path: path.stat().st_mtime_ns for path in output.glob("scores/*.json")} == before
    assert (output / "report.json").read_bytes() == body and (output / "report.md").exists()
    with pytest.raises(UsageError, match=r"holds another ablation \(other seeds\)"):
        ablate(Asked(asked.sets, names=asked.names, config=config, seeds=2, vocabulary=400, tokens=40_000), str(output))


def test_a_killed_ablation_goes_on_and_ends_as_if_nothing_had_been(
    done: tuple[Path, dict[str, Any]], asked: Asked, tmp_path: Path
) -> None:
    """Killed with one model made and two in the making, by processes that end with it."""
    output = tmp_path / "out"
    code = (
        "import dataclasses, json, sys; from jobs import ablation_models; from jobs.ablate import Asked, ablate\n"
        "ablation_models._cores = lambda: 1\n"
        "given = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()}\n"
        "ablate(Asked(**given), sys.argv[2], 2)"
    )
    given = json.dumps({key: value for key, value in vars(asked).items() if key in Asked.__dataclass_fields__})
    root = Path(__file__).resolve().parent.parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, given, str(output)],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=root,
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 200
        while not list(output.glob("scores/*.json")) or len(list(output.glob("runs/*/metrics.jsonl"))) < 3:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    made = {path.name for path in output.glob("scores/*.json")}
    logs = list(output.glob("runs/*/metrics.jsonl"))
    # Their standard input ends with the process that was killed.
    size = -1
    while size != (size := sum(path.stat().st_size for path in logs)):
        time.sleep(0.5)
    assert made == {path.name for path in output.glob("scores/*.json")} and len(made) < 6
    ablate(asked, str(output), 1, lambda line: None)
    assert (output / "report.json").read_bytes() == (done[0] / "report.json").read_bytes()


def test_equal_sets_make_equal_models(two: tuple[str, str], config: str, tmp_path: Path) -> None:
    given = Asked((two[0], two[0]), names=("one", "other"), config=config, seeds=2, vocabulary=400, tokens=10_000)
    report = ablate(given, str(tmp_path / "out"), 1, lambda line: None)
    assert report["overall"]["difference"] == 0 and report["overall"]["verdict"] == "none"
    assert report["verdict"] == "no difference at all on common: the models of one and other are the same, two seeds"


def test_halves_of_a_set_do_not_differ_and_texts_of_other_origin_are_compared_on(
    config: str, tokenizer: TokenizerFile, tmp_path: Path
) -> None:
    texts = pages(300, 5)
    a, b = (
        write(tmp_path / "a.parquet", texts[:150]),
        write(tmp_path / "b.parquet", texts[150:], [f"q{i}" for i in range(150)]),
    )
    lines = [json.dumps({"text": text}) for text in [*pages(70, 6), texts[3], texts[4], "too short"]]
    (tmp_path / "held.jsonl").write_text("\n".join(lines))
    write(tmp_path / "held.parquet", pages(80, 7))
    tokenise([str(tmp_path / "held.parquet")], str(tmp_path / "tokens"), tokenizer)
    given = Asked(
        (a, b),
        config=config,
        seeds=2,
        vocabulary=400,
        tokens=10_000,
        held_out=(f"lines={tmp_path / 'held.jsonl'}", f"tokens={tmp_path / 'tokens'}"),
    )
    said: list[str] = []
    report = ablate(given, str(tmp_path / "out"), 1, said.append)
    assert report["overall"]["verdict"] == "none" and set(report["results"]) == {"lines", "tokens"}
    assert report["sets"]["a"]["name"] == "a.parquet" and report["common_pages"] == 0
    lines_of = report["held_out"]["lines"]
    # In so small a language a few texts share 13 words by chance.
    removed = {why: n for why, n in lines_of["removed"].items() if "13 words in a row" not in why}
    assert removed == {"near copy of a page of a.parquet": 2, "shorter than 13 words": 1}
    assert lines_of["drawn"] == 73 == lines_of["documents"] + sum(lines_of["removed"].values())
    held = pq.read_table(tmp_path / "out" / "held_out" / "tokens.parquet").column("text").to_pylist()
    assert len(held) == report["held_out"]["tokens"]["documents"] >= 50 and set(held) <= set(pages(80, 7))
    assert "a difference of 0." in report["verdict"]


def test_recipes_are_compared_on_one_run(finished: Run, config: str, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("\n".join(json.dumps({"text": text}) for text in pages(60, 8)))
    given = Asked(
        (finished.folder.path,),
        recipes=("default", "gopher"),
        config=config,
        seeds=2,
        vocabulary=400,
        tokens=10_000,
        held_out=(f"words={held}",),
    )
    plan = dry_run(given, 2)
    assert [one["name"] for one in plan["sets"]] == ["default", "gopher"]
    assert plan["sets"][0]["pages"] < plan["sets"][1]["pages"] and plan["tokens"] == 9_984
    assert plan["models"] == 4 and plan["seconds"] > 0 and plan["held_out"]["words"] == 60
    report = ablate(given, str(tmp_path / "out"), 1, lambda line: None)
    assert report["sets"]["b"]["recipe"]["name"] == "gopher"
    assert (tmp_path / "out" / "sets" / "b" / "run.json").exists()
    # Pages of the sample repeat each other: too few of those that both keep are left.
    assert set(report["results"]) == {"words"}
    assert (
        report["left_out"].keys() == {"common"} and "left out: common" in (tmp_path / "out" / "report.md").read_text()
    )


def sets_of(tmp_path: Path, a: list[str], b: list[str], ids: list[str] | None = None) -> tuple[Set, Set]:
    return open_set("a", write(tmp_path / "a.parquet", a)), open_set("b", write(tmp_path / "b.parquet", b, ids))


def test_copies_of_a_page_stay_together_and_pairs_get_equal_shares(tmp_path: Path) -> None:
    texts = pages(300)
    copies = [texts[7]] * 9 + [texts[8].upper()] * 9
    a, b = sets_of(tmp_path, texts, texts + copies, [f"p{i}" for i in range(300)] + [f"c{i}" for i in range(18)])
    dealt = deal(a, b, 3, 0)
    for row, of in ((7, slice(300, 309)), (8, slice(309, 318))):
        assert set(dealt.parts[1][of]) == {dealt.parts[0][row]} == {dealt.parts[1][row]}
    for one, parts in zip((a, b), dealt.parts, strict=True):
        loads = [one.pages.sizes[parts == pair].sum() for pair in range(3)]
        assert max(loads) < 1.1 * min(loads)
    assert np.array_equal(dealt.parts[0], dealt.parts[1][:300])
    assert (dealt.parts[0] == HELD).sum() == len(dealt.held) == 60
    assert not np.array_equal(deal(a, b, 3, 1).parts[0], dealt.parts[0])
    some = deal(a, b, 3, 0, enough=5000)
    assert all(5000 <= a.pages.sizes[some.parts[0] == pair].sum() < 8000 for pair in range(3))
    assert (some.parts[0] == UNREAD).sum() > 150


def test_held_out_texts_that_stand_in_a_set_are_taken_away_with_the_reason(tmp_path: Path) -> None:
    texts = pages(40)
    run_of_13 = " ".join(f"w{i}" for i in range(13))
    run_of_12 = " ".join(f"v{i}" for i in range(12))
    a, b = sets_of(
        tmp_path, [texts[0], f"begin {run_of_13} end", f"begin {run_of_12} end"], [texts[0], texts[1], texts[2]]
    )
    rest = " ".join(texts[20].split())
    held = HeldOut(
        "ours",
        "",
        [f"h{i}" for i in range(8)],
        [
            texts[0],  # in both
            texts[1] + " or nearly so",  # near copy in b
            f"{texts[21]} {run_of_13.upper().replace(' ', ', ')}",  # other case and punctuation, in a
            f"{texts[22]} {run_of_12}",  # too little
            rest,
            rest + " again",
            "these are too few words to be looked for",
            texts[23] * 30,
        ],
        8,
    )
    parts = [np.zeros(3, np.int16), np.zeros(3, np.int16)]
    found = [
        ablation_texts.sift(one, part, [held], RunFolder(tmp_path / "out"), letter, 1)
        for one, part, letter in zip((a, b), parts, "ab", strict=True)
    ]
    ablation_texts.decontaminate([held], *found, ("raw", "clean"))
    assert held.removed == {
        "near copy of a page of both sets": 1,
        "near copy of a page of clean": 1,
        "13 words in a row that are in raw": 1,
        "near copy of another held-out text": 1,
        "shorter than 13 words": 1,
    }
    assert held.ids[0] == "h3" and held.ids[-1] == "h7" and len(held.ids) == 3
    assert len(held.texts[-1]) == ablation_texts.HELD_CHARS
    # Pages that are held out themselves do not count.
    alone = ablation_texts.sift(a, np.full(3, HELD, np.int16), [held], RunFolder(tmp_path / "out"), "c", 1)
    assert not len(alone.grams) and not len(alone.copies)


def test_lines_that_both_keep() -> None:
    assert shared_lines("a\nb\nc", "a\nb\nc") == "a\nb\nc"
    assert shared_lines("notice\na\nb\nfoot", "a\nmore\nb") == "a\nb"
    assert shared_lines("a", "b") == ""


def wrong_sets(tmp_path: Path) -> dict[str, str]:
    few = pages(30)
    return {
        "clean": write(tmp_path / "clean.parquet", pages(300)),
        "other": write(tmp_path / "other.parquet", pages(200, 3), [f"q{i}" for i in range(200)]),
        "few": write(tmp_path / "few.parquet", few),
        "empty": write(tmp_path / "empty.parquet", [""]),
        "held": write(tmp_path / "held.parquet", pages(60, 4)),
    }


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"sets": ("clean",)}, UsageError, "name two sets, or one run with --recipe"),
        ({"sets": ("clean", "other"), "recipes": ("gopher", "default")}, UsageError, "name one run for two recipes"),
        ({"seeds": 1}, UsageError, "take --seeds 2 or more"),
        ({"names": ("x", "x")}, UsageError, "two different names"),
        ({"held_out": ("held",)}, UsageError, "write NAME=PATH"),
        ({"held_out": ("common=held",)}, UsageError, "choose another"),
        (
            {"sets": ("clean", "other")},
            InputError,
            "0 pages in common, .* name texts of another origin with --held-out",
        ),
        ({"sets": ("clean", "few"), "held_out": ()}, InputError, "30 pages in common, of which 6 could be held out"),
        ({"sets": ("clean", "empty")}, InputError, "empty.parquet holds no text"),
        ({"sets": ("clean", "nowhere")}, InputError, "nowhere"),
        ({"sets": ("clean", "tokens")}, UsageError, "is a folder of tokens.* name the run or the Parquet files"),
        ({"text": "body"}, InputError, "body"),
        ({"tokens": 900_000}, InputError, "fewer than the 900,000 asked for; lower --tokens, or give a larger set"),
        ({"tokens": 3000}, InputError, "2,816 tokens were asked for, fewer than 20 batches"),
        ({"config": "[data]\npath = 'x'"}, ConfigError, "data.path is what the ablation sets"),
        ({"config": "[model]\nlayer = 3"}, ConfigError, "line 2"),
        ({"config": "[model]\nvocab_size = 300", "tokenizer": "yes"}, UsageError, "leave it out, and it follows"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    changes: dict[str, Any], kind: type[CrawlmillError], message: str, config: str, whole: Path, tmp_path: Path
) -> None:
    known = {**wrong_sets(tmp_path), "tokens": str(whole)}
    sets = tuple(known.get(name, str(tmp_path / name)) for name in changes.get("sets", ("clean", "clean")))
    given = {"names": ("a", "b"), "config": config, "seeds": 2, "vocabulary": 400} | changes | {"sets": sets}
    if "tokenizer" in changes:
        given["tokenizer"] = str(whole / "tokenizer.json")
    if "config" in changes:
        (tmp_path / "own.toml").write_text(changes["config"])
        given["config"] = str(tmp_path / "own.toml")
    with pytest.raises(kind, match=message) as caught:
        ablate(Asked(**given), str(tmp_path / "out"), 1, lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_config_changes_what_it_names_and_the_preset_holds_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: {batch_tokens: 1024}\noptim: {lr: 0.01}\n")
    found = base_config(str(tmp_path / "own.yaml"))
    assert (found.data.batch_tokens, found.data.seq_len, found.optim.lr, found.optim.name) == (1024, 256, 0.01, "muon")
    (tmp_path / "own.yaml").write_text("data: {batch_tokens: 1000}\n")
    with pytest.raises(ConfigError, match="must be a multiple of seq_len"):
        base_config(str(tmp_path / "own.yaml"))


def test_recipes_of_other_extraction_and_equal_recipes_are_refused(finished: Run, tmp_path: Path) -> None:
    run = finished.folder.path
    with pytest.raises(UsageError, match=r"differs from the run's in gates .* needs a new `crawlmill run`"):
        dry_run(Asked((run,), recipes=("default", "refinedweb")), 1)
    with pytest.raises(UsageError, match="are the same recipe"):
        dry_run(Asked((run,), recipes=("gopher", "gopher"), names=("a", "b")), 1)


def test_the_command_shows_its_plan(two: tuple[str, str], config: str) -> None:
    import typer
    from typer.testing import CliRunner

    from jobs.ablate_commands import ablate as command

    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, [*two, "--names", "clean,raw", "--config", config, "--seeds", "2", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "4 of " in shown.output and "420" in shown.output and "time" in shown.output
    wrong = CliRunner().invoke(app, [*two])
    assert "name a folder for models and report" in str(wrong.exception)
