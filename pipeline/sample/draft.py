"""The desk on which a page is written: its own random state, its site, its language."""

import re
from html import unescape
from random import Random
from typing import Any
from zlib import crc32

from pipeline.sample.layouts import Main
from pipeline.sample.page import Page, Site, document, site, slug
from pipeline.sample.prose import English, Foreign

N_SITES = 64

_TAGS = re.compile(r"<[^>]+>")


class Draft:
    """Everything that the builder of one page needs. `index` counts the pages of one kind."""

    def __init__(self, seed: int, kind: str, index: int):
        self.seed, self.kind, self.index = seed, kind, index
        self.random = Random(f"{seed}/{kind}/{index}")
        self.site: Site = site(seed, self.random.randrange(N_SITES))
        self.english = English(self.random, self.site.topic)

    def foreign(self, language: str) -> Foreign:
        """A writer of another language."""
        return Foreign(self.random, language)

    def other_sites(self, n: int) -> list[Site]:
        """`n` different sites, none of them `self.site`."""
        chosen = [site(self.seed, i) for i in self.random.sample(range(N_SITES), n + 1)]
        return [other for other in chosen if other != self.site][:n]

    def url(self, title: str, home: Site | None = None) -> str:
        """An address in one of the shapes that real sites use, of its own for each kind and index."""
        random = self.random
        number = crc32(f"{self.kind}/{self.index}".encode())
        key = f"{slug(title) or 'page'}-{number}"
        host = (home or self.site).host
        path = random.choice(
            (f"/{key}", f"/{key}.html", f"/{random.randrange(2010, 2024)}/{random.randrange(1, 13):02d}/{key}/",
             f"/articles/{key}", f"/index.php?page={key}", f"/node/{key}")
        )  # fmt: skip
        return f"{random.choice(('https', 'https', 'http'))}://{host}{path}"

    def page(self, main: Main, home: Site | None = None, **fields: Any) -> Page:
        """A page in the layout of the site. Two sentences must survive extraction, menu and footer must not."""
        home = home or self.site
        fields.setdefault("language", "en")
        html = document(home, main.title, main.html, fields["language"])
        fields.setdefault("body", html.encode("utf-8"))
        fields.setdefault("must_contain", snippets(self.random, main.prose))
        fields.setdefault("must_not_contain", [home.footer])
        return Page(self.kind, fields.pop("url", "") or self.url(main.title, home), **fields)


def snippets(random: Random, prose: list[str], n: int = 2) -> list[str]:
    """`n` passages of 60 characters at most, cut at word boundaries, one a paragraph."""
    found = []
    for text in random.sample(prose, min(n, len(prose))):
        found.append(text if len(text) <= 60 or " " not in text else text[:60].rsplit(" ", 1)[0])
    return found


def visible(html: str) -> str:
    """The text between the tags: enough for checks on pages that this package wrote itself."""
    return " ".join(unescape(_TAGS.sub(" ", html)).split())
