"""Kinds of pages that the default recipe should keep."""

from pipeline.sample import layouts
from pipeline.sample.draft import Draft
from pipeline.sample.layouts import Main
from pipeline.sample.page import Page, paragraphs


def article(draft: Draft) -> list[Page]:
    """A plain article."""
    return [draft.page(layouts.article(draft.english))]


def news(draft: Draft) -> list[Page]:
    """A short report with dateline and published date in the head."""
    english, random = draft.english, draft.random
    main = layouts.article(english, words=110)
    date = f"20{random.randrange(10, 24)}-{random.randrange(1, 13):02d}-{random.randrange(1, 28):02d}"
    html = (
        f'<p class="byline">By {english.decks["name"].draw()}, <time datetime="{date}">{date}</time></p>\n{main.html}'
    )
    return [draft.page(Main(main.title, html, main.prose), notes={"date_published": date})]


def forum(draft: Draft) -> list[Page]:
    """A thread."""
    return [draft.page(layouts.thread(draft.english))]


def question(draft: Draft) -> list[Page]:
    """A question and its answers."""
    return [draft.page(layouts.question(draft.english))]


def documentation(draft: Draft) -> list[Page]:
    """A manual page whose code has no curly braces. Its code must survive extraction line by line."""
    main, code = layouts.documentation(draft.english)
    return [draft.page(main, notes={"code": code})]


def mathematics(draft: Draft) -> list[Page]:
    """An article with formulas."""
    main, formulas = layouts.mathematics(draft.english)
    return [draft.page(main, notes={"formulas": formulas})]


def data_table(draft: Draft) -> list[Page]:
    """An article around a table."""
    main, cells = layouts.data_table(draft.english)
    return [draft.page(main, notes={"cells": cells})]


def recipe(draft: Draft) -> list[Page]:
    """A dish."""
    return [draft.page(layouts.recipe(draft.english))]


def listicle(draft: Draft) -> list[Page]:
    """An article whose points are list items."""
    return [draft.page(layouts.listicle(draft.english))]


def plain_text(draft: Draft) -> list[Page]:
    """An article served as text/plain, one paragraph a line."""
    texts = layouts.prose_paragraphs(draft.english, 180)
    body = (draft.english.title() + ".\n\n" + "\n\n".join(texts) + "\n").encode("utf-8")
    page = draft.page(Main(draft.english.title(), "", texts), body=body, must_not_contain=[])
    page.headers = [("Content-Type", "text/plain; charset=utf-8")]
    return [page]


def xhtml(draft: Draft) -> list[Page]:
    """An article served as application/xhtml+xml with an XML declaration."""
    page = draft.page(layouts.article(draft.english))
    page.body = b'<?xml version="1.0" encoding="utf-8"?>\n' + page.body.replace(b"<hr>", b"<hr/>")
    page.headers = [("Content-Type", "application/xhtml+xml; charset=utf-8")]
    return [page]


def large(draft: Draft) -> list[Page]:
    """An article in a page of 1.2 to 1.8 MB: the rest is style, script and a picture as data URI."""
    random = draft.random
    main = layouts.article(draft.english, words=900)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    picture = "".join(random.choices(letters, k=4096)) * random.randrange(150, 220)
    rules = "".join(f".c{i} {{ margin: {i % 17}px; color: #{i * 7919 % 0xFFFFFF:06x}; }}\n" for i in range(6000))
    script = "".join(f"var v{i} = [{i}, {i * i}];\n" for i in range(12000))
    html = (
        f"<style>{rules}</style><script>{script}</script>{paragraphs(main.prose[:1])}"
        f'<img alt="A view" src="data:image/png;base64,{picture}">{paragraphs(main.prose[1:])}'
    )
    return [draft.page(Main(main.title, html, main.prose))]


def nested(draft: Draft) -> list[Page]:
    """An article inside a few thousand nested divisions. Parsers with a depth limit lose it."""
    depth = draft.random.randrange(2500, 3500)
    main = layouts.article(draft.english)
    html = "<div>" * depth + main.html + "</div>" * depth
    return [draft.page(Main(main.title, html, main.prose), notes={"depth": depth})]


KINDS = {
    "article": (400, article),
    "news": (50, news),
    "forum": (90, forum),
    "question": (40, question),
    "documentation": (60, documentation),
    "mathematics": (16, mathematics),
    "data_table": (20, data_table),
    "recipe": (40, recipe),
    "listicle": (24, listicle),
    "plain_text": (10, plain_text),
    "xhtml": (10, xhtml),
    "large": (2, large),
    "nested": (2, nested),
}
"""Kind -> (pages in a sample of 1,600, builder)."""
