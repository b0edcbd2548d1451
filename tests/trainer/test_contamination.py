"""A set that was read in its order is found, one that was not is not; orders that are no matter of chance are told of."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import typer
from scipy import stats
from tiny import one_thread  # noqa: F401
from typer.testing import CliRunner

from pipeline.errors import CrawlmillError, StorageError, UsageError
from trainer import config, contamination_commands
from trainer.attention import scope
from trainer.contamination import (
    LEAST_SHARDS,
    Options,
    Published,
    SetError,
    Shard,
    TextLikelihood,
    confounds,
    divide,
    examine,
    judge,
    longer_than,
    orders,
    published,
    read_published,
    strided,
)
from trainer.failures import MemoryFullError
from trainer.huggingface import ModelError
from trainer.models import Opened, open_model
from trainer.parallel import start, stop
from trainer.planting import Planted, curve, exact_interval, plant, train_tokenizer
from trainer.scoring import Scorer
from trainer.shards import TokenStore
from trainer.tasks import TaskError
from trainer.train import Trainer


def a_set(texts: Sequence[str], gold: Sequence[int] | None = None) -> Published:
    return published("set", Path("set.jsonl"), texts, range(1, len(texts) + 1), gold)


class Bigrams:
    """Knows how likely each item is after each other: by chance, and with `gain` nats more where a set went on so."""

    def __init__(self, texts: Sequence[str], seed: int, gain: float = 0.0, separator: str = "\n\n") -> None:
        self.place = {text: number for number, text in enumerate(texts)}
        self.after = np.random.default_rng(seed).normal(size=(len(texts), len(texts)))
        self.after[np.arange(len(texts) - 1), np.arange(1, len(texts))] += gain
        self.separator = separator

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        read = [[self.place[item] for item in text.split(self.separator)] for text in texts]
        return np.array([float(self.after[row[:-1], row[1:]].sum()) for row in read])


class TestOrders:
    def test_each_order_is_as_frequent_as_any_other(self) -> None:
        drawn = orders(4, 24_000, "seed")
        _, counts = np.unique(drawn, axis=0, return_counts=True)
        assert len(counts) == 24 and stats.chisquare(counts).pvalue > 0.01

    def test_they_hang_on_names_alone(self) -> None:
        assert orders(6, 2, 7, 0).tolist() == [[3, 1, 0, 4, 5, 2], [5, 2, 0, 4, 3, 1]]
        assert not np.array_equal(orders(50, 1, 7, 0), orders(50, 1, 7, 1))

    def test_shards_are_consecutive_and_of_nearly_one_size(self) -> None:
        for n in (40, 41, 99, 100, 499, 1319, 14_042):
            shards = divide(n)
            sizes = {len(shard) for shard in shards}
            assert [i for shard in shards for i in shard] == [*range(n)]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 5 and len(shards) >= LEAST_SHARDS
        assert [len(shard) for shard in divide(1000)] == [50] * 20
        assert [len(shard) for shard in divide(100)] == [10] * 10
        assert divide(39) == [range(39)] and divide(100, 50) == [range(100)]


class TestJudgement:
    def test_is_the_t_test_of_the_differences(self) -> None:
        source = np.random.default_rng(1)
        shards = [Shard(10 * i, 10, float(source.normal(1.0)), tuple(source.normal(size=9))) for i in range(12)]
        differences = [s.published - np.mean(s.shuffled) for s in shards]
        expected = stats.ttest_1samp(differences, 0, alternative="greater")
        found = judge(shards)
        assert found.test == "shards" and found.t == pytest.approx(expected.statistic)
        assert found.p_t == pytest.approx(expected.pvalue) and found.p == max(found.p_t or 0, found.p_orders)
        assert found.effect == pytest.approx(np.mean(differences) / 10)
        both = stats.ttest_1samp(differences, 0).confidence_interval()
        assert found.interval == pytest.approx((both.low / 10, both.high / 10))

    def test_ranks_the_published_order_among_shuffles(self) -> None:
        found = judge([Shard(0, 6, 5.0, (3.0, 5.0, 4.0))])
        assert found.test == "orders" and found.p == found.p_orders == 2 / 4 and found.p_t is None
        assert found.effect == pytest.approx((5 - 4) / 6)

    def test_ranks_it_among_all_ways_to_take_one_order_of_each_shard(self) -> None:
        shards = [Shard(0, 3, 2.5, (1.0, 2.0, 4.0)), Shard(3, 3, 3.0, (2.0, 3.0, 2.0))]
        ways = [a + b for a in (2.5, 1, 2, 4) for b in (3, 2, 3, 2)]
        expected = sum(way >= 5.5 for way in ways) / 16
        assert judge(shards).p_orders == pytest.approx(expected, abs=0.015)

    def test_what_it_calls_detectable_is_found_as_often_as_it_says(self) -> None:
        source = np.random.default_rng(2)
        spread, n = 3.0, 10
        told = np.mean(
            [judge([Shard(0, 10, x, (0.0,)) for x in source.normal(0, spread, n)]).detectable for _ in range(200)]
        )
        hits = [
            judge([Shard(0, 10, x, (0.0,)) for x in source.normal(10 * told, spread, n)]).p < 0.05 for _ in range(400)
        ]
        assert np.mean(hits) == pytest.approx(0.9, abs=0.06)

    def test_a_model_that_does_not_look_back_finds_nothing(self) -> None:
        found = judge([Shard(0, 5, 1.0, (1.0, 1.0)) for _ in range(10)])
        assert found.p == found.p_orders == 1.0


class TestHypothesis:
    @pytest.mark.parametrize("n", [20, 60, 200])
    def test_p_is_uniform_where_nothing_was_read(self, n: int) -> None:
        texts = [f"item {i}" for i in range(n)]
        found = [examine(a_set(texts), Bigrams(texts, seed), Options(19, seed)) for seed in range(300)]
        ranks = np.array([one.p_orders for one in found])
        if n < 40:
            assert stats.chisquare(np.bincount(np.round(ranks * 20).astype(int), minlength=21)[1:]).pvalue > 0.01
        wrong = sum(one.p <= 0.05 for one in found)
        assert stats.binomtest(wrong, len(found), 0.05).pvalue > 0.01
        if n >= 40:
            assert stats.kstest([one.p_t for one in found], "uniform").pvalue > 0.01
            assert stats.kstest(ranks, "uniform").pvalue > 0.01

    def test_a_set_that_was_read_is_found(self) -> None:
        texts = [f"item {i}" for i in range(200)]
        found = examine(a_set(texts), Bigrams(texts, 3, gain=1.0), Options(19))
        assert found.p == found.p_orders == 1e-4 and (found.p_t or 1) < 1e-5
        # 180 of 200 items have the neighbour that was read, in a shuffle one of 20 of those.
        assert found.effect == pytest.approx(0.9 * 0.95, abs=0.25)
        few = examine(a_set(texts[:20]), Bigrams(texts[:20], 3, gain=3.0), Options(99))
        assert few.test == "orders" and few.p == 0.01

    def test_one_command_gives_one_result(self) -> None:
        texts = [f"item {i}" for i in range(60)]
        likelihood = Bigrams(texts, 1)
        assert examine(a_set(texts), likelihood) == examine(a_set(texts), likelihood)
        assert examine(a_set(texts), likelihood).p != examine(a_set(texts), likelihood, Options(seed=1)).p


class TestConfounds:
    def names(self, of: Published) -> set[str]:
        return {one.what for one in confounds(of)}

    def texts(self, n: int = 200) -> list[str]:
        source = random.Random(5)
        words = ["".join(source.choices("abcdefghij", k=4)) for _ in range(300)]
        return [" ".join(source.choices(words, k=source.randrange(5, 15))) for _ in range(n)]

    def test_chance_is_not_told_of(self) -> None:
        texts = self.texts()
        assert self.names(a_set(texts, [i * 7919 % 11 % 4 for i in range(200)])) == set()

    def test_sorted_by_length(self) -> None:
        assert "length" in self.names(a_set(sorted(self.texts(), key=len)))
        assert "length" in self.names(a_set(sorted(self.texts(), key=len, reverse=True)))

    def test_sorted_by_alphabet(self) -> None:
        assert "alphabet" in self.names(a_set(sorted(self.texts())))

    def test_right_answers_in_runs(self) -> None:
        assert self.names(a_set(self.texts(), [i // 7 % 4 for i in range(200)])) == {"answer"}

    def test_passages_that_neighbours_share(self) -> None:
        passages = self.texts(40)
        texts = [f"{passages[i // 5]} {text}" for i, text in enumerate(self.texts())]
        assert "wording" in self.names(a_set(texts))


class TestLikelihood:
    @pytest.fixture(scope="class")
    def found(self, tmp_path_factory: pytest.TempPathFactory) -> Opened:
        return open_model(tiny.run(tmp_path_factory.mktemp("run"), tiny.shape(), seq_len=16))

    def test_every_token_is_asked_for_once_behind_enough_of_the_text(self) -> None:
        tokens = [*range(100, 150)]
        requests = strided(tokens, 9, 16, 5)
        assert [t for r in requests for t in r.continuation] == tokens
        assert requests[0].context == (9,) and len(requests[0].continuation) == 16
        for request in requests[1:]:
            assert len(request.context) >= 16 - 5 and len(request.context + request.continuation) == 17
            at = tokens.index(request.continuation[0])
            assert request.context == tuple(tokens[at - len(request.context) : at])
        assert len(strided(tokens[:16], 9, 16, 5)) == 1 and strided([], 9, 16, 5) == []

    def test_is_the_sum_over_windows(self, found: Opened) -> None:
        texts = [" ".join(tiny.SENTENCES), "A dog.", tiny.SENTENCES[2]]
        likelihood = TextLikelihood(Scorer(found.model, 16), found.vocabulary, 6)
        expected = []
        for tokens in found.vocabulary.encode(texts, special=False):
            nats = 0.0
            for context, asked in strided(tokens, found.vocabulary.bos, 16, 6):
                row = torch.tensor([context + asked])
                stream = found.model.hidden(row[:, :-1], scope("causal", row[:, :-1]))
                scores = torch.log_softmax(stream @ found.model.head.T, -1)[0, -len(asked) :]
                nats += float(scores.gather(1, torch.tensor(asked)[:, None]).sum())
            expected.append(nats)
        assert likelihood(texts) == pytest.approx(expected, abs=1e-3)
        assert likelihood.tokens(texts) == sum(
            len(r.context) + len(r.continuation) - 1
            for tokens in found.vocabulary.encode(texts, special=False)
            for r in strided(tokens, found.vocabulary.bos, 16, 6)
        )

    def test_damaged_parameters_are_told_of(self, found: Opened) -> None:
        broken = Opened(tiny.model(found.model.shape), found.vocabulary, 16, found.folder)
        with torch.no_grad():
            broken.model.head[:] = math.nan
        with pytest.raises(ModelError, match="damaged"):
            TextLikelihood(Scorer(broken.model, 16), broken.vocabulary)(["A dog."])

    def test_a_stride_beyond_the_context(self, found: Opened) -> None:
        with pytest.raises(SetError, match="goes beyond the 16 tokens"):
            TextLikelihood(Scorer(found.model, 16), found.vocabulary, 17)

    def test_items_longer_than_the_context_are_named(self, found: Opened) -> None:
        texts = ["A dog.", *tiny.SENTENCES]
        assert 1 not in longer_than(a_set(texts), found.vocabulary, 16) != []


def items(n: int, source: random.Random) -> list[str]:
    """Sums of no sense, each by itself as likely as any other."""
    return [
        f"{source.randrange(10, 100)} and {source.randrange(10, 100)} is {source.randrange(100)}." for _ in range(n)
    ]


class TestTraining:
    """One small model that has read some sets often, some never."""

    @pytest.fixture(scope="class")
    def rows(self, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float, float]]:
        folder = tmp_path_factory.mktemp("planted")
        source = random.Random(11)
        sets = [Planted(f"set-{i}", copies, tuple(items(40, source))) for i, copies in enumerate([40] * 3 + [0] * 12)]
        texts = ["\n".join(items(40, source)) for _ in range(30)]
        words = train_tokenizer(texts, 320, folder / "tokenizer.json")
        plant(folder / "tokens", words, texts, sets, "\n", 0)
        wanted = config.from_mapping(
            {
                "out": str(folder / "run"), "device": "cpu", "micro_tokens": 1024, "dtype": "float32",
                "model": {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "qk_norm": True},
                "data": {
                    "path": str(folder / "tokens"), "seq_len": 64, "batch_tokens": 512, "held_out_share": 0.0,
                },
                "optim": {"name": "muon", "lr": 1e-2, "weight_decay": 0.0},
                "checkpoint": {"asynchronous": False, "every": 10_000},
                "parallel": {"compile": False},
                "guard": {"on": False},
                "log": {"evaluate": 0, "every": 1000},
                "phase": [{"name": "all", "lr": {"end": 0.1, "shape": "cosine", "warmup": 5_000}}],
            }
        )  # fmt: skip
        world = start("cpu", wanted.parallel)
        try:
            Trainer(wanted, world).run()
        finally:
            stop(world)
        opened = open_model(folder / "run")
        likelihood = TextLikelihood(Scorer(opened.model, opened.context, share=False), opened.vocabulary)
        found = []
        for one in sets:
            result = examine(a_set(one.texts), likelihood, Options(9, separator="\n"))
            found.append((one.copies, result.p, result.effect))
        return found

    def test_sets_that_were_read_are_found(self, rows: list[tuple[int, float, float]]) -> None:
        assert all(p < 0.01 for copies, p, _ in rows if copies)

    def test_sets_that_were_not_are_not(self, rows: list[tuple[int, float, float]]) -> None:
        clean = [p for copies, p, _ in rows if not copies]
        assert sum(p < 0.05 for p in clean) <= 2 and stats.kstest(clean, "uniform").pvalue > 0.01


class TestPlanting:
    def test_copies_stand_among_texts_in_published_order(self, tmp_path: Path) -> None:
        words = train_tokenizer(tiny.SENTENCES, 300, tmp_path / "tokenizer.json")
        sets = [Planted("a", 3, ("one.", "two.")), Planted("b", 0, ("never.", "this."))]
        n, own = plant(tmp_path / "tokens", words, tiny.SENTENCES, sets, " ", 0)
        store = TokenStore.open(tmp_path / "tokens", verify=True)
        texts = [words.decode(store.doc(i).tolist()) for i in range(len(store))]
        assert sorted(texts) == sorted([*tiny.SENTENCES, *["one. two."] * 3])
        assert n == store.n_tokens and own == 3 * (len(words.encode(["one. two."])[0]) + 1)
        assert texts[-3:] != ["one. two."] * 3

    def test_levels(self) -> None:
        rows = [(0, p, 0.0) for p in (0.01, 0.3, 0.6, 0.9)] + [(8, 0.001, 1.0), (8, 0.01, 3.0)]
        none, eight = curve(rows)
        assert (none.copies, none.sets, none.found, none.share) == (0, 4, 1, 0.25)
        assert (eight.copies, eight.found, eight.effect) == (8, 2, 2.0)
        assert none.uniform == pytest.approx(stats.kstest([0.01, 0.3, 0.6, 0.9], "uniform").pvalue)

    def test_intervals(self) -> None:
        assert exact_interval(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
        assert exact_interval(2, 40) == pytest.approx((0.0061, 0.1692), abs=1e-4)
        assert exact_interval(5, 5)[1] == 1.0

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be written"):
            train_tokenizer(tiny.SENTENCES, 300, tmp_path / "file" / "tokenizer.json")


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(n: int = 50) -> list[dict[str, Any]]:
    source = random.Random(4)
    return [
        {
            "question": f"Is {source.randrange(1000)} red, {number}?",
            "choices": ["yes", "no"],
            "answer": source.randrange(2),
        }
        for number in random.Random(1).sample(range(100, 1000), n)
    ]


class TestReading:
    def test_items_are_prompt_and_right_answer(self, tmp_path: Path) -> None:
        rows = questions()
        read = read_published(jsonl(tmp_path / "q.jsonl", rows))
        assert read.texts[0] == f"Question: {rows[0]['question']}\nAnswer: {['yes', 'no'][rows[0]['answer']]}"
        assert read.gold is not None and len(read.gold) == 50 and read.name == "q"

    def test_or_the_lines_of_the_file(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "q.jsonl", questions())
        path.write_text("\n" + path.read_text().replace("\n", "\r\n"))
        read = read_published(path, "line", limit=6)
        assert read.texts == tuple(path.read_text().split("\n")[1:7])
        assert read.lines == (2, 3, 4, 5, 6, 7)

    def test_shots_and_description_are_left_out(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "q.jsonl", questions())
        (tmp_path / "q.yaml").write_text(
            "file: q.jsonl\nshots: 2\ndescription: 'Say what is right. '\nprompt: '{question}'"
        )
        assert read_published(tmp_path / "q.yaml").texts[0].count("?") == 1

    def test_items_that_repeat_an_earlier_one_are_left_out(self, tmp_path: Path) -> None:
        rows = questions()
        read = read_published(jsonl(tmp_path / "q.jsonl", [*rows[:3], rows[1], *rows[3:]]))
        assert read.repeated == (4,) and read.lines == (1, 2, 3, *range(5, 52))

    def test_too_few(self, tmp_path: Path) -> None:
        with pytest.raises(SetError, match="has 4 items: their order can say nothing"):
            read_published(jsonl(tmp_path / "q.jsonl", questions(4)))
        with pytest.raises(SetError, match=r"has 1 items that differ \(of 9\)"):
            read_published(jsonl(tmp_path / "q.jsonl", questions(1) * 9))

    def test_what_evaluate_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match="line 2: its answer is 5"):
            read_published(jsonl(tmp_path / "q.jsonl", [*questions(1), questions(1)[0] | {"answer": 5}]))

    def test_options_that_cannot_be(self) -> None:
        texts = [f"item {i}" for i in range(9)]
        with pytest.raises(SetError, match="one is the least"):
            examine(a_set(texts), Bigrams(texts, 0), Options(0))
        with pytest.raises(SetError, match="has no order"):
            examine(a_set(texts), Bigrams(texts, 0), Options(shard_items=1))


class TestCommand:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tiny.run(tmp_path_factory.mktemp("run"), tiny.shape(), seq_len=64)

    def ask(self, *words: object) -> str:
        app = typer.Typer()
        app.command()(contamination_commands.contamination)
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    def test_says_what_was_found(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        file = jsonl(tmp_path / "q.jsonl", questions())
        report = tmp_path / "found.json"
        said = self.ask(run, "--set", file, "--shuffles", 3, "--json", report)
        assert "50 items in 4 orders" in said and "no sign that the model has read it in this order" in said
        body = json.loads(report.read_text())
        found = body["sets"]["q"]
        assert body["model"]["context"] == 64 and found["shuffles"] == 3 and found["test"] == "shards"
        assert len(found["shards"]) == 10 and found["shards"][1]["lines"] == [6, 10]
        one = found["shards"][0]
        assert one["difference"] == pytest.approx(one["published"] - np.mean(one["shuffled"]))
        again = tmp_path / "again.json"
        self.ask(run, "--set", file, "--shuffles", 3, "--json", again)
        assert again.read_bytes() == report.read_bytes()

    def test_warns(self, run: Path, tmp_path: Path) -> None:
        rows = [{"text": f"{'very ' * (i // 2)}long is line {i:02d}"} for i in range(30)]
        file = jsonl(tmp_path / "sorted.jsonl", [*rows, rows[3]])
        said = self.ask(run, "--set", file, "--kind", "cloze", "--dry-run")
        assert "1 items are the same as an earlier one (line 31)" in said
        assert "30 items are too few for shards" in said
        assert "longer than the 32 tokens" in said
        assert "neighbours are of more similar length than in shuffles" in said and "no evidence" in said
        assert "p of orders" not in said

    def test_its_page_names_its_options(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "contamination.md").read_text(encoding="utf-8")
        app = typer.Typer()
        app.command()(contamination_commands.contamination)
        options = [o for p in typer.main.get_command(app).params for o in p.opts if o.startswith("--")]
        others = {"--tokenizer", "--eos", "--install-completion", "--show-completion"}
        assert len(options) > 12 and not [o for o in options if f"`{o}" not in page and o not in others]

    def test_refuses(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = jsonl(tmp_path / "q.jsonl", questions())
        with pytest.raises(UsageError, match="stands twice"):
            self.ask(run, "--set", file, "--set", file)
        with pytest.raises(CrawlmillError, match="is no model"):
            self.ask(tmp_path, "--set", file)
        with pytest.raises(StorageError, match="cannot be written"):
            self.ask(run, "--set", file, "--shuffles", 1, "--json", tmp_path / "none" / "x.json")

        def full(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr("trainer.models.open_model", full)
        with pytest.raises(MemoryFullError, match="does not fit into memory with 16,384 tokens"):
            self.ask(run, "--set", file)
