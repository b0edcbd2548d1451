"""The report of a run: whole, of itself, and inert whatever the pages hold."""

import dataclasses
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import report_commands
from jobs.cli import app
from jobs.report import page as reports
from jobs.report.facts import About, Attempt, Facts, Problem
from jobs.report.facts.gather import gather
from jobs.runs import Run
from pipeline.errors import InputError, UsageError

HOSTILE = (
    "</style><script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=javascript:alert(1)>{{7*7}}</title>"
    "\x00\x1b\u202e\ud800\ufffe]]><!--"
)
"""All that a page could try, at once."""


class Read(HTMLParser):
    """Tags, attributes and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def facts(finished: Run) -> Facts:
    return gather(finished)


@pytest.fixture(scope="module")
def page(facts: Facts) -> str:
    return reports.page(facts)


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every string changed, keys and names included; of long lists the first two."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: changed(getattr(value, f.name), change) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {change(key): changed(one, change) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(changed(one, change) for one in value))
    if isinstance(value, list | tuple):
        return type(value)(
            changed(one, change) for one in (value[:2] if dataclasses.is_dataclass(value[:1] and value[0]) else value)
        )
    return change(value) if isinstance(value, str) else value


def test_the_report_needs_nothing_else_and_every_anchor_leads_somewhere(page: str) -> None:
    read = Read(page)
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert {"#" + i for i in ids} >= set(read.values("href")) and all(h.startswith("#") for h in read.values("href"))
    named = {word for key in ("aria-labelledby",) for value in read.values(key) for word in value.split()}
    assert named <= set(ids)
    assert not read.values("src") and "script" not in read.tags and "link" not in read.tags and "@import" not in page
    assert "url(" not in page[: page.index("</style>")]
    assert any(value.startswith("default-src 'none'") for value in read.values("content"))
    assert read.tags.count("h1") == 1
    assert not any(name.startswith("on") or name == "style" for name, _ in read.attributes)


def test_every_part_of_the_facts_is_shown(facts: Facts, page: str) -> None:
    read = Read(page)
    ids = set(read.values("id"))
    assert not facts.problems
    sections = {
        "funnel",
        "rules",
        "examples",
        "breakdowns",
        "duplicates",
        "classifiers",
        "personal",
        "extraction",
        "costs",
    }
    assert sections | {"signals", "recipe"} <= ids
    assert {f"rule-{rule.name}" for rule in facts.rules} <= ids
    assert {"reason-" + reports.identifier(reason.name) for reason in facts.reasons} <= ids
    assert f"{facts.about.n_kept:,}" in read.text
    for rule in facts.rules:
        figure = reports.identifier(f"curve-{rule.name}-{rule.curves[0].side}") if rule.curves else ""
        assert not rule.curves or len(rule.curves[0].thresholds) < 2 or f'id="f-{figure}-d"' in page
    marked = [e for reason in facts.reasons for e in reason.drops if any(p.kind for p in e.excerpt)]
    assert marked and '<mark class="offending" title="what the rule counts">' in page
    assert len(page.encode()) < 10_000_000


def test_nothing_in_any_field_gets_out_of_its_place(facts: Facts) -> None:
    count = iter(range(10**9))
    hostile = changed(facts, lambda text: f"{HOSTILE}{next(count)}")
    made = reports.page(hostile)
    made.encode()
    read = Read(made)
    assert not {"script", "img", "a href", "iframe", "object", "base", "form"} & set(read.tags)
    assert not any(name.startswith("on") or name in ("src", "style", "srcdoc") for name, _ in read.attributes)
    assert all(value.startswith("#") for value in read.values("href"))
    assert read.tags.count("style") == 1 and read.tags.count("title") == 1 + read.tags.count("svg")
    assert not set("\x00\x1b\u202e\ufffe") & set(made)
    assert "[U+202E]" in made and "49" not in read.text.split("{{7*7}}")[0][-5:]
    ids = read.values("id")
    assert len(ids) == len(set(ids)) and not any(character in i for i in ids for character in " \"'<>")


def test_a_failed_run_says_so_at_the_top() -> None:
    about = About(
        **{**{f.name: None for f in dataclasses.fields(About)}, "asked": [], "inputs": [], "host": {}, "measures": None},
    )  # fmt: skip
    about = dataclasses.replace(
        about,
        folder="out",
        recipe="default",
        description="",
        digest="d",
        version="1",
        n_inputs=2,
        input_bytes=5,
        outcome="failed",
        error="InputError: the disk <is> full",
        attempts=[
            Attempt("2026-01-01T00:00:00Z", None, "killed"),
            Attempt("2026-01-02T00:00:00Z", None, "failed", "full"),
        ],
        stages=["extract", "curate"],
        stages_done=["extract"],
    )
    read = Read(reports.page(Facts(about, problems=[Problem("funnel", "the ledger is gone")])))
    start = read.text[: read.text.index("Recipe and inputs\n", read.text.index("This run failed"))]
    for words in ("This run failed.", "the disk <is> full", "Done: extract. ", "killed", "funnel: the ledger is gone"):
        assert words in start
    assert "Nothing was read" in start


def test_the_command_writes_the_report_again(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {f.name: None for f in dataclasses.fields(About)} | {"asked": [], "inputs": [], "host": {}, "attempts": []}
    about |= {
        "stages": [],
        "stages_done": [],
        "outcome": "done",
        "n_inputs": 1,
        "input_bytes": 1,
        "recipe": "r",
        "digest": "",
    }
    seeds: list[int] = []

    def quick(run: Run, *, seed: int = 0) -> Facts:
        seeds.append(seed)
        return Facts(About(**about))

    monkeypatch.setattr("jobs.report.facts.gather.gather", quick)
    target, told = tmp_path / "new" / "r.html", tmp_path / "r.json"
    arguments = ["report", finished.folder.path, "--output", str(target), "--json", str(told), "--seed", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"report: {target}" in done.output and "<h1" in target.read_text() and seeds == [3]
    assert json.loads(told.read_text())["about"]["recipe"] == "r"
    assert not (Path(finished.folder.path) / reports.NAME).exists()
    missing = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert isinstance(missing.exception, UsageError)


def _run_json(folder: Path, like: Run) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes((Path(like.folder.path) / "run.json").read_bytes() + b"\n")


def test_runs_that_fail_have_a_report_and_their_own_error(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []
    monkeypatch.setattr(reports, "write", lambda run: written.append(run.folder.path) or "there")
    console = report_commands.Console(stderr=True)
    with pytest.raises(InputError, match="own"), report_commands.reporting(str(tmp_path / "a"), True, console):
        _run_json(tmp_path / "a", finished)
        raise InputError("its own")
    with pytest.raises(ZeroDivisionError), report_commands.reporting(str(tmp_path / "b"), True, console):
        _run_json(tmp_path / "b", finished)
        raise ZeroDivisionError
    assert written == [str(tmp_path / "a"), str(tmp_path / "b")] and "report: there" in capsys.readouterr().err


def test_what_did_not_come_to_run_leaves_no_report(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "write", lambda run: pytest.fail("written"))
    console = report_commands.Console(stderr=True)
    for folder, error in ((finished.folder.path, UsageError("other")), (finished.folder.path, InputError("no file"))):
        with pytest.raises(type(error)), report_commands.reporting(folder, True, console):
            raise error
    with pytest.raises(InputError), report_commands.reporting(str(tmp_path / "nothing"), True, console):
        raise InputError("no file")
    with report_commands.reporting(finished.folder.path, False, console) as reported:
        pass
    assert reported.place is None


def test_a_report_that_fails_is_a_warning(
    finished: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(run: Run) -> str:
        raise RuntimeError("no\nglyphs")

    monkeypatch.setattr(reports, "write", fails)
    with report_commands.reporting(finished.folder.path, True, report_commands.Console(stderr=True)) as reported:
        pass
    assert reported.place is None and "warning: no report: RuntimeError: no glyphs" in capsys.readouterr().err
