"""Who may talk to the inspector, and what its pages may do.

What it stands against:

- *Pages of the crawl.* Every cell that is shown may come from somebody who wants to run a script here. Templates escape
  it, and if one ever failed to, the policy sent with every response lets no script run but our own files, loads nothing
  from elsewhere, and sends forms nowhere else. Texts of pages are never links, HTML of pages is never served as HTML.
- *Web sites open in the same browser.* They can send requests to 127.0.0.1. They know neither token nor cookie, and the
  cookie does not go along with what other sites ask for (SameSite). A name of theirs that leads to 127.0.0.1 (DNS
  rebinding) is refused by its Host header, and what changes anything needs the Origin of our own pages.
- *Other users of the machine.* They can connect, too, but have to guess 256 bits. The address with the token is shown
  on the terminal of whoever started the inspector; the token is in no log, and leaves the address bar at once. They see
  the command by which a browser is opened: the token in it lets in one visit only, that of this browser.
- *Requests that ask for files.* None names one: static files are a fixed set, tables those that the run has, a record is
  found by its id among rows. The one file that is written, a recipe, has a name of letters and digits in a folder of its
  own.
- *Requests that are too large.* Addresses and bodies have an end; queries have a time limit (see `search`).

What it does not stand against: programs run by the same user, who can read the run and the browser's cookies anyway; other
users who keep it busy with connections, which costs its owner a new start and gives them nothing. A
browser sends a cookie of 127.0.0.1 to every port of it, so a web server that another user runs on this machine, and that
is visited with the same browser, sees it: do not do that, or end the inspector first.
"""

import secrets
from ipaddress import ip_address
from logging import DEBUG, getLogger
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.report.text import shown_line

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What pages of the inspector may load and do."""

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; sandbox"
)
"""The same for a run's report.html, which has its styles in it and no script at all."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Sent with every response, beside the policy."""

METHODS = ("GET", "HEAD", "POST")

MOST_ADDRESS = 8_192
"""Bytes of path and query."""

MOST_BODY = 65_536
"""Bytes of a request's body."""

BODY = "crawlmill.body"
"""Where a request's scope has its body, which was read here."""

TOKEN = "token"
"""The parameter of the address that lets a browser in."""

_log = getLogger(__name__)

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body><main><h1>{title}</h1><p>{words}</p></main></body>
</html>
"""

_HOW_TO_GET_IN = (
    "This is a Crawlmill inspector, and this browser has not been let in. Open the address that "
    "<code>crawlmill inspect</code> printed when it was started: it ends in a token. If it has been let in and you followed "
    'a link from elsewhere, <a href="">go on</a>.'
)


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def cookie_name(port: int) -> str:
    """Name of the cookie of the inspector at a port: a browser sends cookies of 127.0.0.1 to every port of it."""
    return f"crawlmill-{port}"


class Guard:
    """Lets through what `security` says may pass, and puts the headers on whatever is answered."""

    def __init__(self, app: ASGIApp, token: str, once: str | None = None) -> None:
        """`once` is another token, which lets in one visit only."""
        self._app = app
        self._token = token
        self._once = once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has it answered."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", POLICY)
                headers.update(HEADERS)
            await send(message)

        refusal = self._refusal(scope) or self._entry(scope)
        if refusal is None:
            body = await _body(scope, receive)
            if body is None:
                refusal = _refuse(413, "Too large", f"A request may have {MOST_BODY:,} bytes.")
            else:
                scope[BODY] = body
                receive = _again(body, receive)
        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            # Both may hold what a page says, and a terminal does what it is told.
            words = shown_line(f"{type(error).__name__}: {error} at {scope['path']}")
            _log.error("%s", words, exc_info=_log.isEnabledFor(DEBUG))
            if started:
                raise
            await _refuse(500, "This is our fault", "The terminal of the inspector says what went wrong.")(
                scope, receive, answer
            )

    def _refusal(self, scope: Scope) -> Response | None:
        """What is wrong with a request, whoever sent it."""
        headers = Headers(scope=scope)
        if not is_own_name(headers.getlist("host"), scope.get("server")):
            words = "This address is not the inspector's. Open the one that <code>crawlmill inspect</code> printed."
            return _refuse(403, "Wrong address", words)
        if scope["method"] not in METHODS:
            allowed = ", ".join(METHODS)
            refusal = _refuse(405, "No such method", f"The inspector knows {allowed}.")
            refusal.headers["allow"] = allowed
            return refusal
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_ADDRESS:
            return _refuse(414, "Too long", f"An address may have {MOST_ADDRESS:,} bytes.")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-dest") != "document":
            return _refuse(403, "Not from there", "Other sites cannot load parts of the inspector.")
        if scope["method"] == "POST" and not _is_own_origin(headers):
            return _refuse(403, "Not from there", "This can only be asked for on pages of the inspector itself.")
        return None

    def _entry(self, scope: Scope) -> Response | None:
        """What a request gets that does not come with the cookie: the cookie in exchange for the token, or nothing."""
        name = cookie_name(scope["server"][1])
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in asked if key == TOKEN]
        if given and scope["method"] != "POST":
            if not self._is_token(given[0]) and not self._is_once(given[0]):
                return _refuse(403, "Not let in", _HOW_TO_GET_IN)
            rest = urlencode([(key, value) for key, value in asked if key != TOKEN])
            # A path that begins with two slashes would lead to another host.
            path = "/" + quote(scope["path"].lstrip("/"))
            response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(name, self._token, httponly=True, samesite="strict", path="/")
            return response
        if not any(self._is_token(value) for value in _cookies(Headers(scope=scope), name)):
            return _refuse(403, "Not let in", _HOW_TO_GET_IN)
        return None

    def _is_once(self, given: str) -> bool:
        if self._once is None or not _is_same(given, self._once):
            return False
        self._once = None
        return True

    def _is_token(self, given: str) -> bool:
        return _is_same(given, self._token)


def _is_same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def is_own_name(hosts: list[str], server: tuple[str, int | None] | None) -> bool:
    """Whether the one Host header is a loopback name with the port at which the request came in; `server` is the address
    that the socket has."""
    host, port = server or ("", None)
    names = {"127.0.0.1", "localhost", "[::1]"} | ({host} if is_loopback(host) else set())
    own = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
    return port is not None and len(hosts) == 1 and hosts[0].lower() in own


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address; names are none."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _is_own_origin(headers: Headers) -> bool:
    """Whether a page of the inspector sent the request: browsers say so.

    For a form of a page with `no-referrer` they give the origin as null, and that it is the same one in a header that no
    page can set.
    """
    origin = headers.getlist("origin")
    if origin == ["null"]:
        return headers.get("sec-fetch-site") == "same-origin"
    return origin == [f"http://{headers['host']}"]


def _cookies(headers: Headers, name: str) -> list[str]:
    found = []
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                found.append(value)
    return found


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """All of a request's body; None where it is too large."""
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BODY:
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what else there is to receive."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refuse(status: int, title: str, words: str) -> Response:
    """A page of ours, with nothing of the request in it."""
    return HTMLResponse(_PAGE.format(title=title, words=words), status)
