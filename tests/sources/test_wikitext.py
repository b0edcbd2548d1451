"""Wikitext to reading text: what is kept, what goes, and that nothing an author writes makes it slow or fail."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.inputs import InputFile
from pipeline.sources.wikipedia import pages, splits
from pipeline.sources.wikitext import is_disambiguation, is_redirect, plain_text


def test_an_article() -> None:
    wikitext = """{{Infobox river | name = Oda | length = {{convert|12|km|abbr=on}} }}
{{about|the river|the town|Oda (town)}}
The '''Oda''' ({{lang-xx|Odda}}; {{IPA-de|ˈoːda|}}) is a [[river]] in [[North Land|the north]].<ref>{{cite web|url=http://a.b}}</ref>
It is {{convert|12|km|mi}} long, has [[bridge]]s and freezes at −5&nbsp;°C.<ref name="x" />

== Course ==
[[File:Oda.jpg|thumb|The ''Oda'' near [[Ferry (town)|Ferry]]]]
From its spring<!-- which one? --> it runs:
* through [[Ford, North Land|Ford]]
** past the ''old'' mill
* to the sea

== Bridges ==
=== Wood ===

=== Stone ===
# Upper Bridge
# Lower Bridge

== See also ==
* [[List of rivers]]
=== Lists ===
Nothing to read here.

== Floods ==
The last one came in 1953.

== References ==
{{reflist}}
{{Rivers of the north}}
[[Category:Rivers]]
[[de:Oda]]
"""
    assert plain_text(wikitext, "Oda (river)", "enwiki").split("\n") == [
        "Oda (river)",
        "The Oda (Odda; [ˈoːda]) is a river in the north. It is 12 kilometres long, has bridges and freezes at −5 °C.",
        "Course",
        "From its spring it runs:",
        "- through Ford",
        "  - past the old mill",
        "- to the sea",
        "Bridges",
        "Stone",
        "1. Upper Bridge",
        "2. Lower Bridge",
        "Floods",
        "The last one came in 1953.",
    ]


def test_a_table_is_rows_of_cells() -> None:
    wikitext = """Before
{| class="wikitable" style="text-align:right"
|+ Harvest
! Year !! Apples
! Pears
|-
| 1901 || {{nts|1200}} || 7
|- style="color:red"
| align=left | ''1902''
|
| rowspan="2" | [[pear|9]]<ref>counted</ref>
|-
| 1903 || 3<br>baskets
|}
After
{| class="infobox"
| hidden
|}"""
    assert plain_text(wikitext).split("\n") == [
        "Before",
        "Harvest",
        "Year | Apples | Pears",
        "1901 | 1200 | 7",
        "1902 |  | 9",
        "1903 | 3 baskets",
        "After",
    ]


def test_a_table_that_places_lists_beside_each_other() -> None:
    wikitext = "{|\n|\n* one\n* two\n* three\n|\n* four\n* five\n* six\n|}"
    assert plain_text(wikitext) == "- one\n- two\n- three\n- four\n- five\n- six"


def test_tables_in_tables() -> None:
    assert plain_text("{|\n| a\n|\n{|\n| b || c\n|}\n|}") == "a\nb | c"


def test_mathematics_chemistry_and_code_come_as_they_stand() -> None:
    wikitext = """Let <math>f(x) = \\frac{1}{x}  |x| ''y''</math>, and:
<math display="block">{{a}}_{[[b]]}</math>
H<sub>2</sub>O, 10<sup>−6</sup>, the 19<sup>th</sup>, {{chem|S|O|4|2-}}, ½ {{mvar|n}}, {{val|1.5|0.2|e=-3|u=kg}}.
<syntaxhighlight lang="python">
def f(a):
    return "[[a]] '' {{b}} &lt;"

f(1)
</syntaxhighlight>
<nowiki>[[not a link]] {{{</nowiki> and <code>a < b</code>"""
    assert plain_text(wikitext).split("\n") == [
        "Let $f(x) = \\frac{1}{x} |x| ''y''$, and: $${{a}}_{[[b]]}$$ H₂O, 10⁻⁶, the 19th, SO₄²⁻, ½ n, (1.5 ± 0.2) × 10⁻³ kg.",
        "def f(a):",
        "    return \"[[a]] '' {{b}} &lt;\"",
        "f(1)",
        "[[not a link]] {{{ and a < b",
    ]


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("[[dog]]s and [[Cat|cats]]", "dogs and cats"),
        ("[[Mercury (planet)|]], [[Paris, Texas|]], [[Help:Links|]]", "Mercury, Paris, Links"),
        ("[http://a.b the page], [http://a.b] and http://c.d", "the page, and http://c.d"),
        ("[[:Category:Rivers]] [[fr:Rivière]] [[wikt:river|river]] [[w:Lake]]", "Rivers river Lake"),
        ("a [[File:x.png|thumb|one [[two|three]] {{lang|de|vier}}]] b", "a b"),
        ("{{convert|6|ft|2|in|m}} by {{convert|3|x|4|m|adj=on}}", "6 feet 2 inches by 3 × 4-metre"),
        ("{{convert|1|mi}}, {{convert|1.5|mi|abbr=on}}", "1 mile, 1.5 mi"),
        ("{{as of|2010|3|lc=y}}, {{birth date|1909|2|12|df=y}}", "as of March 2010, 12 February 1909"),
        ("{{frac|3|1|2}}, {{sfrac|1|2}}, {{circa|1500}}", "3 1/2, 1/2, c. 1500"),
        ("{{nowrap|a {{small|b [[c|d]]}} e}}", "a b d e"),
        ("{{nowrap|1=x = y}} {{math|''a'' {{=}} ''b''}}", "x = y a = b"),
        ("{{nihongo|Way|道|michi}}, {{nihongo|Way||michi}}", "Way (道, michi), Way (michi)"),
        ("Ann ({{odd|x}}; born 1950), Bob ({{odd}}).", "Ann (born 1950), Bob."),
        ("Cid ({{odd}}, {{even}}) and Dee (d. 1, {{odd}}).", "Cid and Dee (d. 1)."),
        ("Ann {{citation needed}}, who {{when}} sang{{fact}}.", "Ann, who sang."),
        ("L'''Aurore'' and '''''both'''''", "L'Aurore and both"),
        ("x<sup>''n''−1</sup>, a<sub>''i''</sub>, C<sub>12</sub>", "x^(n−1), a_i, C₁₂"),
        ("at {{coord|8|10|N|165|1|W|type:event|display=inline,title}}{{coord|1|2|display=title}}", "at 8°10′N 165°1′W"),
        ("{{Pop density|3,000|400|km2|sqmi|prec=1}}, {{ordinal|22}}", "7.5 inhabitants per square kilometre, 22nd"),
        ("{{Track listing|title1=Rain|length1=3:10|title2=Sun}}", "1. Rain (3:10)\n2. Sun"),
        ("{{Episode list|Title=Fog|OriginalAirDate=1 May|ShortSummary=It is thick.}}", "Fog (1 May)\nIt is thick."),
        ("/{{IPAc-en|icon|ˈ|oʊ|d|ə|,_|ˈ|ɔː|d|ə}}", "//ˈoʊdə, ˈɔːdə/"),
        ("a {{circa}} b {{lang|de}}, c", "a b, c"),
        ("f(), g( ) and h[]", "f(), g( ) and h[]"),
        (":''For other [[Oda|Odas]], see [[Oda (town)|the town]].''\n:''See what I saw''\n:''Sea and land''", "Sea and land"),
        ("; Term : what it is\n: indented", "Term\nwhat it is\nindented"),
        ("#one\n#*sub\n#two\n\n#one again", "1. one\n  - sub\n2. two\n1. one again"),
        ("a<br>b\n\n<poem>\nroses\nviolets\n</poem>\nc", "a\nb\nroses\nviolets\nc"),
        ("{{quote|Hear me.|author=A. Nonymous}}", "Hear me.\n— A. Nonymous"),
        ("one\ntwo\n\nthree\n----\nfour", "one two\nthree\nfour"),
        (" x = 1\n   y = 2\n\ntext", "x = 1\n  y = 2\ntext"),
        ("<span style='display:none'>key</span>value __NOTOC__{{DEFAULTSORT:x}}", "value"),
        ("a<ref>b<ref name=c>d</ref> e\nf", "a e f"),
        ("a<references><ref name=x>b</ref></references> c", "a c"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>c</td>\n<td>d</td></tr></table>", "a | b\nc | d"),
        ("&lt;ref&gt; &amp;amp; &#8212;", "<ref> &amp; —"),
        ("{{hlist|a|b|c}}\n{{ubl|d|e}}", "a, b, c d\ne"),
        ("<gallery>\nFile:a.jpg|A\n</gallery><timeline>x</timeline>text", "text"),
        ("{{PAGENAME}} {{{1|default}}} {{formatnum:1234}}", "T default 1234"),
    ],
)  # fmt: skip
def test_what_stands_in_a_line(wikitext: str, text: str) -> None:
    assert plain_text(wikitext, "T") == f"T\n{text}"


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("{{infobox\n| a = 1\n| b = 2\nThe text.\n\n== H ==\nMore.", "The text.\nH\nMore."),
        ("a [[b\n\nc]] d", "a b\nc d"),
        ("{|\n| a || b\n== H ==\ntext", "a | b\nH\ntext"),
        ("a }} ]] |} b", "a |} b"),
        ("a <!-- b", "a"),
        ("<b>a <i>b</b> <u", "a b <u"),
        ("{{nowrap|[[a}} b", "a b"),
        ("<math>a", "a"),
    ],
)
def test_markup_that_nothing_ends(wikitext: str, text: str) -> None:
    assert plain_text(wikitext) == text


def test_sections_are_dropped_by_the_language_of_the_wiki() -> None:
    wikitext = "text\n== Literatur ==\na\n== Einzelnachweise ==\nb\n== References ==\nc"
    assert plain_text(wikitext, wiki="dewiki") == plain_text(wikitext) == "text"
    assert plain_text(wikitext, wiki="enwiki") == "text\nLiteratur\na\nEinzelnachweise\nb"
    assert plain_text(wikitext, wiki="de.wikipedia.org") == "text"


def test_redirects_and_disambiguation_pages() -> None:
    assert is_redirect("#REDIRECT [[Tea]] {{R from move}}")
    assert is_redirect("\n#Weiterleitung: [[Tee]]")
    assert not is_redirect("# REDIRECTION is a word")
    assert is_disambiguation("'''Oda''' may be:\n* [[Oda (river)]]\n{{disambiguation|geo}}")
    assert is_disambiguation("{{ Hndis |Oda}}") and is_disambiguation("{{place name disambiguation}}")
    assert not is_disambiguation("{{about|a river|others|Oda (disambiguation)}} text")


_MARKS = [
    "[[", "]]", "{{", "}}", "{{{", "}}}", "|", "\n", "{|", "|}", "|-", "<ref>", "</ref>", "<b", ">", "''", "=",
    "a ", "*", ":", "<!--", "-->", "<nowiki>", "</nowiki>", "lang|de|", "nowrap|", "(", ")", ",", "File:",
    "convert|", "http://x", "!", "[", "]", "<math>", "&amp;", "\ufdd0", "\ufdd1", "1", "\ufdd2", "\ufdd5", "\ufdd6",
    "\ud800", "\x00", "\r\n", "İ", "__X__", "<pre>", "</pre>", "quote|",
]  # fmt: skip


@given(st.lists(st.sampled_from(_MARKS), max_size=60))
def test_never_raises_and_leaves_no_marks(pieces: list[str]) -> None:
    text = plain_text("".join(pieces), "T")
    text.encode("utf-8")
    assert not re.search("[\ufdd0-\ufdef\0\r]", text)
    assert "\n\n" not in text


@pytest.mark.parametrize(
    "wikitext",
    [
        "{" * 50_000 + "}" * 50_000,
        "{{nowrap|" * 50_000 + "x" * 10_000 + "}}" * 50_000,
        "{{nowrap|[[" * 20_000 + "x" + "]]}}" * 20_000,
        "[[" * 200_000,
        "{{a|" * 100_000,
        "{|\n|\n" * 20_000,
        "{|\n|\n" * 3_000 + "x\n" + "|}\n" * 3_000,
        "<ref>" * 80_000,
        "<div" * 80_000,
        "[http://a " * 40_000,
        "( {{x}} " * 40_000,
        "{{hlist|" + "a|" * 200_000 + "}}",
        "\n".join("*" * n + " a" for n in range(1_500)),
        "'''" * 100_000,
        "<span style='display:none'>" * 20_000,
        "= " * 200_000,
        "," * 400_000 + "{{x}}" + " " * 400_000,
    ],
    ids=range(17),
)
@pytest.mark.timeout(30)
def test_hostile_wikitext_ends(wikitext: str) -> None:
    plain_text(wikitext, "T")


def test_random_markup_ends() -> None:
    chance = random.Random(7)
    plain_text("".join(chance.choice(_MARKS) for _ in range(100_000)), "T")


_LEFT_OVER = re.compile(r"\{\{|\[\[|\{\||\|\}|</?ref|''|<!--|__[A-Z]+__|\(\s*[,;]|&nbsp;|</?(?:div|span|br|small)\b")
_FORMULA = re.compile(r"\$+[^$]*\$+")


def test_real_articles(shared_data) -> None:  # type: ignore[no-untyped-def]
    folder = shared_data("labelled/wiki")
    path = next(folder.glob("*pages-articles*.bz2"))
    (split,) = splits([InputFile(str(path), path.stat().st_size, None)], 1 << 40)
    articles = [page for page in pages(split) if page.redirect is None]
    assert len(articles) == 106
    for page in articles:
        text = plain_text(page.text, page.title, page.wiki)
        assert len(text) > 0.2 * len(page.text) or len(text) > 300 or is_disambiguation(page.text), page.title
        left = [line for line in text.split("\n") if _LEFT_OVER.search(_FORMULA.sub("", line))]
        assert not left, (page.title, left[:3])
