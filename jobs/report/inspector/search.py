"""The first page: search."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def search(request: Request) -> Response:
    """The search page."""
    inspection = request.app.state.inspection
    page: Response = inspection.page(request, "search.html")
    return page


routes = [Route("/", search)]
