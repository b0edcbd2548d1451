"""Likelihoods are those of one text at a time, whatever is shared and batched; files that are wrong are named by line."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import typer
from tiny import one_thread  # noqa: F401
from typer.testing import CliRunner

from pipeline.errors import CrawlmillError, RecipeError, UsageError
from trainer import config, evaluation_commands
from trainer.attention import scope
from trainer.evals import evaluate, evaluate_texts, evaluate_tokens, held_out
from trainer.export import export
from trainer.inference import generate, hidden
from trainer.model import Decoder
from trainer.models import Opened, open_model
from trainer.parallel import start, stop
from trainer.scoring import Request, Scorer, bucket, rolling
from trainer.shards import TokenStore
from trainer.tasks import Fields, Options, Task, TaskError, read_task
from trainer.train import Trainer
from trainer.windows import Windows

SHAPES = [tiny.shape(), tiny.shape(qk_norm=True, tie_embeddings=False, kv_heads=4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.run(tmp_path_factory.mktemp("run"), tiny.shape())


@pytest.fixture(scope="module")
def found(run: Path) -> Opened:
    return open_model(run)


def alone(model: Decoder, request: Request, longest: int) -> tuple[float, bool]:
    """One request by the model's own forward pass, with nothing beside it."""
    tokens = torch.tensor([(request.context + request.continuation)[-longest - 1 :]])
    stream = model.hidden(tokens[:, :-1], scope("causal", tokens[:, :-1]))
    scores = torch.log_softmax(stream @ model.head.T, -1)[0, -len(request.continuation) :]
    wanted = torch.tensor(request.continuation)
    return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(-1) == wanted).all())


def likeliest(model: Decoder, tokens: Sequence[int], n: int) -> list[int]:
    made = list(tokens)
    for _ in range(n):
        now = torch.tensor([made])
        made.append(int((model.hidden(now, scope("causal", now))[0, -1] @ model.head.T)[:256].argmax()))
    return made[len(tokens) :]


def some_requests(model: Decoder) -> list[Request]:
    source = torch.Generator().manual_seed(5)

    def draw(most: int) -> tuple[int, ...]:
        n = int(torch.randint(1, most, (1,), generator=source))
        return tuple(torch.randint(0, 300, (n,), generator=source).tolist())

    contexts = [draw(60) for _ in range(12)]
    found = [Request(context, draw(12)) for context in contexts for _ in range(5)]
    greedy = [Request(context, tuple(likeliest(model, context[-20:], 3))) for context in contexts if len(context) < 20]
    assert greedy
    return [*found, *greedy, *found[:3], Request(contexts[0], draw(2))]


@pytest.mark.parametrize("shape", SHAPES)
def test_shared_and_batched_scores_are_those_of_one_at_a_time(shape: config.Model) -> None:
    model = tiny.model(shape)
    requests = some_requests(model)
    expected = [alone(model, request, 40) for request in requests]
    for options in ({}, {"share": False}, {"batch_tokens": 1}, {"batch_tokens": 300}):
        scores = Scorer(model, 40, **options)(requests)
        for score, (logprob, greedy) in zip(scores, expected, strict=True):
            assert score.logprob == pytest.approx(logprob, abs=1e-4)
            assert score.greedy == greedy
    assert any(greedy for _, greedy in expected) and not all(greedy for _, greedy in expected)


def test_what_is_shared_is_computed_once() -> None:
    model = tiny.model(tiny.shape())
    context = tuple(range(40))
    letters = [Request(context, (n,)) for n in range(4)]
    texts = [Request(context, tuple(range(n, n + 5))) for n in range(4)]
    for requests, shared, apart in ((letters, 48, 4 * 48), (texts, 64, 4 * 48)):
        one, two = Scorer(model, 64), Scorer(model, 64, share=False)
        one(requests)
        two(requests)
        assert (one.computed, two.computed) == (shared, apart)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_contexts_begin_with_is_computed_once(shape: config.Model) -> None:
    model = tiny.model(shape)
    source = torch.Generator().manual_seed(1)
    draw = torch.randint(0, 300, (3, 50), generator=source).tolist()
    contexts = [(*begin, *range(n, n + 3 + n % 5)) for begin in draw[:2] for n in range(12)]
    contexts += [
        tuple(draw[0]),
        tuple(draw[0][:40]),
        tuple(draw[2]),
        tuple(range(50, 70)),
    ]  # all of it, less, one's own
    requests = [Request(context, (n, n + 1, n + 2)[: 1 + n % 3]) for context in contexts for n in range(4)]
    scorer, apart = Scorer(model, 64, 200), Scorer(model, 64, share=False)
    expected = apart(requests)
    for score, other, request in zip(scorer(requests), expected, requests, strict=True):
        assert score.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert score.logprob == pytest.approx(alone(model, request, 64)[0], abs=1e-4)
        assert score.greedy == other.greedy
    assert scorer.computed < apart.computed / 6


def test_contexts_that_begin_in_their_own_way_are_computed_together() -> None:
    model = tiny.model(tiny.shape())
    requests = [Request(tuple(range(n, n + 40)), (n,)) for n in range(16)]
    scorer = Scorer(model, 64, 64 * 8)
    told: list[int] = []
    scorer.told = lambda done, of: told.append(done)
    scorer(requests)
    assert len(told) == 2


def test_many_continuations_of_one_context_are_divided_into_rows() -> None:
    model = tiny.model(tiny.shape())
    requests = [Request((1, 2), (n, n + 1, n + 2)) for n in range(200)]
    scorer = Scorer(model, 32, 128)
    told: list[tuple[int, int]] = []
    scorer.told = lambda done, of: told.append((done, of))
    for score, request in zip(scorer(requests), requests, strict=True):
        assert score.logprob == pytest.approx(alone(model, request, 32)[0], abs=1e-4)
    assert scorer.computed < 200 * 4
    assert told[-1] == (200, 200) and len(told) > 2 and told == sorted(told)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pass_of_evaluation_is_that_of_training(shape: config.Model) -> None:
    model = tiny.model(shape)
    tokens = torch.randint(0, 300, (2, 30), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(hidden(model, tokens), model.hidden(tokens, scope("causal", tokens)), atol=1e-5)


def test_generation_of_prompts_of_many_lengths(found: Opened) -> None:
    model = found.model
    prompts = [[5], [7, 8, 9, 10], [*range(20, 40)]]
    expected = [likeliest(model, prompt, 8) for prompt in prompts]
    assert generate(model, prompts, 8, 299, 256) == expected
    end = expected[1][3]
    stopped = generate(model, prompts, 8, 299, 256, lambda made: made[-1] == end)
    assert stopped[1] == expected[1][: expected[1].index(end) + 1]
    ended = generate(model, prompts, 8, end, 256)
    assert ended[1] == expected[1][: expected[1].index(end)]
    assert generate(model, [], 8, 299, 256) == []


def test_buckets() -> None:
    sizes = sorted({bucket(n) for n in range(1, 3000)})
    assert sizes[:7] == [16, 24, 32, 48, 64, 96, 128]
    assert all(n <= bucket(n) <= max(16, 1.5 * n) for n in range(1, 3000))
    assert all(size % 8 == 0 for size in sizes)


def test_windows_ask_for_each_token_once() -> None:
    for n in (1, 7, 8, 9, 16, 17, 30):
        requests = rolling(range(100, 100 + n), 0, 8)
        assert [t for request in requests for t in request.continuation] == [*range(100, 100 + n)]
        assert all(len(request.context) + len(request.continuation) <= 9 for request in requests)
        given = [0, *range(100, 100 + n)]
        for request in requests:  # what lies before is what is given
            start = given.index(request.continuation[0])
            assert list(request.context) == given[start - len(request.context) : start]
        assert n <= 8 or len(requests[-1].context) + len(requests[-1].continuation) == 9
    assert rolling([], 0, 8) == []


# Texts.


def test_held_out_text_is_what_the_run_logged(tmp_path: Path) -> None:
    data = tiny.token_folder(tmp_path / "data", tiny.SENTENCES * 20)
    other = tiny.token_folder(tmp_path / "other", tiny.SENTENCES[::-1] * 2)
    body = {
        "out": str(tmp_path / "run"),
        "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_dim": 8},
        "data": {"path": str(data), "held_out": {"other": str(other)}, "seq_len": 32, "batch_tokens": 64},
        "parallel": {"compile": False},
        "phase": [{"name": "one", "tokens": 256}],
    }
    world = start("cpu")
    try:
        result = Trainer(config.from_mapping(body), world).run()
    finally:
        stop(world)
    found = open_model(tmp_path / "run")
    (own,) = held_out(found, {})
    assert own.name == "other" and own.bits_per_byte.value == pytest.approx(result.bits_per_byte["other"], rel=1e-5)
    (named,) = held_out(found, {"again": str(other)}, batch_tokens=32)
    assert named.bits_per_byte == pytest.approx(own.bits_per_byte, rel=1e-5)
    assert named.n_tokens == own.n_tokens == named.parts * 32
    export(tmp_path / "run", tmp_path / "exported")
    (exported,) = held_out(open_model(tmp_path / "exported"), {"other": str(other)})
    assert exported.bits_per_byte == pytest.approx(named.bits_per_byte, rel=1e-6)
    assert list(held_out(open_model(tmp_path / "exported"), {})) == []


def test_figures_of_texts_by_hand(found: Opened, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    texts = ["The dög barks.", tiny.SENTENCES[0] * 5, "a"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n\n")
    result = evaluate_texts(Scorer(found.model, found.context), found, "t", path)
    nats = []
    for text in texts:
        parts = rolling(found.vocabulary.encode([text])[0], found.vocabulary.eos, found.context)
        nats.append(-sum(alone(found.model, part, found.context)[0] for part in parts))
    n_bytes = [len(text.encode()) for text in texts]
    bits = sum(nats) / math.log(2) / sum(n_bytes)
    assert result.bits_per_byte.value == pytest.approx(bits, rel=1e-5)
    assert (result.n_bytes, result.parts) == (sum(n_bytes), 3)
    assert result.perplexity.value == pytest.approx(math.exp(sum(nats) / result.n_tokens), rel=1e-4)
    rest = [n / math.log(2) - bits * b for n, b in zip(nats, n_bytes, strict=True)]
    error = math.sqrt(1.5 * sum(r * r for r in rest)) / sum(n_bytes)
    assert result.bits_per_byte.error == pytest.approx(error, rel=1e-3)
    assert evaluate_texts(Scorer(found.model, found.context), found, "t", path, 1).bits_per_byte.error is None


@pytest.mark.parametrize(
    ("body", "said"), [("{", "line 1: no JSON"), ('{"text": ""}', "line 1: its text is empty"), ("", "has no texts")]
)
def test_texts_that_are_none(found: Opened, tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(body)
    with pytest.raises(TaskError, match=said):
        evaluate_texts(Scorer(found.model, found.context), found, "t", path)


def test_too_little_held_out_text_is_refused(found: Opened, tmp_path: Path) -> None:
    store = TokenStore.open(tiny.token_folder(tmp_path / "data", ["a"]))
    with pytest.raises(UsageError, match="2 tokens, less than one window of 64"):
        evaluate_tokens(found, "data", Windows(store, 64))


# Tasks.

ITEM = {"question": "Which can fly?", "choices": ["a cow", "an owl", "a döner"], "answer": 1}


def written(folder: Path, rows: Sequence[Any], options: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "items.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    if options is None:
        return path
    (folder / "task.yaml").write_text(f"file: items.jsonl\n{options}")
    return folder / "task.yaml"


def test_prompts_and_continuations(tmp_path: Path) -> None:
    task = read_task(written(tmp_path, [ITEM]))
    (item,) = task.items
    assert (item.prompt, item.asked) == ("Question: Which can fly?\nAnswer:", (" a cow", " an owl", " a döner"))
    assert (item.gold, item.lengths, item.id, item.line) == (1, (5, 6, 8), "1", 1)
    (item,) = read_task(written(tmp_path, [ITEM]), kind="letter").items
    assert item.prompt == "Which can fly?\nA. a cow\nB. an owl\nC. a döner\nAnswer:"
    assert item.asked == (" A", " B", " C")
    rows = [{"text": "The cat sat on the mat. "}]
    (item,) = read_task(written(tmp_path, rows), kind="cloze").items
    assert (item.prompt, item.asked) == ("The cat sat on the", (" mat.",))


def test_a_task_file(tmp_path: Path) -> None:
    row = {"q": {"stem": "Fly?"}, "c": {"text": ["cow", "owl"], "label": ["1", "2"]}, "key": "2", "topic": "birds"}
    path = written(
        tmp_path,
        [row],
        "name: arc\nfields: {question: q.stem, choices: c.text, labels: c.label, answer: key}\n"
        'prompt: "[{topic}] {question} ="\ndelimiter: "_"\ndescription: "Answer.\\n"\nunconditional: "Answer:"\n',
    )
    task = read_task(path)
    (item,) = task.items
    assert (task.name, task.unconditional, item.gold) == ("arc", "Answer:", 1)
    assert (item.prompt, item.asked) == ("Answer.\n[birds] Fly? =", ("_cow", "_owl"))


@pytest.mark.parametrize(("answer", "gold"), [(0, 0), (2, 2), ("B", 1), ("a cow", 0), ("C", 2), ("a döner", 2)])
def test_answers(tmp_path: Path, answer: Any, gold: int) -> None:
    assert read_task(written(tmp_path, [ITEM | {"answer": answer}])).items[0].gold == gold


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ITEM | {"answer": 3}, "line 2: its answer is 3, its 3 choices are 0 to 2"),
        (ITEM | {"answer": -1}, "line 2: its answer is -1"),
        (ITEM | {"answer": "D"}, "line 2: its answer 'D' is none of its 3 choices, nor A to C"),
        (ITEM | {"answer": True}, "line 2: its answer is True, which is neither"),
        (ITEM | {"answer": 1.0}, "line 2: its answer is 1.0, which is neither"),
        (ITEM | {"answer": None}, "line 2: it has no 'answer'"),
        (ITEM | {"choices": []}, "line 2: it has 0 choices; two are the least"),
        (ITEM | {"choices": ["a", " "]}, "line 2: one of its choices is empty"),
        (ITEM | {"choices": ["a", "a"]}, "line 2: two of its choices are the same"),
        (ITEM | {"choices": "ab"}, "line 2: its 'choices' is no list of texts"),
        (
            ITEM | {"choices": ["B", "A", "c"], "answer": "A"},
            "line 2: its answer 'A' is one choice's text and another's",
        ),
        (ITEM | {"question": " "}, "line 2: its 'question' is empty"),
        (ITEM | {"id": "1"}, "line 2: its id '1' is that of line 1"),
        ({"choices": ["a", "b"], "answer": 0}, "line 2: it has no 'question'"),
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: an item is a mapping"),
    ],
)
def test_items_that_are_wrong_are_named(tmp_path: Path, row: Any, said: str) -> None:
    path = written(tmp_path, [ITEM, row])
    with pytest.raises(TaskError, match=re.escape(f"{path}, {said}")):
        read_task(path)


def test_all_wrong_items_are_told_of_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, [ITEM | {"answer": 9}] * 4 + [ITEM] + [ITEM | {"choices": []}] * 3)
    with pytest.raises(TaskError, match=r"line 1: .*line 2: .*line 6: .*and 2 more"):
        read_task(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("kinds: text\n", r"line 2: unknown key 'kinds'; did you mean 'kind'"),
        ("kind: words\n", "line 2: kind is one of text, letter, cloze, not 'words'"),
        ("fields: {quest: q}\n", "line 2: unknown key 'quest'; did you mean 'question'"),
        ("shots: three\n", "line 2: shots is a whole number"),
        ("fields: question\n", "line 2: fields is a mapping"),
        ("prompt: '{topic}'\n", "line 1: the prompt wants {topic}, which it has not"),
        ("answer: letter\n", "line 1: its answer is 1, the task says that it is a letter"),
        ("shots: 1\n", "has 1 items, 1 examples cannot be drawn"),
        ("limit: 0\n", "limit must be 1 or more"),
        ("file: 1\n", "stands twice"),
    ],
)
def test_task_files_that_are_wrong(tmp_path: Path, options: str, said: str) -> None:
    path = written(tmp_path, [ITEM], options)
    with pytest.raises((TaskError, RecipeError), match=said):
        read_task(path)


def test_the_task_file_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (tmp_path / "task.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    row = {"id": "a", "question": "Fly?", "choices": {"text": ["cow", "owl"], "label": ["1", "2"]}, "answerKey": "2"}
    (tmp_path / "arc-challenge.jsonl").write_text(json.dumps(row))
    (tmp_path / "arc-train.jsonl").write_text("".join(json.dumps(row | {"id": n}) + "\n" for n in range(5)))
    (item,) = read_task(tmp_path / "task.yaml").items
    assert item.gold == 1 and item.prompt.count("Answer: owl") == 5 and item.prompt.endswith("Fly?\nAnswer:")
    for known in (Options, Fields):
        assert all(re.search(rf"\b{f.name}\b", page) for f in dataclasses.fields(known))


def test_examples_are_drawn_by_seed_and_are_never_the_item(tmp_path: Path) -> None:
    rows = [ITEM | {"question": f"Question {n}?", "id": n, "answer": n % 3} for n in range(30)]
    path = written(tmp_path, rows)

    def prompts(task: Task) -> list[str]:
        return [item.prompt for item in task.items]

    task = read_task(path, shots=4, seed=1)
    assert prompts(task) == prompts(read_task(path, shots=4, seed=1)) != prompts(read_task(path, shots=4, seed=2))
    for n, item in enumerate(task.items):
        *shots, own = item.prompt.split("\n\n")
        numbers = [int(re.findall(r"\d+", shot)[0]) for shot in shots]
        assert len({*numbers, n}) == 5 and own == f"Question: Question {n}?\nAnswer:"
        assert all(shot.endswith(("a cow", "an owl", "a döner")[k % 3]) for shot, k in zip(shots, numbers, strict=True))
    # Other items, fewer of them or in another order, change nothing for those that stay where the pool is the same.
    assert prompts(read_task(path, shots=4, seed=1, limit=5)) == prompts(task)[:5]
    # From a file of their own all have the same ones: what they share is one prefix.
    written(tmp_path / "more", rows[:6])
    apart = read_task(path, shots=4, shots_from=str(tmp_path / "more" / "items.jsonl"))
    assert len({prompt.rsplit("\n\n", 1)[0] for prompt in prompts(apart)}) == 1


def test_figures_of_a_task_by_hand(found: Opened, tmp_path: Path) -> None:
    rows = [ITEM | {"question": f"Which of these {n} can fly?", "answer": n % 3} for n in range(9)]
    task = read_task(written(tmp_path, rows, 'unconditional: "Answer:"\n'))
    result = evaluate(Scorer(found.model, found.context), found, task)
    right = {"acc": 0, "acc_norm": 0, "acc_pmi": 0}
    for item, row in zip(task.items, result.items, strict=True):
        words = found.vocabulary
        values = []
        for prompt in (item.prompt, "Answer:"):
            given = words.encode([prompt])[0]
            whole = words.encode([prompt + asked for asked in item.asked])
            values.append(
                [alone(found.model, Request(tuple(given), tuple(w[len(given) :])), found.context)[0] for w in whole]
            )
        assert row["logprobs"] == pytest.approx(values[0], abs=1e-4)
        scores = {
            "acc": values[0],
            "acc_norm": [v / n for v, n in zip(values[0], (5, 6, 8), strict=True)],
            "acc_pmi": [v - w for v, w in zip(*values, strict=True)],
        }
        for name, score in scores.items():
            right[name] += score.index(max(score)) == item.gold
    for name, n in right.items():
        share = n / 9
        assert result.metrics[name].value == pytest.approx(share)
        assert result.metrics[name].error == pytest.approx(math.sqrt(share * (1 - share) / 8))
    assert [row["line"] for row in result.items] == [*range(1, 10)] and not result.cut


def test_what_is_too_long_is_told(found: Opened, tmp_path: Path) -> None:
    long = ITEM | {"question": tiny.SENTENCES[0] * 9}
    result = evaluate(Scorer(found.model, 64), found, read_task(written(tmp_path, [ITEM, long, ITEM])))
    assert result.cut == (2,) and [row["cut"] for row in result.items] == [False, True, False]
    path = written(tmp_path, [ITEM, ITEM | {"choices": ["a", "b " * 90]}])
    with pytest.raises(TaskError, match=re.escape(f"{path}, line 2: ") + r"\d+ tokens are asked for.* looks at 64"):
        evaluate(Scorer(found.model, 64), found, read_task(path))


def test_a_model_without_numbers_is_told(run: Path, tmp_path: Path) -> None:
    broken = open_model(run)
    with torch.no_grad():
        broken.model.model.norm.weight[0] = math.nan
    with pytest.raises(CrawlmillError, match=r"gives no number for .*line 1; its parameters are damaged"):
        evaluate(Scorer(broken.model, 64), broken, read_task(written(tmp_path, [ITEM])))


# The command.

app = typer.Typer()
app.command("export")(evaluation_commands.export)
app.command("import")(evaluation_commands.import_)
app.command("evaluate")(evaluation_commands.evaluate)


def said(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_the_commands(run: Path, tmp_path: Path) -> None:
    path = written(tmp_path, [ITEM, ITEM | {"question": tiny.SENTENCES[0] * 9}], "kind: letter\n")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "The cat."}))
    assert "LlamaForCausalLM" in said("export", run, tmp_path / "out")
    assert "model.toml" in said("import", tmp_path / "out", tmp_path / "in")
    report, rows = tmp_path / "report.json", tmp_path / "rows.jsonl"
    shown = said(
        "evaluate", tmp_path / "in", "--task", path, "--texts", f"t={tmp_path / 'texts.jsonl'}",
        "--held-out", f"data={run.parent / 'data'}", "--json", report, "--items", rows, "--device", "cpu",
    )  # fmt: skip
    assert "1 of 2 items are longer than the 64 tokens" in shown and "(line 2)" in shown
    body = json.loads(report.read_text())
    assert {*body["texts"]} == {"data", "t"} and body["tasks"]["task"]["cut"] == [2]
    assert body["tasks"]["task"]["metrics"]["acc"]["value"] in (0.0, 0.5, 1.0)
    assert [json.loads(line)["id"] for line in rows.read_text().splitlines()] == ["1", "2"]
    assert not [*tmp_path.glob(".*.tmp")]


def test_commands_that_cannot_be_carried_out(run: Path, tmp_path: Path) -> None:
    path = written(tmp_path, [ITEM])
    with pytest.raises(UsageError, match="write NAME=PATH"):
        said("evaluate", run, "--held-out", "data")
    with pytest.raises(UsageError, match="'items' stands twice"):
        said("evaluate", run, "--task", path, "--task", path)
    with pytest.raises(CrawlmillError, match="cannot read"):
        said("evaluate", run, "--task", tmp_path / "none.jsonl")
    with pytest.raises(CrawlmillError, match="is no folder"):
        said("evaluate", run, "--task", path, "--json", tmp_path / "no" / "report.json")
