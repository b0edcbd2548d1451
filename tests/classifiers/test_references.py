"""Citations in wikitext: what is found, what is left out, and that no text makes it raise or take long."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.references import BARE, REF, SECTION, TEMPLATE, citation_of, cited, covers, unwrapped
from pipeline.dedup.addresses import canonical_url
from pipeline.sources.inputs import expand
from pipeline.sources.wikipedia import Page, pages, splits


def page(text: str) -> Page:
    return Page("Title", 1, 0, None, 1, "", text)


def found(text: str) -> list[tuple[str, str]]:
    return [(citation.canonical, citation.kind) for citation in cited(page(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<ref>{{cite web |url=http://a.org/x |title=T}}</ref>", [("a.org/x", REF)]),
        ("{{cite book|chapter-url=//a.org/x|url=www.b.org}}", [("a.org/x", TEMPLATE), ("www.b.org", TEMPLATE)]),
        ("{{Internetquelle|url=http://a.de/x|archiv-url=}}", [("a.de/x", TEMPLATE)]),
        ("{{cite web|ссылка=http://a.ru/x}}", [("a.ru/x", TEMPLATE)]),
        ("{{cite web|url=http://a.org/x{{=}}y?a=1&amp;b=2}}", [(canonical_url("http://a.org/x=y?a=1&b=2"), TEMPLATE)]),
        ("{{URL|example.com/a}} {{official website|http://b.org}}", [("example.com/a", TEMPLATE), ("b.org", TEMPLATE)]),
        ("{{infobox|website=[http://a.org T]|x=http://b.org}}", [("a.org", BARE), ("b.org", BARE)]),
        ("see http://a.org/x. And (http://b.org/y).", [("a.org/x", BARE), ("b.org/y", BARE)]),
        ("'''http://c.org'''", [("c.org", BARE)]),
        ("http://a.org/x_(y)", [(canonical_url("http://a.org/x_(y)"), BARE)]),
        ("[http://a.org/{{=}}b T] [https://c.org]", [("a.org/=b", BARE), ("c.org", BARE)]),
        ("<REF name='x' group=n>[http://a.org T]</REF> http://b.org <ref name=x/>", [("a.org", REF), ("b.org", BARE)]),
        ("<!-- http://a.org --><nowiki>http://b.org</nowiki> http://c.org <!-- http://d.org", [("c.org", BARE)]),
        ("<nowiki/>http://a.org <pre>http://b.org</pre><nowiki> http://c.org", [("a.org", BARE), ("c.org", BARE)]),
        ("== External links ==\n* http://a.org\n=== more ===\nhttp://b.org\n== Notes ==\nhttp://c.org",
         [("a.org", SECTION), ("b.org", SECTION), ("c.org", BARE)]),
        ("==Weblinks==\n* {{cite web|url=http://a.de}}<ref>http://b.de</ref>", [("a.de", SECTION), ("b.de", REF)]),
    ],
)  # fmt: skip
def test_what_is_cited_and_where(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[mailto:a@b.org x]", "other_scheme"),
        ("ftp://a.org/x", "other_scheme"),
        ("[https://en.wikipedia.org/wiki/X X] ", "wikimedia"),
        ("https://upload.wikimedia.org/x.jpg", "wikimedia"),
        ("https://archive.today/AbCd1", "archive_without_address"),
        ("https://www.webcitation.org/5xyz", "archive_without_address"),
        (
            "{{cite web|url=http://a.org|archive-url=https://web.archive.org/web/2012/http://a.org|url-status=usurped}}",
            "usurped",
        ),
        ("{{cite web|url=http://a.org/{{PAGENAME}}}}", "no_address"),
        ("[http://a.org/{{PAGENAME}} x]", "no_address"),
        ("http://localhost/x", "no_host"),
        ("http://me:secret@a.org/x", "credentials"),
        ("http://a.org:99999999/x", "no_address"),
        ("http://a.org/" + "x" * 3000, "too_long"),
    ],
)
def test_what_is_left_out_is_counted(text: str, reason: str) -> None:
    dropped: Counter[str] = Counter()
    assert cited(page(text), dropped) == []
    assert dropped[reason] >= 1, dropped


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("https://web.archive.org/web/20120101000000/http://a.org/x?y=1", "http://a.org/x?y=1"),
        ("https://web.archive.org/web/20120101000000id_/https://a.org/x", "https://a.org/x"),
        ("http://wayback.archive.org/web/2012*/http:/a.org/x", "http://a.org/x"),
        ("https://web.archive.org/web/*/www.a.org/x", "http://www.a.org/x"),
        ("https://archive.is/20120101123456/http://a.org/x", "http://a.org/x"),
        ("https://archive.ph/2012.01.01-123456/https://a.org/x", "https://a.org/x"),
        ("http://www.webcitation.org/query?url=http%3A%2F%2Fa.org%2Fx%3Fy%3D1&date=2012-01-01", "http://a.org/x?y=1"),
        ("http://www.webcitation.org/5xyz?url=http://a.org/x", "http://a.org/x"),
        ("http://timetravel.mementoweb.org/memento/2012/http://a.org/x", "http://a.org/x"),
        ("https://webarchive.nationalarchives.gov.uk/ukgwa/20120101000000/http://a.gov.uk/x", "http://a.gov.uk/x"),
        ("https://wayback.archive-it.org/123/20120101000000/http://a.org/x", "http://a.org/x"),
        ("https://arquivo.pt/wayback/20120101000000/http://a.pt/x", "http://a.pt/x"),
        ("http://webcache.googleusercontent.com/search?q=cache:AbC:http://a.org/x", "http://a.org/x"),
        ("https://archive.org/details/book", "https://archive.org/details/book"),
        ("https://example.org/web/2012/http://a.org", "https://example.org/web/2012/http://a.org"),
        ("https://archive.today/AbCd", None),
        ("https://perma.cc/AB12-CD34", None),
    ],
)
def test_archives_are_unwrapped(copy: str, original: str | None) -> None:
    assert unwrapped(copy) == original


def test_a_page_and_its_archived_copy_are_one_citation() -> None:
    text = "<ref>{{cite web|url=http://a.org/x|archive-url=https://web.archive.org/web/2012/https://a.org/x}}</ref>"
    dropped: Counter[str] = Counter()
    assert len(cited(page(text * 3), dropped)) == 3
    assert dropped == {"archived_copy": 3}
    nested = "https://archive.is/2012/https://web.archive.org/web/2011/http://a.org/x"
    assert citation_of(nested, BARE, "T").canonical == "a.org/x"  # type: ignore[union-attr]


def test_an_address_knows_its_host_and_registered_domain() -> None:
    citation = citation_of("HTTPS://News.BBC.co.uk:443/a?utm_source=x&b=1#top", BARE, "T")
    assert citation is not None
    assert (citation.host, citation.domain) == ("news.bbc.co.uk", "bbc.co.uk")
    assert citation.canonical == "news.bbc.co.uk/a?b=1"
    assert citation_of("http://192.0.2.1/x", BARE, "T").domain is None  # type: ignore[union-attr]
    assert covers({"b.org"}, "a.b.org") == "b.org"
    assert covers({"b.org"}, "ab.org") is None


def test_redirects_cite_nothing() -> None:
    assert cited(page("http://a.org")._replace(redirect="X")) == []


def test_long_texts_are_cut_without_losing_what_is_cited() -> None:
    lines = [f"<ref>{{{{cite web|url=http://h{i}.org/x|title={'t' * 90}}}}}</ref> text\n" for i in range(2000)]
    assert found("".join(lines)) == [(f"h{i}.org/x", REF) for i in range(2000)]
    # A template that is never closed does not swallow the rest.
    assert len(found("{{broken|" + "".join(lines))) > 1990


_BITS = st.sampled_from(
    [
        *(
            "{{",
            "}}",
            "[[",
            "]]",
            "[",
            "]",
            "|",
            "=",
            "{{{",
            "}}}",
            "{|",
            "|}",
            "==",
            "\n==External links==\n",
            "''",
            "'''",
        ),
        *(
            "<ref>",
            "</ref>",
            "<ref name=",
            "/>",
            "<!--",
            "-->",
            "<nowiki>",
            "</nowiki>",
            "<math>",
            "{{cite|url=",
            "{{URL|",
        ),
        *("http://", "https://a.org/x", "//", "www.b.org", "http%3A//", "mailto:a@b", "http://[", "http://[::1]/"),
        *(
            "https://web.archive.org/web/2012/",
            "https://webcitation.org/?url=",
            "http://a:b@c.org",
            "&amp;",
            "&#x110000;",
        ),
        *("&", "%", "%3A", "\\", "@", ":", "#", "?", "'", '"', "é", "漢", "\u202e", "\ud800", "\x00"),
    ]
)
_TEXTS = st.lists(st.one_of(_BITS, st.text(max_size=5), st.just("\n"), st.just(" ")), max_size=60).map("".join)


@given(_TEXTS)
@settings(max_examples=300, deadline=None)
def test_no_text_makes_it_raise(text: str) -> None:
    for citation in cited(page(text)):
        assert citation.canonical
        assert citation.host
        assert citation.url.startswith(("http://", "https://", "HTTP", "Http")) or "://" in citation.url
        assert canonical_url(citation.url) == citation.canonical


@given(st.one_of(st.text(max_size=80), _TEXTS))
@settings(max_examples=200, deadline=None)
def test_no_address_makes_it_raise(url: str) -> None:
    citation_of(url, BARE, "T")
    citation_of(f"https://web.archive.org/web/2012/{url}", BARE, "T")
    citation_of(f"http://{url}", BARE, "T")


HOSTILE = [
    "{{a|", "{{", "[", "[http://a ", "<ref>", "<ref name=", "<!--", "{|\n|", "[[", "[[a|", "<", "http://", "{{{", "=",
    "\n:", "[//", "{{cite web|url=http://a.b/{{x|", "|", "}}", "<nowiki>", "</ref>", "==x==\n", "&", "'''", "https://web.archive.org/web/2012/",
    "{{a|b}}", "{{a|url=http://b.org}}", "[[a|[http://b c]]]",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bit", HOSTILE)
def test_no_repetition_makes_it_hang(bit: str) -> None:
    dropped: Counter[str] = Counter()
    cited(page((bit * (60_000 // len(bit) + 1))[:60_000]), dropped)
    cited(page("{{a|" * 2000 + "http://a.org/x" + "}}" * 2000 + "{{t" + "|" * 15_000 + "}}"), dropped)


def test_the_real_dump(shared_data) -> None:  # type: ignore[no-untyped-def]
    (real,) = shared_data("labelled/wiki").glob("*pages-articles*.bz2")
    (split,) = splits(expand([str(real)]), 1 << 30)
    dropped: Counter[str] = Counter()
    kinds = Counter(citation.kind for each in pages(split) for citation in cited(each, dropped))
    assert kinds[REF] > 3_500
    assert kinds[SECTION] > 400
    assert dropped["unparsed_piece"] == 0
    # What does not end up as a citation is explained, and little of it is for want of understanding.
    assert dropped["no_address"] < 10
