"""The mix on disk: what trainers find there, the same bytes however it is done, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import jobs.mix as job
from jobs.mix import mix, plan_mix
from jobs.session import session
from jobs.store import RunFolder
from jobs.token_folders import verified
from pipeline.errors import CrawlmillError, InputError, RecipeError, StorageError, UsageError
from pipeline.mixing.options import Mix, parse_mix
from pipeline.tables import MIXED_DOCUMENTS, TOKEN_DOCUMENTS
from trainer.shards import TokenStore, index_bytes

EOS = 0
TEXT = """
name: two-phase
seed: 1
shard_tokens: 2K
sources: {web: tokens/web, wiki: tokens/wiki}
phases:
  - {name: pretrain, tokens: 9_000, weights: {web: 0.8, wiki: 0.2}}
  - name: anneal
    tokens: 4_001
    weights: {web: 1, wiki: 1}
    within: {web: {quality_bin: {0-9: 0, 10-18: 1, 19: 2}}}
"""


def write_tokens(folder: Path, documents: list[int], seed: int, dtype: str = "uint16", tokenizer: str = "{}") -> None:
    """A token folder as `crawlmill tokenize` writes them: a shard for each number of documents. A document's tokens are
    made of its number, so that each says where it is from."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer)
    draw = np.random.default_rng(seed)
    about = {
        "sha256": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "vocab_size": 60_000,
        "eos": EOS,
        "eos_token": "<end>",
        "dtype": dtype,
    }
    tokens = 0
    for number, n in enumerate(documents):
        lengths = draw.integers(1, 40, n)
        ids = [f"{seed}-{number}-{i}" for i in range(n)]
        bodies = [np.append(1 + (i * 7 + np.arange(length - 1)) % 50_000, EOS) for i, length in enumerate(lengths)]
        body = np.concatenate([np.zeros(0), *bodies]).astype(dtype)
        made: dict[str, Any] = {
            "id": ids,
            "piece": [0] * n,
            "key": [int.from_bytes(hashlib.blake2b(f"{i}\x1f0".encode(), digest_size=8).digest()) for i in ids],
            "source": ["somewhere"] * n,
            "language": ["en"] * n,
            "topic": draw.choice(["health", "law"], n).tolist(),
            "quality_bin": draw.integers(0, 20, n),
            "n_tokens": lengths,
            "n_bytes": lengths * 4,
            "file": [f"part-{number}"] * n,
            "row": range(n),
        }
        columns = [pa.array(made[f.name], f.type) if f.name in made else pa.nulls(n, f.type) for f in TOKEN_DOCUMENTS]
        name = folder / f"shard-{number:05d}"
        pq.write_table(pa.table(columns, schema=TOKEN_DOCUMENTS), f"{name}.docs.parquet")
        Path(f"{name}.bin").write_bytes(body.tobytes())
        Path(f"{name}.idx").write_bytes(index_bytes(lengths, np.dtype(dtype)))
        files = {}
        for suffix in (".bin", ".idx", ".docs.parquet"):
            held = Path(f"{name}{suffix}").read_bytes()
            files[suffix] = {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}
        manifest = {"shard": name.name, "files": files, "tokenizer": about["sha256"], "dtype": dtype, "eos": EOS}
        manifest |= {"documents": n, "tokens": len(body), "bytes": int(lengths.sum() * 4), "input": f"part-{number}"}
        Path(f"{name}.json").write_text(json.dumps(manifest))
        tokens += len(body)
    totals = {"shards": len(documents), "documents": sum(documents), "tokens": tokens, "bytes": 4 * tokens}
    info = {"format": 1, "tokenizer": about, "run": None, "digest": f"{seed}", "done": True, "totals": totals}
    (folder / "tokens.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("mixing")
    write_tokens(base / "tokens" / "web", [300, 0, 170], 1)
    write_tokens(base / "tokens" / "wiki", [90, 40], 2)
    (base / "mix.yaml").write_text(TEXT)
    return base


@pytest.fixture(scope="module")
def mixed(prepared: Path) -> Path:
    mix(parse_mix(TEXT), str(prepared / "mixed"), prepared)
    return prepared / "mixed"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def documents_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.docs.parquet"))])


def test_the_schedule_says_what_the_stores_hold(mixed: Path) -> None:
    schedule = json.loads((mixed / "schedule.json").read_text())
    assert [(phase["name"], phase["tokens"]) for phase in schedule["phases"]] == [
        ("pretrain", 9_000),
        ("anneal", 4_001),
    ]
    for phase in schedule["phases"]:
        assert sum(source["tokens"] for source in phase["sources"].values()) == phase["tokens"]
        assert sum(phase["mix"].values()) == pytest.approx(1)
        for source in phase["sources"].values():
            store = TokenStore.open(mixed / source["folder"], verify=True)
            assert (store.n_tokens, store.n_documents) == (source["tokens"], source["documents"])
            lengths = np.concatenate([shard.lengths for shard in store.shards])
            assert int(lengths.sum()) == source["tokens"]
    assert schedule["phases"][0]["sources"]["web"]["tokens"] == 7_200
    assert {source["tokens"] for source in schedule["phases"][1]["sources"].values()} == {2_000, 2_001}
    assert len(list((mixed / "pretrain" / "web").glob("*.bin"))) == 4


def test_every_document_is_what_its_origin_holds(mixed: Path, prepared: Path) -> None:
    origin = {name: TokenStore.open(prepared / "tokens" / name) for name in ("web", "wiki")}
    cut = 0
    for folder in ("pretrain/web", "pretrain/wiki", "anneal/web", "anneal/wiki"):
        store, rows = TokenStore.open(mixed / folder), documents_of(mixed / folder)
        assert rows.schema.equals(MIXED_DOCUMENTS)
        for i, row in enumerate(rows.to_pylist()):
            shard = origin[row["source"]].shards[int(row["shard"].removeprefix("shard-"))]
            whole = shard[row["document"]]
            assert np.array_equal(store.doc(i), whole[row["first"] : row["first"] + row["n_tokens"]])
            assert row["tokens"] == f"tokens/{row['source']}" == f"tokens/{folder.split('/')[1]}"
            assert row["id"].endswith(f"-{row['document']}")
            cut += row["n_tokens"] < len(whole)
    assert 0 < cut <= 16  # an end of an interval cuts one document, and each phase has two ends in each stratum


def test_a_document_that_two_phases_share_is_divided_between_them(mixed: Path) -> None:
    first, second = (documents_of(mixed / phase / "wiki").to_pylist() for phase in ("pretrain", "anneal"))
    (begun,) = (row for row in second if row["first"])
    (other,) = (row for row in first if row["id"] == begun["id"] and row["epoch"] == begun["epoch"])
    assert other["first"] == 0 and other["n_tokens"] == begun["first"]
    whole = begun["n_tokens"] + other["n_tokens"]
    assert begun["n_bytes"] + other["n_bytes"] == 4 * whole


def test_weights_inside_of_a_source_hold(mixed: Path) -> None:
    rows = documents_of(mixed / "anneal" / "web")
    assert min(rows.column("quality_bin").to_pylist()) == 10
    (facts,) = (
        row
        for row in json.loads((mixed / "mix.json").read_text())["plan"]["sources"]
        if (row["phase"], row["source"]) == ("anneal", "web")
    )
    assert [stratum["stratum"] for stratum in facts["strata"]] == ["quality_bin 10-18", "quality_bin 19"]
    assert facts["strata"][1]["weight"] == 2 and sum(s["tokens"] for s in facts["strata"]) == facts["tokens"]


def test_the_same_bytes_in_process_in_rounds_and_on_spark(
    mixed: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(job, "HELD_BYTES", 3_000)
    monkeypatch.setattr(job, "WRITE_BYTES", 100)
    mix(parse_mix(TEXT), str(tmp_path / "rounds"), prepared)
    assert contents(tmp_path / "rounds") == contents(mixed)
    monkeypatch.setattr(job, "IN_PROCESS_DOCUMENTS", 0)

    def spark() -> Any:
        return session("mix", "local[2]")

    mix(parse_mix(TEXT), str(tmp_path / "spark"), prepared, spark=spark, partitions=3, in_process=0)
    assert contents(tmp_path / "spark") == contents(mixed)


def test_a_killed_mix_goes_on(mixed: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "killed"
    written = 0

    def dies(self: RunFolder, name: str, value: Any) -> None:
        nonlocal written
        if "/shard-" in name:
            written += 1
            if written == 4:
                raise KeyboardInterrupt
        keep(self, name, value)

    keep = RunFolder.write_json
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            mix(parse_mix(TEXT), str(output), prepared)
    assert not json.loads((output / "mix.json").read_text())["done"]
    there = {path: path.stat().st_mtime_ns for path in output.rglob("shard-*.json")}
    assert len(there) == 3
    mix(parse_mix(TEXT), str(output), prepared)
    assert contents(output) == contents(mixed)
    assert all(path.stat().st_mtime_ns == at for path, at in there.items())
    at = (output / "mix.json").stat().st_mtime_ns
    mix(parse_mix(TEXT), str(output), prepared)
    assert (output / "mix.json").stat().st_mtime_ns == at
    next(iter(there)).unlink()  # lost since
    mix(parse_mix(TEXT), str(output), prepared)
    assert contents(output) == contents(mixed)


def test_phases_can_be_one_stream(prepared: Path, mixed: Path, tmp_path: Path) -> None:
    mix(parse_mix(TEXT + "shards: phase\n"), str(tmp_path / "one"), prepared)
    schedule = json.loads((tmp_path / "one" / "schedule.json").read_text())
    apart = json.loads((mixed / "schedule.json").read_text())
    for one, other in zip(schedule["phases"], apart["phases"], strict=True):
        store = TokenStore.open(tmp_path / "one" / one["name"] / "all", verify=True)
        assert store.n_tokens == one["tokens"] == other["tokens"] and one["mix"] == other["mix"]
        rows = documents_of(tmp_path / "one" / one["name"] / "all")
        names = np.array(rows.column("source").to_pylist())
        tokens = rows.column("n_tokens").to_numpy()
        half = names[: len(names) // 2] == "wiki"
        assert tokens[: len(names) // 2][half].sum() / tokens[: len(names) // 2].sum() == pytest.approx(
            one["mix"]["wiki"], rel=0.25
        )
        for name, facts in one["sources"].items():
            assert facts == {**other["sources"][name], "folder": f"{one['name']}/all"}
            assert tokens[names == name].sum() == facts["tokens"]


def test_what_is_held_out_is_a_store_for_each_source(prepared: Path, tmp_path: Path) -> None:
    mix(parse_mix(TEXT + "shards: phase\nheld_out: 0.1\n"), str(tmp_path / "out"), prepared)
    schedule = json.loads((tmp_path / "out" / "schedule.json").read_text())
    assert [phase["name"] for phase in schedule["phases"]] == ["pretrain", "anneal"]
    trained = {name for phase in ("pretrain", "anneal") for name in _ids(tmp_path / "out" / phase / "all")}
    for name, facts in schedule["held_out"].items():
        store = TokenStore.open(tmp_path / "out" / facts["folder"], verify=True)
        assert facts == {"folder": f"held_out/{name}", "tokens": store.n_tokens, "documents": store.n_documents}
        ids = _ids(tmp_path / "out" / facts["folder"])
        assert len(ids) == store.n_documents > 5 and not {*ids} & trained
    assert [*schedule["held_out"]] == ["web", "wiki"]
    shards = [manifest["tokens"] for manifest in verified(str(tmp_path / "out"))]
    assert sum(shards) == 13_001 + sum(facts["tokens"] for facts in schedule["held_out"].values())


def _ids(folder: Path) -> list[str]:
    return documents_of(folder).column("id").to_pylist()


def test_wide_tokens_and_joined_folders(prepared: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 6)):
        write_tokens(tmp_path / name, [50], seed, "int32")
    text = "{name: x, sources: {books: [a, b]}, phases: [{name: p, tokens: all, weights: {books: 1}}]}"
    mix(parse_mix(text), str(tmp_path / "out"), tmp_path, extra=["ds"])
    written = tmp_path / "out" / "p" / "books" / "shard-00000"
    assert written.with_suffix(".ds").read_bytes() == written.with_suffix(".bin").read_bytes()
    store = TokenStore.open(tmp_path / "out" / "p" / "books", verify=True)
    assert len(store) == 100 and store.doc(0).dtype == np.int32
    assert set(documents_of(tmp_path / "out" / "p" / "books").column("tokens").to_pylist()) == {"a", "b"}


def broken(prepared: Path, tmp_path: Path, how: str) -> Path:
    """A copy of the token folders with something wrong in tokens/wiki."""
    base = tmp_path / "base"
    shutil.copytree(prepared / "tokens", base / "tokens")
    wiki = base / "tokens" / "wiki"
    info = json.loads((wiki / "tokens.json").read_text())
    if how == "no folder":
        shutil.rmtree(wiki)
    elif how == "not done":
        (wiki / "tokens.json").write_text(json.dumps({**info, "done": False}))
    elif how == "a shard is missing":
        (wiki / "shard-00001.json").unlink()
    elif how == "cut short":
        body = (wiki / "shard-00000.bin").read_bytes()
        (wiki / "shard-00000.bin").write_bytes(body[:-2])
    elif how == "a bit flipped":
        body = bytearray((wiki / "shard-00000.bin").read_bytes())
        body[100] ^= 1
        (wiki / "shard-00000.bin").write_bytes(bytes(body))
    elif how == "documents damaged":
        (wiki / "shard-00000.docs.parquet").write_bytes(b"PAR1nothing")
    elif how == "documents of another shard":
        shutil.copy(wiki / "shard-00001.docs.parquet", wiki / "shard-00000.docs.parquet")
    elif how == "manifest damaged":
        (wiki / "shard-00000.json").write_text('{"shard": "sha')
    elif how == "manifest of something else":
        (wiki / "shard-00000.json").write_text('{"files": {".bin": {"bytes": 3}}}')
    elif how == "another tokenizer":
        shutil.rmtree(wiki)
        write_tokens(wiki, [90, 40], 2, tokenizer='{"model": {}}')
    elif how == "empty":
        shutil.rmtree(wiki)
        write_tokens(wiki, [0, 0], 2)
    return base


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("no folder", UsageError, "tokens/wiki is no token folder"),
        ("not done", UsageError, "tokens/wiki is not finished"),
        ("a shard is missing", InputError, "tokens/wiki is damaged: shard-00001.json is missing"),
        ("cut short", InputError, "tokens/wiki/shard-00000 is damaged: its .bin has"),
        ("a bit flipped", InputError, "tokens/wiki/shard-00000 is damaged: the SHA-256"),
        ("documents damaged", InputError, "tokens/wiki/shard-00000 is damaged"),
        ("documents of another shard", InputError, "tokens/wiki/shard-00000 is damaged: 40 documents"),
        ("manifest damaged", InputError, "tokens/wiki is damaged"),
        ("manifest of something else", InputError, "wiki is damaged: shard-00000.json does not say shard"),
        ("another tokenizer", UsageError, "tokens/web and .*tokens/wiki differ in their tokenizer"),
        ("empty", UsageError, "gives wiki the weight 0.2, but it holds no tokens"),
    ],
)
def test_token_folders_that_cannot_be_mixed_are_named(
    prepared: Path, tmp_path: Path, how: str, kind: type[CrawlmillError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        mix(parse_mix(TEXT), str(tmp_path / "out"), broken(prepared, tmp_path, how))
    assert not (tmp_path / "out" / "schedule.json").exists()


def test_a_folder_under_two_names_is_refused(prepared: Path) -> None:
    twice = parse_mix(TEXT.replace("wiki: tokens/wiki", "wiki: ./tokens/../tokens/web"))
    with pytest.raises(UsageError, match="are one"):
        plan_mix(twice, prepared)


def test_another_mix_is_not_written_over(mixed: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds another mix"):
        mix(parse_mix(TEXT).overridden(2, None), str(mixed), prepared)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no mix"):
        mix(parse_mix(TEXT), str(tmp_path), prepared)


def test_a_full_disk_is_told_before_anything_is_shuffled(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="run the same command again"):
        mix(parse_mix(TEXT), str(tmp_path / "out"), prepared)


def test_planning_writes_nothing(prepared: Path) -> None:
    before = contents(prepared / "tokens")
    plan = plan_mix(parse_mix(TEXT), prepared).plan
    assert [phase.tokens for phase in plan.phases] == [9_000, 4_001]
    assert contents(prepared / "tokens") == before


def test_mixes_that_ship_can_be_read() -> None:
    from pipeline.mixing.options import load_mix

    found = sorted((Path(job.__file__).parents[1] / "pipeline" / "recipes" / "mixes").glob("*.yaml"))
    assert found
    for path in found:
        loaded = load_mix(path)
        assert isinstance(loaded, Mix) and loaded.description
    with pytest.raises(RecipeError, match=r"there is no mix file llama; copy .*mixes/llama.yaml and name your"):
        load_mix("llama")


def test_the_command_shows_and_writes(prepared: Path, mixed: Path, tmp_path: Path) -> None:
    import typer

    from jobs.mix_commands import mix as command

    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    shown = runner.invoke(app, [str(prepared / "mix.yaml"), "--show", "--strata"])
    assert shown.exit_code == 0, shown.output
    for said in ("pretrain", "anneal", "9,000", "7,200", "4,001", "80.0 %", "quality_bin 19"):
        assert said in shown.output
    as_json = runner.invoke(app, [str(prepared / "mix.yaml"), "--show", "--json"])
    assert json.loads(as_json.output) == json.loads((mixed / "mix.json").read_text())["plan"]
    done = runner.invoke(app, [str(prepared / "mix.yaml"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0 and "schedule.json" in done.output
    assert contents(tmp_path / "out") == contents(mixed)
    neither = runner.invoke(app, [str(prepared / "mix.yaml")])
    assert isinstance(neither.exception, UsageError)


def test_an_object_store_gives_and_takes_the_same_bytes(prepared: Path, mixed: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name, body in contents(prepared / "tokens").items():
        store.pipe(f"/mixing/tokens/{name}", body)
    text = TEXT.replace("tokens/w", "memory://mixing/tokens/w")
    mix(parse_mix(text), "memory://mixing/out")
    for name, body in contents(mixed).items():
        if name.endswith((".bin", ".idx")) or name == "schedule.json":
            assert store.cat(f"/mixing/out/{name}") == body
