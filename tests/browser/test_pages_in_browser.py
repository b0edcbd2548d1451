"""The report and the inspector of a run, as they are used: by keyboard, by address, at any width, in light and dark."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from visits import TOKEN, Visit, Visitor, enter, inspecting

from jobs.curate import redecide
from jobs.report.compare import compare
from jobs.report.compare import page as comparison_page
from jobs.report.tables import Tables
from jobs.runs import Run
from pipeline.recipe import load_recipe

AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
    "preload": False,
}
"""What of axe's rules has to be met, and nothing else told."""

FEWER = """() => document.querySelectorAll(
  "article + article + article, .examples + .examples + .examples, .dial + .dial + .dial, li + li + li + li + li, "
  + "tr + tr + tr + tr + tr + tr, option + option, svg path, svg text + text + text"
).forEach((one) => one.remove())"""
"""Takes away what is like what stands before it: axe takes a second for a thousand elements."""

LIKE_OTHERS = ("search", "nothing", "moved", "leaked", "report", "gated")
"""Pages of which axe would find what it finds in others; the report is looked at as a file."""

WIDTHS = (360, 800, 1400)


@pytest.fixture(scope="module")
def address(sample: Run) -> Iterator[str]:
    with inspecting(sample) as found:
        yield found


@pytest.fixture(scope="module")
def comparison(sample: Run, again: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("compared") / "compare.html"
    path.write_text(comparison_page.page(compare(sample, again, 3)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def again(sample: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run decided again by other rules."""
    return redecide(sample.folder.path, load_recipe("gopher"), str(tmp_path_factory.mktemp("again") / "run"))


@pytest.fixture
def inside(visitor: Visitor, address: str) -> Visit:
    return enter(visitor(address))


def report_of(run: Run) -> str:
    return Path(run.folder.path, "report.html").as_uri()


def one(run: Run, where: str) -> dict[str, Any]:
    return Tables(run).rows(f"SELECT * FROM ledger WHERE {where} ORDER BY doc_id LIMIT 1")[0]


def overflow(visit: Visit) -> list[str]:
    """What makes the page wider than the window."""
    script = """() => {
      const width = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= width) return [];
      return [...document.querySelectorAll("body *")]
        .filter((element) => element.getBoundingClientRect().right > width + 1)
        .map((element) => element.outerHTML.slice(0, 120)).slice(0, 5).concat("too wide");
    }"""
    return list(visit.page.evaluate(script))


@pytest.fixture(scope="module")
def pages(sample: Run) -> dict[str, str]:
    """Every kind of page of the inspector."""
    dropped = one(sample, "outcome = 'dropped' AND reason LIKE 'gopher%' AND len(rule_hits) > 1")
    leaked = one(sample, "len(contamination) > 0 AND outcome = 'kept'")
    twin = one(sample, "duplicate_of IS NOT NULL AND similarity < 1")
    damaged, gated = one(sample, "outcome = 'error'"), one(sample, "reason LIKE 'gates.http%'")
    return {
        "search": "/",
        "found": "/?text=the&outcome=dropped&measure=word_count&max=60&sort=most",
        "nothing": "/?address=nowhere-at-all",
        "dropped": f"/page/{dropped['doc_id']}",
        "leaked": f"/page/{leaked['doc_id']}",
        "error": f"/page/{damaged['doc_id']}",
        "gated": f"/page/{gated['doc_id']}",
        "source": f"/page/{dropped['doc_id']}/source",
        "beside": f"/page/{twin['doc_id']}/beside/{twin['duplicate_of']}",
        "thresholds": "/thresholds",
        "moved": "/thresholds?gopher_quality.word_count.min=120",
        "report": "/report",
    }


def test_only_who_has_the_token_gets_in(visitor: Visitor, address: str, pages: dict[str, str]) -> None:
    stranger = visitor(address)
    for path in (*pages.values(), "/static/base.css", "/export?format=csv", "/nowhere", f"/?token={TOKEN[:-1]}"):
        answer = stranger.context.request.get(f"{address}{path}")
        assert answer.status == 403, path
    enter(stranger)
    stranger.open(f"{address}{pages['beside']}")
    link = stranger.page.url
    other = enter(visitor(address))
    assert other.open(link).ok
    cookie = other.context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"


def test_a_report_is_one_file_with_a_table_of_contents(visitor: Visitor, sample: Run) -> None:
    report = report_of(sample)
    visit = visitor(report)
    visit.open(report)
    visit.look()
    page = visit.page
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    for target in page.locator("nav a[href^='#']").evaluate_all("links => links.map(link => link.hash.slice(1))"):
        assert page.evaluate("id => document.getElementById(id) !== null", target), target
    page.locator("nav a[href^='#']").nth(2).focus()
    page.keyboard.press("Enter")
    assert "#" in page.url
    where = page.evaluate("document.getElementById(location.hash.slice(1)).getBoundingClientRect().top")
    assert -5 < where < page.viewport_size["height"]
    closed = page.locator("details:not([open])").first
    closed.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() >= 1
    assert page.locator("svg[role=img] > title").count() >= 5


def test_a_search_by_keyboard_leads_to_a_story_and_back(inside: Visit, sample: Run) -> None:
    page = inside.page
    row = one(sample, "reason LIKE 'gopher_quality%'")
    page.keyboard.press("/")
    page.keyboard.type(row["url"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/?*address=*")
    results = page.url
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/page/{row['doc_id']}*")
    story = inside.look()
    for words in (row["url"], row["reason"], row["warc_file"], row["digest"]):
        assert words in story
    assert page.locator("h1").count() == 1
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.go_back()
    assert page.url == results


def found(inside: Visit) -> int:
    """The number of pages that a search says it has found."""
    words = inside.page.locator("#results-title").inner_text()
    return int("".join(character for character in words.split(" ")[0] if character.isdigit()) or 0)


def test_searches_find_what_the_ledger_has(inside: Visit, sample: Run) -> None:
    tables = Tables(sample)

    def count(where: str, *values: Any) -> int:
        return int(tables.rows(f"SELECT count(*) AS n FROM ledger WHERE {where}", values)[0]["n"])

    host = one(sample, "outcome = 'kept'")["host"]
    reason = one(sample, "outcome = 'dropped' AND reason LIKE 'gopher%'")["reason"]
    # Of pages that are kept it is the curated text.
    texts = (
        "SELECT id FROM curated WHERE contains(lower(text), 'market') UNION ALL SELECT doc_id FROM documents "
        "JOIN ledger USING (doc_id) WHERE outcome <> 'kept' AND contains(lower(text), 'market')"
    )
    expected = {
        f"host={host}": count("host = ? OR ends_with(host, '.' || ?)", host, host),
        f"reason={reason}": count("reason = ?", reason),
        f"broken={reason}": count("list_contains(rule_hits, ?)", reason),
        "outcome=error": count("outcome = 'error'"),
        "outcome=kept&measure=score_quality&min=0.5": count("outcome = 'kept' AND score_quality >= 0.5"),
        "measure=word_count&min=60&max=120": count("word_count BETWEEN 60 AND 120"),
        "text=market": count(f"doc_id IN ({texts})"),
    }
    inside.open(f"{inside.own[0]}/")
    assert found(inside) == count("true")
    for query, n in expected.items():
        inside.open(f"{inside.own[0]}/?{query}")
        assert found(inside) == n, query
        assert n > 0, query


def test_a_story_marks_what_a_rule_counts(inside: Visit, sample: Run, pages: dict[str, str]) -> None:
    page = inside.page
    inside.read(pages["dropped"])
    row = one(sample, "outcome = 'dropped' AND reason LIKE 'gopher%' AND len(rule_hits) > 1")
    broken = page.locator("tr.broken th a")
    assert broken.count() >= 1
    assert page.locator("tr.broken").count() >= len([hit for hit in row["rule_hits"] if hit.startswith("gopher")])
    broken.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**rule=*")
    assert row["reason"].split(".")[-1] in inside.look()


def test_marks_are_switched_off_and_on(inside: Visit, sample: Run) -> None:
    edited = Tables(sample).rows(
        "SELECT doc_id FROM edits JOIN ledger USING (doc_id) WHERE outcome = 'kept' GROUP BY doc_id ORDER BY doc_id LIMIT 1"
    )[0]["doc_id"]
    page = inside.page
    inside.read(f"/page/{edited}")
    mark = page.locator("#story-text [data-marks]").first
    colour = "element => getComputedStyle(element).textDecorationLine + getComputedStyle(element).backgroundColor"
    before = mark.evaluate(colour)
    for box in page.locator("#legend input[type=checkbox]").all():
        box.focus()
        page.keyboard.press("Space")
    assert mark.evaluate(colour) != before
    for box in page.locator("#legend input[type=checkbox]").all():
        box.check()
    assert mark.evaluate(colour) == before
    page.keyboard.press("n")
    assert page.locator("#mark-said").inner_text().startswith("Mark 1 of")


def test_source_and_neighbours_are_a_link_away(inside: Visit, sample: Run, pages: dict[str, str]) -> None:
    page = inside.page
    row = one(sample, "duplicate_of IS NOT NULL AND similarity < 1")
    inside.read(f"/page/{row['doc_id']}")
    page.locator(f"a[href^='/page/{row['doc_id']}/source']").click()
    page.wait_for_url("**/source*")
    assert "<html" in inside.look().lower()
    page.keyboard.press("b")
    page.wait_for_url(f"**/page/{row['doc_id']}*")
    page.locator(f"a[href='/page/{row['doc_id']}/beside/{row['duplicate_of']}']").first.click()
    page.wait_for_url("**/beside/*")
    inside.look()
    assert page.locator("#story-text del, #story-text ins").count() > 0


def test_a_slider_tells_at_once_and_makes_a_recipe(inside: Visit, visitor: Visitor, sample: Run) -> None:
    from playwright.sync_api import expect

    page = inside.page
    inside.read("/thresholds")

    def cell(name: str) -> int:
        return int(page.locator(f"[data-cell='{name}']").first.inner_text().replace(",", ""))

    kept = Tables(sample).rows("SELECT count(*) AS n FROM ledger WHERE outcome = 'kept'")[0]["n"]
    assert cell("pages.now") == cell("pages.was") == kept
    key = "gopher_quality.word_count.min"
    slider = page.locator(f".bound[data-key='{key}'] input[type=range]")
    slider.focus()
    for _ in range(30):
        slider.press("ArrowRight")
        if page.locator("#moved li").count() and cell("pages.now") < kept:
            break
    page.wait_for_url(f"**/thresholds?{key}=*")
    bound = float(page.locator(f".bound[data-key='{key}'] input[type=number]").input_value())
    stays = Tables(sample).rows(f"SELECT count(*) AS n FROM ledger WHERE outcome = 'kept' AND word_count >= {bound}")
    # Answers come while the slider moves: the last one is waited for.
    lost = kept - stays[0]["n"]
    expect(page.locator("[data-cell='pages.lost']").first).to_have_text(f"{lost:,}")
    assert lost > 0 and cell("pages.now") == kept - lost + cell("pages.passing")

    other = enter(visitor(inside.own[0]))
    other.open(page.url)
    assert other.page.locator(f".bound[data-key='{key}'] input[type=number]").input_value() == f"{bound:g}"
    assert (
        other.page.locator("[data-cell='pages.now']").first.inner_text()
        == page.locator("[data-cell='pages.now']").first.inner_text()
    )

    page.locator("#name").fill("moved-in-a-test")
    page.keyboard.press("Enter")
    page.wait_for_url("**written=moved-in-a-test*")
    assert "moved-in-a-test" in page.locator("#written").inner_text()
    written = load_recipe(Path(sample.folder.path, "recipes", "moved-in-a-test.yaml"))
    assert written.rules["gopher_quality"].resolve().bounds["word_count"][0] == bound


def test_a_selection_is_taken_along(inside: Visit, sample: Run) -> None:
    page = inside.page
    inside.open(f"{inside.own[0]}/?outcome=error")
    page.locator("#f-format").select_option("jsonl")
    with page.expect_download() as waiting:
        page.locator("form[action='/export'] button").click()
    lines = [json.loads(line) for line in Path(waiting.value.path()).read_text(encoding="utf-8").split("\n") if line]
    ledger = Tables(sample).rows("SELECT doc_id FROM ledger WHERE outcome = 'error' ORDER BY doc_id")
    assert sorted(row["doc_id"] for row in lines) == [row["doc_id"] for row in ledger]


def each_page(visit: Visit, pages: dict[str, str], *others: str) -> Iterator[str]:
    """Opens one after the other."""
    for name, path in pages.items():
        visit.open(f"{visit.own[0]}{path}")
        yield name
    for address in others:
        visit.open(address)
        yield address.rsplit("/", 1)[-1]


def test_pages_fit_any_window(
    visitor: Visitor, address: str, pages: dict[str, str], sample: Run, comparison: str
) -> None:
    report = report_of(sample)
    visit = enter(visitor(address, report, comparison))
    wide = {}
    for name in each_page(visit, pages, report, comparison):
        for width in WIDTHS:
            visit.page.set_viewport_size({"width": width, "height": 900})
            if found := overflow(visit):
                wide[name, width] = found
    assert wide == {}


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1400, False)])
def test_pages_are_for_everybody(
    visitor: Visitor, address: str, pages: dict[str, str], sample: Run, comparison: str, width: int, dark: bool
) -> None:
    """What axe can tell: names, labels, roles, headings, landmarks, contrast."""
    from axe_playwright_python.sync_playwright import Axe

    report = report_of(sample)
    visit = enter(visitor(address, report, comparison, width=width, dark=dark))
    violations = []
    for name in each_page(visit, pages, report, comparison):
        if name in LIKE_OTHERS:
            continue
        visit.page.evaluate(FEWER)
        for violation in Axe().run(visit.page, options=AXE).response["violations"]:
            nodes = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
            violations.append(f"{name}: {violation['id']}: {violation['help']}: {len(nodes)} times, as {nodes[:3]}")
    assert violations == []
