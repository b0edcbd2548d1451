"""`crawlmill inspect`: a run's pages, one by one, in a browser."""

import errno
import os
import signal
import socket
import sys
import webbrowser
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import UsageError

out = Console()

LOCALHOST = "127.0.0.1"


def inspect(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="A run: finished, decided again, or going on.")],
    port: Annotated[int, typer.Option(help="Port to serve at; 0 for any that is free.", min=0, max=65535)] = 0,
    host: Annotated[str, typer.Option(help="Address to serve at: one of this machine alone.")] = LOCALHOST,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--tokens", metavar="FOLDER", help="Folder of tokens or mix in which to look for pages; may be repeated."
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, if there is a display.")
    ] = True,
) -> None:
    """Look into a run in a browser: search its pages, read the whole story of each, move thresholds, export a selection.

    Only this machine, and only the address that is printed, gets in. Ends with Ctrl-C.
    """
    import uvicorn

    from jobs.report.inspector.app import create
    from jobs.report.inspector.security import TOKEN, new_token
    from jobs.runs import existing_run

    run = existing_run(folder)
    listening = _listen(_loopback(host), port)
    at = listening.getsockname()[1]
    # The second is for the browser that is opened here, whose command other users can see.
    token, once = new_token(), new_token()
    app = create(run, token, tokens or [], once)
    address = f"http://{f'[{host}]' if ':' in host else host}:{at}"
    out.print(f"inspect {folder}: {address}/?{TOKEN}={token}", highlight=False, markup=False, soft_wrap=True)
    out.print("Ctrl-C ends it.")
    if browser and _has_display():
        webbrowser.open(f"{address}/?{TOKEN}={once}")
    # uvicorn ends what it is at, and then calls this.
    signal.signal(signal.SIGINT, _ended)
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=32_768,
        http="h11",
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(settings).run(sockets=[listening])


def _loopback(host: str) -> str:
    """The address if only this machine reaches it. Raises UsageError."""
    from jobs.report.inspector.security import is_loopback

    if host == "localhost" or is_loopback(host):
        return LOCALHOST if host == "localhost" else host
    raise UsageError(
        f"--host {host} is not an address of this machine alone; the inspector shows a whole run to whoever reaches it. "
        "From elsewhere: ssh -L PORT:127.0.0.1:PORT this-machine, with --port PORT here"
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket at that port. Raises UsageError where it is taken."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        why = "something else serves there" if taken else error.strerror or str(error)
        raise UsageError(f"cannot serve at port {port} of {host}: {why}; give another --port, or 0 for any") from error
    return listening


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _ended(*_: object) -> None:
    """Ends the process as Ctrl-C ends any command, without waiting for queries."""
    sys.stdout.flush()
    os._exit(130)
