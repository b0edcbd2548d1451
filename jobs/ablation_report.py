"""The report of an ablation: report.json with every number, report.md for people, documents.parquet, and a picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.ablation_texts import GRAM, HELD_CHARS, HeldOut, as_table, bytes_of
from jobs.store import RunFolder
from trainer import metrics
from trainer.ablation import LEVEL, POWER, Difference, compare, overall, sentence

COLOURS = ("#3b6ea5", "#c4572e")


def write_report(root: Path, facts: dict[str, Any], sources: list[HeldOut]) -> dict[str, Any]:
    """Compares the models of `root`/scores and writes the report; returns what report.json says.

    The same scores give the same bytes. Raises StorageError.
    """
    folder = RunFolder(root)
    names = (facts["sets"]["a"]["name"], facts["sets"]["b"]["name"])
    n = len(facts["seeds"])
    scores = {name: json.loads((root / "scores" / f"{name}.json").read_bytes())["bits"] for name in facts["models"]}
    found: dict[str, Difference] = {}
    tables = []
    held = {}
    for source in sources:
        n_bytes = bytes_of(as_table(source))
        bits = np.array([[scores[f"{letter}-{pair}"][source.name] for pair in range(n)] for letter in "ab"])
        found[source.name] = compare(bits, n_bytes)
        columns = {f"{letter}-{pair}": bits[i, pair] for i, letter in enumerate("ab") for pair in range(n)}
        named = {"source": [source.name] * len(source.ids), "id": source.ids, "bytes": n_bytes.astype(np.int64)}
        tables.append(pa.table({**named, **columns}))
        held[source.name] = {
            "given": source.given,
            "drawn": source.drawn,
            "removed": dict(sorted(source.removed.items())),
            "documents": len(source.ids),
            "bytes": int(n_bytes.sum()),
            "digest": source.digest,
        }
    whole = overall(found)
    verdicts = {name: sentence(one, *names, name) for name, one in found.items()}
    said = sentence(whole, *names, next(iter(found)) if len(found) == 1 else "all held-out texts")
    report = facts | {
        "held_out": held,
        "results": {name: one.facts() for name, one in found.items()},
        "overall": whole.facts(),
        "verdicts": verdicts,
        "verdict": said,
    }
    folder.write_table("documents.parquet", pa.concat_tables(tables))
    drawn = _draw(root, report, {**found, **({"overall": whole} if len(found) > 1 else {})}, names)
    folder.write_json("report.json", report)
    folder.write_bytes("report.md", _markdown(report, found, whole, drawn).encode("utf-8", "surrogateescape"))
    return report


def _markdown(report: dict[str, Any], found: dict[str, Difference], whole: Difference, drawn: bool) -> str:
    a, b = report["sets"]["a"], report["sets"]["b"]
    shape = report["config"]["model"]
    lines = [f"# {a['name']} or {b['name']}", "", _upper(report["verdict"]) + ".", ""]
    if len(found) > 1:
        lines += [*(f"- {_upper(said)}." for said in report["verdicts"].values()), ""]
    lines += [
        f"| held-out | texts | {a['name']} | {b['name']} | difference | {LEVEL:.0%} interval | of seeds | of texts | "
        f"seen with power {POWER:g} |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name, one in [*found.items(), *([("all", whole)] if len(found) > 1 else [])]:
        means = one.models.mean(1)
        lines.append(
            f"| {name} | {one.documents:,} | {means[0]:.4f} | {means[1]:.4f} | {one.value:+.4f} | "
            f"{one.low:+.4f} to {one.high:+.4f} | {one.seeds_error:.4f} | {one.documents_error:.4f} | {one.detectable:.4f} |"
        )
    lines += [
        "",
        f"Bits per byte; difference is {b['name']} less {a['name']}, so that below 0 {b['name']} is better. *Of seeds* and "
        "*of texts* are the two standard errors that the interval is made of: "
        + (
            "pairs of models differ in initialisation and order; all read the same pages, so that the interval is about "
            "these very sets."
            if report["whole"]
            else "pairs of models differ in initialisation, order, and the pages that they read."
        ),
        "",
    ]
    if drawn:
        lines += ["![loss curves and differences](ablation.png)", ""]
    lines += [
        "## Models",
        "",
        f"{len(report['models'])} models of {report['parameters']:,} parameters ({shape['layers']} layers of "
        f"{shape['width']}), seeds {', '.join(map(str, report['seeds']))}; both of a pair begin alike and read "
        f"{report['tokens']:,} tokens. Tokenizer {report['tokenizer']['sha256'][:12]} of "
        f"{report['tokenizer']['vocab_size']:,} tokens ({report['tokenizer']['from']}), config "
        f"{report['config']['digest'][:12]}.",
        "",
        f"| set | pages | bytes | tokens {'in all' if report['whole'] else 'for a pair'} | epochs | unique | digest | from |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for one in (a, b):
        recipe = f", recipe {one['recipe']['name']} {one['recipe']['digest'][:8]}" if one["recipe"] else ""
        lines.append(
            f"| {one['name']} | {one['pages']:,} | {one['bytes']:,} | {_range(one['tokens'], ',d')} | "
            f"{_range(one['epochs'], '.2f')} | {one['unique_share']:.1%} | {one['digest'][:12]} | {one['given']}{recipe} |"
        )
    lines += ["", "*Unique* is the share of the tokens read that are not of a text that was read before.", ""]
    odd = {name: of for name, of in report["models"].items() if of["withheld"] or of["rollbacks"]}
    if odd:
        said = "; ".join(f"{name} {of['withheld']} steps, {of['rollbacks']} times" for name, of in odd.items())
        lines += [f"Steps were left out, or runs went back, because of spikes of the loss: {said}.", ""]
    lines += ["## Held-out texts", ""]
    for name, of in report["held_out"].items():
        removed = "; ".join(f"{n:,} {why}" for why, n in of["removed"].items()) or "none"
        lines.append(
            f"- {name}: {of['documents']:,} of {of['drawn']:,} texts, {of['bytes']:,} bytes, {of['given']}, digest "
            f"{of['digest'][:12]}. Taken away: {removed}."
        )
    lines += [f"- left out: {said}." for said in report["left_out"].values()]
    lines += [
        "",
        f"A text is taken away that shares {GRAM} words in a row with any page of either set that is not held out itself, or "
        f"is nearly a copy of one. The first {HELD_CHARS:,} characters of each are scored.",
        "",
        "Bits of every model for every text are in documents.parquet, all numbers in report.json, the config of each model "
        "in tasks/.",
    ]
    return "\n".join(lines) + "\n"


def _upper(text: str) -> str:
    return text if text.startswith("no ") is False else text[0].upper() + text[1:]


def _range(values: list[Any], how: str) -> str:
    low, high = (f"{value:{how}}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _draw(root: Path, report: dict[str, Any], found: dict[str, Difference], names: tuple[str, str]) -> bool:
    """Draws ablation.png; False without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    curves, differences = figure.subplots(1, 2)
    batch = report["config"]["data"]["batch_tokens"]
    for letter, name, colour in zip("ab", names, COLOURS, strict=True):
        for pair in range(len(report["seeds"])):
            steps, values = _curve(root / "runs" / f"{letter}-{pair}")
            label = name if pair == 0 else None
            curves.plot([step * batch / 1e6 for step in steps], values, color=colour, linewidth=1, label=label)
    curves.set(xlabel="tokens (millions)", ylabel="held-out bits per byte")
    curves.legend(frameon=False)
    for place, (_, one) in enumerate(reversed(found.items())):
        colour = {"a": COLOURS[0], "b": COLOURS[1], "none": "#777777"}[one.verdict]
        differences.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
        differences.plot(one.by_seed, [place] * one.seeds, "|", color=colour, markersize=12)
        differences.plot(one.value, place, "o", color=colour)
    differences.axvline(0, color="#999999", linewidth=0.8)
    differences.set(
        yticks=range(len(found)),
        yticklabels=list(reversed(found)),
        ylim=(-0.7, len(found) - 0.3),
        xlabel=f"{names[1]} less {names[0]}, bits per byte",
    )
    for axis in (curves, differences):
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(root / "ablation.png", dpi=150)
    return True


def _curve(run: Path) -> tuple[list[int], list[float]]:
    """Mean bits a byte over held-out sources at each step that a run looked at them."""
    seen: dict[int, dict[str, float]] = {}
    for line in metrics.read(run):
        if line["kind"] == "eval" and line["bits_per_byte"] is not None:
            seen.setdefault(line["step"], {})[line["source"]] = line["bits_per_byte"]
    steps = sorted(seen)
    return steps, [float(np.mean(list(seen[step].values()))) for step in steps]
