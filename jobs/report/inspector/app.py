"""The inspector as a web application: what its pages share, and which there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.report.inspector import export, search, story, thresholds
from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.queries import Queries
from jobs.report.inspector.searcher import Searcher
from jobs.report.inspector.security import REPORT_POLICY, Guard
from jobs.report.text import shown
from jobs.runs import Run
from pipeline.errors import CrawlmillError, InputError, RecipeError, UsageError

HERE = Path(__file__).parent

REPORT = "report.html"

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_SHOWN = {400: "That cannot be asked", 404: "Not found", 405: "No such method", 413: "Too large"}


def create(run: Run, token: str, tokens: Sequence[str] = (), once: str | None = None) -> Starlette:
    """The application for a run, which lets in who has the token, and one visit with `once`. `tokens` are folders that may
    hold tokens of its pages.

    Raises StorageError where its tables cannot be read.
    """
    app = Starlette(
        routes=[
            *search.routes,
            *story.routes,
            *thresholds.routes,
            *export.routes,
            Route("/report", _report),
            Route("/static/{name}", _static),
        ],
        middleware=[Middleware(Guard, token=token, once=once)],
        exception_handlers={HTTPException: _failed, CrawlmillError: _refused},
    )
    app.router.redirect_slashes = False
    tables = Queries(run)
    app.state.inspection = Inspection(run, tables, Searcher(tables), _templates(), tuple(tokens))
    app.state.static = _static_files()
    return app


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["exact"] = _Exact
    return environment


class _Exact(str):
    """Text that is not shown but sent back, such as the value of a field: as it is, and escaped like any other."""


def _fit(value: Any) -> Any:
    """What an expression of a template gives, fit to be shown; figures and what macros give is so already."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup | _Exact) else value


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The files that pages load, with their types: those of the package, by name."""
    folders = (HERE.parent / "static", HERE / "static")
    files = (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()))
    return {file.name: (file.read_bytes(), _MEDIA_TYPES[file.suffix]) for file in files if file.suffix in _MEDIA_TYPES}


def _static(request: Request) -> Response:
    found = request.app.state.static.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    body, media_type = found
    return Response(body, media_type=media_type)


def _report(request: Request) -> Response:
    """The run's report, which may load and do even less than other pages."""
    body = request.app.state.inspection.run.folder.read_bytes(REPORT)
    if body is None:
        raise HTTPException(404, "This run has no report.html.")
    return Response(body, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})


def _failed(request: Request, error: Exception) -> Response:
    """A page for an address that is not there, or a request that is not understood."""
    if not isinstance(error, HTTPException):
        raise error
    title = _SHOWN.get(error.status_code, "That did not work")
    words = error.detail if error.status_code != 404 or error.detail != "Not Found" else "There is no such page here."
    response: Response = request.app.state.inspection.page(
        request, "error.html", error.status_code, title=title, words=words
    )
    response.headers.update(error.headers or {})
    return response


def _refused(request: Request, error: Exception) -> Response:
    """A page for an error that is meant to be read."""
    status = 400 if isinstance(error, UsageError | RecipeError) else 404 if isinstance(error, InputError) else 500
    page: Response = request.app.state.inspection.page(
        request, "error.html", status, title=_SHOWN.get(status, "That did not work"), words=str(error)
    )
    return page
