"""The recognisers: Presidio's, called without its engine, and our own in its format where it lacks them."""

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any

import phonenumbers
import regex
from tldextract import TLDExtract

from pipeline.signals.pii.presidio import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    Pattern,
    PatternRecognizer,
    UsSsnRecognizer,
)
from pipeline.signals.pii.tables import words

_WORD = re.compile(r"[^\W\d_]++(?:/[^\W\d_]++)?(?!\d)")


class Phrases:
    """A list of `words.yaml`, looked up word by word; phrases of scripts without spaces anywhere in a text."""

    def __init__(self, name: str) -> None:
        listed = [str(phrase) for phrase in words()[name]]
        self._spaced = {tuple(_WORD.findall(phrase)) for phrase in listed if phrase[0] < "\u2e80"}
        self._dense = tuple(phrase for phrase in listed if phrase[0] >= "\u2e80")
        self._longest = max(map(len, self._spaced))

    def last(self, text: str) -> int:
        """Where the last phrase in a text in lower case ends, or -1."""
        found = list(_WORD.finditer(text))
        for k in range(len(found) - 1, -1, -1):
            for size in range(1, self._longest + 1):
                if k - size + 1 >= 0 and tuple(word[0] for word in found[k - size + 1 : k + 1]) in self._spaced:
                    return found[k].end()
        if self._dense and not text.isascii():
            return max((text.rfind(phrase) + len(phrase) for phrase in self._dense if phrase in text), default=-1)
        return -1


@cache
def phrases(name: str) -> Phrases:
    """The phrases of a list of `words.yaml`."""
    return Phrases(name)


@cache
def _suffixes() -> TLDExtract:
    return TLDExtract(suffix_list_urls=(), cache_dir=None)  # the bundled list only: no network, nothing written


@lru_cache(1 << 14)
def has_suffix(host: str) -> bool:
    """Whether a host is a name below a public suffix."""
    parts = _suffixes().extract_str(host)
    return bool(parts.suffix and parts.domain)


class Email(EmailRecognizer):
    """Presidio's e-mail recogniser, with the suffix list that is bundled."""

    def validate_result(self, pattern_text: str) -> bool:
        """Whether the domain is a name below a public suffix."""
        return has_suffix(pattern_text.rpartition("@")[2].lower())


_AT = r"(?:\s?[\[({<]\s?(?:at|@)\s?[\])}>]\s?|\s+at\s+|_at_|\s?@\s?)"
_DOT = r"(?:\s?[\[({<]\s?dot\s?[\])}>]\s?|\s+dot\s+|_dot_|\.)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


class HiddenEmail(PatternRecognizer):
    """Addresses written for people, as "name at host dot org", "name [at] host.org" or "name @ host.org"."""

    PATTERNS = (
        Pattern(
            "hidden e-mail",
            rf"(?<![\w.+-])[A-Za-z0-9_](?:[A-Za-z0-9._+-]{{0,62}}[A-Za-z0-9_])?(?:{_DOT}[A-Za-z0-9_-]{{1,30}})?"
            rf"{_AT}{_LABEL}(?:{_DOT}{_LABEL}){{1,4}}(?![A-Za-z0-9])",
            0.5,
        ),
    )

    def __init__(self) -> None:
        super().__init__(supported_entity="EMAIL_ADDRESS", patterns=list(self.PATTERNS))

    def validate_result(self, pattern_text: str) -> bool:
        """Whether both signs or one in brackets are spelt out, and what they hide is an address."""
        local, _, host = plain_address(pattern_text).partition("@")
        if not _SPELT.search(pattern_text) or not local or not has_suffix(host.lower()):
            return False
        return bool(_MARKED.search(pattern_text)) or host.lower().rpartition(".")[2] in words()["spelt_suffixes"]


class ArchivedEmail(PatternRecognizer):
    """Addresses as archives of mailing lists write them, "name at host.org": by what stands around them, because "at" is
    a word, or by a name of two parts."""

    def __init__(self) -> None:
        host = rf" at {_LABEL}(?:\.{_LABEL}){{1,4}}"
        address = rf"[A-Za-z0-9_][A-Za-z0-9._+-]{{0,62}}{host}"
        parts = rf"(?<![\w.+-])[A-Za-z]{{2,20}}(?:[._]\w{{1,20}}){{0,2}}[._][a-z]{{2,20}}\d{{0,4}}{host}"
        patterns = [
            Pattern("in brackets", rf"(?:[<\[(]\s?|mailto:)\K{address}(?=\s?[>\])]|\s?\[mailto:)", 0.5),
            Pattern("before a date", rf"(?<![\w.+-]){address}(?=\s*\n(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b)", 0.5),
            Pattern("a quoted line", rf"\n(?:>\s?)+\K{address}(?=\s*\n)", 0.5),
            Pattern("a name of parts", rf"{parts}(?![A-Za-z0-9])", 0.5),
        ]
        super().__init__(supported_entity="EMAIL_ADDRESS", patterns=patterns, global_regex_flags=0)

    def validate_result(self, pattern_text: str) -> bool:
        """Whether the host is a name below a public suffix."""
        return has_suffix(pattern_text.rpartition(" at ")[2].lower())


_SPELT = re.compile(r"[\[({<]\s?(?:at|dot)\s?[\])}>]|\sdot\s|_at_|@", re.IGNORECASE)
_MARKED = re.compile(r"[\[({<]\s?at\s?[\])}>]|_at_|@", re.IGNORECASE)
_PLAIN_AT = re.compile(r"\s*[\[({<]\s?(?:at|@)\s?[\])}>]\s*|\s+at\s+|_at_|\s*@\s*", re.IGNORECASE)
_PLAIN_DOT = re.compile(r"\s*[\[({<]\s?dot\s?[\])}>]\s*|\s+dot\s+|_dot_", re.IGNORECASE)


def plain_address(text: str) -> str:
    """The address that a text spells."""
    return "".join(_PLAIN_DOT.sub(".", _PLAIN_AT.sub("@", text)).split())


class Ssn(UsSsnRecognizer):
    """Presidio's recogniser of US social security numbers, for groups of 3, 2 and 4 digits or nine in a row."""

    def __init__(self) -> None:
        super().__init__(patterns=[Pattern("ssn", r"(?<![\w.-])\d{3}([-. ]?)\d{2}\1\d{4}(?![\w-]|[.,]\d)", 0.5)])


class Card(CreditCardRecognizer):
    """Presidio's credit card recogniser over the number ranges that schemes give out, with their lengths (ISO 7812)."""

    def __init__(self) -> None:
        schemes = words()["card_schemes"].values()
        self._numbers = re.compile("|".join(f"(?:{scheme})" for scheme in schemes))
        super().__init__(patterns=[Pattern("card", r"(?<![\w.-])[1-6]\d{3}(?:[- ]?\d){8,15}(?![\w-]|[.,]\d)", 0.5)])

    def validate_result(self, pattern_text: str) -> bool:
        """Whether a scheme has such numbers and the check digit is right."""
        plain = pattern_text.replace("-", "").replace(" ", "")
        groups = tuple(map(len, re.split("[- ]", pattern_text)))
        if len(groups) > 1 and groups not in ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)):
            return False
        return bool(self._numbers.fullmatch(plain)) and super().validate_result(plain)


class ServiceKey(PatternRecognizer):
    """Keys and tokens of well-known services, by their prefixes and lengths."""

    def __init__(self) -> None:
        keys = "|".join(f"(?:{found})" for found in words()["key_patterns"].values())
        patterns = [Pattern("key of a service", rf"(?<![A-Za-z0-9_-])(?:{keys})(?![A-Za-z0-9_-])", 0.9)]
        super().__init__(supported_entity="API_KEY", patterns=patterns, global_regex_flags=0)

    def invalidate_result(self, pattern_text: str) -> bool:
        """Whether it is a placeholder: random characters have many different signs."""
        return len(set(pattern_text.lower())) < 10


class NamedKey(PatternRecognizer):
    """Long values that are assigned to the name of a secret."""

    def __init__(self) -> None:
        sign = r"""["'`]?\s{0,3}(?::=|=>|:|=|\s)\s{0,3}(?:[Bb]earer\s+)?["'`]?"""
        found = rf"(?<![^\W_])(?i:{words()['key_names']}){sign}\K[A-Za-z0-9_\-./+=]{{16,200}}"
        super().__init__(supported_entity="API_KEY", patterns=[Pattern("named key", found, 0.6)], global_regex_flags=0)

    def invalidate_result(self, pattern_text: str) -> bool:
        """Whether it is a word or a placeholder: random characters have digits and many different signs."""
        signs = set(pattern_text.lower())
        return (
            len(signs) < 8
            or not any(sign.isdigit() for sign in signs)
            or not any(sign.isalpha() for sign in signs)
            or "://" in pattern_text
            or any(filling in pattern_text.lower() for filling in ("xxxx", "123456789", "abcdefgh"))
        )


class Credentials(PatternRecognizer):
    """URLs with a user and a password in front of the host; the whole URL."""

    def __init__(self) -> None:
        found = r"(?<![A-Za-z0-9+])[A-Za-z][A-Za-z0-9+]{1,15}://[^\s:/@<>\"']{0,80}:[^\s/@<>]{1,128}@[^\s<>\"'`)\]}|,;]{1,200}"
        super().__init__(supported_entity="URL_CREDENTIALS", patterns=[Pattern("URL with credentials", found, 0.9)])

    def invalidate_result(self, pattern_text: str) -> bool:
        """Whether the password is a placeholder."""
        secret = pattern_text.partition("://")[2].rpartition("@")[0].partition(":")[2]
        return secret.lower() in words()["no_passwords"] or secret[:1] in "$<{[%*" or set(secret.lower()) <= {"x"}


_BASE58 = {sign: i for i, sign in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}


class Wallet(CryptoRecognizer):
    """Addresses of coins: Presidio's of Bitcoin, others with a Base58 or Bech32 checksum, and those of Ethereum."""

    def __init__(self) -> None:
        prefixes = "|".join(words()["bech32_prefixes"])
        patterns = [
            Pattern("base58", r"(?<![A-Za-z0-9])[1-9A-HJ-NP-Za-km-z]{26,112}(?![A-Za-z0-9])", 0.5),
            Pattern("bech32", rf"(?<![A-Za-z0-9])(?:{prefixes})1[a-z0-9]{{20,90}}(?![A-Za-z0-9])", 0.5),
            Pattern("ethereum", r"(?<![A-Za-z0-9])0x[0-9a-f]{40}(?![A-Za-z0-9])", 0.5),
        ]
        super().__init__(patterns=patterns)

    def validate_result(self, pattern_text: str) -> bool:
        """Whether the checksum is right; lengths and signs are all that Ethereum's addresses have."""
        if pattern_text[:2] in ("0x", "0X"):
            return len(set(pattern_text)) > 6
        if base58_check(pattern_text):
            return True
        # Presidio's type hints say bool; what Bech32 refuses comes as False.
        return len(pattern_text) <= 90 and bool(CryptoRecognizer.validate_bech32_address(pattern_text)[0])


def base58_check(text: str) -> bool:
    """Whether a Base58 text ends with the checksum of what stands before it."""
    number = 0
    for sign in text:
        if sign not in _BASE58:
            return False
        number = number * 58 + _BASE58[sign]
    leading = len(text) - len(text.lstrip("1"))
    raw = bytes(leading) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    return len(raw) > 20 and sha256(sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


@cache
def recognizer(cls: Callable[[], PatternRecognizer]) -> Any:
    """The one recogniser of a class."""
    return cls()


@cache
def _compiled(cls: Callable[[], PatternRecognizer]) -> list[tuple[Any, float]]:
    found = recognizer(cls)
    return [(regex.compile(pattern.regex, found.global_regex_flags), pattern.score) for pattern in found.patterns]


def analyse(cls: Callable[[], PatternRecognizer], text: str) -> list[tuple[int, int, float]]:
    """Spans and scores of a recogniser's patterns in a short text, as its own `analyze` rates them.

    Without that method's explanations, which cost more than all else.
    """
    found = []
    judge = recognizer(cls)
    for pattern, score in _compiled(cls):
        for match in pattern.finditer(text):
            valid = judge.validate_result(match[0])
            if valid is False or (valid is None and judge.invalidate_result(match[0])):
                continue
            found.append((match.start(), match.end(), 1.0 if valid else score))
    return found


def is_public(text: str) -> bool:
    """Whether an IP address can be reached from anywhere and is nobody's well-known one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and str(address) not in words()["known_addresses"]


@lru_cache(1 << 14)
def number_validity(text: str, region: str | None) -> int:
    """Of a telephone number as it is dialled: 2 for valid, 1 for possible, 0 for neither."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return 0
    if phonenumbers.is_valid_number(number):
        return 2
    return int(phonenumbers.is_possible_number(number))


def regions(language: str | None) -> Iterable[str]:
    """Regions whose numbers stand without a country code in texts of a language."""
    return words()["phone_regions"].get(language, ()) if language else ()
