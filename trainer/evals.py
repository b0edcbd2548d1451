"""What a model knows: bits a byte of texts by source, and tasks by likelihood, each with its standard error."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.errors import UsageError
from trainer.attention import choose, scope
from trainer.data import open_corpus
from trainer.huggingface import ModelError
from trainer.loader import to_device
from trainer.models import Opened, run_config
from trainer.plan import IGNORED, split
from trainer.scoring import BATCH_TOKENS, Request, Score, Scorer, encode, rolling
from trainer.shards import ShardError, TokenStore
from trainer.tasks import Item, Task, TaskError
from trainer.tokenizer import token_bytes
from trainer.windows import Windows


class Metric(NamedTuple):
    """A figure, and its standard error where there are two items or more."""

    value: float
    error: float | None


@dataclass(frozen=True)
class TaskResult:
    """How a task ended. `accuracy` by name: acc is the likeliest choice, acc_norm the likeliest a byte, acc_pmi the one that
    the question makes likelier most; of cloze, acc is a target of likeliest tokens. `cut` are the lines of items of which
    tokens at the left were cut off."""

    task: Task
    metrics: dict[str, Metric]
    items: tuple[dict[str, Any], ...]
    cut: tuple[int, ...]


@dataclass(frozen=True)
class TextResult:
    """What a model makes of texts: `bits_per_byte`, and `perplexity` a token, over `n_bytes` and `n_tokens`. Standard errors
    are over `parts`: windows of a token folder, or texts."""

    name: str
    bits_per_byte: Metric
    perplexity: Metric
    n_bytes: int
    n_tokens: int
    parts: int


def evaluate(scorer: Scorer, found: Opened, task: Task) -> TaskResult:
    """Asks all items of a task. Raises TaskError where something cannot be asked for, ModelError where there is no number."""
    pairs = [(item.prompt, asked) for item in task.items for asked in item.asked]
    requests = encode(found.vocabulary, pairs)
    places = _places(task.items)
    wrong, cut = [], []
    for item, place in zip(task.items, places, strict=True):
        for asked, request in zip(item.asked, requests[place], strict=True):
            if not request.continuation:
                wrong.append(f"line {item.line}: {asked!r} has no token of its own after the prompt")
            elif len(request.continuation) > scorer.longest:
                n = len(request.continuation)
                wrong.append(f"line {item.line}: {n:,} tokens are asked for, the model looks at {scorer.longest:,}")
        if not all(scorer.fits(request) for request in requests[place]):
            cut.append(item.line)
    if wrong:
        raise TaskError(f"{task.file}, {'; '.join(wrong[:5])}" + (f"; and {len(wrong) - 5} more" if wrong[5:] else ""))
    bare = None
    if task.unconditional is not None and task.kind != "cloze":
        alone = encode(found.vocabulary, [(task.unconditional, asked) for _, asked in pairs])
        scores = scorer([*requests, *alone])
        scores, bare = scores[: len(requests)], scores[len(requests) :]
    else:
        scores = scorer(requests)
    rows = [
        _judged(item, scores[place], bare[place] if bare else None, task.kind == "cloze")
        for item, place in zip(task.items, places, strict=True)
    ]
    lost = [row["line"] for row in rows if not all(map(math.isfinite, row["logprobs"]))]
    if lost:
        raise ModelError(f"{found.folder} gives no number for {task.file}, line {lost[0]}; its parameters are damaged")
    metrics: dict[str, Metric] = {}
    for name in ("acc", "acc_norm", "acc_pmi"):
        if name in rows[0]:
            metrics[name] = _mean([row[name] for row in rows])
    if task.kind == "cloze":
        nats = _mean([-row["logprobs"][0] for row in rows])
        metrics["logprob"] = Metric(-nats.value, nats.error)
        size = math.exp(min(nats.value, 700.0))
        metrics["perplexity"] = Metric(size, None if nats.error is None else size * nats.error)
    items = tuple({"task": task.name, **row, "cut": row["line"] in set(cut)} for row in rows)
    return TaskResult(task, metrics, items, tuple(cut))


def evaluate_tokens(
    found: Opened,
    name: str,
    windows: Windows,
    most: int | None = None,
    documents: bool = True,
    batch_tokens: int = BATCH_TOKENS,
) -> TextResult:
    """Bits a byte of a token folder, window by window, as a run logs it: at most `most` tokens from its beginning. With
    `documents` no text looks into another, as in training."""
    device = found.model.head.device
    shape = found.model.shape
    counts = np.zeros(shape.vocab_size, np.int64)
    known = token_bytes(found.vocabulary.path)[: shape.vocab_size]
    counts[: len(known)] = known
    backend = choose(device, found.model.dtype, documents)
    n = windows.n_samples if most is None else min(windows.n_samples, max(1, most // windows.seq_len))
    if n < 1:
        raise UsageError(
            f"held-out {name!r} has {windows.n_tokens:,} tokens, less than one window of {windows.seq_len:,}"
        )
    at_once = max(1, batch_tokens // windows.seq_len)
    nats, n_bytes, n_tokens = (np.zeros(n) for _ in range(3))
    for first in range(0, n, at_once):
        here = range(first, min(n, first + at_once))
        held = np.full((len(here), windows.seq_len + 1), IGNORED, np.int64)
        for row, sample in enumerate(here):
            windows.read(sample, held[row])
        micro = to_device(*split(held, found.vocabulary.eos), device)
        with torch.no_grad():
            losses = found.model(micro.tokens, micro.targets, scope(backend, micro.docs, micro.n_docs), each=True)
        targets = micro.targets.cpu().numpy()
        valid = targets != IGNORED
        part = slice(here.start, here.stop)
        nats[part] = losses.double().view(targets.shape).sum(1).cpu().numpy()
        n_bytes[part] = (counts[np.maximum(targets, 0)] * valid).sum(1)
        n_tokens[part] = valid.sum(1)
    return _text_result(found, name, nats, n_bytes, n_tokens)


def held_out(
    found: Opened, folders: dict[str, str], most: int | None = None, batch_tokens: int = BATCH_TOKENS
) -> Iterator[TextResult]:
    """`evaluate_tokens` of token folders by name; without any, of what the model's run has held out."""
    options = run_config(found.run) if found.run else None
    documents = options.data.document_mask if options else True
    if folders:
        stores = {name: TokenStore.open(folder) for name, folder in folders.items()}
        for store in stores.values():
            if store.tokenizer["sha256"] != found.vocabulary.sha256:
                raise ShardError(
                    f"{store.folder} is of another tokenizer than the model ({store.tokenizer['sha256'][:12]} and "
                    f"{found.vocabulary.sha256[:12]}): tokenize its texts again, or name them with --texts"
                )
        parts = [(name, Windows(s, min(found.context, max(1, s.n_tokens - 1)))) for name, s in stores.items()]
    else:
        parts = [(part.name, part.windows) for part in open_corpus(options).held_out] if options else []
        most = most or (options.log.evaluate_tokens if options else None)
    for name, windows in parts:
        yield evaluate_tokens(found, name, windows, most, documents, batch_tokens)


def evaluate_texts(scorer: Scorer, found: Opened, name: str, path: str | Path, most: int | None = None) -> TextResult:
    """Bits a byte of the texts of a JSONL file (field `text`), each by itself: comparable between tokenizers. At most the
    first `most` texts."""
    texts = list(_texts(Path(path)))[:most]
    if not texts:
        raise TaskError(f"{path} has no texts")
    ids = found.vocabulary.encode(texts, special=False)
    requests: list[Request] = []
    places = []
    for tokens in ids:
        parts = rolling(tokens, found.vocabulary.bos, scorer.longest)
        places.append(slice(len(requests), len(requests) + len(parts)))
        requests += parts
    scores = scorer(requests)
    nats = np.array([-sum(score.logprob for score in scores[place]) for place in places])
    n_bytes = np.array([len(text.encode()) for text in texts], np.float64)
    return _text_result(found, name, nats, n_bytes, np.array([len(tokens) for tokens in ids], np.float64))


def _judged(item: Item, scores: Sequence[Score], bare: Sequence[Score] | None, cloze: bool) -> dict[str, Any]:
    logprobs = [score.logprob for score in scores]
    row: dict[str, Any] = {"id": item.id, "line": item.line, "logprobs": logprobs}
    if cloze:
        return row | {"target": item.asked[0], "acc": int(scores[0].greedy)}
    row |= {"gold": item.gold, "acc": _right(logprobs, item.gold)}
    row["acc_norm"] = _right([value / n for value, n in zip(logprobs, item.lengths, strict=True)], item.gold)
    if bare is not None:
        row["unconditional"] = [score.logprob for score in bare]
        gained = [value - other for value, other in zip(logprobs, row["unconditional"], strict=True)]
        row["acc_pmi"] = _right(gained, item.gold)
    return row


def _right(values: Sequence[float], gold: int) -> int:
    """1 where the largest is the right one; of equal ones the first counts, as in lm-evaluation-harness."""
    return int(int(np.argmax(values)) == gold)


def _places(items: Sequence[Item]) -> list[slice]:
    ends = np.cumsum([0, *(len(item.asked) for item in items)]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _mean(values: Sequence[float]) -> Metric:
    n = len(values)
    return Metric(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None)


def _text_result(found: Opened, name: str, nats: np.ndarray, n_bytes: np.ndarray, n_tokens: np.ndarray) -> TextResult:
    if not np.isfinite(nats).all():
        raise ModelError(f"{found.folder} gives no number for {name!r}; its parameters are damaged")
    bits = _ratio(nats / math.log(2), n_bytes)
    loss = _ratio(nats, n_tokens)
    size = math.exp(min(loss.value, 700.0))
    perplexity = Metric(size, None if loss.error is None else size * loss.error)
    return TextResult(name, bits, perplexity, int(n_bytes.sum()), int(n_tokens.sum()), len(nats))


def _ratio(over: np.ndarray, under: np.ndarray) -> Metric:
    """Sum over sum, and its standard error by linearisation (Cochran 1977, "Sampling Techniques", section 6.3)."""
    n, total = len(over), max(1.0, float(under.sum()))
    value = float(over.sum()) / total
    rest = over - value * under
    return Metric(value, math.sqrt(n / (n - 1) * float(rest @ rest)) / total if n > 1 else None)


def _texts(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    text = json.loads(line)["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise TaskError(f"{path}, line {number}: no JSON with a text ({type(error).__name__})") from None
                if not isinstance(text, str) or not text:
                    raise TaskError(f"{path}, line {number}: its text is empty or no text")
                yield text
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error}") from error
