"""A comparison as a page: one file that needs nothing else, and no script."""

from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from jobs.report.compare import Comparison
from jobs.report.compare.tables import because, inputs_in_words, sheets
from jobs.report.page import stylesheet
from jobs.report.text import shown, shown_line


def page(found: Comparison) -> str:
    """The page as HTML. Cells come from pages: everything is escaped, and what cannot be seen is made visible."""
    environment = Environment(
        loader=PackageLoader("jobs.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "line": shown_line}
    inputs = inputs_in_words(found.inputs)
    return environment.get_template("compare.html").render(
        found=found,
        sheets=sheets(found),
        inputs=inputs[:1].upper() + inputs[1:],
        changes=[(change, list(of_it)) for change, of_it in groupby(found.examples, _change)],
        because=because,
        style=Markup(stylesheet("base.css")),  # ours, not of any page
    )


def _change(example: dict[str, Any]) -> tuple[str | None, str | None]:
    return example["a_became"], example["b_became"]
