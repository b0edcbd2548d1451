"""URLs: hosts, registered domains, and every rule of the URL gate."""

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError, RecipeError, StorageError
from pipeline.signals import fingerprints
from pipeline.signals.urls import SHIPPED, UrlRules, Words, normal_url, split_url


@pytest.mark.parametrize(
    ("url", "host", "domain"),
    [
        ("https://www.mill.example/a?b#c", "www.mill.example", "mill.example"),
        ("HTTP://WWW.Mill.CO.UK:8080/", "www.mill.co.uk", "mill.co.uk"),
        ("http://user:pa@ss@a.b.city.kawasaki.jp./x", "a.b.city.kawasaki.jp", "city.kawasaki.jp"),
        ("https://bücher.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://B%C3%BCcher.de/", "xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("//cdn.mill.example/x.js", "cdn.mill.example", "mill.example"),
        (" http://mill.example?q=http://other.example", "mill.example", "mill.example"),
        ("http://someone.blogspot.com/", "someone.blogspot.com", "blogspot.com"),
        ("http://under_score.mill.org/", "under_score.mill.org", "mill.org"),
        ("http://a.b.invalid/", "a.b.invalid", "b.invalid"),
        ("http://192.0.2.7:81/", "192.0.2.7", None),
        ("http://[2001:DB8:0::1]:80/", "2001:db8::1", None),
        ("http://co.uk/", "co.uk", None),
        ("http://localhost/", "localhost", None),
    ],
)
def test_host_and_domain(url: str, host: str, domain: str | None) -> None:
    assert split_url(url) == (host, domain)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "no url",
        "dns:mill.example",
        "http://",
        "http:///path",
        "http://[::1/",
        "http://a..b/",
        "http://ex ample/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 200 + "example/",
        "http://xn--\x80/",
        "http://%FF.example/",
    ],
)
def test_what_has_no_usable_host_gives_none(url: str | None) -> None:
    parts = split_url(url)
    assert parts == (None, None) or parts.host == "ex"


@given(st.one_of(st.text(), st.text().map("http://{}".format), st.text().map("http://{}.example/\ud800".format)))
def test_nothing_makes_it_raise(url: str) -> None:
    host, domain = split_url(url)
    assert host is None or (host.isascii() and host == host.lower())
    assert domain is None or host == domain or str(host).endswith("." + domain)
    UrlRules(domains=["mill.example"], urls=["mill.example/x"], words={"soft": ["a", "b"], "substrings": ["ab"]}).check(
        url
    )


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://Mill.example:443/a/b/?q=1#top", "mill.example/a/b?q=1"),
        ("mill.example/a/", "mill.example/a"),
        ("http://mill.example", "mill.example"),
        ("/a/b", None),
    ],
)
def test_normal_url(url: str, normal: str | None) -> None:
    assert normal_url(url) == normal


@pytest.mark.parametrize(
    ("url", "hits"),
    [
        ("http://bad.example/", ("domain:bad.example",)),
        ("http://a.b.bad.example/", ("domain:bad.example",)),
        ("http://notbad.example/", ()),
        ("http://bad.example.org/", ()),
        ("http://below.example/", ()),
        ("http://a.below.example/", ("domain:*.below.example",)),
        ("http://xn--bse-sna.example/", ("domain:xn--bse-sna.example",)),
        ("http://only.example/", ("host:only.example",)),
        ("http://www.only.example/", ()),
        ("https://page.example:443/a/?q=1#x", ("url:page.example/a?q=1",)),
        ("http://page.example/a?q=2", ()),
        ("http://de.encyclopedia.example/", ("curated:encyclopedia.example",)),
        ("http://192.0.2.7/", ("domain:192.0.2.7",)),
        ("http://[2001:db8:0:0::1]/", ("domain:2001:db8::1",)),
        ("http://good.bad.example/", ()),
    ],
)
def test_lists(url: str, hits: tuple[str, ...]) -> None:
    rules = UrlRules(
        domains=["BAD.example", "*.below.example", "böse.example", "192.0.2.7", "2001:db8::1", "bad.example."],
        hosts=["only.example"],
        urls=["https://page.example/a?q=1"],
        curated=["encyclopedia.example"],
        allow=["good.bad.example"],
    )
    assert rules.check(url).hits == hits
    assert pickle.loads(pickle.dumps(rules)).check(url).hits == hits


WORDS = {"hard": ["warez"], "soft": ["casino", "slots", "poker"], "substrings": ["free-porn", "glücksspiel"]}


@pytest.mark.parametrize(
    ("url", "hits"),
    [
        ("http://x.example/WAREZ/", ("word:warez",)),
        ("http://x.example/softwarez", ()),
        ("http://x.example/casino", ()),
        ("http://x.example/casino/casino-casino", ()),
        ("http://casino.example/slots", ("soft:casino+slots",)),
        ("http://f.r-e_e/porn", ("substring:freeporn",)),
        ("http://x.example/w%61rez", ("word:warez",)),
        ("http://x.example/Gl%C3%9Ccksspiel".replace("%C3%9C", "%C3%BC"), ("substring:glücksspiel",)),
        ("http://x.example/GLÜCKSSPIEL", ("substring:glücksspiel",)),
        ("http://warez.example/poker/slots?freeporn", ("word:warez", "soft:poker+slots", "substring:freeporn")),
    ],
)
def test_words(url: str, hits: tuple[str, ...]) -> None:
    verdict = UrlRules(words=WORDS).check(url)
    assert verdict.hits == hits
    assert UrlRules(words=WORDS, allow=["example", "e"]).check(url).hits == (() if "//f.r" not in url else hits)


def test_counts_and_threshold() -> None:
    url = "http://x.example/casino/slots/poker/warez"
    verdict = UrlRules(words=WORDS, soft_threshold=4).check(url)
    assert (verdict.hits, verdict.n_hard, verdict.n_soft, verdict.n_substrings) == (("word:warez",), 1, 3, 0)
    assert UrlRules(words=WORDS, allow=["x.example"]).check(url) == ((), "x.example", 0, 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"hrad": ["x"]}, "unknown key hrad"),
        ({"hard": ["two words"]}, "no single word"),
        ({"soft": "casino"}, "must be a list"),
        ({"soft": [True]}, "must be a list"),
        ({"substrings": ["--"]}, "empty substring"),
    ],
)
def test_bad_words_are_refused(words: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Words.read(words)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-list"):
        UrlRules(domains=[tmp_path / "no-such-list.txt"])
    with pytest.raises(InputError, match="no-such-words"):
        UrlRules(words=tmp_path / "no-such-words.yaml")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"bad.example\n" * 1000)[:-20])
    with pytest.raises(InputError, match=r"torn\.gz"):
        UrlRules(domains=[tmp_path / "torn.gz"])
    (tmp_path / "words.yaml").write_text("hard: [")
    with pytest.raises(RecipeError, match="not YAML"):
        UrlRules(words=tmp_path / "words.yaml")


def test_list_files_comments_and_what_cannot_match(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.gz"
    plain.write_bytes(b"# note\r\n\r\none.example\r\n two.example  # why\nnot a host\nhttp://three.example/\n")
    packed.write_bytes(gzip.compress(b"four.example"))
    rules = UrlRules(domains=[plain, packed, "five.example"])
    hit = [name for name in ("one", "two", "three", "four", "five") if rules.check(f"http://{name}.example").hits]
    assert hit == ["one", "two", "four", "five"]
    assert rules.ignored == {"domain": 2}


def test_cache_is_shared_keyed_by_content_and_rebuilt_when_damaged(tmp_path: Path) -> None:
    listed, cache = tmp_path / "list.txt", tmp_path / "cache"
    listed.write_text("one.example\n*.two.example\nhalf a host\n")

    def verdicts() -> list[tuple[str, ...]]:
        rules = UrlRules(domains=[listed], cache_dir=cache)
        assert rules.ignored == {"domain": 1}
        return [rules.check(f"http://a.{name}.example").hits for name in ("one", "two", "three")]

    expected = [("domain:one.example",), ("domain:*.two.example",), ()]
    assert verdicts() == expected
    (table,) = cache.iterdir()
    before = table.read_bytes()
    assert verdicts() == expected
    for damage in (b"", before[:20], before[:-8], b"x" + before[1:]):
        table.write_bytes(damage)
        assert verdicts() == expected
        assert table.read_bytes() == before
    listed.write_text("three.example\nhalf a host\n")
    assert verdicts() == [(), (), ("domain:three.example",)]
    assert len(list(cache.iterdir())) == 2


def test_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot"):
        UrlRules(domains=["one.example"], cache_dir=tmp_path / "file" / "below")


def test_table_agrees_with_a_set_and_does_not_depend_on_order() -> None:
    draw = random.Random(7)
    names = [f"{draw.getrandbits(40):x}.example" for _ in range(20_000)]
    build = lambda part: fingerprints._build(["\n".join(part).encode()], str, False)[0]  # noqa: E731
    slots = build(names[:10_000])
    assert np.array_equal(slots, build(names[9_999::-1] + names[:50]))
    rules = UrlRules(domains=names[:10_000])
    assert all(rules.check(f"http://{name}/").hits for name in names[:10_000])
    assert not any(rules.check(f"http://{name}/").hits for name in names[10_000:])


def test_colliding_slots_are_all_found() -> None:
    top = (1 << 64) - 1
    for values in ([], [1], [top], [1, 2, 3, 4, 5], [top - 3, top - 2, top - 1, top], [5, top]):
        slots, n_home = fingerprints._place(np.array(values, np.uint64))
        table = fingerprints.Fingerprints(slots.data, n_home, False)
        assert [table.holds(value) for value in values] == [True] * len(values)
        assert not any(table.holds(value) for value in (6, 1 << 40, top - 9))


def test_empty_lists_break_nothing() -> None:
    assert UrlRules(domains=[""], hosts=["# nothing"]).check("http://mill.example/").hits == ()
    assert UrlRules().check(None).hits == ()


@pytest.mark.parametrize(
    "url",
    [
        "https://www.essex.ac.uk/courses/analysis-of-adult-teen-reading",
        "https://www.middlesex-motors.example/used/ford-escort-cabrio",
        "https://www.essexcamping.example/",
        "https://scunthorpe.example/news/cumberland-dickens-society",
        "https://films.example/casino-royale-history",
        "https://birds.example/blue-tits-in-the-garden",
        "https://health.example/teens/sexual-health-for-girls-and-boys",
        "https://actors.example/judi-dench/naked-truth",
        "https://www.therapist-finder.example/hot-singles-of-1984",
        "https://masseuse.example/pen-island/experts-exchange",
    ],
)
def test_shipped_words_let_decent_addresses_pass(url: str) -> None:
    assert UrlRules(words=SHIPPED / "words.yaml").check(url).hits == ()


def test_shipped_files() -> None:
    rules = UrlRules(
        domains=[SHIPPED / "blocklist.txt"], curated=[SHIPPED / "curated.txt"], words=SHIPPED / "words.yaml"
    )
    assert rules.ignored == {"domain": 0, "curated": 0}
    assert rules.check("https://www.blocked.example/page").hits == ("domain:blocked.example",)
    assert rules.check("https://a.spam.example/").hits == ("domain:*.spam.example",)
    assert rules.check("https://en.wikipedia.org/wiki/Mill").hits == ("curated:wikipedia.org",)
    assert rules.check("https://x.example/best-online-casino-slots").hits == (
        "soft:casino+slots",
        "substring:onlinecasino",
    )


def test_shipped_words_on_real_domains(shared_data: Callable[[str], Path]) -> None:
    rules = UrlRules(words=SHIPPED / "words.yaml")
    hits: dict[str, list[str]] = {}
    for line in gzip.decompress(shared_data("labelled/urllists/ut1_domains.jsonl.gz").read_bytes()).splitlines():
        entry = json.loads(line)
        found = rules.check(f"http://{entry['domain']}/").hits
        hits.setdefault(entry["category"], []).extend([entry["domain"]] if found else [])
    assert [hits[category] for category in ("press", "bank", "liste_bu", "child", "liste_blanche")] == [[]] * 5
    assert len(hits["gambling"]) > 500
