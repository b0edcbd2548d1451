"""What a template shows: name and arguments -> wikitext, by the lists of `wikitext.yaml`.

MediaWiki expands a template by the page that defines it, which no dump of one article holds. The lists say what the
templates show that carry words of a sentence; every other one shows nothing here.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

MOST_ARGUMENTS = 500
"""Arguments of a template that are read; tables of thousands of cells in one template are data."""

Arguments = dict[str, str]
"""Of a template: values by name; positional ones are `"1"`, `"2"`, ..."""


class Rules(NamedTuple):
    """`wikitext.yaml`, ready to look things up in."""

    sections: dict[str, frozenset[str]]
    hatnotes: re.Pattern[str]
    files: frozenset[str]
    categories: frozenset[str]
    prefixes: frozenset[str]
    redirects: frozenset[str]
    disambiguations: frozenset[str]
    dropped_tables: frozenset[str]
    dropped_elements: frozenset[str]
    templates: dict[str, Callable[[Arguments], str]]
    prefixed: tuple[tuple[str, Callable[[Arguments], str]], ...]


def arguments_of(parts: list[str]) -> Arguments:
    """The arguments of a template from what stands between its `|`. A name that comes twice has its last value, as in
    MediaWiki; letter case counts for nothing here."""
    arguments: Arguments = {}
    position = 0
    for part in parts[:MOST_ARGUMENTS]:
        name, equals, value = part.partition("=")
        if equals:
            arguments[name.strip().lower()] = value.strip()
        else:
            position += 1
            arguments[str(position)] = part
    return arguments


def shown(name: str, arguments: Arguments) -> str | None:
    """What the template of this name shows, as wikitext without templates; None where it is not known."""
    known = rules()
    name = template_name(name)
    render = known.templates.get(name)
    if render is None:
        render = next((each for prefix, each in known.prefixed if name.startswith(prefix)), None)
    return None if render is None else render(arguments)


def template_name(name: str) -> str:
    """A template's name as it is looked up."""
    name = " ".join(name.replace("_", " ").split()).lower()
    return name.removeprefix("template:").lstrip()


@cache
def rules() -> Rules:
    """The lists, read once."""
    lists = yaml.safe_load(Path(__file__).with_name("wikitext.yaml").read_text(encoding="utf-8"))
    templates: dict[str, Callable[[Arguments], str]] = {}
    declared = lists["templates"]
    for rule in declared["show"]:
        for each in rule["names"]:
            templates[str(each)] = _first(rule["arguments"])
    for each in declared["last"]:
        templates[each] = _last
    for each, pattern in declared["patterns"].items():
        templates[str(each)] = _pattern(pattern)
    for each, text in declared["constants"].items():
        templates[str(each)] = _constant(text)
    for each, between in declared["joined"].items():
        templates[each] = _joined(between)
    for function, names in declared["computed"].items():
        for each in names:
            templates[str(each).lower()] = _COMPUTED[function]
    return Rules(
        {language: frozenset(titles) for language, titles in lists["sections"].items()},
        re.compile(":+ *''(?:" + "|".join(lists["hatnotes"]) + ")", re.IGNORECASE),
        frozenset(lists["files"]),
        frozenset(lists["categories"]),
        frozenset(lists["prefixes"]),
        frozenset(lists["redirects"]),
        frozenset(lists["disambiguations"]),
        frozenset(lists["dropped_tables"]),
        frozenset(lists["dropped_elements"]),
        templates,
        tuple((prefix, _pattern(pattern)) for prefix, pattern in declared["prefixes"].items()),
    )


@cache
def units() -> dict[str, list[str]]:
    """Of each unit of `{{convert}}`: singular, plural, symbol."""
    return yaml.safe_load(Path(__file__).with_name("wikitext.yaml").read_text(encoding="utf-8"))["units"]


def _value(arguments: Arguments, *names: str) -> str:
    for name in names:
        value = arguments.get(name)
        if value is not None and (value := value.strip()):
            return value
    return ""


def _positional(arguments: Arguments) -> list[str]:
    values = []
    number = 1
    while (value := arguments.get(str(number))) is not None:
        values.append(value.strip())
        number += 1
    return values


def _first(names: list[str]) -> Callable[[Arguments], str]:
    return lambda arguments: _value(arguments, *names)


def _last(arguments: Arguments) -> str:
    values = _positional(arguments)
    return values[-1] if values else ""


def _constant(text: str) -> Callable[[Arguments], str]:
    return lambda arguments: text


def _joined(between: str) -> Callable[[Arguments], str]:
    def render(arguments: Arguments) -> str:
        values = [value for value in _positional(arguments) if value]
        first = between if between.startswith("\n") and values else ""
        return first + between.join(values) + ("\n" if first else "")

    return render


_HOLE = re.compile(r"\{([^{}]+)\}")


def _filled(hole: str, arguments: Arguments) -> str:
    if hole == "*":
        return _letters(arguments)
    if "+" in hole:
        return ", ".join(value for name in hole.split("+") if (value := _value(arguments, name)))
    return _value(arguments, *hole.split("|"))


def _pattern(pattern: str) -> Callable[[Arguments], str]:
    """What shows a pattern of `wikitext.yaml`: `{1|text}` is the first of these arguments that is not empty, `{2+3}` all
    of them that are not, with commas, `{*}` all positional ones without a space. What stands in ⟦⟧ is there only where
    each of its arguments is, and anything at all only where one is (or none was asked for)."""
    pieces = re.split(r"(⟦[^⟦⟧]*⟧)", pattern)
    constant = _HOLE.search(pattern) is None

    def render(arguments: Arguments) -> str:
        text = []
        any_there = constant
        for piece in pieces:
            optional = piece.startswith("⟦")
            missing = False

            def fill(hole: re.Match[str]) -> str:
                nonlocal missing, any_there
                value = _filled(hole[1], arguments)
                missing = missing or not value
                any_there = any_there or bool(value)
                return value

            filled = _HOLE.sub(fill, piece[1:-1] if optional else piece)
            if not (optional and missing):
                text.append(filled)
        return "".join(text) if any_there else ""

    return render


_NOT_SOUNDS = frozenset(
    ("pron", "lang", "us", "uk", "local", "also", "alsous", "alsouk", "icon", "audio", "both", "ipa")
)
"""Arguments of the pronunciation templates that are words of their own and no sounds."""


def _letters(arguments: Arguments) -> str:
    sounds = "".join(value for value in _positional(arguments) if value.lower() not in _NOT_SOUNDS)
    return sounds.replace("_", " ")


_RAISED = str.maketrans("0123456789+-−()in", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁱⁿ")
_LOWERED = str.maketrans("0123456789+-−()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎")
_CAN_RAISE = re.compile(r"[0-9+\-−()]+|[+\-−]?[in]")
_CAN_LOWER = re.compile(r"[0-9+\-−()]+")


def raised(text: str) -> str:
    """Superscript: as Unicode has it where it has all of it, else as it is (`19th`)."""
    return text.translate(_RAISED) if _CAN_RAISE.fullmatch(text) else text


def lowered(text: str) -> str:
    """Subscript, likewise."""
    return text.translate(_LOWERED) if _CAN_LOWER.fullmatch(text) else text


# Words between the numbers of {{convert}}.
_RANGES = {
    "to": " to ", "-": "–", "–": "–", "to(-)": "–", "and": " and ", "or": " or ", "by": " by ", "x": " × ",
    "×": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", "to about": " to about ", "and(-)": " and ", "xx": " × ",
    "&": " & ", "+": " + ", ",": ", ",
}  # fmt: skip
_NUMBER = re.compile(r"[-−+]?[\d.,]*\d(?:[eE][-+]?\d+)?(?:[+/]\d+(?:/{1,2}\d+)?)?")


def _convert(arguments: Arguments) -> str:
    values = _positional(arguments)
    if not values:
        return ""
    quantity = values[0]
    at = 1
    while at + 1 < len(values) and values[at] in _RANGES:
        quantity += _RANGES[values[at]] + values[at + 1]
        at += 2
    if at >= len(values):
        return quantity
    measure = f"{quantity}{_unit(values[at], quantity, arguments)}"
    while at + 2 < len(values) and _NUMBER.fullmatch(values[at + 1]) and values[at + 2] in units():  # 6 ft 2 in
        measure += f" {values[at + 1]}{_unit(values[at + 2], values[at + 1], arguments)}"
        at += 2
    return measure


def _unit(code: str, quantity: str, arguments: Arguments) -> str:
    names = units().get(code)
    if names is None:
        return f" {code}"
    adjective = arguments.get("adj", "") in ("on", "mid", "pre") or "adj" in arguments.get("disp", "")
    short = arguments.get("abbr", "") in ("on", "in", "values") or "°" in names[0]
    if short:
        return f" {names[2]}"
    if adjective:
        return f"-{names[0]}"
    return f" {names[0] if quantity in ('1', '-1', '−1') else names[1]}"


def _fraction(arguments: Arguments) -> str:
    values = _positional(arguments)
    if len(values) >= 3:
        return f"{values[0]} {values[1]}/{values[2]}"
    if len(values) == 2:
        return f"{values[0]}/{values[1]}"
    return f"1/{values[0]}" if values else ""


def _number(arguments: Arguments) -> str:
    return "".join(_positional(arguments))


def _measured(arguments: Arguments) -> str:
    values = [value for value in _positional(arguments) if value]
    text = values[0] if values else ""
    if len(values) == 2:
        text += values[1] if values[1].startswith("(") else f" ± {values[1]}"
    elif len(values) > 2:
        text += f" +{values[1].lstrip('+')} −{values[2].lstrip('-−')}"
    power = _value(arguments, "e", "e10")
    if power:
        ten = f"10{raised(power.replace('-', '−'))}"
        text = f"({text}) × {ten}" if " " in text else f"{text} × {ten}" if text else ten
    unit = _value(arguments, "u", "ul", "upl")
    per = _value(arguments, "up", "upp")
    end = _value(arguments, "end", "suffix")
    return _value(arguments, "p", "pre") + text + (f" {unit}" if unit else "") + (f"/{per}" if per else "") + end


def _exponent(arguments: Arguments) -> str:
    values = _positional(arguments)
    return f" × 10{raised(values[-1].replace('-', '−'))}" if values else ""


def _power(arguments: Arguments) -> str:
    values = _positional(arguments)
    if len(values) < 2:
        return values[0] if values else ""
    exponent = raised(values[1])
    return values[0] + (exponent if exponent != values[1] else f"^{values[1]}")


def _raised(arguments: Arguments) -> str:
    return raised(_value(arguments, "1"))


def _lowered(arguments: Arguments) -> str:
    return lowered(_value(arguments, "1"))


_CHARGE = re.compile(r"[0-9]*[+\-−]")
_IN_FORMULA = re.compile(r"(?<=[A-Za-z)\]])[0-9]+")


def _chemistry(arguments: Arguments) -> str:
    text = []
    for number, value in enumerate(_positional(arguments)):
        if value.isdigit() and number:
            text.append(lowered(value))
        elif number and _CHARGE.fullmatch(value):
            text.append(raised(value))
        else:
            text.append(_IN_FORMULA.sub(lambda found: lowered(found[0]), value))
    return "".join(text)


_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _day(values: list[str], day_first: bool) -> str:
    """A date of year, month, day, as far as they are given."""
    year, month, day = (*values, "", "", "")[:3]
    if not month:
        return year
    if not month.isdigit() or not 1 <= int(month[:4]) <= 12:
        return " ".join(value for value in values[:3] if value)
    name = _MONTHS[int(month) - 1]
    if not day:
        return f"{name} {year}"
    day = day.lstrip("0")
    return f"{day} {name} {year}" if day_first else f"{name} {day}, {year}"


def _date(arguments: Arguments) -> str:
    values = [value for value in _positional(arguments) if value]
    while values and values[-1].lower() in ("mdy", "dmy", "df", "mf", "y"):
        values.pop()
    if values and not values[0].lstrip("-").isdigit():
        return values[0]
    return _day(values[:3], _value(arguments, "df").lower() in ("y", "yes"))


def _as_of(arguments: Arguments) -> str:
    if alternative := _value(arguments, "alt"):
        return alternative
    words = "since" if "since" in arguments else "as of"
    if _value(arguments, "lc").lower() not in ("y", "yes", "on", "1"):
        words = words.capitalize()
    if bare := _value(arguments, "bare"):
        words = "" if bare else words
    date = _day(
        [value for value in _positional(arguments) if value], _value(arguments, "df").lower() not in ("us", "mdy")
    )
    return f"{words} {date}{_value(arguments, 'post')}".strip()


def _quotation(arguments: Arguments) -> str:
    text = _value(arguments, "text", "1", "quote", "quotetext", "content", "texte")
    author = _value(arguments, "author", "sign", "by", "person", "2", "auteur", "autor")
    source = _value(arguments, "source", "cite", "title", "3")
    if text.count("\n") and ("\n\n" not in text):
        text = text.replace("\n", "<br>")
    below = ", ".join(part for part in (author, source) if part)
    return f"\n\n{text}\n\n" + (f"— {below.lstrip('—– -')}\n\n" if below else "")


def _citation(arguments: Arguments) -> str:
    """A work in a list of works. (Those in references are dropped with these.)"""
    author = _value(
        arguments, "author", "author1", "authors", "vauthors", "last", "last1", "autor", "editor", "editor-last"
    )
    given = _value(arguments, "first", "first1") if _value(arguments, "last", "last1") and author else ""
    if given and author == _value(arguments, "last", "last1"):
        author = f"{author}, {given}"
    title = _value(arguments, "title", "titel", "titre", "título", "titolo")
    chapter = _value(arguments, "chapter", "contribution", "article")
    work = _value(arguments, "journal", "work", "newspaper", "magazine", "website", "encyclopedia", "periodical")
    date = _value(arguments, "date", "year", "datum", "jahr", "année")
    publisher = _value(arguments, "publisher", "verlag", "éditeur", "editorial")
    parts = [f"{author} ({date})" if author and date else author, chapter, title, work, publisher]
    if date and not author:
        parts.append(date)
    return ". ".join(part.rstrip(".") for part in parts if part) + "." if any(parts) else ""


def _duration(arguments: Arguments) -> str:
    return ":".join(value.zfill(2) if number else value for number, value in enumerate(_positional(arguments)) if value)


_ACCIDENTALS = {
    "flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮",
    "doubleflat": "𝄫", "bb": "𝄫", "doublesharp": "𝄪", "x": "𝄪",
}  # fmt: skip


def _music(arguments: Arguments) -> str:
    return _ACCIDENTALS.get(_value(arguments, "1").lower(), "")


def _ordinal(arguments: Arguments) -> str:
    number = _value(arguments, "1")
    ending = {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th")
    return f"{number}{'th' if number[-2:] in ('11', '12', '13') else ending}" if number else ""


def _coordinates(arguments: Arguments) -> str:
    """A place; nothing where only the page's head shows it."""
    if _value(arguments, "display").lower() in ("title", "t"):
        return ""
    values = _positional(arguments)
    text: list[str] = []
    marks = "°′″"
    n = 0
    for value in values[:8]:
        if value.upper() in ("N", "S", "E", "W"):
            text.append(value.upper() + (" " if value.upper() in "NS" else ""))
            n = 0
        elif _NUMBER.fullmatch(value) and n < 3:
            text.append(value + marks[n])
            n += 1
        else:
            break
    place = "".join(text).strip()
    return place if place[-1:] in ("E", "W") else ", ".join(value.rstrip(marks) for value in text[:2])


def _density(arguments: Arguments) -> str:
    values = _positional(arguments)
    try:
        people, area = (float(value.replace(",", "")) for value in values[:2])
        digits = min(max(int(_value(arguments, "prec") or 0), 0), 6)
        density = f"{people / area:,.{digits}f}"
    except (ValueError, ZeroDivisionError, OverflowError):
        return ""
    unit = units().get(values[2] if len(values) > 2 else "km2")
    return f"{density} inhabitants per {unit[0]}" if unit else density


_MOST_TRACKS = 200


def _tracks(arguments: Arguments) -> str:
    lines = []
    for number in range(1, _MOST_TRACKS):
        title = _value(arguments, f"title{number}")
        if not title:
            break
        length = _value(arguments, f"length{number}")
        lines.append(f"# {title}" + (f" ({length})" if length else ""))
    headline = _value(arguments, "headline")
    return "\n\n" + (f"{headline}\n" if headline else "") + "\n".join(lines) + "\n\n" if lines else ""


_COMPUTED: dict[str, Callable[[Arguments], str]] = {
    "convert": _convert,
    "fraction": _fraction,
    "value": _measured,
    "number": _number,
    "exponent": _exponent,
    "power": _power,
    "raised": _raised,
    "lowered": _lowered,
    "chemistry": _chemistry,
    "date": _date,
    "as_of": _as_of,
    "quotation": _quotation,
    "citation": _citation,
    "duration": _duration,
    "music": _music,
    "ordinal": _ordinal,
    "coordinates": _coordinates,
    "density": _density,
    "tracks": _tracks,
}
__all__ = ["Arguments", "Rules", "arguments_of", "lowered", "raised", "rules", "shown", "template_name"]
