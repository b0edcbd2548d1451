"""Looking at pages: what of them is more than text, what goes wrong in them, and the inspector that serves them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.runs import Run

TOKEN = "a-token-of-tests-and-of-nothing-else-0123456789"

LOOK = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")
"""A function that tells of pages what in them is more than text, and what they say."""


@dataclass
class Visit:
    """A page in a context of its own, and all that went wrong in it."""

    page: Any
    context: Any
    own: tuple[str, ...]
    problems: list[str] = field(default_factory=list)

    def open(self, address: str) -> Any:
        """Goes there, and says what the server answered."""
        return self.page.goto(address, wait_until="load")

    def look(self) -> str:
        """Makes sure that nothing in the page as it stands is more than text, and gives the text."""
        seen = self.page.evaluate(LOOK, {"own": self.own})[0]
        assert not (faults := [*seen["faults"], *self.ran()]), (self.page.url, faults)
        return flat(seen["says"])

    def read(self, path: str, status: int = 200) -> str:
        """Opens a page of the inspector, and the same."""
        answer = self.open(f"{self.own[0]}{path}")
        assert answer.status == status, (path, answer.status)
        return self.look()

    def read_all(self, paths: Sequence[str], status: int = 200) -> list[str]:
        """The same of many pages that are only parsed, which takes a tenth of the time."""
        answers = [self.context.request.get(f"{self.own[0]}{path}", max_redirects=3) for path in paths]
        wrong = [(path, answer.status) for path, answer in zip(paths, answers, strict=True) if answer.status != status]
        assert not wrong, wrong
        seen = self.page.evaluate(LOOK, {"own": self.own, "pages": [answer.text() for answer in answers]})
        faults = [(path, page["faults"]) for path, page in zip(paths, seen, strict=True) if page["faults"]]
        assert not faults, faults
        return [flat(page["says"]) for page in seen]

    def ran(self) -> list[str]:
        """Marks of the hostile pages' scripts."""
        return [f"a script ran in {frame.url}" for frame in self.page.frames if frame.evaluate("'__pwned' in window")]


def flat(text: str) -> str:
    """Text without regard to how its lines are broken."""
    return " ".join(text.split())


Visitor = Callable[..., Visit]


def watch(visit: Visit) -> None:
    note = visit.problems.append

    def pass_on(route: Any) -> None:
        address = route.request.url
        if address.startswith(("data:", *visit.own)):
            route.continue_()
        else:
            note(f"asked for {address}")
            route.abort()

    def dismiss(dialog: Any) -> None:
        note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            note(f"console: {message.text} at {message.location.get('url')}")

    def failed(request: Any) -> None:
        # What becomes a download ends as a page.
        if not (request.is_navigation_request() and request.failure == "net::ERR_ABORTED"):
            note(f"failed: {request.url}: {request.failure}")

    def went(frame: Any) -> None:
        if frame.url != "about:blank" and not frame.url.startswith(visit.own):
            note(f"went to {frame.url}")

    visit.context.route("**/*", pass_on)
    visit.page.on("console", said)
    visit.page.on("pageerror", lambda error: note(f"error in a page: {error}"))
    visit.page.on("dialog", dismiss)
    visit.page.on("requestfailed", failed)
    visit.page.on("framenavigated", went)
    visit.page.on("popup", lambda page: note(f"opened a window: {page.url}"))


@contextmanager
def inspecting(found: Run) -> Iterator[str]:
    """Serves a run's inspector, as `crawlmill inspect` does; its address, without the token."""
    import uvicorn

    from jobs.report.inspector.app import create

    listening = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        create(found, TOKEN), log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the inspector did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def enter(visit: Visit) -> Visit:
    """Lets a context in, by the address that the terminal shows."""
    answer = visit.open(f"{visit.own[0]}/?token={TOKEN}")
    assert answer.ok and "token" not in urlsplit(visit.page.url).query
    return visit
