"""What a search finds, as a file."""

from starlette.routing import Route

routes: list[Route] = []
