"""Pages that attack whoever looks at them are shown as what they are: text."""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import hostile_pages
import pyarrow.parquet as pq
import pytest
from hostile_pages import LIVE, NAME, PAYLOADS
from typer.testing import CliRunner
from visits import LOOK, Visit, Visitor, enter, flat, inspecting

from jobs import cli
from jobs.curate import redecide
from jobs.report import page as report
from jobs.report.compare import compare
from jobs.report.compare import page as comparison_page
from jobs.report.tables import Tables
from jobs.report.text import shown
from jobs.run import run
from jobs.runs import Run
from pipeline.recipe import parse_recipe

CONTEXTS = (
    "<body>{}",
    '<body><input value="{}">',
    "<body><input value='{}'>",
    "<body><textarea>{}</textarea>",
    "<body><pre><code>{}</code></pre>",
    "<body><script>const data = `{}`</script>",
    "<body><style>.a {{ content: '{}' }}</style>",
    "<body><!-- {} -->",
    "<head><title>{}</title></head>",
    "<body><template>{}</template>",
    "<body><svg><text>{}</text></svg>",
    "<body><svg><style><![CDATA[{}]]></style></svg>",
)

HERE = "http://here.example/"


def test_they_would_do_harm(visitor: Visitor) -> None:
    """Without escaping every live payload is noticed by what looks for faults."""
    visit = visitor("about:")

    def count(context: str, text: str) -> int:
        return len(visit.page.evaluate(LOOK, {"own": ["about:"], "pages": [context.format(text)]})[0]["faults"])

    floor = {context: count(context, "nothing") for context in CONTEXTS}
    harmless = {name for name, text in LIVE.items() if not any(count(c, text) > floor[c] for c in CONTEXTS)}
    assert not harmless


def test_what_runs_or_asks_for_something_is_noticed(visitor: Visitor) -> None:
    visit = visitor(HERE)
    body = (
        f"{LIVE['script']}<img src=http://elsewhere.example/pwned><script>alert(1); console.error(2); throw 3</script>"
    )
    visit.context.route(HERE, lambda route: route.fulfill(content_type="text/html", body=body))
    visit.open(HERE)
    assert visit.ran()
    noticed = " ".join(visit.problems)
    for word in ("elsewhere.example", "dialog: 1", "console: 2", "error in a page: 3"):
        assert word in noticed
    visit.problems.clear()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over hostile pages."""
    folder = tmp_path_factory.mktemp("attacked")
    hostile_pages.write(folder / "web")
    recipe = hostile_pages.recipe(folder / "web")
    return run(recipe, [str(folder / "web")], str(folder / "run"), partitions=2, master="local[2]")


@pytest.fixture(scope="module")
def worse(attacked: Run) -> Run:
    """The same decided by a recipe that attacks, too."""
    output = Path(attacked.folder.path).with_name("worse")
    return redecide(attacked.folder.path, hostile_pages.hostile(attacked.recipe), str(output))


@pytest.fixture(scope="module")
def address(attacked: Run) -> Iterator[str]:
    with inspecting(attacked) as found:
        yield found


@pytest.fixture(scope="module")
def worse_address(worse: Run) -> Iterator[str]:
    with inspecting(worse) as found:
        yield found


@pytest.fixture
def inside(visitor: Visitor, address: str) -> Visit:
    """A page that was let in."""
    return enter(visitor(address))


def query(**parameters: str) -> str:
    return urlencode(parameters, errors="surrogatepass")


FIELDS = (
    "address",
    "text",
    "host",
    "reason",
    "broken",
    "language",
    "topic",
    "domain",
    "source",
    "type",
    "cluster",
    "id",
)
"""Conditions of a search that take any text."""


def test_searches_say_what_was_searched_for(inside: Visit) -> None:
    payloads = [payload.strip() for payload in PAYLOADS.values()]
    n = len(FIELDS)
    # Each payload in three fields.
    asked = [[payloads[(at + i) % len(payloads)] for i in range(n)] for at in range(0, 3 * len(payloads), n)]
    pages = inside.read_all([f"/?{query(**dict(zip(FIELDS, texts, strict=True)))}" for texts in asked])
    for texts, page in zip(asked, pages, strict=True):
        # Fields of one line have no line ends.
        assert [text for text in texts if flat(shown(text)) not in page and "\n" not in text] == []
    name = inside.read(f"/?{query(address=LIVE['script'], text=LIVE['script'])}")
    assert name.count(LIVE["script"]) > 3


def test_lists_of_results_are_text(inside: Visit) -> None:
    seen = inside.read("/")
    while inside.page.locator(".turn a[rel=next]").count():
        inside.page.locator(".turn a[rel=next]").click()
        inside.page.wait_for_load_state()
        seen += inside.look()
    assert [name for name, text in PAYLOADS.items() if flat(shown(text)) not in seen and "\n" not in text] == []


def rows(found: Run, where: str = "true") -> list[dict[str, Any]]:
    return Tables(found).rows(f"SELECT * FROM ledger WHERE {where} ORDER BY doc_id, warc_offset")


def test_stories_tell_what_pages_say(inside: Visit, attacked: Run) -> None:
    texts = {row["doc_id"]: row for row in Tables(attacked).rows("SELECT * FROM documents")}
    told = rows(attacked, "host SIMILAR TO 'h[0-9]+.example'")
    pages = inside.read_all([f"/page/{row['doc_id']}" for row in told])
    for row, page in zip(told, pages, strict=True):
        document = texts.get(row["doc_id"], {})
        for value in (row["url"], row["warc_file"], row["record_id"], row["error"], document.get("title")):
            assert flat(shown(value or "")) in page, (row["url"], value)
    one_of_each = {(row["reason"], bool(row["contamination"])): row for row in rows(attacked)}
    for row in one_of_each.values():
        inside.read(f"/page/{row['doc_id']}")


def test_the_source_is_text(inside: Visit, attacked: Run) -> None:
    stored = rows(attacked, "host SIMILAR TO 'h[0-9]+.example' AND n_payload_bytes < 50000")
    assert len(stored) >= len(LIVE)
    pages = inside.read_all([f"/page/{row['doc_id']}/source" for row in stored])
    assert [name for name, text in LIVE.items() if not any(flat(f"</article>{text}") in page for page in pages)] == []
    inside.read(f"/page/{stored[0]['doc_id']}/source")


def test_neighbours_are_text(inside: Visit, attacked: Run) -> None:
    kin = rows(attacked, "duplicate_of IS NOT NULL")
    assert len(kin) >= 6
    for row in kin:
        inside.read(f"/page/{row['doc_id']}/beside/{row['duplicate_of']}")


def test_addresses_that_are_not_there_are_not_repeated_as_more_than_text(inside: Visit) -> None:
    names = [quote(payload, safe="", errors="surrogatepass") for payload in PAYLOADS.values()]
    places = itertools.cycle(("/page/{}", "/{}", "/static/{}", "/page/{}/source", "/page/0/beside/{}"))
    inside.read_all([place.format(name) for place, name in zip(places, names, strict=False)], 404)


def test_names_of_recipes_and_rules_are_text(visitor: Visitor, worse: Run, worse_address: str) -> None:
    visit = enter(visitor(worse_address))
    assert flat(shown(NAME)) in visit.read("/")
    page = visit.read("/thresholds")
    assert flat(shown(NAME)) in page
    bound = quote(f"{NAME} gopher_quality.word_count.min", safe="")
    assert "40" in visit.read(f"/thresholds?{bound}=40")
    slider = visit.page.locator("input[type=range]").first
    slider.focus()
    slider.press("ArrowRight")
    visit.page.wait_for_url(lambda address: len(parse_qsl(urlsplit(address).query)) == 2)
    visit.look()
    visit.read_all([f"/thresholds?{query(**{NAME: NAME})}"], 400)
    reasons = {row["reason"]: row for row in rows(worse, "reason IS NOT NULL")}
    assert any(NAME in reason for reason in reasons)
    stories = visit.read_all([f"/page/{row['doc_id']}" for row in reasons.values()])
    searches = visit.read_all([f"/?{query(reason=reason)}" for reason in reasons])
    for reason, story, search in zip(reasons, stories, searches, strict=True):
        assert flat(shown(reason)) in story and flat(shown(reason)) in search
    answer = visit.context.request.get(
        f"{worse_address}/thresholds/recipe.yaml?{query(name='again', state=f'{bound}=40')}"
    )
    again = parse_recipe(answer.text())
    assert again.name == "again" and again.description == NAME and list(again.rules) == list(worse.recipe.rules)


def test_exports_hold_no_formulas(inside: Visit, attacked: Run) -> None:
    def exported(**parameters: str) -> bytes:
        answer = inside.context.request.get(f"{inside.own[0]}/export?{query(**parameters)}")
        assert answer.ok and answer.headers["content-disposition"].startswith("attachment;")
        return bytes(answer.body())

    ledger = rows(attacked)
    csv.field_size_limit(10_000_000)
    table = list(csv.reader(io.StringIO(exported(format="csv", texts="extracted").decode(), newline="")))
    assert len(table) == len(ledger) + 1 and len({len(row) for row in table}) == 1
    risky = [
        cell for row in table for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not number(cell)
    ]
    assert risky == []
    lines = [json.loads(line) for line in exported(format="jsonl").decode().split("\n")[:-1]]
    whole = pq.read_table(io.BytesIO(exported(format="parquet"))).to_pylist()
    for found in (lines, whole):
        assert Counter(row["url"] for row in found) == Counter(row["url"] for row in ledger)


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("which", ["attacked", "worse"])
def test_reports_are_text(visitor: Visitor, request: pytest.FixtureRequest, which: str) -> None:
    found: Run = request.getfixturevalue(which)
    path = Path(report.write(found))
    visit = visitor(path.as_uri())
    visit.open(path.as_uri())
    text = visit.look()
    assert "<script" not in path.read_text(encoding="utf-8").lower()
    assert visit.page.locator("script").count() == 0
    assert flat(shown(found.recipe.name)) in text
    shown_there = [name for name, payload in LIVE.items() if flat(shown(payload)) in text]
    assert len(shown_there) > len(LIVE) / 2


def test_a_comparison_is_text(visitor: Visitor, attacked: Run, worse: Run, tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(comparison_page.page(compare(attacked, worse, 20)), encoding="utf-8")
    visit = visitor(path.as_uri())
    visit.open(path.as_uri())
    assert flat(shown(NAME)) in visit.look()
    assert visit.page.locator("script").count() == 0


def test_terminals_are_told_nothing_to_do(attacked: Run, worse: Run) -> None:
    """No command lets a page move the cursor, set a title, make a link, or turn the direction of writing."""
    one = attacked.folder.path
    for arguments in (["explain", one], ["compare", one, worse.folder.path], ["explain", one, "http://h34.example/"]):
        said = CliRunner().invoke(cli.app, arguments).output
        assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e", "\0"}, arguments
