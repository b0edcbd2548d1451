"""Which pages a sample has, and which file each goes to."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random

from pipeline.sample import layouts, planted, rubbish, wire, worthwhile
from pipeline.sample.draft import Draft, snippets
from pipeline.sample.page import DUMPS, Page

FULL = 1600
"""Content records of the sample that the counts of the kinds add up to; other sizes scale them."""

Builder = Callable[[Draft], list[Page]]

STARTS = {DUMPS[0]: datetime(2024, 2, 20, 21, 10, 55), DUMPS[1]: datetime(2024, 5, 17, 8, 3, 12)}

PARTS = 2
"""Main files of each dump."""

SIDE_FILES = {"plain": 60, "arc": 60, "damaged": 60}
"""Pages in the files that are not main files, in a sample of 1,600."""

FEWEST = 90
"""Articles at least: enough for the side files of the smallest sample."""

ORDINARY = ("article", "news", "forum", "question", "recipe", "shop", "placeholder", "de", "fr", "keyword_spam")
"""Kinds that may go to a side file."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The pages of each file, in order, with their dates; and the file names."""

    main: dict[str, list[Page]]
    side: dict[str, list[Page]]
    wet: list[Page]


def _wet_article(draft: Draft) -> list[Page]:
    """The text of an article as a WET file holds it."""
    texts = layouts.prose_paragraphs(draft.english, 160)
    title = draft.english.title()
    url = draft.url(title)
    body = "\n".join([title, *texts]).encode()
    return [Page("wet_article", url, body, must_contain=snippets(draft.random, texts))]


def _wet_short(draft: Draft) -> list[Page]:
    """A menu and nothing else, as text."""
    body = "\n".join(draft.site.menu).encode()
    return [Page("wet_menu", draft.url("menu"), body, expect="dropped", reasons=("quality", "gates.language"))]


def _wet_foreign(draft: Draft) -> list[Page]:
    """German text."""
    writer = draft.foreign("de")
    body = "\n".join(writer.paragraph() for _ in range(4)).encode()
    url = draft.url(writer.title())
    return [Page("wet_foreign", url, body, language="de", expect="dropped", reasons=("gates.language",))]


WET_KINDS: dict[str, tuple[int, Builder]] = {
    "wet_article": (36, _wet_article),
    "wet_menu": (6, _wet_short),
    "wet_foreign": (8, _wet_foreign),
}


def kinds() -> dict[str, tuple[int, Builder]]:
    """Every kind of the WARC and ARC files with its count in a sample of 1,600 and its builder."""
    foreign = {f"foreign_{lang}": (n, partial(planted.foreign, language=lang)) for lang, n in planted.LANGUAGES.items()}
    return {**worthwhile.KINDS, **planted.KINDS, **foreign, **rubbish.KINDS, **wire.KINDS}


def _build(seed: int, table: dict[str, tuple[int, Builder]], scale: float) -> list[Page]:
    pages = []
    for kind, (count, build) in table.items():
        for index in range(max(1, round(count * scale))):
            pages += build(Draft(seed, kind, index))
    return pages


def plan(seed: int, n_pages: int) -> Plan:
    """The pages of a sample of `n_pages` content records. Articles make up what the other kinds leave open, and there
    is at least one page of each kind: a very small `n_pages` gives more than was asked for.
    """
    scale = n_pages / FULL
    table = kinds()
    _, article = table.pop("article")
    pages, wet = _build(seed, table, scale), _build(seed, WET_KINDS, scale)
    missing = max(FEWEST, n_pages - len(pages) - len(wet))
    pages += _build(seed, {"article": (missing, article)}, 1.0)
    Random(f"{seed}/order").shuffle(pages)
    unique_addresses(pages)

    side: dict[str, list[Page]] = {}
    for name, count in SIDE_FILES.items():
        wanted = max(24, round(count * scale))
        chosen = [p for p in pages if p.kind in ORDINARY and not p.dump][:wanted]
        taken = set(map(id, chosen))
        pages = [p for p in pages if id(p) not in taken]
        side[name] = chosen
    main: dict[str, list[Page]] = {f"{dump}-{part:05d}": [] for dump in DUMPS for part in range(PARTS)}
    names = list(main)
    for i, page in enumerate(pages):
        fitting = [name for name in names if name.startswith(page.dump)]
        main[fitting[i % len(fitting)]].append(page)
    return Plan(main, side, wet)


def unique_addresses(pages: list[Page]) -> None:
    """Raises ValueError where two pages share an address without being meant to."""
    seen: set[tuple[str, str]] = set()
    for page in pages:
        if (page.url, page.dump) in seen:
            raise ValueError(f"two pages of the sample have the address {page.url}")
        seen.add((page.url, page.dump))


def dates(seed: int, name: str, dump: str, n: int) -> list[datetime]:
    """`n` crawl dates in order, seconds to minutes apart."""
    random = Random(f"{seed}/dates/{name}")
    now, found = STARTS[dump] + timedelta(seconds=random.randrange(90_000)), []
    for _ in range(n):
        now += timedelta(seconds=random.randrange(1, 240))
        found.append(now)
    return found
