"""Text for terminals. What pages, archives and recipes say must not move a cursor, set a title or make a link there."""

from rich import markup

from jobs.report.text import shown


def escape(text: str) -> str:
    """`text` to be printed by rich: control characters made visible, and nothing in it taken for rich's own markup."""
    return markup.escape(shown(text))
