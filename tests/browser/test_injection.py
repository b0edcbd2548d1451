"""Pages that attack whoever looks at them are shown as what they are: text."""

from hostile_pages import LIVE
from visits import FAULTS, Visitor

CONTEXTS = (
    "<body>{}",
    '<body><input value="{}">',
    "<body><input value='{}'>",
    "<body><textarea>{}</textarea>",
    "<body><pre><code>{}</code></pre>",
    "<body><script>const data = `{}`</script>",
    "<body><style>.a {{ content: '{}' }}</style>",
    "<body><!-- {} -->",
    "<head><title>{}</title></head>",
    "<body><template>{}</template>",
    "<body><svg><text>{}</text></svg>",
    "<body><svg><style><![CDATA[{}]]></style></svg>",
)

HERE = "http://here.example/"


def test_they_would_do_harm(visitor: Visitor) -> None:
    """Without escaping every live payload is noticed by what looks for faults."""
    visit = visitor("about:")

    def count(context: str, text: str) -> int:
        return len(visit.page.evaluate(FAULTS, {"own": ["about:"], "html": context.format(text)}))

    floor = {context: count(context, "nothing") for context in CONTEXTS}
    harmless = {name for name, text in LIVE.items() if not any(count(c, text) > floor[c] for c in CONTEXTS)}
    assert not harmless


def test_what_runs_or_asks_for_something_is_noticed(visitor: Visitor) -> None:
    visit = visitor(HERE)
    body = (
        f"{LIVE['script']}<img src=http://elsewhere.example/pwned><script>alert(1); console.error(2); throw 3</script>"
    )
    visit.context.route(HERE, lambda route: route.fulfill(content_type="text/html", body=body))
    visit.open(HERE)
    assert visit.ran()
    noticed = " ".join(visit.problems)
    for word in ("elsewhere.example", "dialog: 1", "console: 2", "error in a page: 3"):
        assert word in noticed
    visit.problems.clear()
