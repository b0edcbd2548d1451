"""Whether a model was trained on a test set: whether it finds the items likelier in their published order than in others.

Who publishes a set writes its items in some order. A model that has never read the file has no reason to prefer that
order, if the items are exchangeable; one that has read it in order has. The test compares log p(published order) with
shuffles of the same items, shard by shard (Oren et al. 2023, "Proving Test Set Contamination in Black Box Language Models",
arXiv:2310.17623). Its p-value bounds false accusations, whatever the model; `confounds` looks for sets whose order is no
matter of chance, for which it would not.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from trainer.huggingface import ModelError
from trainer.permutation import key_of
from trainer.scoring import Request, Scorer
from trainer.tasks import Kind, TaskError, read_task
from trainer.vocabulary import Vocabulary

Form = Literal["prompt", "line"]
Test = Literal["shards", "orders"]
Likelihood = Callable[[Sequence[str]], np.ndarray]
"""Log-probabilities of whole texts in nats, float64 (texts,)."""

LEVEL = 0.05
"""What a p-value is called small by, and what `detectable` reckons with."""
POWER = 0.9
LEAST_ITEMS = 5
"""Four items have 24 orders: chance alone would say less than the level allows."""
SHARD = (5, 50)
"""Items of a shard, least and most. Longer shards lose fewer neighbours at their ends, more of them make a better t test."""
SHARDS = 10
"""As many are made as far as `SHARD` allows."""
LEAST_SHARDS = 8
"""With fewer the spread of shards is too uncertain for a t test, and all items are one shard whose orders are ranked."""
CHOICES = 9_999
"""Ways of taking one order from each shard that the published ones are compared with; p is never below 1 / (1 + these)."""
CONFOUND_SHUFFLES = 999
CONFOUND_LEVEL = 0.005

_WORD = re.compile(r"\w+")


class SetError(TaskError):
    """A set of which the order can say nothing."""


@dataclass(frozen=True)
class Published:
    """Items of a set in their published order, each as a text; `lines` is where they stand in `file`, `gold` which choice
    is right, where there are choices. `repeated` are the lines of items left out because an earlier one is the same."""

    name: str
    file: Path
    texts: tuple[str, ...]
    lines: tuple[int, ...]
    gold: tuple[int, ...] | None = None
    repeated: tuple[int, ...] = ()


def read_published(
    path: str | Path, form: Form = "prompt", kind: Kind | None = None, limit: int | None = None
) -> Published:
    """Items of a task file, or of JSONL alone, as `evaluate` reads them: prompt and right answer, or with `line` the very
    lines of the file. Raises TaskError, and SetError where too few items are left."""
    task = read_task(path, kind=kind, limit=limit, shots=0, description="")
    texts = [item.prompt + item.asked[item.gold] for item in task.items]
    if form == "line":
        written = task.file.read_text(encoding="utf-8").split("\n")
        texts = [written[item.line - 1].rstrip("\r") for item in task.items]
    return published(
        task.name,
        task.file,
        texts,
        [item.line for item in task.items],
        None if task.kind == "cloze" else [item.gold for item in task.items],
    )


def published(
    name: str, file: Path, texts: Sequence[str], lines: Sequence[int], gold: Sequence[int] | None = None
) -> Published:
    """A set without the items that repeat an earlier one: a model that copies likes to see the same twice, and where it does
    is part of the order. Raises SetError where fewer than `LEAST_ITEMS` are left."""
    seen: set[str] = set()
    kept: list[int] = []
    repeated: list[int] = []
    for number, text in enumerate(texts):
        (repeated if text in seen else kept).append(number)
        seen.add(text)
    if len(kept) < LEAST_ITEMS:
        more = f" that differ (of {len(texts)})" if repeated else ""
        raise SetError(
            f"{file} has {len(kept)} items{more}: their order can say nothing; {LEAST_ITEMS} are the least, and below "
            f"{SHARD[0] * LEAST_SHARDS} little is found"
        )
    return Published(
        name,
        file,
        tuple(texts[n] for n in kept),
        tuple(lines[n] for n in kept),
        None if gold is None else tuple(gold[n] for n in kept),
        tuple(lines[n] for n in repeated),
    )


@dataclass(frozen=True)
class Options:
    """How a set is tested. `shard_items` is chosen by the size of the set where it is None; `separator` stands between
    items."""

    shuffles: int = 51  # Oren et al. 2023
    seed: int = 0
    separator: str = "\n\n"
    shard_items: int | None = None


@dataclass(frozen=True)
class Shard:
    """Log-likelihoods of consecutive items, in nats: in published order, and of each shuffle. `first` counts from 0."""

    first: int
    items: int
    published: float
    shuffled: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Published order minus the mean of the shuffles: above 0 where the published order is likelier."""
        return self.published - float(np.mean(self.shuffled))


@dataclass(frozen=True)
class Finding:
    """How a test ended.

    `p` is the larger of two that hold without contamination: `p_t` of a one-sided t test over the differences of shards
    (Oren et al. 2023), which supposes that those are distributed like a normal variable, and `p_orders`, which supposes
    nothing but exchangeable items: how often the orders that are taken at random, one of each shard, published or
    shuffled, are together as likely as the published ones. With one shard (`test` is `orders`) there is no t test, and p
    is the rank among shuffles, never below 1 / (1 + shuffles).

    `effect` is nats an item by which the published order is likelier, `interval` its 95 % interval, `detectable` the effect
    that the t test would find at `LEVEL` in `POWER` of all cases.
    """

    shards: tuple[Shard, ...]
    test: Test
    p: float
    p_t: float | None
    p_orders: float
    t: float | None
    effect: float
    interval: tuple[float, float] | None
    detectable: float


def divide(n: int, shard_items: int | None = None) -> list[range]:
    """Consecutive items in shards of nearly equal size, `shard_items` or a few more each; one shard where there would be
    fewer than `LEAST_SHARDS`."""
    size = shard_items or min(max(n // SHARDS, SHARD[0]), SHARD[1])
    count = n // size
    if count < LEAST_SHARDS:
        return [range(n)]
    ends = [n * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def orders(n: int, count: int, *names: object) -> np.ndarray:
    """Shuffles of n things, int64 (count, n): each order as probable as any other, by what `names` them."""
    bits = np.random.PCG64(key_of(*names, "order")).random_raw(count * n).reshape(count, n)
    return np.argsort(bits, axis=1, kind="stable")


def shard_texts(published: Published, shard: range, number: int, options: Options) -> list[str]:
    """A shard's items as texts: in published order, then in each shuffle."""
    items = published.texts[shard.start : shard.stop]
    ways = orders(len(items), options.shuffles, options.seed, number)
    return [options.separator.join(items), *(options.separator.join(items[i] for i in way) for way in ways)]


def examine(
    published: Published,
    likelihood: Likelihood,
    options: Options = Options(),
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Finding:
    """Tests a set. `tell` hears how many shards of how many are done."""
    if options.shuffles < 1:
        raise SetError(f"{options.shuffles} shuffles: one is the least, {math.ceil(1 / LEVEL) - 1} for p < {LEVEL}")
    if options.shard_items is not None and options.shard_items < 2:
        raise SetError(f"a shard of {options.shard_items} items has no order; two are the least")
    shards = divide(len(published.texts), options.shard_items)
    found = []
    for number, shard in enumerate(shards):
        values = likelihood(shard_texts(published, shard, number, options))
        found.append(Shard(shard.start, len(shard), float(values[0]), tuple(values[1:].tolist())))
        tell(number + 1, len(shards))
    return judge(found, options.seed)


def judge(shards: Sequence[Shard], seed: int = 0) -> Finding:
    """What the likelihoods of shards say."""
    from scipy.optimize import brentq
    from scipy.stats import nct, norm
    from scipy.stats import t as student

    items = sum(shard.items for shard in shards)
    n = len(shards)
    p_orders = _p_orders(shards, seed)
    differences = np.array([shard.difference for shard in shards])
    effect = float(differences.sum() / items)
    if n < LEAST_SHARDS:
        spread = math.sqrt(sum(np.var(shard.shuffled, ddof=1) for shard in shards if len(shard.shuffled) > 1))
        enough = spread * float(norm.ppf(1 - LEVEL) + norm.ppf(POWER)) / items
        return Finding(tuple(shards), "orders", p_orders, None, p_orders, None, effect, None, enough)
    error = float(differences.std(ddof=1) / math.sqrt(n))
    if error == 0:  # of a model that does not look back
        return Finding(tuple(shards), "shards", p_orders, None, p_orders, None, effect, (effect, effect), 0.0)
    t = float(differences.mean() / error)
    p_t = float(student.sf(t, n - 1))
    a_shard = items / n
    half = float(student.ppf(0.975, n - 1)) * error / a_shard
    bound = float(student.ppf(1 - LEVEL, n - 1))
    shift = brentq(lambda x: float(nct.sf(bound, n - 1, x)) - POWER, 0, 50)
    return Finding(
        tuple(shards),
        "shards",
        max(p_t, p_orders),
        p_t,
        p_orders,
        t,
        effect,
        (effect - half, effect + half),
        float(shift) * error / a_shard,
    )


def _p_orders(shards: Sequence[Shard], seed: int) -> float:
    values = np.array([[shard.published, *shard.shuffled] for shard in shards])  # the first is the published one
    sums = values[0]
    if len(values) > 1:
        bits = np.random.PCG64(key_of(seed, "choices")).random_raw(CHOICES * len(values)).reshape(CHOICES, -1)
        chosen = (bits % np.uint64(values.shape[1])).astype(np.int64)
        sums = np.concatenate([values[:, :1].sum(0), values[np.arange(len(values)), chosen].sum(1)])
    # Sums of the same numbers in another order differ by rounding.
    least = sums[0] - 1e-9 * abs(sums[0])
    return float(np.count_nonzero(sums >= least) / len(sums))


class Confound(NamedTuple):
    """A way in which neighbours of the published order are more alike than chance would have it: `p` says how rarely it
    would, `neighbours` and `chance` are the mean likeness of neighbours in published order and in shuffles."""

    what: Literal["length", "alphabet", "wording", "answer"]
    p: float
    neighbours: float
    chance: float


def confounds(published: Published, seed: int = 0, level: float = CONFOUND_LEVEL) -> list[Confound]:
    """Ways in which the order is no matter of chance, of which any model may make use: sorted by length or alphabet, items
    of one topic or passage together, right answers in runs. Asks no model."""
    found = []
    for what, likeness in _LIKENESS.items():
        if what == "answer" and (published.gold is None or len(set(published.gold)) < 2):
            continue
        real, pairs = 0.0, 0
        chance = np.zeros(CONFOUND_SHUFFLES)
        for number, shard in enumerate(divide(len(published.texts))):  # all pairs of a large one would fill the memory
            alike = likeness(published, shard)
            ways = orders(len(shard), CONFOUND_SHUFFLES, seed, number, "confounds")
            real += float(np.diagonal(alike, 1).sum())
            chance += alike[ways[:, :-1], ways[:, 1:]].sum(1)
            pairs += len(shard) - 1
        p = float((1 + np.count_nonzero(chance >= real - 1e-9)) / (1 + CONFOUND_SHUFFLES))
        if p <= level:
            found.append(Confound(what, p, real / pairs, float(chance.mean()) / pairs))
    return found


def _by_rank(values: Sequence[object]) -> np.ndarray:
    """1 where two have the same rank, 0 where they are the first and the last."""
    place = np.unique(np.array(values), return_inverse=True)[1].astype(np.float64)
    return 1 - np.abs(place[:, None] - place) / max(1.0, float(place.max()))


def _length(published: Published, shard: range) -> np.ndarray:
    return _by_rank([len(published.texts[i]) for i in shard])


def _alphabet(published: Published, shard: range) -> np.ndarray:
    return _by_rank([published.texts[i].casefold() for i in shard])


def _wording(published: Published, shard: range) -> np.ndarray:
    """Share of words that two items have in common, each word weighed by how few items of the shard have it."""
    words = [set(_WORD.findall(published.texts[i].casefold())) for i in shard]
    counts = Counter(word for own in words for word in own)
    column = {word: i for i, word in enumerate(counts)}
    has = np.zeros((len(words), max(1, len(column))))
    for row, own in enumerate(words):
        has[row, [column[word] for word in own]] = 1
    weight = np.zeros(has.shape[1])
    weight[: len(column)] = [math.log(len(words) / n) for n in counts.values()]
    both = (has * weight) @ has.T
    own_weight = np.diagonal(both)
    return both / np.maximum(own_weight[:, None] + own_weight - both, 1e-12)


def _answer(published: Published, shard: range) -> np.ndarray:
    gold = np.array([(published.gold or ())[i] for i in shard])
    return (gold[:, None] == gold).astype(np.float64)


_LIKENESS: dict[Literal["length", "alphabet", "wording", "answer"], Callable[[Published, range], np.ndarray]] = {
    "length": _length,
    "alphabet": _alphabet,
    "wording": _wording,
    "answer": _answer,
}


class TextLikelihood:
    """Log-likelihoods of texts of any length by a model, in windows that go on by `stride` tokens: every token is asked for
    once, and but for the first window sees at least `longest - stride` tokens before it. `longest` is the scorer's, which
    need not `share`, as shuffles begin alike by chance alone; the stride is half of it where none is given."""

    def __init__(self, scorer: Scorer, vocabulary: Vocabulary, stride: int | None = None) -> None:
        self.scorer, self.vocabulary = scorer, vocabulary
        self.stride = stride or max(1, scorer.longest // 2)
        if self.stride > scorer.longest:
            raise SetError(f"a stride of {self.stride:,} goes beyond the {scorer.longest:,} tokens that the model sees")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Nats, float64 (texts,). Raises ModelError where there is no number."""
        requests: list[Request] = []
        whose: list[int] = []
        for number, tokens in enumerate(self.vocabulary.encode(texts, special=False)):
            parts = strided(tokens, self.vocabulary.bos, self.scorer.longest, self.stride)
            requests += parts
            whose += [number] * len(parts)
        nats = np.zeros(len(texts))
        np.add.at(nats, whose, [score.logprob for score in self.scorer(requests)])
        if not np.isfinite(nats).all():
            raise ModelError("the model gives no number for a text of the set; its parameters are damaged")
        return nats

    def tokens(self, texts: Sequence[str]) -> int:
        """Tokens that pass through the model for texts, without padding."""
        n = 0
        for tokens in self.vocabulary.encode(texts, special=False):
            parts = strided(tokens, self.vocabulary.bos, self.scorer.longest, self.stride)
            n += sum(len(part.context) + len(part.continuation) - 1 for part in parts)
        return n


def strided(tokens: Sequence[int], before: int, longest: int, stride: int) -> list[Request]:
    """A text as requests in which every token is asked for once, the first after `before`: a window of `longest` tokens,
    then `stride` tokens at a time behind as many as fit."""
    given = (before, *tokens)
    found = [Request(given[:1], tuple(tokens[:longest]))] if tokens else []
    for start in range(longest, len(tokens), stride):
        end = min(start + stride, len(tokens))
        found.append(Request(given[end - longest : start + 1], given[start + 1 : end + 1]))
    return found


def longer_than(published: Published, vocabulary: Vocabulary, tokens: int) -> list[int]:
    """Lines of items of more tokens than that: their neighbours lie out of the model's sight."""
    lengths = map(len, vocabulary.encode(published.texts, special=False))
    return [line for line, n in zip(published.lines, lengths, strict=True) if n > tokens]


def to_json(published: Published, finding: Finding, warned: Sequence[Confound], options: Options) -> dict[str, object]:
    """All that a test found, for a file."""
    return json.loads(
        json.dumps(
            {
                "file": str(published.file),
                "items": len(published.texts),
                "repeated_lines": published.repeated,
                "test": finding.test,
                "p": finding.p,
                "p_t": finding.p_t,
                "p_orders": finding.p_orders,
                "t": finding.t,
                "effect_nats_per_item": finding.effect,
                "interval": finding.interval,
                "detectable_nats_per_item": finding.detectable if math.isfinite(finding.detectable) else None,
                "confounds": [one._asdict() for one in warned],
                "shuffles": options.shuffles,
                "seed": options.seed,
                "separator": options.separator,
                "shards": [
                    {
                        "lines": [published.lines[s.first], published.lines[s.first + s.items - 1]],
                        "items": s.items,
                        "published": s.published,
                        "shuffled": s.shuffled,
                        "difference": s.difference,
                    }
                    for s in finding.shards
                ],
            }
        )
    )
