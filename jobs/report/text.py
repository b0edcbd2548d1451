"""Text from pages, made fit to be shown: nothing in it that cannot be seen, and nothing that breaks what it stands in."""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line end
    "\u00ad\u061c\u200b-\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)

_JOINERS = "\u200c\u200d"
"""Persian, Indic scripts and emoji are written with them: a sequence without them is another word."""


def shown(text: str) -> str:
    """`text` with what nobody sees made visible: control characters as their pictures (U+2400), characters that turn the
    direction of writing, invisible ones and those that Unicode gives no meaning as [U+202E], halves of surrogate pairs
    as U+FFFD. Tabs, line ends and the joiners of scripts stay. The result can be written as UTF-8 and stand in XML.
    """
    return _UNSEEN.sub(_visible, text)


def shown_line(text: str) -> str:
    """The same on one line: line ends and tabs as their pictures, too."""
    return shown(text).replace("\r", "␍").replace("\n", "␊").replace("\t", "␉")


def _visible(found: re.Match[str]) -> str:
    character = found.group()
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if character in _JOINERS:
        return character
    return f"[U+{code:04X}]"
