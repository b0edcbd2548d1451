"""The report of a run as one HTML file: facts in, a page out that needs nothing else and runs no script."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from jobs.report import figures
from jobs.report.facts import (
    Benchmark,
    Breakdown,
    Curve,
    Facts,
    Funnel,
    Head,
    Histogram,
    QualityBin,
    Reliability,
    Rule,
    Stage,
)
from jobs.report.facts.gather import gather
from jobs.report.figures import exact, identifier, share, short
from jobs.report.text import shown
from jobs.runs import Run

NAME = "report.html"
"""The report's file in a run folder."""

MOST_BARS = 12
"""Rows of a breakdown that are drawn; the table has all."""


def page(facts: Facts) -> str:
    """The report as HTML, in characters that UTF-8 can write."""
    return _template().render(facts=facts, draw=_Drawing(), css=Markup(stylesheet("base.css", "report.css")))


def write(run: Run, *, seed: int = 0) -> str:
    """Makes the report of a run and puts it into its folder; returns where it is."""
    run.folder.write_bytes(NAME, page(gather(run, seed=seed)).encode())
    return f"{run.folder.path.rstrip('/')}/{NAME}"


def stylesheet(*names: str) -> str:
    """Style files of ours, one after the other. They are written into pages, so none may hold what ends a style element."""
    return "\n".join(files("jobs.report").joinpath("static", name).read_text("utf-8") for name in names)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("jobs.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "n": count,
        "size": in_bytes,
        "time": duration,
        "id": identifier,
        "short": short,
        "money": money,
    }
    environment.globals |= {"share": share}
    return environment.get_template("report.html")


def _visible(value: Any) -> Any:
    """What a template puts out: what nobody sees in it made visible. Markup is ours."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def count(value: float | None) -> str:
    """A number with thousands apart; nothing where there is none."""
    return "" if value is None else exact(value)


def in_bytes(value: float | None) -> str:
    """Bytes in the unit that fits: 1.2 GB. Units are powers of a thousand."""
    if value is None:
        return ""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that fits."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"


def money(value: float | None) -> str:
    """An amount, to the hundredth below a hundred."""
    if value is None:
        return ""
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


class _Drawing:
    """The figures of a page as the template asks for them. What there is nothing to draw of is empty."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def _name(self, name: str) -> str:
        """A name that no other figure of the page has: a score may be a rule's, a head's and a signal."""
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}:{self.names[name]}"

    def funnel(self, funnel: Funnel, what: str) -> Markup:
        """One panel: what is `bytes_left`, `tokens_left` or `left` of each group. Groups before anything is known of it are
        left out; the first known one is then the start."""
        show: Callable[[float], str] = in_bytes if what == "bytes_left" else partial(_large)
        steps = [funnel.start, *(group.whole for group in funnel.groups)]
        if funnel.end is not None and what == "tokens_left":
            steps.append(funnel.end)
        known = [(step.name, getattr(step, what)) for step in steps if getattr(step, what) is not None]
        levels = [
            figures.Level(_LAST.get(name, name), max(0, before - left), left)
            for (name, left), before in zip(known, [known[0][1] if known else 0, *(n for _, n in known)], strict=False)
        ]
        if len(levels) < 2:
            return Markup()
        if levels[0].label != funnel.start.name:
            levels[0] = levels[0]._replace(label=f"text (after {levels[0].label})")
        names = {"left": "Documents", "bytes_left": "Bytes", "tokens_left": "Tokens"}
        return Markup(figures.funnel(f"funnel-{what}", levels, title=f"{names[what]} left after each group", show=show))

    def rule(self, rule: Rule) -> Markup:
        return self._histogram(rule.name, rule.histogram, rule.signal, (rule.minimum, rule.maximum))

    def curve(self, rule: Rule, curve: Curve) -> Markup:
        log = rule.histogram is not None and rule.histogram.log
        return Markup(
            figures.curve(
                self._name(f"curve-{rule.name}-{curve.side}"),
                curve.thresholds,
                curve.kept,
                curve.newly,
                bound=curve.bound,
                side=curve.side,
                title=f"Pages kept if the {curve.side} of {rule.signal} were elsewhere",
                log=log,
            )
        )

    def signal(self, name: str, histogram: Histogram | None, what: str = "pages") -> Markup:
        return self._histogram(name, histogram, name, (None, None), what)

    def _histogram(
        self,
        name: str,
        histogram: Histogram | None,
        signal: str,
        bounds: tuple[float | None, float | None],
        what: str = "pages",
    ) -> Markup:
        if histogram is None or not histogram.n:
            return Markup()
        drawn = figures.histogram(
            self._name(f"values-{name}"),
            histogram.edges,
            histogram.series,
            title=f"{what} by {signal}",
            bounds=bounds,
            log=histogram.log,
            zeros=histogram.zeros,
            what=what,
        )
        return Markup(drawn)

    def breakdown(self, breakdown: Breakdown) -> Markup:
        rows = [(_known(row.value), row.before, row.after) for row in breakdown.rows]
        rest = [breakdown.rest] if breakdown.rest else []
        total = tuple(sum(getattr(row, end) for row in [*breakdown.rows, *rest]) for end in ("before", "after"))
        title = f"{breakdown.name}: shares of {breakdown.among}, before and after"
        if breakdown.name == "dates":
            dated = [row for row, told in zip(rows, breakdown.rows, strict=True) if told.value is not None]
            return Markup(figures.timeline(self._name("dates"), dated, title=title, total=total))
        return Markup(
            figures.before_after(self._name(f"share-{breakdown.name}"), rows[:MOST_BARS], title=title, total=total)
            if len(rows) > 1
            else ""
        )

    def spectrum(self, facts: Facts) -> Markup:
        sizes = facts.duplicates.spectrum if facts.duplicates else []
        rows = [(_sizes(size.low, size.high), float(size.pages)) for size in sizes]
        said = [f"{size.pages:,} in {size.clusters:,} {_plural('cluster', size.clusters)}" for size in sizes]
        return Markup(figures.bars("spectrum", rows, title="Pages by the size of their cluster", said=said))

    def reliability(self, head: Head, number: int, of: Reliability) -> Markup:
        bins = [
            (b.mean_score, b.share, b.n) for b in of.bins if b.n and b.mean_score is not None and b.share is not None
        ]
        return Markup(
            figures.reliability(
                f"reliability-{head.name}-{number}", bins, title=f"How far the score of {head.name} is true"
            )
        )

    def quality(self, bins: list[QualityBin]) -> Markup:
        edges = [float(b.number) for b in bins] + [bins[-1].number + 1.0] if bins else []
        series = {"kept": [b.kept for b in bins], "other": [b.pages - b.kept for b in bins]}
        return Markup(figures.histogram("quality", edges, series, title="Pages by bin of quality") if bins else "")

    def found(self, benchmarks: list[Benchmark]) -> Markup:
        rows = [(b.name, b.found / b.items if b.items else 0.0) for b in benchmarks]
        said = [f"{b.found:,} of {b.items:,} items, {b.pages:,} {_plural('page', b.pages)}" for b in benchmarks]
        return Markup(figures.bars("found", rows, title="Benchmark items found", said=said, colour="dropped"))

    def stages(self, stages: list[Stage]) -> Markup:
        rows = [(stage.name, stage.cpu_seconds or 0.0) for stage in stages if stage.cpu_seconds]
        return Markup(figures.bars("stages", rows, title="Processor time by stage", show=duration))


_LAST = {"curated": "edits"}
"""What the last level of tokens is called in the figure: what was cut out of pages that are kept."""


def _large(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else short(value)


def _known(value: str | None) -> str:
    return "not known" if value is None else value or "(empty)"


def _sizes(low: int, high: int) -> str:
    return "1 (alone)" if high == 1 else f"{low:,} pages" if low == high else f"{low:,} to {high:,} pages"


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
