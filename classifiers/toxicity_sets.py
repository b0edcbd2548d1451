"""Sets labelled for toxicity, and clean text beside them, as examples of one kind in three parts that share nothing.

The sets lie in a folder of data: `labelled/toxicity/*.jsonl.gz`, `labelled/text`, `labelled/wiki`, `labelled/langid` and
`crawl`. Which column is the text and what counts as toxic is said here for each. Texts lose what only tweets and forum
dumps have and no extracted page (entities, @names, addresses, `RT`), so that none of it can tell the sets apart.

Rows that belong together get one group (variants of a template, one author's posts, tweets that begin or end alike), and
the part is a hash of the group: half of them `train`, a tenth `development`, the rest `test`.
"""

import gzip
import hashlib
import html
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

from classifiers.sentences import sentences
from pipeline.errors import InputError
from pipeline.extraction import extract_fast
from pipeline.sources.archive import read_archive
from pipeline.sources.charset import decode_text
from pipeline.sources.http import decode_body
from pipeline.sources.records import MAX_PAYLOAD, Record

LABELLED = (
    "davidson",
    "germeval2018_train",
    "hatecheck",
    "jigsaw_sample",
    "mhc_de_es_fr_zh_ar",
    "olid_train",
    "surge_toxicity",
    "toxic_spans_train",
    "toxigen_prompts",
    "unintended_bias_nonfuzzed",
    "vicomtech_train",
)
UNSEEN = ("jigsaw_sample", "surge_toxicity")
"""Small sets of which nothing is trained on: all their rows are `test`."""
_EDGE = 8
"""Words at the beginning or end that make two texts of a set one group."""
_BOOKS = ("gutenberg_1661", "gutenberg_345", "gutenberg_972", "gutenberg_16595", "tinyshakespeare")
_BOOK_LINES = 200
_PAGE_SENTENCES = 8
_PAGE_WORDS = 250
_SHORT = 25
"""Characters of a short line: a label, a name, an ingredient."""
_GENRES = {
    "ca": "news",
    "cb": "news",
    "cc": "news",
    "cd": "religion",
    "ce": "hobbies",
    "cf": "lore",
    "cg": "letters",
    "ch": "government",
    "cj": "learned",
}  # the rest of Brown is fiction: https://www.nltk.org/book/ch02.html, table 2.1
_URL = re.compile(r"(?:https?://|www\.)\S+|\bURL\b")
_NAME = re.compile(r"(?:\bRT\s+)?[@＠][\w.-]+:?|\bRT\b")
_LETTERS = re.compile(r"\w+")
_MARKUP = re.compile(r"==+|''+|``|\[\[|\]\]|NEWLINE_TOKEN|TAB_TOKEN|<[^<>]{1,80}>")


class Example(NamedTuple):
    """`source`: name of the set; `slice`: functionality, genre, host or the like; `identity`: whom it is about."""

    source: str
    text: str
    toxic: bool
    group: str
    language: str = "en"
    slice: str = ""
    identity: str = ""

    @property
    def part(self) -> str:
        """`train`, `development` or `test`."""
        return "test" if self.source in UNSEEN else part(self.group)


def part(group: str) -> str:
    """Where everything of a group goes: 5 tenths to `train`, 1 to `development`, 4 to `test`."""
    tenth = int.from_bytes(hashlib.blake2b(group.encode("utf-8", "replace"), digest_size=8).digest()) % 10
    return "train" if tenth < 5 else "development" if tenth == 5 else "test"


def cleaned(text: str) -> str:
    """A tweet or comment as it would stand in an extracted page: entities resolved, @names, addresses and markup gone."""
    text = html.unescape(html.unescape(text))
    for pattern in (_URL, _NAME, _MARKUP):
        text = pattern.sub(" ", text)
    return " ".join(text.replace("#", " ").split())


def labelled(folder: Path, names: Iterable[str] = LABELLED) -> list[Example]:
    """All examples of the labelled sets. Raises InputError for a set that is not there or has other columns."""
    found: list[Example] = []
    for name in names:
        path = folder / "labelled" / "toxicity" / f"{name}.jsonl.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            examples = [e for e in _READERS[name](rows) if e.text]
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} has not the columns of {name}: {error}") from error
        found += _grouped(examples)
    return _distinct(found)


def background(folder: Path, pages: bool = True) -> list[Example]:
    """Clean sentences: encyclopaedia, books, genres of the Brown corpus, news in 75 languages, and pages of the crawl.

    Nobody has labelled them; the caller leaves out sentences that hold listed words. Raises InputError.
    """
    base = folder / "labelled"
    try:
        found = [
            *_encyclopaedia(base / "wiki"),
            *_books(base / "text"),
            *_brown(base / "text"),
            *_news(base / "langid"),
        ]
        if pages:
            for page in crawl(folder):
                found += page_examples(page)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the clean text under {folder}: {error}") from error
    return _distinct(found)


class Page(NamedTuple):
    """A page of the crawl: `id` file:offset, `dataset`, `host`, declared `language` or empty, extracted `text`."""

    id: str
    dataset: str
    host: str
    language: str
    text: str


def crawl(folder: Path) -> Iterator[Page]:
    """The pages of `crawl` that have text, in order, extracted by the fast engine."""
    with gzip.open(folder / "crawl" / "index.jsonl.gz", "rt", encoding="utf-8") as file:
        index = {(row["file"], row["offset"]): row for row in map(json.loads, file)}
    for path in sorted((folder / "crawl").glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in read_archive(file, path.name):
                if not isinstance(record, Record) or (path.name, record.offset) not in index:
                    continue
                row = index[path.name, record.offset]
                body = decode_body(record.payload, record.http_headers, MAX_PAYLOAD).content
                text = extract_fast(decode_text(body, row["content_type"]).text).text
                if text.strip():
                    host = urlsplit(row["url"]).hostname or ""
                    language = re.split("[-_]", row.get("lang") or "")[0].lower()
                    yield Page(f"{path.name}:{record.offset}", row["dataset"], host, language, text)


def page_examples(page: Page) -> list[Example]:
    """A few sentences and short lines of a page, chosen by hash, and one longer piece of its beginning (source `crawl`,
    `crawl_lines` for the short ones); one group for each host."""
    _, starts, ends = sentences(pa.array([page.text], pa.large_string()))
    parts = {page.text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)}
    chosen = sorted(parts, key=lambda s: hashlib.blake2b(s.encode("utf-8", "replace"), digest_size=8).digest())
    texts = [*[t for t in chosen if len(t) > _SHORT][:_PAGE_SENTENCES], " ".join(page.text.split()[:_PAGE_WORDS])]
    lines = [t for t in chosen if len(t) <= _SHORT][:_PAGE_SENTENCES]
    return [
        Example(source, t, False, f"crawl:{page.host}", page.language, page.dataset)
        for source, of in (("crawl", texts), ("crawl_lines", lines))
        for t in of
    ]


def _distinct(examples: list[Example]) -> list[Example]:
    """The first example of each text, by its letters; later ones with it are left out, whatever their set and label."""
    seen: set[str] = set()
    kept = []
    for example in examples:
        key = " ".join(_LETTERS.findall(example.text.lower()))
        if key and key not in seen:
            seen.add(key)
            kept.append(example)
    return kept


def _grouped(examples: list[Example]) -> list[Example]:
    """Groups of examples that begin or end with the same words made one, so that near-copies share a part."""
    above: dict[str, str] = {}

    def root(key: str) -> str:
        while above.setdefault(key, key) != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    for example in examples:
        keys = [example.group]
        words = _LETTERS.findall(example.text.lower())
        if len(words) >= _EDGE:
            keys += [
                f"{example.source}\0^" + " ".join(words[:_EDGE]),
                f"{example.source}\0$" + " ".join(words[-_EDGE:]),
            ]
        roots = sorted({root(key) for key in keys})
        for other in roots[1:]:
            above[other] = roots[0]
    return [e._replace(group=root(e.group)) for e in examples]


def _davidson(rows: list[dict[str, Any]]) -> Iterator[Example]:
    kinds = {"0": "hate", "1": "offensive", "2": "neither"}
    for row in rows:
        yield Example(
            "davidson", cleaned(row["tweet"]), row["class"] != "2", f"davidson:{row['id']}", slice=kinds[row["class"]]
        )


def _germeval(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for i, row in enumerate(rows):
        text = cleaned(row["text"].replace("|LBR|", " "))
        yield Example("germeval2018", text, row["coarse"] == "OFFENSE", f"germeval:{i}", "de", row["fine"])


def _hatecheck(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        group = f"hatecheck:{row['ref_templ_id'] or row['templ_id']}"
        toxic = row["label_gold"] == "hateful"
        yield Example(
            "hatecheck", cleaned(row["test_case"]), toxic, group, "en", row["functionality"], row["target_ident"]
        )


def _mhc(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        group = f"mhc:{row['lang']}:{row['ref_templ_id'] or row['templ_id']}"
        toxic, text = row["label_gold"] == "hateful", cleaned(row["test_case"])
        yield Example("mhc", text, toxic, group, row["lang"], row["functionality"], row["target_ident"])


def _jigsaw(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for i, row in enumerate(rows):
        yield Example("jigsaw_sample", cleaned(row["comment_text"]), row["toxic"] == "1", f"jigsaw:{i}")


def _olid(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        yield Example(
            "olid", cleaned(row["tweet"]), row["subtask_a"] == "OFF", f"olid:{row['id']}", slice=row["subtask_c"]
        )


def _surge(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for i, row in enumerate(rows):
        yield Example("surge_toxicity", cleaned(row["text"]), row["is_toxic"] == "Toxic", f"surge:{i}")


def _spans(rows: list[dict[str, Any]]) -> Iterator[Example]:
    """Sentences of comments that have marked spans: toxic those with one, clean those without."""
    rows = [row for row in rows if row["spans"]]
    found = sentences(pa.array([row["text"] for row in rows], pa.large_string()))
    for r, a, b in zip(*(column.tolist() for column in found), strict=True):
        marked = sum(a <= at < b for at in rows[r]["spans"])
        if 0 < marked < 3:  # the edge of a span that a boundary cut
            continue
        yield Example("toxic_spans", cleaned(rows[r]["text"][a:b]), marked > 0, f"spans:{r}")


def _toxigen(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        for line in row["prompt"].replace("\\n", "\n").split("\n"):
            text = cleaned(line.strip().removeprefix("-"))
            yield Example("toxigen", text, row["label"] == "hate", f"toxigen:{text}", identity=row["group"])


def _bias(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        yield Example("unintended_bias", cleaned(row["comment"]), row["toxic"] == "True", f"bias:{row['rev_id']}")


def _vicomtech(rows: list[dict[str, Any]]) -> Iterator[Example]:
    for row in rows:
        yield Example("vicomtech", cleaned(row["text"]), row["label"] == "hate", f"vicomtech:{row['user_id']}")


_READERS = {
    "davidson": _davidson,
    "germeval2018_train": _germeval,
    "hatecheck": _hatecheck,
    "jigsaw_sample": _jigsaw,
    "mhc_de_es_fr_zh_ar": _mhc,
    "olid_train": _olid,
    "surge_toxicity": _surge,
    "toxic_spans_train": _spans,
    "toxigen_prompts": _toxigen,
    "unintended_bias_nonfuzzed": _bias,
    "vicomtech_train": _vicomtech,
}


def _encyclopaedia(folder: Path) -> Iterator[Example]:
    for name in ("wikitext2_valid", "wikitext2_test"):
        article = ""
        for line in _lines(folder / f"{name}.txt.gz"):
            text = re.sub(r" @(.)@ ", r"\1", line.replace("<unk>", " ")).strip()
            if re.fullmatch(r"= [^=]+ =", text):
                article = text
            if text and not text.startswith("="):
                for sentence in _split(text):
                    yield Example("wikitext2", sentence, False, f"wikitext2:{article}", slice="encyclopaedia")


def _books(folder: Path) -> Iterator[Example]:
    for name in _BOOKS:
        lines = list(_lines(folder / f"{name}.txt.gz"))
        for at in range(0, len(lines), _BOOK_LINES):
            text = "\n".join(lines[at : at + _BOOK_LINES])
            for paragraph in re.split(r"\n\s*\n", text):
                for sentence in _split(" ".join(paragraph.split())):
                    yield Example("books", sentence, False, f"{name}:{at // _BOOK_LINES}", slice=name)


def _brown(folder: Path) -> Iterator[Example]:
    with zipfile.ZipFile(folder / "nltk_brown.zip") as archive:
        for name in sorted(n for n in archive.namelist() if re.search(r"/c[a-r]\d\d$", n)):
            file = name.rpartition("/")[2]
            for line in archive.read(name).decode("latin-1").splitlines():
                words = [token.rpartition("/")[0] for token in line.split()]
                if words:
                    genre = _GENRES.get(file[:2], "fiction")
                    yield Example("brown", " ".join(words), False, f"brown:{file}", slice=genre)


def _news(folder: Path) -> Iterator[Example]:
    for i, line in enumerate(_lines(folder / "lingua_sentences.jsonl.gz")):
        row = json.loads(line)
        yield Example("lingua", row["text"], False, f"lingua:{row['text'][:60]}:{i}", row["lang"], "news")


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rb") as file:
        for raw in file:
            try:
                yield raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield raw.decode("latin-1").rstrip("\r\n")


def _split(text: str) -> list[str]:
    _, starts, ends = sentences(pa.array([text], pa.large_string()))
    return [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True) if b - a > 2]
