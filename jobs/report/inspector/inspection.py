"""What the endpoints of one inspector share."""

from dataclasses import dataclass
from typing import Any

import jinja2
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from jobs.report.inspector.queries import Queries
from jobs.report.inspector.searcher import Searcher
from jobs.report.inspector.security import BODY
from jobs.runs import Run
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class Inspection:
    """The run that is looked at: `request.app.state.inspection` of a request. `tokens_folders` are folders of tokens and
    mixes in which its pages are looked for."""

    run: Run
    tables: Queries
    searcher: Searcher
    templates: jinja2.Environment
    tokens_folders: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was decided by."""
        return self.run.recipe

    @property
    def finished(self) -> bool:
        """Whether the run has decided its records."""
        return self.tables.has("ledger")

    def page(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        """A page. In templates every `{{ value }}` is made fit to be shown (`jobs.report.text.shown`) and escaped."""
        facts = {"run": self.run, "recipe": self.recipe, "path": request.url.path, "finished": self.finished}
        return HTMLResponse(self.templates.get_template(template).render(**facts, **context), status)


def form(request: Request) -> QueryParams:
    """The fields of a form that was sent by POST, for endpoints that are plain functions, too."""
    return QueryParams(request.scope.get(BODY, b"").decode("utf-8", "replace"))
