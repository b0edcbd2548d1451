"""What pages say is printed without obeying it."""

import io
import json

from rich.console import Console

from jobs.terminal import escape, print_json

OBEYED = "a\x1b[31m \x9b2J \x07 ‮drow \u2066x \x7f \ud800 [red]b[/] é 語"


def printed(**options: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=40, color_system=None, **options), stream  # type: ignore[arg-type]


def test_json_reads_back_the_same_and_moves_no_cursor() -> None:
    console, stream = printed()
    value = {"text": OBEYED, "long": "word " * 100, "list": [1, None, 2.5]}
    print_json(console, value)
    text = stream.getvalue()
    assert json.loads(text) == value
    assert not set(text) & set("\x1b\x9b\x07‮\u2066\x7f\ud800")
    assert "é 語" in text and "[red]b[/]" in text


def test_escaped_text_moves_no_cursor_and_is_no_markup() -> None:
    console, stream = printed()
    console.print(escape(OBEYED), highlight=False, soft_wrap=True)
    assert not set(stream.getvalue()) & set("\x1b\x9b\x07‮\u2066\x7f\ud800") and "[red]b[/]" in stream.getvalue()
