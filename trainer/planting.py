"""How many copies of a test set a model must have read before the contamination test finds it.

Many sets, each in its own published order, are planted in one training text: some never, some once, some often. One model
trained on it then says at each number of copies how often the test finds a set, and at none how often it accuses wrongly.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import StorageError
from trainer.contamination import LEVEL
from trainer.permutation import key_of, permute
from trainer.shards import dtype_for, index_bytes
from trainer.vocabulary import Vocabulary

END = "<|endoftext|>"


@dataclass(frozen=True)
class Planted:
    """A test set as it was published, and how often its text is put among others."""

    name: str
    copies: int
    texts: tuple[str, ...]


class Level(NamedTuple):
    """Sets of which so many copies were planted: how many there are, how many the test found, the share and its 95 %
    interval (Clopper and Pearson 1934), and the mean effect in nats an item. `uniform` is the p-value of Kolmogorov and
    Smirnov's test that the sets' p-values are uniform, as they are where nothing was planted."""

    copies: int
    sets: int
    found: int
    share: float
    interval: tuple[float, float]
    effect: float
    uniform: float


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> Vocabulary:
    """A byte-level BPE of so many tokens, the last of which ends texts, written to `path`. Raises StorageError."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([END])
    _write(path, made.to_str().encode())
    return Vocabulary(path, END)


def plant(
    folder: Path, vocabulary: Vocabulary, texts: Sequence[str], sets: Sequence[Planted], separator: str, seed: int
) -> tuple[int, int]:
    """Writes a token folder of texts and of all copies of all sets, each copy one document, in one shuffled order. Returns
    tokens in all, and those of copies. Raises StorageError."""
    names = [""] * len(texts) + [s.name for s in sets for _ in range(s.copies)]
    written = {s.name: separator.join(s.texts) for s in sets if s.copies}
    bodies = [np.array([*ids, vocabulary.eos]) for ids in vocabulary.encode([*texts, *written.values()])]
    own = dict(zip(written, bodies[len(texts) :], strict=True))
    documents = [own[name] if name else bodies[n] for n, name in enumerate(names)]
    order = permute(np.arange(len(documents)), len(documents), key_of(seed, "planted"))
    documents = [documents[i] for i in order]
    write_tokens(folder, documents, vocabulary)
    return sum(map(len, documents)), sum(s.copies * len(own[s.name]) for s in sets if s.copies)


def write_tokens(folder: Path, documents: Sequence[np.ndarray], vocabulary: Vocabulary) -> None:
    """A token folder of one shard, as the trainer reads it. Raises StorageError."""
    dtype = dtype_for(vocabulary.size)
    tokens = np.concatenate(documents).astype(dtype)
    files = {".bin": tokens.tobytes(), ".idx": index_bytes(np.array([len(d) for d in documents]), dtype)}
    counts = {"documents": len(documents), "tokens": len(tokens)}
    manifest = {
        "files": {s: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for s, b in files.items()},
        "tokenizer": vocabulary.sha256,
        "dtype": str(dtype),
        **counts,
    }
    about = {
        "sha256": vocabulary.sha256, "vocab_size": vocabulary.size, "eos": vocabulary.eos,
        "eos_token": vocabulary.end, "dtype": str(dtype),
    }  # fmt: skip
    body = {"tokenizer": about, "done": True, "totals": {"shards": 1, "bytes": 0, **counts}}
    for suffix, data in files.items():
        _write(folder / f"shard-00000{suffix}", data)
    _write(folder / "shard-00000.json", json.dumps(manifest).encode())
    _write(folder / "tokenizer.json", vocabulary.raw)
    _write(folder / "tokens.json", json.dumps(body).encode())


def curve(found: Iterable[tuple[int, float, float]], level: float = LEVEL) -> list[Level]:
    """Levels by number of copies, ascending, of (copies, p, effect) of each set."""
    from scipy.stats import kstest

    by_copies: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for copies, p, effect in found:
        by_copies[copies].append((p, effect))
    levels = []
    for copies, rows in sorted(by_copies.items()):
        values = np.array([p for p, _ in rows])
        n, hits = len(rows), int((values < level).sum())
        effect = float(np.mean([effect for _, effect in rows]))
        levels.append(
            Level(copies, n, hits, hits / n, exact_interval(hits, n), effect, float(kstest(values, "uniform").pvalue))
        )
    return levels


def exact_interval(hits: int, n: int, share: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a binomial share."""
    from scipy.stats import beta

    tail = (1 - share) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
