"""Text for terminals. What pages, archives and recipes say must not move a cursor, set a title or make a link there."""

import json
import re
from typing import Any

from rich import markup
from rich.console import Console
from rich.highlighter import JSONHighlighter

from jobs.report.text import shown

_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON lets stand in a string as it is, and what a terminal obeys, or cannot be written."""


def escape(text: str) -> str:
    """`text` to be printed by rich: control characters made visible, and nothing in it taken for rich's own markup."""
    return markup.escape(shown(text))


def print_json(console: Console, value: Any) -> None:
    """Prints a value as JSON; characters that a terminal obeys stand there by their numbers, which reads back the same."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    console.print(JSONHighlighter()(text), soft_wrap=True)
