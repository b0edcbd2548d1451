"""A planned page of the sample: what is on the wire, and what should become of it."""

from dataclasses import dataclass, field
from html import escape
from random import Random
from typing import Any

from pipeline.sample.prose import bank, topics

DUMPS = ("CC-MAIN-2024-10", "CC-MAIN-2024-22")

LAYOUTS = (0, 1, 2, 3, 0, 1, 2, 4)
"""Layouts of the sites in turn. The last is a table, which some engines take for data: it stays rare."""


@dataclass(slots=True)
class Page:
    """One content record before it is written. `body` is the HTTP body as stored, after any encoding."""

    kind: str
    url: str
    body: bytes
    language: str = "en"
    expect: str = "kept"
    reasons: tuple[str, ...] = ()
    status_line: str = "HTTP/1.1 200 OK"
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Content-Type", "text/html; charset=utf-8")])
    newline: bytes = b"\r\n"
    truncated: bool = False
    dump: str = ""
    must_contain: list[str] = field(default_factory=list)
    must_not_contain: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        """The declared media type in lower case, `no-type` without one (as ARC files write it)."""
        for name, value in self.headers:
            if name.lower() == "content-type":
                return value.partition(";")[0].strip().lower()
        return "no-type"

    def http(self) -> bytes:
        """The HTTP response as stored in the archive: status line, headers, blank line, body."""
        headers = list(self.headers)
        if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
            headers.append(("Content-Length", str(len(self.body))))
        lines = [self.status_line, *(f"{name}: {value}" for name, value in headers)]
        return self.newline.join([*(line.encode("latin-1") for line in lines), b"", b""]) + self.body


@dataclass(frozen=True, slots=True)
class Site:
    """A host with its theme: topic, menu, footer and layout, the same on all its pages."""

    host: str
    name: str
    topic: str
    menu: tuple[str, ...]
    footer: str
    layout: int


def site(seed: int, index: int) -> Site:
    """Site number `index` of the sample."""
    random = Random(f"{seed}/site/{index}")
    words = bank("sites")
    topic = topics()[index % len(topics())]
    first, second = random.choice(words["first"]), random.choice(words["second"])
    tld = random.choice(("example", "example", "example", "test", "example.org"))
    name = f"{first.capitalize()} {second.capitalize()}"
    footer = f"Copyright {random.randrange(2009, 2024)} {name}. " + random.choice(words["footers"])
    menu = tuple(random.sample(words["menu"], random.randint(6, 10)))
    prefix = random.choice(("www.", "", "blog.", ""))
    return Site(f"{prefix}{first}{second}{index}.{tld}", name, topic, menu, footer, LAYOUTS[index % len(LAYOUTS)])


def paragraphs(texts: list[str]) -> str:
    """`<p>` elements, escaped."""
    return "\n".join(f"<p>{escape(text, quote=False)}</p>" for text in texts)


def bullets(items: list[str], tag: str = "ul") -> str:
    """A list element, escaped."""
    return f"<{tag}>\n" + "\n".join(f"<li>{escape(item, quote=False)}</li>" for item in items) + f"\n</{tag}>"


def slug(text: str) -> str:
    """The letters and digits of a title for use in a URL."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())[:60].strip("-")


def document(home: Site, title: str, main: str, language: str = "en", head: str = "", charset: str = "utf-8") -> str:
    """A whole HTML page in the layout of the site: menu before the main part, side column or footer after it."""
    links = "\n".join(f'<li><a href="/{slug(entry)}/">{escape(entry)}</a></li>' for entry in home.menu)
    nav = f'<nav class="menu" role="navigation"><ul>\n{links}\n</ul></nav>'
    footer = f'<footer class="footer"><p>{escape(home.footer)}</p></footer>'
    side = "".join(f'<li><a href="/more/{i}">{escape(entry)} archive</a></li>' for i, entry in enumerate(home.menu[:4]))
    aside = f'<aside class="sidebar"><h4>More</h4><ul>{side}</ul></aside>'
    heading = f"<h1>{escape(title)}</h1>"
    match home.layout:
        case 0:
            body = f"<header>{nav}</header>\n<main><article>\n{heading}\n{main}\n</article></main>\n{aside}\n{footer}"
        case 1:
            body = f'<div id="top">{nav}</div><div id="content" class="post">{heading}\n{main}\n</div>{aside}{footer}'
        case 2:
            body = (
                f'<div class="wrapper"><div class="header"><a href="/">{escape(home.name)}</a></div>{nav}\n'
                f'<div class="main-column"><div class="entry-content">{heading}\n{main}</div></div>{footer}</div>'
            )
        case 3:
            body = (
                f'<header><a href="/">{escape(home.name)}</a>{nav}</header><article class="story"><header>{heading}'
                f'</header><div class="article-body">{main}</div></article>{footer}'
            )
        case _:
            rows = " | ".join(f'<a href="/{slug(entry)}.html">{escape(entry)}</a>' for entry in home.menu)
            body = (
                f'<table width="100%"><tr><td class="nav">{rows}</td></tr>\n'
                f'<tr><td class="text">{heading}\n{main}</td></tr>'
                f"</table><hr>{footer}"
            )
    meta = f'<meta charset="{charset}">\n' if charset else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n{meta}'
        f"<title>{escape(title)} - {escape(home.name)}</title>\n{head}</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
