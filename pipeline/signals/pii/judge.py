"""What a candidate is, if anything: recognisers, and the words around it."""

import re
from collections.abc import Iterator
from math import inf

from pipeline.signals.pii import kernel as k
from pipeline.signals.pii.presidio import IbanRecognizer, IpRecognizer
from pipeline.signals.pii.recognizers import (
    ArchivedEmail,
    Card,
    Credentials,
    Email,
    HiddenEmail,
    NamedKey,
    ServiceKey,
    Ssn,
    Wallet,
    analyse,
    has_suffix,
    is_public,
    number_validity,
    phrases,
    plain_address,
    recognizer,
    regions,
)
from pipeline.signals.pii.tables import words

Found = Iterator[tuple[int, int, str, float]]
NEAR = 48
"""Characters before a number whose words say what it is."""
BEHIND = 28
"""Characters after it."""
FEW = 4
"""Words that may stand between a number and what makes it something else."""

_FIRST = re.compile(r"[^\w\n]{0,4}([^\W\d_]+)")
_MASKED = re.compile(r"<[A-Z_]{5,20}>|\|{3}[A-Z_]{5,20}\|{3}")


def judge(
    sort: int,
    text: str,
    start: int,
    end: int,
    first: int,
    last: int,
    language: str | None,
    kinds: frozenset[str],
    role_addresses: bool,
) -> Found:
    """Spans, kinds and scores of what stands at [start, end) of `text`, in the window [first, last)."""
    if sort == k.NUMBER:
        yield from _number(text, start, end, first, last, language, kinds)
    elif sort == k.EMAIL:
        yield from _email(text, start, end, first, role_addresses)
    elif sort == k.HIDDEN_EMAIL:
        for a, b, score in (*analyse(HiddenEmail, text[start:end]), *analyse(ArchivedEmail, text[start:end])):
            local, _, host = plain_address(text[start + a : start + b]).partition("@")
            if _is_personal(local, host, role_addresses):
                yield start + a, start + b, "EMAIL_ADDRESS", score
    elif sort == k.TOKEN:
        yield from _token(text, start, end, first, last, kinds)
    elif sort == k.ADDRESS:
        yield from _address(text, start, end)
    elif sort == k.CREDENTIALS:
        for a, b, score in analyse(Credentials, text[start:last]):
            yield start + a, start + b, "URL_CREDENTIALS", score
    elif sort == k.IBAN:
        found = text[start:end]
        if found[:2].islower():
            size = next((i for i, char in enumerate(found) if not char.isalnum()), len(found))
            found = found[:size].translate(_UPPER) + found[size:]
        for hit in recognizer(IbanRecognizer).analyze(found, ["IBAN_CODE"]):
            yield start + hit.start, start + hit.end, "IBAN_CODE", hit.score
    elif sort == k.PEM and (block := _PEM.match(text, start, end)):
        yield *block.span(), "API_KEY", 1.0


_UPPER = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?s:.){0,8000}?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]*)"
)

# E-mail

_LEADING = re.compile(r"^(?:.*[=:/|{}`*^?!#$%&']|[._+\-~]+)")
_DENSE_BEFORE = re.compile(r"^.*[\u2e80-\U0003ffff](?=[!-~]+$)")
_DENSE_AFTER = re.compile(r"(?<=\.[a-z][a-z])([a-z]*)[\u2e80-\U0003ffff].*$", re.IGNORECASE)
_GLUED = re.compile(r"([a-z]{2,4})(?=[A-Z])")


# What stands before ids of messages and their parts.
_ID = re.compile(r"(?:\b[cm]id:|message-id:?|in-reply-to:?|references:?)[\s<]*$", re.IGNORECASE)


def _email(text: str, start: int, end: int, first: int, role_addresses: bool) -> Found:
    address = text[start:end].rstrip(".-")
    local, _, host = address.partition("@")
    if cut := _LEADING.match(local):
        start += cut.end()
        local = local[cut.end() :]
    if not address.isascii():  # scripts without spaces touch what they stand beside
        dense = _DENSE_BEFORE.match(local)
        start += dense.end() if dense else 0
        local = local[dense.end() :] if dense else local
        host = _DENSE_AFTER.sub(r"\1", host)
    if not local or _ID.search(text, max(first, start - 24), start):
        return
    if text[start - 1 : start] == "/" and text[end : end + 1] == "/":  # part of a path
        return
    for name in _hosts(host):
        if not has_suffix(name.lower()):
            continue
        spans = analyse(Email, f"{local}@{name}")
        if spans and _is_personal(local, name, role_addresses):
            a, b, score = max(spans, key=lambda span: span[1] - span[0])
            yield start + a, start + b, "EMAIL_ADDRESS", score
        return


def _hosts(host: str) -> Iterator[str]:
    """A host, then what is left of it where text was glued to its end."""
    host = host.rstrip(".-")
    yield host
    while "." in host:
        front, _, label = host.rpartition(".")
        if glued := _GLUED.match(label):
            yield f"{front}.{glued[1]}"
        host = front
        yield host


def _is_personal(local: str, host: str, role_addresses: bool) -> bool:
    local, host, known = local.lower(), host.lower(), words()
    if host.rpartition(".")[2] in known["documentation_suffixes"] or local in known["placeholders"]:
        return False
    if host in known["documentation_domains"]:
        return False
    if host in known["message_id_hosts"]:
        return False
    if role_addresses:
        return True
    if local in known["role_addresses"] or _PARTS.split(local, 1)[0] in known["role_prefixes"]:
        return False
    return host not in known["list_hosts"] and host.partition(".")[0] not in known["list_hosts"]


_PARTS = re.compile(r"[._+-]")


# Tokens


def _token(text: str, start: int, end: int, first: int, last: int, kinds: frozenset[str]) -> Found:
    if "API_KEY" in kinds:
        begin = max(first, start - 48)
        for cls in (ServiceKey, NamedKey):
            for a, b, score in analyse(cls, text[begin : min(last, end + 2048)]):
                yield begin + a, begin + b, "API_KEY", score
    if "CRYPTO" in kinds and end - start >= 26:
        for a, b, score in analyse(Wallet, text[start:end]):
            yield start + a, start + b, "CRYPTO", score


# Numbers


class _Context:
    """Words around a number. What stands before it counts from the last mask on, so that a text with its hits masked has
    none; words that make it something else count through masks, as they did before."""

    def __init__(self, text: str, start: int, end: int, first: int, last: int) -> None:
        before = text[max(first, start - NEAR) : start]
        after = text[end : min(last, end + BEHIND)]
        if "<" in before or "|" in before:
            before = _MASKED.split(before)[-1]
        if "<" in after or "|" in after:
            after = _MASKED.split(after, 1)[0]
        self.before = before.lower()
        self.after = after.lower()
        self._all = text[max(first, start - k.BEFORE) : start]

    def distance(self, name: str) -> float:
        """Characters between the last word of a list and the number; infinite without one."""
        end = phrases(name).last(self.before)
        return len(self.before) - end if end >= 0 else inf

    def other(self) -> float:
        """The same of words that make it something else, if one stands on its line and no more than a few words away."""
        line = " ".join(self._all.lower().rpartition("\n")[2].split(" ")[-FEW - 1 :])
        end = phrases("other_words").last(line)
        return len(line) - end if end >= 0 else inf

    def begins(self, name: str) -> bool:
        """Whether what follows begins with a word of a list."""
        head = _FIRST.match(self.after)
        return head is not None and phrases(name).last(head[1]) >= 0

    def behind(self, name: str) -> bool:
        """Whether a word of a list follows."""
        return phrases(name).last(self.after) >= 0


# With the length of its prefix where it is a network, no machine.
_IPV4 = re.compile(r"(?<![\d.-])(\d{1,3}(?:\.\d{1,3}){3})(?![\w-]|\.\w)(/(?:[89]|[12]\d|30)(?!\d))?")
_DATE = re.compile(r"(?<!\d)(?:(?:19|20)\d\d([-./])\d\d?\1\d\d?|\d\d?([-./])\d\d?\2(?:19|20)\d\d)(?!\d)")
# No local numbers of North America (by their first digit), spans of years, ZIP+4 codes, decimal numbers, hours from and
# to, cases by year, seconds since 1970.
_NO_PHONE = re.compile(
    r"[01]\d\d[-. ]\d{4}|(?:1[5-9]|20)\d\d ?[-/]? ?(?:1[5-9]|20)\d\d|\d{5}-\d{4}|(?!\d{3}\.\d{4}$)\d+\.\d+|"
    r"(?:[01]?\d|2[0-4])[. ][0-5]\d ?- ?(?:[01]?\d|2[0-4])[. ][0-5]\d|(?:19|20)\d\d-\d{1,5}|\d\d-(?:\d\d-)?\d{5}|1[3-7]\d{8}"
)
_DIGIT_NEXT = re.compile(r" \d")
_DIGIT_LAST = re.compile(r"\d $")


def _number(
    text: str, start: int, end: int, first: int, last: int, language: str | None, kinds: frozenset[str]
) -> Found:
    found = text[start:end]
    context = _Context(text, start, end, first, last)
    taken: list[tuple[int, int]] = []
    hits: list[tuple[int, int, str, float]] = []
    if found.count(".") >= 3:
        for match in _IPV4.finditer(text, start, min(last, end + 4)):
            taken.append(match.span())
            if is_public(match[1]) and not match[2] and not _is_version(text, match[1], match.start(), first, context):
                hits.append((*match.span(1), "IP_ADDRESS", 0.6))
    digits = sum(map(str.isdigit, found))
    if not taken and digits >= 12 and "CREDIT_CARD" in kinds and context.distance("card_words") <= context.other():
        cards = ((start + a, start + b) for a, b, _ in analyse(Card, found))
        taken = [card for card in cards if not _GLUED_NUMBER.match(text, card[1], last)]
        hits = [(*card, "CREDIT_CARD", 1.0) for card in taken]
    if not taken and digits >= 9 and "US_SSN" in kinds and language == "en":
        hits = list(_ssns(text, start, end, context))
        taken = [hit[:2] for hit in hits]
    if taken:
        yield from (hit for hit in hits if hit[2] in kinds)
        for a, b in zip([start, *(b for _, b in taken)], [*(a for a, _ in taken), end], strict=True):
            a += len(text[a:b]) - len(text[a:b].lstrip(" .-/)("))
            if sum(map(str.isdigit, text[a:b])) >= 7:
                yield from _number(text, a, b, first, last, language, kinds)
    elif "PHONE_NUMBER" in kinds:
        yield from _phones(text, start, end, first, last, language, context)


def _is_version(text: str, address: str, start: int, first: int, context: _Context) -> bool:
    before = text[max(first, start - 2) : start]
    if before.endswith(("/", "_", "-", "§")) and before[:1].isalpha():
        return True
    said, named = context.distance("version_words"), context.distance("ip_words")
    small = max(map(int, address.split("."))) < 40  # the parts of versions are; those of addresses rarely
    if said < min(named, 20):
        return small or named == inf
    return small and named == inf


def _ssns(text: str, start: int, end: int, context: _Context) -> Found:
    other, said = context.other(), context.distance("ssn_words")
    named = said < other or (other == inf and context.behind("ssn_words"))
    for a, b, score in analyse(Ssn, text[start:end]):
        found = text[start + a : start + b]
        if text[max(0, start + a - 1)] in "/.-#$" or _NOT_BEHIND.match(text[start + b : start + b + 3]):
            continue
        bare = len(found) == 9 or found[3] == " "
        if not named and ((bare and (len(found) == 9 or found[0] == "9")) or other < 8):
            continue
        yield start + a, start + b, "US_SSN", 0.9 if named else score


def _address(text: str, start: int, end: int) -> Found:
    for a, b, score in analyse(IpRecognizer, text[start:end]):
        found = text[start + a : start + b].partition("/")[0].partition("%")[0]
        if ":" not in found or not is_public(found):
            continue
        groups = [group for group in found.split(":") if group]
        if "::" in found and (len(groups) < 3 or not re.match(r"[23][0-9a-fA-F]{3}:", found)):
            continue
        yield start + a, start + b, "IP_ADDRESS", score


_GLUED_NUMBER = re.compile(r"[A-Za-z_]|[-.,]\d")

# Telephone numbers

_LETTER = re.compile(r"(?:^|[\n|•·,;(\t])\s*[ptmfc](?:[.:]{1,2}\s*(?:\|\s*)?|\s+)[(+]?$")
_EXTENSION = re.compile(
    r"\s{0,2}(?:[,;]\s?)?(?:x|ext\.?|extension|durchwahl|poste)\s{0,2}\.?:?\s{0,2}\d{1,6}(?!\w)", re.IGNORECASE
)
_NANP = re.compile(
    r"(?<!\d)(?<!\d[-.])(?:(?:\+?1|001)[-. ]{0,3})?(?:\(\s?[2-9]\d\d\s?\)[-. /]{0,3}|[2-9]\d\d(?:\s?[-./]\s?|\s))"
    r"[2-9]\d\d(?:\s?[-./]\s?|\s)\d{4}(?!\d)"
)
_CUT = re.compile(
    r" [-/] |/(?=\d\d?(?!\d))|/ |(?<=\d{3}) /|/(?=\d{3}.*\d{4})|  +|\) ?\(|(?<=\d{4})\) (?=\d)|(?<=\d{7}) (?=\d{7})"
)
_SIGN = re.compile(r"[-./ ]")
_GROUPS = re.compile(r"\d+")


def _phones(text: str, start: int, end: int, first: int, last: int, language: str | None, context: _Context) -> Found:
    said, other = context.distance("phone_words"), context.other()
    close = context.distance("phone_words_close")
    if close <= 4:
        said = min(said, close)
    if _LETTER.search(context.before):
        said = 0
    behind = context.begins("phone_words_behind")
    between = context.before[len(context.before) - int(said) :] if said < inf else ""
    near = said < inf and between.count("\n") <= 2 and len(between.split()) <= 5
    named = (near and said <= other) or (other == inf and behind)
    while start > first and end - start < k.MAX_NUMBER + 4 and text[start - 1] in "(+":
        start -= 1
    if other < said and text[start] != "+" and not behind:
        return
    for a, b in _pieces(text, start, end):
        stop = _international_end(text, a, b) if text[a] == "+" else b
        if found := _phone(text, a, stop, first, last, language, named, a == start):
            yield found
        for c, d in _split(text, stop, b):
            if found := _phone(text, c, d, first, last, language, named, False):
                yield found


def _international_end(text: str, start: int, end: int) -> int:
    """Where a number with its country code ends, whatever digits stand behind it."""
    stop = end
    for _ in range(3):
        found = text[start:stop].replace("(0)", "")
        if sum(map(str.isdigit, found)) < 8:
            break
        if number_validity("+" + "".join(_GROUPS.findall(found)), None) == 2:
            return stop
        stop = max(start, text.rfind(" ", start, stop))
    return end


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of groups of digits that could be one number each."""
    found = text[start:end]
    at = 0
    if found[0] == "+" and not found.startswith(("+1", "+(1")):
        yield from _split(text, start, end)
        return
    for match in _NANP.finditer(found):
        yield from _split(text, start + at, start + match.start())
        yield start + match.start(), start + match.end()
        at = match.end()
    yield from _split(text, start + at, end)


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    found = text[start:end]
    digits = 0
    at = 0
    past = 0
    for stop, after in [*(match.span() for match in _CUT.finditer(found)), (len(found), len(found))]:
        digits += sum(map(str.isdigit, found[past:stop]))
        past = stop
        if digits >= 7:
            part = found[at:stop]
            a = at + len(part) - len(part.lstrip(" .-/)"))
            b = stop - len(part) + len(part.rstrip(" .-/("))
            yield start + a, start + b
            at = after
            digits = 0


def _phone(
    text: str, start: int, end: int, first: int, last: int, language: str | None, named: bool, at_first: bool
) -> tuple[int, int, str, float] | None:
    found = text[start:end]
    if found[0] == "(" and found.count("(") > found.count(")"):
        found = found[1:]
        start += 1
    digits = "".join(filter(str.isdigit, found))
    groups = _GROUPS.findall(found)
    n = len(digits)
    if n > 17 or len(set(digits)) < 3 or (n < 8 and min(map(len, groups)) < 2) or found.count("(") != found.count(")"):
        return None
    if _DATE.search(found) or _NO_PHONE.fullmatch(found):
        return None
    before = text[max(first, start - 2) : start]
    if before[-1:] in _NOT_BEFORE or (before[-1:].isalnum() and before.isascii()):
        return None
    if at_first and before[-1:] == "/" and before[0].isalnum():  # the end of a URL, or a program's version
        return None
    if before[-1:] in ("-", ".", "_") and before[0].isalnum():
        return None
    following = text[end : min(last, end + 3)]
    if _NOT_BEHIND.match(following):
        return None
    if (
        not named
        and found[0] not in "+("
        and " " in found
        and (_DIGIT_NEXT.match(following) or _DIGIT_LAST.search(before))
    ):  # in a table
        return None
    score = _rate(found, digits, groups, n, found.lstrip("(")[0] == "+", language, named)
    if score is None:
        return None
    extension = _EXTENSION.match(text, end, min(last, end + 20))
    return start, extension.end() if extension else end, "PHONE_NUMBER", score


_NOT_BEFORE = frozenset("$€£¥=#_@&")
_NOT_BEHIND = re.compile(r"[%€$£¥°]|[.,:]\d|[A-Wa-wYZyz_]\w|@")


def _rate(
    found: str, digits: str, groups: list[str], n: int, plus: bool, language: str | None, named: bool
) -> float | None:
    """How sure it is that the digits are a telephone number; None for not enough."""
    if plus:
        valid = number_validity("+" + digits, None)
        if valid < 2 and "(0)" in found:
            valid = max(valid, number_validity("+" + "".join(_GROUPS.findall(found.replace("(0)", ""))), None))
        if valid == 2:
            return 0.9
        if digits[0] == "0" and not named:
            return None
        if 7 <= n <= 15 and (named or (valid == 1 and len(groups) >= 3)):
            return 0.5
        return None
    if _NANP.fullmatch(found):
        if named:
            return 0.9
        if number_validity(digits[-10:], "US") == 2:
            return 0.7
    if named and 7 <= n <= (16 if len(groups) > 1 else 12) and len(groups) <= 7:
        return 0.6
    if found.startswith("00") and n >= 10 and number_validity("+" + digits[2:], None) == 2:
        return 0.6
    if len(groups) == 1 and not (language == "zh" and n == 11):
        return None
    if len(set(_SIGN.findall(found))) > 2:
        return None
    for region in regions(language):
        if number_validity(found, region) == 2 and (found[0] in "0(" or region in _NO_TRUNK):
            return 0.5
    return None


_NO_TRUNK = frozenset({"ES", "PT", "IT", "PL", "RU", "CN"})
