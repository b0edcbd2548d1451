"""Kinds of pages that the default recipe should drop, and the class of rule that should say so."""

from pipeline.sample import layouts
from pipeline.sample.draft import Draft
from pipeline.sample.layouts import Main
from pipeline.sample.page import Page, document, paragraphs
from pipeline.sample.prose import bank


def _dropped(
    draft: Draft, title: str, html: str, reasons: tuple[str, ...] = ("quality", "empty"), url: str = ""
) -> Page:
    page = draft.page(Main(title, html, []), expect="dropped", reasons=reasons, url=url, must_not_contain=[])
    page.notes = {}
    return page


def _sites() -> dict[str, list[str]]:
    return bank("sites")


def shop(draft: Draft) -> list[Page]:
    """A page of a catalogue: names, prices, buttons, no sentence."""
    random, words = draft.random, _sites()
    cards = []
    for _ in range(random.randint(14, 30)):
        name = (
            f"{random.choice(words['colours'])} {random.choice(words['materials'])} {random.choice(words['products'])}"
        )
        cards.append(
            f'<div class="product"><h3>{name.title()}</h3><span class="price">{random.randrange(4, 240)}.99 EUR</span>'
            f"<button>Add to cart</button><span>In stock: {random.randrange(1, 60)}</span></div>"
        )
    return [_dropped(draft, f"Shop: page {random.randrange(1, 40)}", f'<div class="grid">{"".join(cards)}</div>')]


def link_farm(draft: Draft) -> list[Page]:
    """Nothing but links."""
    random, words = draft.random, _sites()
    links = [
        f'<a href="http://{random.choice(words["spam"])}{i}.example/">'
        + " ".join(random.choices(words["spam"], k=3))
        + "</a>"
        for i in range(random.randint(80, 200))
    ]
    glue = random.choice(("<br>\n", " | ", "\n"))
    return [_dropped(draft, "Links", f"<div>{glue.join(links)}</div>")]


def keyword_spam(draft: Draft) -> list[Page]:
    """Search words in a row, over and over."""
    random, words = draft.random, _sites()
    chosen = random.sample(words["spam"], 6)
    texts = [" ".join(random.choices(chosen, k=60)) for _ in range(random.randint(3, 6))]
    return [_dropped(draft, " ".join(chosen), paragraphs(texts), ("quality", "gates.language", "empty", "gates.url"))]


def lorem_ipsum(draft: Draft) -> list[Page]:
    """A template nobody filled: English prose around lorem ipsum."""
    words = _sites()["lorem"]
    dummy = [
        "Lorem ipsum dolor sit amet, " + " ".join(draft.random.choices(words, k=40)) + "."
        for _ in range(draft.random.randint(1, 2))
    ]
    texts = layouts.prose_paragraphs(draft.english, 120)
    return [
        _dropped(
            draft, "Welcome to our new site", paragraphs(texts[:2] + dummy + texts[2:]), ("quality", "gates.language")
        )
    ]


def placeholder(draft: Draft) -> list[Page]:
    """A parked, empty or suspended site."""
    return [
        _dropped(draft, "Welcome", paragraphs([draft.random.choice(_sites()["placeholders"])]), ("quality", "empty"))
    ]


def cookie_wall(draft: Draft) -> list[Page]:
    """Consent text and buttons, no page behind them."""
    words = _sites()
    html = paragraphs(words["cookies"]) + "".join(f"<button>{button}</button>" for button in words["buttons"])
    return [
        _dropped(
            draft, "Before you continue", f'<div class="consent">{html}</div>', ("quality", "empty", "gates.language")
        )
    ]


def javascript_only(draft: Draft) -> list[Page]:
    """An application shell that shows nothing without its script."""
    script = "".join(
        f"window.s{i} = function (a) {{ return a * {i}; }};\n" for i in range(draft.random.randint(20, 80))
    )
    hint = "<noscript>Please enable JavaScript to view this page.</noscript>"
    html = f'<div id="root"></div>{hint}<script>{script}</script>'
    return [_dropped(draft, "App", html, ("quality", "empty", "gates.language"))]


def login(draft: Draft) -> list[Page]:
    """A form for users."""
    fields = "".join(f'<label>{f}</label><input name="{f}">' for f in ("User name", "Password", "One time code"))
    html = f'<form method="post">{fields}<button>Sign in</button></form><a href="/reset">Forgot your password?</a>'
    return [_dropped(draft, "Sign in", html, ("quality", "empty", "gates.language"))]


def calendar(draft: Draft) -> list[Page]:
    """A month of dates with links to further months without end."""
    month = draft.english.decks["month"].draw()
    cells = [f'<td><a href="/cal?d={d}">{d}</a></td>' for d in range(1, 32)]
    rows = "".join(f"<tr>{''.join(cells[i : i + 7])}</tr>" for i in range(0, 31, 7))
    html = f"<table>{rows}</table><a href='/cal?m=+1'>Next month</a>"
    return [
        _dropped(draft, f"{month} {draft.random.randrange(1990, 2060)}", html, ("quality", "empty", "gates.language"))
    ]


def machine_log(draft: Draft) -> list[Page]:
    """Lines of a server log as text/plain."""
    random = draft.random
    lines = [
        f"2024-0{random.randrange(1, 9)}-{random.randrange(10, 28)} {random.randrange(10, 24)}:00"
        f" n{random.randrange(9)} kernel[{random.randrange(9999)}]: 0x{random.randrange(16**8):08x} "
        f"rc={random.randrange(99)}"
        for _ in range(random.randint(60, 160))
    ]
    page = _dropped(draft, "log", "", ("quality", "gates.language", "empty"))
    page.body, page.headers = "\n".join(lines).encode(), [("Content-Type", "text/plain")]
    return [page]


def short(draft: Draft) -> list[Page]:
    """One or two sentences, fewer than fifty words."""
    words = draft.english.sentence().split()[:30]
    return [_dropped(draft, "Note", paragraphs([" ".join(words)]), ("quality", "empty"))]


def repeated_paragraph(draft: Draft) -> list[Page]:
    """One paragraph again and again between others."""
    english = draft.english
    again = english.paragraph(3, 4)
    texts = [english.paragraph(2, 2)] + [again] * draft.random.randint(6, 10) + [english.paragraph(2, 2)]
    return [_dropped(draft, english.title(), paragraphs(texts), ("quality",))]


def repeated_lines(draft: Draft) -> list[Page]:
    """A script that went wrong: one sentence in every second line."""
    english = draft.english
    again = english.sentence()
    texts = [t for _ in range(12) for t in (again, english.sentence())]
    return [_dropped(draft, english.title(), paragraphs(texts), ("quality",))]


def price_list(draft: Draft) -> list[Page]:
    """Numbers with hardly a word."""
    random = draft.random
    rows = "".join(
        "<tr>" + "".join(f"<td>{random.randrange(1, 9999)}.{random.randrange(10, 99)}</td>" for _ in range(6)) + "</tr>"
        for _ in range(random.randint(30, 60))
    )
    return [_dropped(draft, "Rates", f"<table>{rows}</table>", ("quality", "gates.language", "empty"))]


def soft_404(draft: Draft) -> list[Page]:
    """Not found, said with status 200."""
    text = f"Sorry, the page about {draft.english.decks['object'].draw()} could not be found."
    return [_dropped(draft, "Page not found", paragraphs([text]), ("quality", "empty"))]


def teasers(draft: Draft) -> list[Page]:
    """An index of a blog: the first half of many sentences, each ending in an ellipsis."""
    lines = []
    for _ in range(draft.random.randint(14, 24)):
        words = draft.english.sentence().split()
        lines.append(" ".join(words[: max(6, len(words) // 2)]).rstrip(",.;:") + "...")
    return [_dropped(draft, "Latest posts", paragraphs(lines), ("quality",))]


def bullet_page(draft: Draft) -> list[Page]:
    """Every line starts with a bullet sign."""
    lines = ["• " + draft.english.sentence() for _ in range(draft.random.randint(30, 40))]
    return [_dropped(draft, "• Points", paragraphs(lines), ("quality",))]


def hashtags(draft: Draft) -> list[Page]:
    """Sentences made of hash tags."""
    texts = []
    for _ in range(6):
        words = draft.english.paragraph(2, 3).split()
        texts.append(" ".join(f"#{w}" if i % 3 == 0 else w for i, w in enumerate(words)))
    return [_dropped(draft, "Feed", paragraphs(texts), ("quality", "gates.language"))]


def brace_code(draft: Draft) -> list[Page]:
    """A manual page with curly braces in its code: C4 drops it."""
    main, code = layouts.documentation(draft.english, braces=True)
    page = _dropped(draft, main.title, main.html, ("quality",))
    page.notes = {"code": code}
    return [page]


def too_long(draft: Draft) -> list[Page]:
    """More than 100,000 words of the same few topics."""
    texts = layouts.prose_paragraphs(draft.english, 104_000)
    return [_dropped(draft, draft.english.title(), paragraphs(texts), ("quality",))]


def _url_kind(draft: Draft, url: str) -> list[Page]:
    page = draft.page(layouts.article(draft.english), url=url, expect="dropped", reasons=("gates.url",))
    return [page]


def adult_url(draft: Draft) -> list[Page]:
    """An ordinary text at an address that names what the site is for."""
    i = draft.index
    shapes = (f"http://xxx-sex-{i}.example/sex/xxx/{i}", f"https://www.free-sex-xxx{i}.test/xxx-sex.html")
    return _url_kind(draft, shapes[i % 2])


def gambling_url(draft: Draft) -> list[Page]:
    """An ordinary text at the address of a casino."""
    i = draft.index
    shapes = (f"https://lucky-casino-{i}.example/casino/bonus", f"http://casino{i}.test/online-casino/slots-{i}")
    return _url_kind(draft, shapes[i % 2])


def blocked_domain(draft: Draft) -> list[Page]:
    """An ordinary text on a listed domain."""
    return _url_kind(draft, f"https://{('', 'www.', 'news.')[draft.index % 3]}blocked.example/post/{draft.index}")


def blocked_subdomain(draft: Draft) -> list[Page]:
    """An ordinary text below a listed domain."""
    return _url_kind(draft, f"http://m{draft.index}.spam.example/read?id={draft.index}")


def media_type(draft: Draft) -> list[Page]:
    """A PDF, picture, style sheet or JSON answer."""
    i, random = draft.index, draft.random
    kinds = (
        ("application/pdf", "pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + random.randbytes(800) + b"\n%%EOF\n"),
        ("image/png", "png", b"\x89PNG\r\n\x1a\n" + random.randbytes(600)),
        ("application/json", "json", b'{"items": [' + str(random.randrange(10**6)).encode() + b"]}"),
        ("text/css", "css", b".a { color: teal }\n" * 40),
        ("image/jpeg", "jpg", b"\xff\xd8\xff\xe0" + random.randbytes(700)),
        ("application/rss+xml", "xml", b"<?xml version='1.0'?><rss><channel><title>Feed</title></channel></rss>"),
    )
    declared, suffix, body = kinds[i % len(kinds)]
    page = Page(draft.kind, f"https://{draft.site.host}/files/{i}.{suffix}", body, language="", expect="dropped")
    page.reasons, page.headers = ("gates.http.media_type",), [("Content-Type", declared)]
    return [page]


def _status(draft: Draft, line: str, title: str, text: str) -> Page:
    html = document(draft.site, title, paragraphs([text]))
    return Page(
        draft.kind, draft.url(title), html.encode(), expect="dropped", reasons=("gates.http.status",), status_line=line
    )


def redirect(draft: Draft) -> list[Page]:
    """Moved: a status of 301 or 302 and often no body."""
    target = draft.url("target", draft.other_sites(1)[0])
    line = ("HTTP/1.1 301 Moved Permanently", "HTTP/1.1 302 Found")[draft.index % 2]
    page = _status(draft, line, "Moved", "The document has moved.")
    page.headers.append(("Location", target))
    if draft.index % 3 == 0:
        page.body = b""
    return [page]


def not_found(draft: Draft) -> list[Page]:
    """A good article, sent with status 404 or 410."""
    line = ("HTTP/1.1 404 Not Found", "HTTP/1.0 410 Gone")[draft.index % 2]
    return [_status(draft, line, draft.english.title(), draft.english.paragraph(12, 16))]


def unavailable(draft: Draft) -> list[Page]:
    """The server was busy: 500 or 503."""
    line = ("HTTP/1.1 503 Service Unavailable", "HTTP/1.1 500 Internal Server Error")[draft.index % 2]
    return [_status(draft, line, "Try again later", draft.english.paragraph(1, 2))]


def empty(draft: Draft) -> list[Page]:
    """No body, white space, or a page without any text."""
    i = draft.index
    body = (b"", b" \r\n\r\n ", b"<html><head></head><body></body></html>", b"<!-- nothing here -->")[i % 4]
    page = Page(draft.kind, draft.url("empty"), body, language="", expect="dropped")
    page.reasons = ("empty", "quality", "gates.language")
    return [page]


KINDS = {
    "shop": (60, shop),
    "link_farm": (36, link_farm),
    "keyword_spam": (36, keyword_spam),
    "lorem_ipsum": (14, lorem_ipsum),
    "placeholder": (14, placeholder),
    "cookie_wall": (14, cookie_wall),
    "javascript_only": (14, javascript_only),
    "login": (14, login),
    "calendar": (16, calendar),
    "machine_log": (12, machine_log),
    "short": (24, short),
    "repeated_paragraph": (18, repeated_paragraph),
    "repeated_lines": (10, repeated_lines),
    "price_list": (10, price_list),
    "soft_404": (10, soft_404),
    "teasers": (12, teasers),
    "bullet_page": (8, bullet_page),
    "hashtags": (8, hashtags),
    "brace_code": (16, brace_code),
    "too_long": (1, too_long),
    "adult_url": (12, adult_url),
    "gambling_url": (10, gambling_url),
    "blocked_domain": (10, blocked_domain),
    "blocked_subdomain": (8, blocked_subdomain),
    "media_type": (24, media_type),
    "redirect": (12, redirect),
    "not_found": (14, not_found),
    "unavailable": (8, unavailable),
    "empty": (8, empty),
}
"""Kind -> (pages in a sample of 1,600, builder)."""
