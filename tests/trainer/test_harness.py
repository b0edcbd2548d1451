"""The same figures as lm-evaluation-harness, item by item: its own model on an export of ours, and ours in it.

Runs where the harness is installed (docs/evaluation.md says how), without a network.
"""

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from tiny import one_thread  # noqa: F401

from pipeline.errors import UsageError
from trainer import harness
from trainer.evals import evaluate, evaluate_texts
from trainer.export import export
from trainer.models import Opened, open_model
from trainer.scoring import Scorer, encode
from trainer.tasks import read_task

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")

LONG = "the cat sat on the mat and looked at the dog and the dog looked at the cat "
QUESTIONS = [
    {"question": "Which animal can fly?", "choices": ["the cow", "the owl", "a cat on a mat", "a dög"], "answer": 1},
    {"question": "What is red –?", "choices": ["an apple", "the sea", "chérries and roses"], "answer": 2},
    {"question": "At what does water boil?", "choices": ["one hundred degrees", "the level of the sea"], "answer": 0},
    {"question": LONG * 3 + "Which?", "choices": ["the dog", "the cat sat on the mat"], "answer": 1},
    {"question": "Pick a letter.", "choices": ["a", "b", "c", "d"], "answer": 3},
    *(
        {"question": f"How much is {n} and {n}?", "choices": [str(2 * n), str(n), "100"], "answer": 0}
        for n in range(2, 14)
    ),
]
TEXTS = [*tiny.SENTENCES, LONG * 4, "one", "naïve 🦉\n\nnext"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and files of items."""
    made = tmp_path_factory.mktemp("harness")
    run = tiny.run(made, tiny.shape(qk_norm=True))
    export(run, made / "model")
    rows = [{**row, "id": str(n), "letters": list("ABCD"[: len(row["choices"])])} for n, row in enumerate(QUESTIONS)]  # type: ignore[arg-type]
    for row in rows:
        row["options"] = "\n".join(f"{a}. {b}" for a, b in zip(row["letters"], row["choices"], strict=True))
    (made / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS if " " in text))
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> Opened:
    return open_model(folder / "model")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Iterator[Any]:
    """The harness's own model on the export, on the CPU."""
    pytest.importorskip("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(folder / "home"))
        from lm_eval.models.huggingface import HFLM

        yield HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=4)


def asked_by_them(folder: Path, model: Any, **task: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Figures and items of one task of theirs over a file of ours."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    body = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{task.pop('file')}.jsonl")}},
        "test_split": "test",
        "metric_list": [{"metric": m, "aggregation": task["aggregation"][m]} for m in task["aggregation"]],
    }
    body |= {key: value for key, value in task.items() if key != "aggregation"}
    tasks = folder / f"tasks-{len(list(folder.glob('tasks-*')))}"
    tasks.mkdir()
    (tasks / "tiny.yaml").write_text(yaml.safe_dump(body))
    said = lm_eval.simple_evaluate(
        model=model,
        tasks=["tiny"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    items = sorted(said["samples"]["tiny"], key=lambda item: item["doc_id"])
    return {key.removesuffix(",none"): value for key, value in said["results"]["tiny"].items()}, items


CHOICES = {
    "text": {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"},
    "letter": {"doc_to_text": "{{question}}\n{{options}}\nAnswer:", "doc_to_choice": "{{letters}}"},
}
MEANS = dict.fromkeys(("acc", "acc_bytes", "acc_mutual_info"), "mean")


@needs_harness
@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("own", [False, True], ids=["theirs", "adapter"])
def test_choices(folder: Path, found: Opened, theirs: Any, kind: Any, own: bool) -> None:
    task = read_task(folder / "questions.jsonl", kind=kind, unconditional="")
    ours = evaluate(Scorer(found.model, found.context), found, task)
    model = harness.HarnessModel(folder / "model", "cpu") if own else theirs
    figures, items = asked_by_them(
        folder, model, file="questions", output_type="multiple_choice", doc_to_target="answer", aggregation=MEANS,
        **CHOICES[kind],
    )  # fmt: skip
    assert len(items) == len(QUESTIONS) == len(ours.items)
    assert ours.cut  # one is longer than the model looks
    for item, row in zip(items, ours.items, strict=True):
        said = [answer[0] for (answer,) in item["resps"]]
        assert said == pytest.approx([*row["logprobs"], *row["unconditional"]], abs=1e-4)
        assert (item["acc"], item["acc_bytes"], item["acc_mutual_info"]) == (
            row["acc"],
            row["acc_norm"],
            row["acc_pmi"],
        )
    for name, other in (("acc", "acc"), ("acc_norm", "acc_bytes"), ("acc_pmi", "acc_mutual_info")):
        assert ours.metrics[name].value == pytest.approx(figures[other], abs=1e-12)
    assert 0 < ours.metrics["acc"].value < 1


@needs_harness
def test_cloze(folder: Path, found: Opened, theirs: Any) -> None:
    ours = evaluate(Scorer(found.model, found.context), found, read_task(folder / "texts.jsonl", kind="cloze"))
    figures, items = asked_by_them(
        folder, theirs, file="texts", output_type="loglikelihood",
        doc_to_text="{{text.rstrip().rsplit(' ', 1)[0]}}", doc_to_target="{{' ' + text.rstrip().rsplit(' ', 1)[1]}}",
        aggregation={"acc": "mean", "perplexity": "perplexity"},
    )  # fmt: skip
    for item, row in zip(items, ours.items, strict=True):
        assert item["resps"][0][0][0] == pytest.approx(row["logprobs"][0], abs=1e-4)
        assert item["acc"] == row["acc"]
    assert ours.metrics["perplexity"].value == pytest.approx(figures["perplexity"], rel=1e-5)
    assert ours.metrics["acc"].value == figures["acc"]


@needs_harness
def test_bits_per_byte(folder: Path, found: Opened, theirs: Any) -> None:
    ours = evaluate_texts(Scorer(found.model, found.context), found, "texts", folder / "texts.jsonl")
    figures, _ = asked_by_them(
        folder, theirs, file="texts", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        aggregation={"bits_per_byte": "bits_per_byte"},
    )  # fmt: skip
    assert ours.bits_per_byte.value == pytest.approx(figures["bits_per_byte"], abs=1e-6)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, n) for n, given in enumerate(arguments)]


@needs_harness
def test_the_adapter_answers_as_their_model(folder: Path, theirs: Any) -> None:
    ours = harness.HarnessModel(folder / "run", "cpu")
    pairs = [(a, b) for a in ("", "The cat ", "A dog\n", LONG * 2) for b in (" sat on", "the mat", "é")]
    for (a, b), (c, d) in zip(
        ours.loglikelihood(instances("loglikelihood", *pairs)),
        theirs.loglikelihood(instances("loglikelihood", *pairs)),
        strict=True,
    ):
        assert a == pytest.approx(c, abs=1e-4) and b == d
    texts = [(text,) for text in TEXTS]
    assert ours.loglikelihood_rolling(instances("loglikelihood_rolling", *texts)) == pytest.approx(
        theirs.loglikelihood_rolling(instances("loglikelihood_rolling", *texts)), abs=1e-3
    )
    options = {"until": ["\n", "e "], "max_gen_toks": 20}
    prompts = [(text, dict(options)) for text in TEXTS]
    made = ours.generate_until(instances("generate_until", *prompts))
    assert made == theirs.generate_until(instances("generate_until", *prompts))
    assert len({*made}) > 3 and any(len(text) > 5 for text in made)


@needs_harness
def test_a_registered_name_and_what_is_refused(folder: Path) -> None:
    harness.register()
    from lm_eval.api.registry import get_model

    model = get_model("crawlmill").create_from_arg_string(
        f"path={folder / 'model'},batch_tokens=512", {"device": "cpu"}
    )
    assert model.scorer.batch_tokens == 512
    with pytest.raises(UsageError, match="samples"):
        model.generate_until(instances("generate_until", ("a", {"do_sample": True, "max_gen_toks": 4})))
    with pytest.raises(UsageError, match="generates 256 tokens, the model looks at 64"):
        model.generate_until(instances("generate_until", ("a", {})))
    with pytest.raises(UsageError, match="a task asks for"):
        model.loglikelihood(instances("loglikelihood", ("a", " b" * 100)))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm_eval is installed")
def test_without_the_harness_a_line_says_what_to_install(folder: Path) -> None:
    with pytest.raises(UsageError, match="pip install lm_eval"):
        harness.HarnessModel(folder / "model")
    with pytest.raises(SystemExit, match="pip install lm_eval"):
        harness.main()


def test_pairs_are_divided_where_the_context_ends(found: Opened) -> None:
    """The rule of the harness, by hand: spaces that end a context belong to what follows it."""
    words = found.vocabulary
    (one, two, three) = encode(words, [("The cat ", "sat"), ("The cat", " sat"), ("", "The")])
    assert one == two and words.decode(one.context) == "The cat" and words.decode(one.continuation) == " sat"
    assert three.context == (words.eos,) and words.decode(three.continuation) == "The"
    assert math.isfinite(Scorer(found.model, found.context)([three])[0].logprob)
