"""A comparison as tables of plain text, for the terminal and for the page."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jobs.metrics_commands import bytes_in_words, seconds_in_words
from jobs.report.compare import Comparison


class Sheet(NamedTuple):
    """A table: its title, heads of columns, cells, and the columns that hold numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]


def sheets(found: Comparison) -> dict[str, Sheet]:
    """Every table that has a row, by name, in the order in which they are read."""
    every = {"settings": _settings(found), "outcomes": _outcomes(found), "reasons": _reasons(found)}
    if found.apart:
        every["reasons"] = _shares(found)
    elif found.joined is not None and not found.identical:
        every["moves"] = _moves(found)
    every["distributions"] = _distributions(found)
    every |= {name: _group(found, name) for name in found.groups}
    every["stages"] = _stages(found)
    return {name: sheet for name, sheet in every.items() if sheet.rows}


def inputs_in_words(inputs: dict[str, Any]) -> str:
    """One line on the inputs."""
    if inputs["same"]:
        return f"inputs: the same {inputs['files']['a']:,} files"
    if inputs["moved"]:
        return f"inputs: the same {inputs['files']['a']:,} files under other names"
    said = [f"{inputs['files']['a']:,} files in A, {inputs['files']['b']:,} in B"]
    for name, words in (("only_a", "only in A"), ("only_b", "only in B"), ("changed", "of another size or version")):
        if paths := inputs[name]:
            said.append(f"{len(paths):,} {words} ({', '.join(paths[:2])}{', …' if len(paths) > 2 else ''})")
    return "inputs differ: " + "; ".join(said)


def joined_in_words(joined: dict[str, Any]) -> str:
    """How many records were joined."""
    if joined["share"] == 1.0:
        return f"{joined['both']:,} records in both"
    return f"about {joined['both'] / joined['share']:,.0f} records in both, from {joined['share']:.2%} of the ids"


def scaled(records: int, share: float) -> str:
    """A count of a sample as one of all: exact, or two digits with a tilde."""
    if share == 1.0:
        return f"{records:,}"
    return f"~{float(f'{records / share:.2g}'):,.0f}"


def _settings(found: Comparison) -> Sheet:
    rows = [(row["setting"], row["a"], row["b"], row["change"]) for row in found.settings]
    return Sheet("Settings that differ", ("setting", "A", "B", ""), rows, ())


def _outcomes(found: Comparison) -> Sheet:
    rows = []
    for row in found.outcomes:
        if row["a"] is None and row["b"] is None:
            continue
        shown = bytes_in_words if row["what"] == "bytes" else _count
        rows.append(
            (row["what"], *(_or_none(row[side], shown) for side in "ab"), *_difference(row["a"], row["b"], shown))
        )
    return Sheet("Outcomes", ("", "A", "B", "difference", ""), rows, (1, 2, 3, 4))


def _shares(found: Comparison) -> Sheet:
    """Outcomes and reasons of runs over other records, whose counts say nothing beside each other."""
    read = next(row for row in found.outcomes if row["what"] == "read")
    outcomes = [
        (row["what"], row["a"], row["b"]) for row in found.outcomes if row["what"] in ("kept", "dropped", "error")
    ]
    reasons = [(row["reason"], row["a"], row["b"]) for row in found.reasons]
    shares = [
        (name, *(n / max(1, read[side]) for n, side in ((a, "a"), (b, "b")))) for name, a, b in outcomes + reasons
    ]
    of_reasons = sorted(shares[len(outcomes) :], key=lambda row: (-abs(row[2] - row[1]), row[0]))
    rows = [
        (name, f"{a:.2%}", f"{b:.2%}", f"{100 * (b - a):+.2f}")
        for name, a, b in [*shares[: len(outcomes)], *of_reasons]
    ]
    return Sheet("Shares of the records read", ("", "A", "B", "points"), rows, (1, 2, 3))


def _reasons(found: Comparison) -> Sheet:
    differing = [row for row in found.reasons if row["a"] != row["b"] or row["hits_a"] != row["hits_b"]]
    rows = [
        (
            row["reason"],
            *(f"{row[side]:,}" for side in "ab"),
            _signed(row["b"] - row["a"]),
            *(f"{row[f'hits_{side}']:,}" for side in "ab"),
        )
        for row in differing
    ]
    return Sheet(
        "Reasons: records decided, and records that broke the rule",
        ("reason", "A", "B", "diff", "broke A", "broke B"),
        rows,
        (1, 2, 3, 4, 5),
    )


def _moves(found: Comparison) -> Sheet:
    share = (found.joined or {})["share"]
    rows = [(row["a"] or "not there", row["b"] or "not there", scaled(row["records"], share)) for row in found.moves]
    changed = sum(1 for row in found.moves if row["changed"])
    return Sheet(
        f"Where records went ({joined_in_words(found.joined or {})})",
        ("in A", "in B", "records"),
        rows[: max(changed, 1)],
        (2,),
    )


def _distributions(found: Comparison) -> Sheet:
    rows = []
    for row in found.distributions:
        if row["distance"] > 0:
            quantiles = (" ".join(f"{row[side][q]:.4g}" for q in ("p05", "median", "p95")) for side in "ab")
            rows.append((row["signal"], *quantiles, f"{row['distance']:.3f}"))
    drawn = found.measured.get("share", 1.0)
    share = "" if drawn == 1.0 else f", of {drawn:.2%} of the ids"
    return Sheet(
        f"Signals and scores of kept pages: 5 %, median and 95 %{share}",
        ("signal", "A", "B", "distance"),
        rows,
        (1, 2, 3),
    )


def _group(found: Comparison, name: str) -> Sheet:
    rows = [
        (row["name"], f"{row['a']:,}", f"{row['b']:,}", f"{row['share_a']:.2%}", f"{row['share_b']:.2%}")
        for row in found.groups[name]
    ]
    return Sheet(
        f"Kept pages by {name}: shares that moved most", (name, "A", "B", "share A", "share B"), rows, (1, 2, 3, 4)
    )


def _stages(found: Comparison) -> Sheet:
    rows = []
    for row in found.stages:
        cells = []
        for name, shown in (("seconds", seconds_in_words), ("peak_worker_bytes", bytes_in_words)):
            cells += [_or_none(row[name][side] or None, shown) for side in "ab"]
            cells.append(f"x {row[name]['ratio']:.2f}" if row[name]["ratio"] else "")
        rows.append((row["stage"], *cells))
    return Sheet("Time and memory", ("stage", "time A", "B", "", "memory A", "B", ""), rows, (1, 2, 3, 4, 5, 6))


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _or_none(value: Any, shown: Any) -> str:
    return "" if value is None else shown(value)


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"


def _difference(a: int | None, b: int | None, shown: Any) -> tuple[str, str]:
    """What B has more, in its unit and in per cent."""
    if a is None or b is None:
        return "", ""
    sign = "+" if b > a else "-" if b < a else ""
    return f"{sign}{shown(abs(b - a))}", f"{(b - a) / a:+.1%}" if a and a != b else ""


def because(example: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What decided in either run, after the letter of the run; once, as of both, where it is the same."""
    a, b = ((example[side] or {}).get("because", []) for side in "ab")
    if a == b:
        yield from (("both", line) for line in a)
        return
    yield from (("A", line) for line in a)
    yield from (("B", line) for line in b)
