"""What survives extraction, engine by engine, on pages written here; and what hostile markup may cost."""

import pytest

from pipeline.errors import UsageError
from pipeline.extraction import ENGINES, ExtractionOptions, Sandbox, extract, extract_fast, extract_plain, refine
from pipeline.extraction.engines import tidy, valid

HTML_ENGINES = ["resiliparse", "trafilatura", "blocks", "cascade"]
FILLER = (
    "The kettle had been on the stove since early morning, and nobody in the house could say who had put it there. "
    "By noon the water had gone, the bottom was red, and the smell of hot iron went from room to room."
)
NAVIGATION = "".join(f'<li><a href="/{i}">Section {i}</a></li>' for i in range(12))


def page(body: str, head: str = "") -> str:
    return f"""<!DOCTYPE html><html lang="en"><head><title>The kettle</title>{head}</head><body>
<div id="nav" class="menu"><ul>{NAVIGATION}</ul></div>
<div id="content" class="article"><h1>The kettle</h1><p>{FILLER}</p>{body}<p>{FILLER[::-1].swapcase()}</p></div>
<div class="footer"><a href="/imprint">Imprint of the site</a> <a href="/terms">Terms</a></div></body></html>"""


CODE = page("<pre><code>def boil(litres):\n    while litres:\n        litres -= 1\n    return 'steam'</code></pre>")
TABLE = page(
    "<table><tr><th>Metal</th><th>Melts at</th></tr><tr><td>Iron</td><td>1538 degrees</td></tr>"
    "<tr><td>Tin</td><td>232 degrees</td></tr></table>"
)
LIST = page("<ul><li>Fill it with cold water first</li><li>Never leave it on the stove alone</li></ul>")
MATH = {
    "script": page(f'<p>{FILLER} <script type="math/tex">E = mc^2</script></p>'),
    "annotation": page(
        f"<p>{FILLER} <math><semantics><mrow><mi>E</mi></mrow>"
        f'<annotation encoding="application/x-tex">E = mc^2</annotation></semantics></math></p>'
    ),
    "image": page(f'<p>{FILLER} <img class="mwe-math-fallback-image-inline" src="a.svg" alt="E = mc^2"></p>'),
    "alttext": page(f'<p>{FILLER} <math alttext="E = mc^2"><mi>E</mi></math></p>'),
}


@pytest.mark.parametrize("engine", HTML_ENGINES)
def test_prose_is_kept_and_navigation_is_not(engine):
    text = extract(page(""), engine=engine).text
    assert FILLER in text
    assert "Section 7" not in text
    assert "\n\n" not in text


@pytest.mark.parametrize("engine", HTML_ENGINES)
def test_code_keeps_its_lines_and_indentation(engine):
    assert "def boil(litres):\n    while litres:\n        litres -= 1\n" in extract(CODE, engine=engine).text


@pytest.mark.parametrize("engine", HTML_ENGINES)
def test_table_rows_are_lines_and_cells_are_divided(engine):
    lines = extract(TABLE, engine=engine).text.split("\n")
    assert any("Iron | 1538 degrees" in line for line in lines)
    assert any("Tin | 232 degrees" in line for line in lines)


@pytest.mark.parametrize("engine", ["trafilatura", "blocks", "cascade"])
def test_list_items_are_lines(engine):
    assert "- Fill it with cold water first\n- Never leave it on the stove alone" in extract(LIST, engine=engine).text


@pytest.mark.parametrize("form", MATH)
@pytest.mark.parametrize("engine", HTML_ENGINES)
def test_formulas_are_text_once(engine, form):
    assert extract(MATH[form], engine=engine).text.count("$E = mc^2$") == 1


def test_a_formula_with_a_fallback_image_is_written_once():
    both = (
        '<span class="mwe-math-element"><math><semantics><mi>x</mi>'
        '<annotation encoding="application/x-tex">{\\displaystyle x^{2}}</annotation></semantics></math>'
        '<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x^{2}}"></span>'
    )
    assert extract(page(f"<p>{FILLER} {both}</p>")).text.count("$x^{2}$") == 1


def test_forum_posts_are_all_kept():
    posts = "".join(
        f'<div class="post"><div class="author">user{i}</div><div class="body">{FILLER} Post number {i} of the thread.'
        "</div></div>"
        for i in range(8)
    )
    text = extract(f"<html><body><div class='menu'><ul>{NAVIGATION}</ul></div>{posts}</body></html>").text
    assert all(f"Post number {i} of the thread" in text for i in range(8))


def test_text_in_scripts_without_spaces_is_kept():
    sentence = "昨日の夜、台所のやかんがずっと火にかけられていたことに、家の誰も気がつかなかった。"
    body = "".join(f"<p>{sentence}{i}</p>" for i in range(6))
    text = extract(f"<html><body><ul>{NAVIGATION}</ul><div id='main'><h1>やかん</h1>{body}</div></body></html>").text
    assert all(f"{sentence}{i}" in text for i in range(6))


def test_two_steps_are_one():
    for html in (page(""), CODE, TABLE, "", "<p>short", "<script>only()</script>"):
        assert refine(html, extract_fast(html)) == extract(html)


def test_the_result_says_which_engine_and_version():
    assert extract(page("")).engine == "blocks"
    fast = extract_fast(page(""))
    assert fast.engine == "resiliparse"
    assert fast.engine_version[0].isdigit()
    assert extract(page("")) == extract(page(""))


def test_unknown_engine():
    with pytest.raises(UsageError, match="resiliparse"):
        extract("<p>a", engine="resilliparse")


def test_plain_text_passes_untouched():
    wet = "First line\r\n\r\n  indented & not <b>markup</b>\0"
    assert extract(wet, engine="plain") == extract_plain(wet)
    assert extract_plain(wet).text == "First line\n\n  indented & not <b>markup</b>"
    assert extract_plain(wet).engine == "plain"


def test_valid_and_tidy():
    assert valid("a\ud800b\0c\r\nd\re") == "a\ufffdbc\nd\ne"
    assert valid("\ud83d\ude00") == "\U0001f600"
    assert tidy("\n a \n\n \t\n  b\u00a0\n") == " a\n  b"


HOSTILE = {
    "empty": "",
    "space": " \n\t ",
    "no tags": "no markup at all, only words",
    "only script": "<script>for(;;){}</script>",
    "only comment": "<!-- nothing -->",
    "open comment": "<p>text <!-- never closed " + "x" * 1000,
    "open script": "<p>text <script> never closed",
    "unclosed": "<html><body><div><p>one<div><p>two<table><tr><td>three<ul><li>four",
    "only closing": "</div></p></span>" * 2000,
    "divs": "<div>" * 100_000 + "deep",
    "spans": "<span>" * 100_000 + "deep",
    "bold": "<b>" * 100_000 + "deep",
    "fonts": "<font><table>" * 30_000 + "deep",
    "lists": "<ul><li>" * 50_000 + "deep",
    "capitals": "<DIV>" * 100_000 + "deep",
    "colspan": "<table><tr><td colspan=9000000000000000>a</td><td rowspan=9e15>b</td></tr></table>",
    "long attribute": f'<p title="{"x" * 5_000_000}">short</p>',
    "many attributes": "<p " + " ".join(f"a{i}=1" for i in range(15_000)) + ">short</p>",
    "scripts": "<div><script>" * 20_000,
    "comments": "<div><!--" * 20_000,
    "nul": "<p>a\0b</p>\0<\0div>c",
    "surrogate": "<p>a\ud800b</p>",
    "entities": "<p>" + "&amp;" * 100_000 + "&#xD800;&#0;&#x110000;&#99999999999;</p>",
    "angle brackets": "<" * 100_000,
    "quotes": "<a href='" * 20_000,
    "doctype": "<!DOCTYPE html [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><p>&b;</p>",
    "open math": "<math><annotation encoding='application/x-tex'>" * 2000,
    "xml": '<?xml version="1.0" encoding="utf-16"?><rss><item><title>A</title></item></rss>',
}


@pytest.fixture(scope="module", params=["cascade", "resiliparse", "trafilatura"])
def hostile(request):
    def attempt(html):
        return extract(html, engine=request.param)

    extract("<p>warm</p>", engine=request.param)
    with Sandbox(attempt, timeout_s=20) as sandbox:
        return dict(zip(HOSTILE, sandbox.map(HOSTILE.values()), strict=True)), request.param


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markup_gives_text_fit_for_arrow(hostile, name):
    outcomes, engine = hostile
    outcome = outcomes[name]
    assert hasattr(outcome, "value"), f"{engine}: {outcome}"
    outcome.value.text.encode("utf-8")
    assert "\0" not in outcome.value.text
    if engine == "cascade" and name in ("divs", "spans", "bold", "fonts", "lists", "capitals"):
        assert outcome.value.text.strip("- ") == "deep"


def test_no_metadata_when_not_asked():
    assert extract(page(""), options=ExtractionOptions(metadata=False)).title is None


def test_every_engine_is_named():
    assert {"resiliparse", "trafilatura", "blocks", "cascade", "plain"} <= set(ENGINES)
