"""Corpora with known near-duplicates, made from real texts by edits: pairs of graded similarity, and whole corpora.

    python -m benchmarks.dedup_corpus FOLDER --documents 100000
    python -m benchmarks.dedup_corpus FOLDER --members 200000 --singles 200000

Similarity is the Jaccard similarity of word 5-grams after the project's normalisation, counted here with Python sets and
with nothing of the code under test but the normalisation. Everything is a function of the seed and the texts.

The texts are those in the folder that `CRAWLMILL_DATA` names: film reviews, the Brown corpus, news, books, and the gold
texts of the extraction sets.
"""

import argparse
import bz2
import gzip
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dedup.normalise import folded, unspaced

ROOT = Path(__file__).resolve().parent.parent
LEVELS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
NGRAM = 5
Word = TypeVar("Word")
TRUE = 0.75  # pairs at least so similar stand in the truth of a corpus


class Pair(NamedTuple):
    """Two texts, the similarity that was aimed at, and the one that came out."""

    left: str
    right: str
    level: float
    jaccard: float


class Document(NamedTuple):
    """One document of a corpus. Those of one group were made from one base; a single is a group of its own."""

    id: str
    text: str
    group: int


def data_folder() -> Path:
    """Where the real texts are."""
    return Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))


class _Forms(dict[int, str]):
    """What the normalisation makes of each character, found as it is met."""

    def __missing__(self, point: int) -> str:
        form = folded(chr(point))
        self[point] = f" {form} " if form in unspaced() else form
        return self[point]


_FORMS = _Forms()


def words(text: str) -> list[str]:
    """The normalised words of a text: what `normalise.words` gives, faster."""
    return text.translate(_FORMS).split()


def ngrams(words: Sequence[Word]) -> set[tuple[Word, ...]]:
    """The distinct word 5-grams; a shorter text is one n-gram, an empty one has none."""
    if len(words) < NGRAM:
        return {tuple(words)} if words else set()
    return set(zip(*(words[k:] for k in range(NGRAM)), strict=False))


def jaccard(left: set[Any], right: set[Any]) -> float:
    """Shared over all; 0 for two empty sets."""
    shared = len(left & right)
    return shared / max(1, len(left) + len(right) - shared)


# ---- real texts


def base_texts(folder: Path | None = None, least: int = 200, most: int = 1500, shared: float = 0.05) -> list[str]:
    """Real texts of `least` to `most` words, of which none shares more than `shared` of its 5-grams with those before."""
    texts, seen = [], {}
    for text in _real_texts(folder or data_folder()):
        for piece in _pieces(text, most):
            found = words(piece)
            if len(found) < least:
                continue
            grams = {zlib.crc32(" ".join(gram).encode()) for gram in ngrams(found)}  # few enough to take 32 bits
            met = Counter(seen[gram] for gram in grams if gram in seen)
            if met and met.most_common(1)[0][1] > shared * len(grams):
                continue
            seen.update(dict.fromkeys(grams, len(texts)))
            texts.append(piece)
    return texts


def _pieces(text: str, most: int) -> Iterator[str]:
    """Long texts in pieces of `most` words, each ending where a line ends if one does in its last third."""
    while True:
        ends = [match.end() for match in re.finditer(r"\S+\s*", text)]
        if len(ends) <= most:
            yield text.strip()
            return
        cut = text.rfind("\n", ends[most * 2 // 3], ends[most - 1])
        cut = cut if cut > 0 else ends[most - 1]
        yield text[:cut].strip()
        text = text[cut:]


def _real_texts(folder: Path) -> Iterator[str]:
    labelled, gold = folder / "labelled", folder / "gold"
    with zipfile.ZipFile(labelled / "text" / "nltk_movie_reviews.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                yield archive.read(name).decode("utf-8", "replace")
    for name in ("articles_1000.train.gz",):
        with gzip.open(labelled / "neardup" / name, "rt", encoding="utf-8") as lines:
            yield from (line.split(" ", 1)[1] for line in lines if " " in line)
    for name in ("wcxb", "dragnet", "cleaneval_final", "scrapinghub_aeb"):
        with gzip.open(gold / f"{name}.gold.jsonl.gz", "rt", encoding="utf-8") as lines:
            yield from (re.sub(r"</?\w[^>]*>", "", json.loads(line).get("gold_text") or "") for line in lines)
    with zipfile.ZipFile(labelled / "text" / "nltk_brown.zip") as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                tagged = archive.read(name).decode("utf-8", "replace")
                lines = (" ".join(word.rsplit("/", 1)[0] for word in line.split()) for line in tagged.splitlines())
                yield from _in_pages("\n".join(line for line in lines if line), 900)
    for path in sorted((labelled / "text").glob("gutenberg_*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as book:
            yield from _in_pages(book.read(), 900)
    for path in sorted((labelled / "wiki").glob("gensim_enwiki*.bz2")):
        with bz2.open(path, "rt", encoding="utf-8") as dump:
            yield from (_unmarked(body) for body in re.findall(r"<text[^>]*>(.*?)</text>", dump.read(), re.S))


def _in_pages(text: str, words: int) -> Iterator[str]:
    yield from _pieces(text, words)


def _unmarked(wiki: str) -> str:
    """Wiki text without most of its marks; good enough to edit, not to read."""
    wiki = re.sub(r"&lt;.*?&gt;|\{\{[^{}]*\}\}|\[\[(?:File|Image|Category):.*?\]\]", " ", wiki, flags=re.S)
    return re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]|'{2,}|={2,}|https?://\S+", r"\1", wiki)


# ---- texts as tokens


class Vocabulary:
    """Tokens of texts as integers. A token is a word with the white space after it, so that tokens joined are the text."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self._known: dict[str, int] = {}
        self._words: list[tuple[int, ...]] = []  # of each token, after normalisation: none, one, or a few
        self._word_ids: dict[str, int] = {}

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32; white space becomes one blank or one newline."""
        return np.fromiter(
            (self._token(word + ("\n" if "\n" in space else " ")) for word, space in re.findall(r"(\S+)(\s*)", text)),
            np.int32,
        )

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens."""
        return "".join(map(self.tokens.__getitem__, tokens)).rstrip()

    def ngrams(self, tokens: np.ndarray) -> set[tuple[int, ...]]:
        """The distinct 5-grams of the normalised words of tokens."""
        return ngrams([word for token in tokens.tolist() for word in self._words[token]])

    def ends_sentence(self) -> np.ndarray:
        """For every token, whether a sentence or a line ends with it."""
        return np.array([token.rstrip().endswith((".", "!", "?")) or "\n" in token for token in self.tokens])

    def _token(self, token: str) -> int:
        if token not in self._known:
            self._known[token] = len(self.tokens)
            self.tokens.append(token)
            self._words.append(tuple(self._word_ids.setdefault(word, len(self._word_ids)) for word in words(token)))
        return self._known[token]


class Sentences(NamedTuple):
    """Sentences of all texts, flat: `tokens[starts[i]:starts[i + 1]]` is one."""

    tokens: np.ndarray
    starts: np.ndarray

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self.tokens[self.starts[i] : self.starts[i + 1]]


def sentences(documents: Sequence[np.ndarray], vocabulary: Vocabulary, most: int = 60) -> Sentences:
    """The sentences of documents, cut after `most` tokens."""
    tokens = np.concatenate(documents)
    last = vocabulary.ends_sentence()[tokens]
    last[np.cumsum([len(document) for document in documents]) - 1] = True
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate(([0], ends[:-1]))
    cuts = [np.arange(start, end, most) for start, end in zip(starts, ends, strict=True)]
    return Sentences(tokens, np.concatenate([*cuts, [len(tokens)]]))


# ---- edits


class Edits(NamedTuple):
    """Edits of one text in the order of their use: at `places`, `removed` tokens go and those of `inserted` come."""

    places: np.ndarray
    removed: np.ndarray
    inserted: list[np.ndarray]

    def apply(self, tokens: np.ndarray, first: int) -> np.ndarray:
        """The tokens after the first so many edits; an edit inside a stretch already removed is left out."""
        pieces, at = [], 0
        for k in np.argsort(self.places[:first], kind="stable"):
            if self.places[k] >= at:
                pieces += [tokens[at : self.places[k]], self.inserted[k]]
                at = int(self.places[k] + self.removed[k])
        return np.concatenate([*pieces, tokens[at:]])


def draw_edits(tokens: np.ndarray, n: int, pool: Sentences, random: np.random.Generator, whole: float) -> Edits:
    """`n` edits at random places: a word or, with probability `whole`, a sentence replaced, inserted or deleted."""
    places = random.integers(0, len(tokens), n)
    kinds = random.integers(0, 3, n)  # replace, insert, delete
    long = random.random(n) < whole
    lengths = np.where(long, random.integers(8, 20, n), 1)
    words = random.integers(0, len(pool.tokens), n)
    others = random.integers(0, len(pool.starts) - 1, n)
    inserted = [
        pool.tokens[:0] if kind == 2 else pool[other] if line else pool.tokens[word : word + 1]
        for kind, line, word, other in zip(kinds, long, words, others, strict=True)
    ]
    return Edits(places, np.where(kinds == 1, 0, lengths), inserted)


def edit_to(
    tokens: np.ndarray, level: float, vocabulary: Vocabulary, pool: Sentences, random: np.random.Generator
) -> np.ndarray:
    """An edited text whose similarity to the text is as near to `level` as whole edits allow; the best of a few draws."""
    own = vocabulary.ngrams(tokens)
    near: tuple[float, np.ndarray] = (1 - level, tokens)
    lost = (1 - level) / (1 + level)  # of the n-grams on each side, if both are as many; grows nearly evenly with edits
    for _ in range(4):
        edits = draw_edits(tokens, len(tokens) // 4 + 8, pool, random, whole=0.1)
        below, above = len(edits.places) + 1, 0
        n = round(lost * len(tokens) / 8)
        while below - above > 1:
            n = min(max(n, above + 1), below - 1)
            edited = edits.apply(tokens, n)
            similarity = jaccard(own, vocabulary.ngrams(edited))
            near = min(near, (abs(similarity - level), edited), key=lambda found: found[0])
            if near[0] < 0.003:
                return near[1]
            below, above = (n, above) if similarity < level else (below, n)
            n = round(n * lost * (1 + similarity) / max(1e-3, 1 - similarity))
    return near[1]


def graded(texts: Sequence[str], levels: Sequence[float], per_level: int, seed: int) -> list[Pair]:
    """`per_level` pairs for every level, each of a text and an edited copy; texts are taken in turn.

    The similarity of a pair is counted on the whole normalised texts, not on the tokens that were edited.
    """
    vocabulary = Vocabulary()
    documents = [vocabulary.encode(text) for text in texts]
    pool = sentences(documents, vocabulary)
    pairs = []
    for level in levels:
        random = np.random.default_rng([seed, round(level * 1000)])
        for k in range(per_level):
            tokens = documents[k % len(documents)]
            left, right = vocabulary.text(tokens), vocabulary.text(edit_to(tokens, level, vocabulary, pool, random))
            true = jaccard(ngrams(words(left)), ngrams(words(right)))
            pairs.append(Pair(left, right, level, true))
    return pairs


# ---- whole corpora


class Corpus:
    """`n` documents: singles, exact copies and graded copies in groups, in an order that says nothing.

    A document is a run of real sentences drawn from all texts (median 350 words, 40 to 3000), so that there can be many
    more documents than texts and no two that were not planted are alike. Of every hundred documents about 15 are exact
    copies and 30 edited copies; an edited copy has a similarity to its base drawn evenly from .5 to .98, and groups grow
    one by one to a geometric size (a quarter of all groups have more than three members).
    """

    def __init__(self, texts: Sequence[str], n: int, seed: int, exact: float = 0.15, edited: float = 0.3):
        self._vocabulary = Vocabulary()
        self._pool = sentences([self._vocabulary.encode(text) for text in texts], self._vocabulary)
        self._random = np.random.default_rng([seed, 1])
        self.n = n
        plan = np.random.default_rng([seed, 2])
        n_edited, n_exact = round(n * edited), round(n * exact)
        sizes = plan.geometric(0.5, n_edited)  # edited copies of a base
        sizes = sizes[: np.searchsorted(np.cumsum(sizes), n_edited) + 1]
        sizes[-1] -= sizes.sum() - n_edited
        n_groups = n - n_edited - n_exact
        self._edited = np.concatenate((sizes, np.zeros(n_groups - len(sizes), np.int64)))
        self._exact = np.bincount(plan.integers(0, n_groups, n_exact), minlength=n_groups)
        self._numbers = plan.permutation(n)

    def groups(self) -> Iterator[tuple[list[Document], list[tuple[str, str, float]]]]:
        """The documents of each group, and its pairs with their similarity where that is TRUE or more."""
        at = 0
        for group, (n_edited, n_exact) in enumerate(zip(self._edited, self._exact, strict=True)):
            base = self._page()
            versions = [base, *(self._copy(base) for _ in range(n_edited))]
            versions += [versions[k] for k in self._random.integers(0, len(versions), n_exact)]
            grams = [self._vocabulary.ngrams(version) for version in versions] if len(versions) > 1 else []
            ids = [f"d{number:09d}" for number in self._numbers[at : at + len(versions)]]
            at += len(versions)
            pairs = []
            for i in range(len(grams)):
                for j in range(i):
                    similarity = jaccard(grams[i], grams[j])
                    if similarity >= TRUE:
                        pairs.append((min(ids[i], ids[j]), max(ids[i], ids[j]), similarity))
            documents = zip(ids, versions, strict=True)
            yield [Document(name, self._vocabulary.text(tokens), group) for name, tokens in documents], pairs

    def _page(self) -> np.ndarray:
        return page(self._pool, self._random)

    def _copy(self, base: np.ndarray) -> np.ndarray:
        level = self._random.uniform(0.5, 0.98)
        # A word that changes takes five n-grams and brings as many (an insertion four and five, a deletion five and four).
        n = max(1, round(len(base) * (1 - level) / (1 + level) / NGRAM))
        return draw_edits(base, n, self._pool, self._random, whole=0.02).apply(base, n)


def page(pool: Sentences, random: np.random.Generator) -> np.ndarray:
    """A page of sentences drawn at random."""
    length = float(np.clip(random.lognormal(np.log(350), 0.8), 40, 3000))
    mean = len(pool.tokens) / (len(pool.starts) - 1)
    parts = [pool[i] for i in random.integers(0, len(pool.starts) - 1, int(length / mean) + 4)]
    return np.concatenate(parts)


def planted(texts: Sequence[str], n_members: int, n_singles: int, seed: int) -> Iterator[Document]:
    """One page in `n_members` versions, each with one to three words of its own, among `n_singles` pages, mixed."""
    vocabulary = Vocabulary()
    pool = sentences([vocabulary.encode(text) for text in texts], vocabulary)
    random = np.random.default_rng([seed, 3])
    base = np.concatenate([pool[i] for i in random.integers(0, len(pool.starts) - 1, 25)])
    for number, member in enumerate(random.permutation(n_members + n_singles) < n_members):
        if member:
            tokens = base.copy()
            places = random.integers(0, len(base), random.integers(1, 4))
            tokens[places] = pool.tokens[random.integers(0, len(pool.tokens), len(places))]
        else:
            tokens = page(pool, random)
        yield Document(f"d{number:09d}", vocabulary.text(tokens), 0 if member else number + 1)


# ---- files


def write(documents: Iterable[Document], folder: Path, files: int = 8, jsonl: bool = True) -> int:
    """Writes `parquet/*.parquet` and `jsonl/*.jsonl` with columns id and text; returns how many documents."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    for name in ("parquet", "jsonl"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tables = [pq.ParquetWriter(folder / "parquet" / f"part-{k:03d}.parquet", schema) for k in range(files)]
    lines = (
        [(folder / "jsonl" / f"part-{k:03d}.jsonl").open("w", encoding="utf-8") for k in range(files)] if jsonl else []
    )
    n = 0
    waiting: list[list[Document]] = [[] for _ in range(files)]

    def flush(k: int) -> None:
        rows = waiting[k]
        tables[k].write_table(pa.table([[d.id for d in rows], [d.text for d in rows]], schema=schema))
        if jsonl:
            lines[k].writelines(json.dumps({"id": d.id, "text": d.text}, ensure_ascii=False) + "\n" for d in rows)
        rows.clear()

    for document in documents:
        k = int(document.id[1:]) % files
        waiting[k].append(document)
        n += 1
        if len(waiting[k]) == 2000:
            flush(k)
    for k in range(files):
        if waiting[k]:
            flush(k)
        tables[k].close()
    for file in lines:
        file.close()
    return n


def write_corpus(texts: Sequence[str], n: int, seed: int, folder: Path) -> None:
    """Writes a corpus, and `truth.parquet`: the planted pairs (a, b, jaccard) whose similarity is TRUE or more."""
    pairs: list[tuple[str, str, float]] = []

    def documents() -> Iterator[Document]:
        for group, found in Corpus(texts, n, seed).groups():
            pairs.extend(found)
            yield from group

    write(documents(), folder)
    columns = list(zip(*sorted(pairs), strict=True)) or [(), (), ()]
    schema = pa.schema([("a", pa.string()), ("b", pa.string()), ("jaccard", pa.float64())])
    pq.write_table(pa.table([list(column) for column in columns], schema=schema), folder / "truth.parquet")


def main() -> None:
    """Writes a corpus to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, help="a corpus of so many documents with graded copies")
    parser.add_argument("--members", type=int, default=0, help="instead, one page in so many versions ...")
    parser.add_argument("--singles", type=int, default=0, help="... among so many other pages")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    texts = base_texts()
    if options.documents:
        write_corpus(texts, options.documents, options.seed, options.folder)
    else:
        write(planted(texts, options.members, options.singles, options.seed), options.folder)


if __name__ == "__main__":
    main()
