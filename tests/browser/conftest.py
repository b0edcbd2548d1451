"""A browser, and the runs that it looks at. Skips without Chromium; on a machine that tests for us it fails instead."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from visits import Visit, Visitor, watch

from jobs.report import page
from jobs.run import run
from jobs.runs import Run
from pipeline.recipe import load_recipe
from pipeline.sample import write_sample

CHROMIUMS = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome")

ARGUMENTS = (
    "--no-sandbox",  # which Chromium cannot have as root, and pages here are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    named = os.environ.get("CHROMIUM")
    found = next((path for name in (named, *CHROMIUMS) if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; `make browser` says how to get one")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium, for one file of tests: Playwright's event loop stands in the way of others while it is there."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def visitor(browser: Any) -> Iterator[Visitor]:
    """Opens pages that fail the test by anything on the console, and by any request that is not to `own` addresses."""
    visits: list[Visit] = []

    def visit(*own: str, width: int = 1400, dark: bool = False, **options: Any) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(20_000)
        made = Visit(context.new_page(), context, own)
        watch(made)
        visits.append(made)
        return made

    yield visit
    for made in visits:
        made.context.close()
    problems = [problem for made in visits for problem in made.problems]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the small synthetic web, with its benchmark and a report."""
    folder = tmp_path_factory.mktemp("seen")
    write_sample(folder / "web", pages=500)
    recipe = load_recipe("default").with_benchmarks(folder / "web" / "benchmarks.yaml")
    tolerant = recipe.model_copy(update={"inputs": recipe.inputs.model_copy(update={"tolerate": 1.0})})
    made = run(tolerant, [str(folder / "web")], str(folder / "run"), partitions=2, master="local[2]")
    page.write(made)
    return made
