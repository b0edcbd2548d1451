"""What the kernel knows of characters and English words: tables made once a process from Unicode data and `english.yaml`."""

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SPACE, ALPHA, DIGIT, UPPER, PUNCTUATION, TERMINAL, AFFIX, PREFIX = (1 << i for i in range(8))
CATEGORY_P, CJK, ALNUM, LINE_BREAK, ICON, JOINER, LOWER = (1 << i for i in range(8, 15))

# Nothing beyond is assigned except tags, variation selectors and private use, which have no class here.
_LAST_ASSIGNED = 0x323B0
_LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
MAX_SPECIAL = 14
"""Longest form, in characters, that the word splitter looks up as a whole."""


@cache
def english() -> dict[str, Any]:
    """The contents of `english.yaml`."""
    return yaml.safe_load(Path(__file__).with_name("english.yaml").read_text(encoding="utf-8"))


def code_points(ranges: str) -> list[int]:
    """Code points of a list such as `0021 002E-002F`."""
    found: list[int] = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.extend(range(int(first, 16), int(last or first, 16) + 1))
    return found


@cache
def classes() -> np.ndarray:
    """uint16 flags of every code point (0x110000 of them)."""
    table = np.zeros(0x110000, dtype=np.uint16)
    for point in range(_LAST_ASSIGNED):
        char = chr(point)
        category = unicodedata.category(char)
        flags = 0
        if category[0] == "L":
            flags = ALPHA | ALNUM
        elif category[0] in "N":
            flags = (ALNUM if char.isalnum() else 0) | (DIGIT if char.isdigit() else 0)
        elif category[0] == "P":
            flags = CATEGORY_P | (JOINER if category == "Pc" else 0)
        elif category == "So":
            flags = ICON
        elif category[0] == "M":
            flags = JOINER
        if char.isspace():
            flags |= SPACE
        if char.isupper():
            flags |= UPPER
        elif flags & ALPHA:
            flags |= LOWER
        table[point] = flags
    words = english()
    table[code_points(words["punctuation"]["ranges"])] |= PUNCTUATION
    table[code_points(words["sentence_terminal"]["ranges"])] |= PUNCTUATION | TERMINAL
    table[code_points(words["han_and_kana"]["ranges"])] |= CJK
    table[[ord(c) for c in words["affixes"]["characters"] if c != "."]] |= AFFIX
    table[[ord(c) for c in words["affixes"]["prefixes"]]] |= PREFIX
    table[[ord(c) for c in _LINE_BREAKS]] |= LINE_BREAK
    return table


@cache
def specials() -> dict[str, tuple[int, ...]]:
    """Forms that are looked up as a whole, with the offsets at which they split; an empty tuple keeps them whole."""
    words = english()
    forms: dict[str, tuple[int, ...]] = {}

    def add(form: str, *cuts: int) -> None:
        forms[form] = cuts

    contractions = words["contractions"]
    bare_exceptions = set(contractions["not_without_apostrophe"])
    for host in contractions["negated"]:
        cut = len(host)
        for stem in (host, host.title()):
            add(stem + "n't", cut)
            if host + "nt" not in bare_exceptions:
                add(stem + "nt", cut)
    for clitic, hosts in contractions["clitics"].items():
        for host in hosts:
            for stem in (host, host.title()):
                add(stem + clitic, len(host))
                bare = host + clitic[1:]
                if bare not in bare_exceptions and host + clitic not in contractions["only_with_apostrophe"]:
                    add(stem + clitic[1:], len(host))
    for fused, first in contractions["fused"].items():
        add(fused, len(first))
        add(fused.title(), len(first))
    for hour in range(1, 13):
        for half in ("am", "pm", "a.m.", "p.m."):
            add(f"{hour}{half}", len(str(hour)))
    whole = contractions["whole"] + words["abbreviations"]["words"] + words["emoticons"]["words"]
    for form in whole + [letter + "." for letter in words["abbreviations"]["letters"]]:
        add(form)
    for form, cuts in list(forms.items()):
        if "'" in form:
            forms[form.replace("'", "’")] = cuts
    return {form: cuts for form, cuts in sorted(forms.items()) if len(form) <= MAX_SPECIAL}


def hash_characters(text: str) -> int:
    """The kernel's 64-bit hash of a string (FNV-1a over code points), as a signed integer."""
    value = 0xCBF29CE484222325
    for char in text:
        value = ((value ^ ord(char)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """An open-addressing table of hashes (int64) and values (int64, -1 where empty), a quarter full at most."""
    size = 1 << (4 * len(values) - 1).bit_length()
    keys, found = np.zeros(size, np.int64), np.full(size, -1, np.int64)
    for form, value in values.items():
        key = hash_characters(form)
        at = (key ^ (key >> 32)) & (size - 1)
        while found[at] >= 0:
            at = (at + 1) & (size - 1)
        keys[at], found[at] = key, value
    return keys, found


@cache
def special_table() -> tuple[np.ndarray, np.ndarray]:
    """Lookup of `specials`: the value is the cut offset, 0 for none."""
    return lookup({form: (cuts[0] if cuts else 0) for form, cuts in specials().items()})


@cache
def stop_word_table() -> tuple[np.ndarray, np.ndarray]:
    """Lookup of the stop words: the value is a bit for each."""
    return lookup({word: 1 << i for i, word in enumerate(english()["stop_words"]["words"])})


@cache
def unit_table() -> tuple[np.ndarray, np.ndarray]:
    """Lookup of the units that follow a number."""
    return lookup(dict.fromkeys(english()["units"]["words"], 1))


def phrases(words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Code points of phrases one after another (int32), and where each begins (int32, one more than phrases)."""
    starts = np.cumsum([0] + [len(word) for word in words]).astype(np.int32)
    return np.array([ord(c) for word in words for c in word], np.int32), starts


@cache
def phrase_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phrases that signals count, as `phrases` gives them, and the kind of each: 0 placeholder, 1 script, 2 policy."""
    words = english()
    groups = [words[key]["words"] for key in ("placeholder_phrases", "script_phrases", "policy_phrases")]
    kinds = np.array([kind for kind, group in enumerate(groups) for _ in group], np.int32)
    return *phrases([word for group in groups for word in group]), kinds
