"""What the detector knows by heart: its words, and the tables that the scan reads texts through."""

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.signals.pii.kernel import DROPPED, LETTER, OTHER

UNSEEN = (0xAD, 0x34F, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
"""Soft hyphens, joiners, marks of direction and all else that has no width (Unicode's default ignorables, without
variation selectors, which follow emoji)."""
_LAST = 0x32000


@cache
def words() -> dict[str, Any]:
    """The content of `words.yaml`."""
    return yaml.safe_load(Path(__file__).with_name("words.yaml").read_bytes())


@cache
def folds() -> np.ndarray:
    """uint8 of every code point (0x110000 of them): the ASCII character that it stands for, LETTER, OTHER or DROPPED."""
    table = np.full(0x110000, LETTER, np.uint8)
    for point in range(0x80, _LAST):
        char = chr(point)
        category = unicodedata.category(char)
        if category[0] in "PSZCN" or point < 0xC0:
            table[point] = OTHER
        if category == "Zs":
            table[point] = ord(" ")
        elif category == "Pd" or point == 0x2212:
            table[point] = ord("-")
        elif category == "Nd":
            table[point] = ord("0") + unicodedata.digit(char)
        elif 0xFF01 <= point <= 0xFF5E:
            table[point] = point - 0xFEE0
    table[0x2028], table[0x2029], table[0x85] = 10, 10, 10
    table[0x1F000:0x20000] = OTHER
    table[list(UNSEEN)] = DROPPED
    table[:0x80] = np.arange(0x80)
    table.flags.writeable = False
    return table


@cache
def iban_countries() -> np.ndarray:
    """Whether two letters, as 32 times the first plus the second (A is 1), are a country that has IBANs."""
    table = np.zeros(32 * 32, np.bool_)
    for country in words()["iban_countries"]:
        table[(ord(country[0]) & 31) * 32 + (ord(country[1]) & 31)] = True
    table.flags.writeable = False
    return table
