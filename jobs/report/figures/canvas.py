"""What figures are drawn on: a figure of matplotlib, written as SVG that stands in a page and has no style of its own."""

import io
import math
import re
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from jobs.report.text import shown_line

WIDTH = 340

_DRAWING = threading.Lock()
"""Settings of matplotlib are those of the process."""

_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "figure", "path.simplify": False}

_NAMES = ("ink", "muted", "line", "paper", "kept", "kept-soft", "dropped", "dropped-soft", "error", "accent", "soft")
_COLOUR = {name: f"#{number:06x}" for number, name in enumerate(_NAMES, 1)}
"""What matplotlib is told of a colour: a number in its place that becomes a class."""

_CLASS = {colour: name for name, colour in _COLOUR.items()}

_FONT = 11.0


class Area(NamedTuple):
    """Margins around what is drawn, in units of the figure."""

    left: float = 40
    right: float = 10
    top: float = 16
    bottom: float = 22


class Canvas:
    """One figure and what its data units are. Its ticks are few and put by us; matplotlib's own axes would take more time
    than all that is drawn in them."""

    def __init__(self, height: float, area: Area, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, frameon=False)
        FigureCanvasSVG(self.figure)
        self.x, self.y = apart(*x), apart(*y)
        self.unit_x = (self.x[1] - self.x[0]) / (WIDTH - area.left - area.right)
        self.unit_y = (self.y[1] - self.y[0]) / (height - area.top - area.bottom)
        """Data units of one unit of the figure."""
        scale = Affine2D().translate(-self.x[0], -self.y[0]).scale(1 / self.unit_x, 1 / self.unit_y)
        self.place = scale.translate(area.left, area.bottom)

    def _add(self, artist: Artist) -> None:
        artist.set_zorder(len(self.figure.get_children()))  # what comes later lies above
        self.figure.add_artist(artist, clip=False)

    def text(self, x: float, y: float, words: str, ha: str = "left", va: str = "baseline", **more: Any) -> None:
        """Words at a place in data units, as they are: no mathematics is read into them."""
        colour = _COLOUR[more.pop("colour", "muted")]
        size = more.pop("size", _FONT)
        shape: Any = {
            "ha": ha,
            "va": va,
            "color": colour,
            "fontsize": size,
            "parse_math": False,
            "transform": self.place,
        }
        self._add(Text(x, y, shown_line(words), **shape, **more))

    def lines(self, segments: Sequence[Any], colour: str, width: float = 1, dashes: Any = "solid") -> None:
        """Lines through points."""
        if len(segments):
            shape: Any = {"linewidths": width, "linestyles": dashes, "transform": self.place}
            self._add(LineCollection(segments, colors=_COLOUR[colour], **shape))

    def shape(self, path: Path, fill: str | None, edge: str | None = None, width: float = 1) -> None:
        """An outline, filled."""
        colours: Any = {"facecolor": _COLOUR[fill] if fill else "none", "edgecolor": _COLOUR[edge] if edge else "none"}
        self._add(PathPatch(path, linewidth=width if edge else 0, transform=self.place, **colours))

    def boxes(self, boxes: Sequence[tuple[float, float, float, float]], fill: str, edge: str | None = None) -> None:
        """Rectangles of left, bottom, right, top."""
        paths = [Path([(a, b), (c, b), (c, d), (a, d), (a, b)], closed=True) for a, b, c, d in boxes if c != a]
        if paths:
            self.shape(Path.make_compound_path(*paths), fill, edge)

    def x_ticks(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Marks and their words under the axis, and the axis."""
        low, high = self.x
        bottom = self.y[0]
        ends = [[(low, bottom), (high, bottom)]]
        self.lines([*ends, *([(x, bottom), (x, bottom - 4 * self.unit_y)] for x, _ in ticks)], "muted")
        for x, words in ticks:
            near = (x - low) / self.unit_x, (high - x) / self.unit_x
            ha = "left" if near[0] < 8 else "right" if near[1] < 8 else "center"
            self.text(x, bottom - 6 * self.unit_y, words, ha=ha, va="top")

    def y_grid(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Lines across at the ticks, and their words on the left."""
        low, high = self.x
        self.lines([[(low, y), (high, y)] for y, _ in ticks], "line", 0.7)
        for y, words in ticks:
            self.text(low - 5 * self.unit_x, y, words, ha="right", va="center")

    def svg(self, name: str, title: str, description: str) -> str:
        """What was drawn, as it stands in a page."""
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with _DRAWING, matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that matplotlib has no glyph for: browsers draw them
            self.figure.savefig(written, format="svg", metadata=nothing)
        return _inline(written.getvalue(), name, title, description, self.height)


def apart(low: float, high: float) -> tuple[float, float]:
    """Two ends that are not one."""
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def identifier(name: str) -> str:
    """`name` as it may stand in an id and behind a # in an address: letters, digits, dot, hyphen and underscore; others as
    their numbers between hyphens, so that two names never become the same."""
    return re.sub(r"[^A-Za-z0-9._]", lambda found: f"-{ord(found.group()):x}-", name)


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found.group()):.1f}".removesuffix(".0")


_NUMBER = re.compile(r"-?\d+\.\d+")

_KEPT_ATTRIBUTES = {"d", "x", "y", "transform", "fill", "stroke", "stroke-width", "stroke-dasharray", "text-anchor"}


def _inline(text: str, name: str, title: str, description: str, height: float) -> str:
    """What matplotlib wrote, as it stands in a page."""
    source = ElementTree.fromstring(text)
    unique = "f-" + identifier(name)
    root = ElementTree.Element(
        "svg",
        {
            "class": "figure",
            "role": "img",
            "aria-labelledby": f"{unique}-t {unique}-d",
            "viewBox": f"0 0 {WIDTH} {height:g}",
            "width": str(WIDTH),
            "height": f"{height:g}",
            "xmlns": "http://www.w3.org/2000/svg",
        },
    )
    for tag, ending, words in (("title", "t", title), ("desc", "d", description)):
        ElementTree.SubElement(root, tag, {"id": f"{unique}-{ending}"}).text = shown_line(words)
    for element in source.iter():
        tag = element.tag.rpartition("}")[2]
        if tag not in ("path", "text") or "clip" in element.get("id", ""):
            continue
        made = ElementTree.SubElement(root, tag, _plain(element))
        made.text = element.text
    return ElementTree.tostring(root, encoding="unicode")


def _plain(element: ElementTree.Element) -> dict[str, str]:
    """Attributes without style: colours become classes, numbers have one decimal."""
    style = dict(part.split(":", 1) for part in element.get("style", "").split(";") if ":" in part)
    facts = {key: value for key, value in element.attrib.items() if key in _KEPT_ATTRIBUTES}
    facts |= {key.strip(): value.strip() for key, value in style.items() if key.strip() in _KEPT_ATTRIBUTES}
    classes = []
    for what in ("fill", "stroke"):
        colour = facts.pop(what, None)
        if colour in _CLASS:
            classes.append(f"{what}-{_CLASS[colour]}")
        elif colour == "none":
            facts[what] = "none"
    if "stroke" not in facts and not any(c.startswith("stroke-") for c in classes):
        facts.pop("stroke-width", None)
    if "transform" in facts and facts["transform"].startswith(("rotate(-0", "rotate(0")):
        del facts["transform"]
    size = style.get(" font-size", style.get("font-size", "")).strip().removesuffix("px")
    if not size and "font" in style:
        size = next(iter(re.findall(r"([\d.]+)px", style["font"])), "")
    if size and float(size) != _FONT:
        facts["font-size"] = size
    for key in ("d", "x", "y", "transform"):
        if key in facts:
            facts[key] = " ".join(_NUMBER.sub(_rounded, facts[key]).replace("L ", "").split())
    if classes:
        facts = {"class": " ".join(classes), **facts}
    return facts


def short(value: float) -> str:
    """A number in few characters: 950, 1.2k, 34M, 0.25, 1e-6."""
    size = abs(value)
    if size == 0:
        return "0"
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.0e}".replace("e-0", "e-")


def exact(value: float) -> str:
    """A number in full, as far as it says something."""
    if not abs(value) < 1e15:  # NaN, too
        return f"{value:.4g}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def linear_ticks(low: float, high: float, most: int = 4) -> list[tuple[float, str]]:
    """Ticks at round numbers, and their words."""
    low, high = apart(low, high)
    found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    room = (high - low) * 1e-9
    return [(float(x), short(round(float(x), 12))) for x in found if low - room <= x <= high + room]


def log_ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Ticks between 10**low and 10**high, at logarithms."""
    decades = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
    if len(decades) >= 2:
        step = -(-len(decades) // most)
        return [(float(at), short(10.0**at)) for at in decades[::step]]
    ticks = []
    for at in range(math.floor(low), math.ceil(high) + 1):
        ticks += [(at + math.log10(m), short(m * 10.0**at)) for m in (1, 2, 5)]
    return [tick for tick in ticks if low - 1e-9 <= tick[0] <= high + 1e-9]
