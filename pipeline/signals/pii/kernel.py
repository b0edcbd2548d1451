# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled scan: where in a text something personal could stand, and the windows around those places.

It stays in one file because Numba's cache looks at the file of the function that it compiled and at no other.
"""

import numpy as np

from pipeline.dedup.kernel import beyond_ascii
from pipeline.signals.statistics.primitives import compiled, inlined

U32, U64 = np.uint32, np.uint64

# Sorts of candidates.
NUMBER, EMAIL, HIDDEN_EMAIL, ADDRESS, CREDENTIALS, TOKEN, IBAN, PEM = range(8)

BEFORE, AFTER = 80, 48
"""Characters of context that a window has before and after a candidate."""
MAX_CANDIDATES = 10_000
"""Candidates that are looked at in one text; what lies beyond them is not. It bounds the time of a page."""
MAX_NUMBER, MAX_GROUP, MAX_LOCAL, MAX_DOMAIN, MAX_TOKEN, MAX_PEM = 96, 32, 64, 128, 2048, 8192

DROPPED, LETTER, OTHER = 0, 128, 129
"""Forms of characters beyond those that stand for one of ASCII."""
# Classes of forms.
IS_DIGIT, IS_ALPHA, IS_HEX, IS_TOKEN, IS_JOINT, IS_DOMAIN, IS_LOCAL, IS_OPEN = (1 << i for i in range(8))

_DIGITS = range(48, 58)
_ALPHAS = (*range(65, 91), *range(97, 123))


def _classes() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for form in _DIGITS:
        table[form] = IS_DIGIT | IS_HEX | IS_TOKEN | IS_DOMAIN | IS_LOCAL
    for form in _ALPHAS:
        table[form] = IS_ALPHA | IS_TOKEN | IS_DOMAIN | IS_LOCAL
    for form in b"abcdefABCDEF":
        table[form] |= IS_HEX
    for form in b"_-":
        table[form] |= IS_TOKEN | IS_LOCAL
    for form in b" .-()/":  # between the groups of a number
        table[form] |= IS_JOINT
    for form in b".!#$%&'*+/=?^`{|}~":
        table[form] |= IS_LOCAL
    for form in b".-":
        table[form] |= IS_DOMAIN
    table[LETTER] = IS_DOMAIN | IS_LOCAL
    for form in b" ([{<":
        table[form] |= IS_OPEN
    return table


CLASS = _classes()


@inlined
def at(forms, i, n):
    """The form at i, or a line break where the text has ended."""
    return forms[i] if 0 <= i < n else 10


@inlined
def is_word(form):
    """Whether an ASCII letter, digit or underscore."""
    return CLASS[form] & (IS_DIGIT | IS_ALPHA) != 0 or form == 95


@inlined
def is_close(form):
    """Whether a space or a closing bracket."""
    return form == 32 or form == 41 or form == 93 or form == 125 or form == 62


@inlined
def is_break(data, i):
    """Whether <wbr> stands at byte i: pages cut long addresses with it, and texts quote their source."""
    one = U64(1)
    return (
        data[i + one] | 32 == 119
        and data[i + U64(2)] | 32 == 98
        and data[i + U64(3)] | 32 == 114
        and data[i + U64(4)] == 62
    )


@inlined
def longest_text(offsets, first):
    """Bytes of the longest text from `first` on."""
    longest = np.int64(0)
    for r in range(first, len(offsets) - 1):
        longest = max(longest, offsets[r + 1] - offsets[r])
    return longest


@compiled
def unfold(data, i, end, folds, chars, forms, places):
    """Decodes the text from byte i to `end`: code points, forms and places of its characters; returns how many.

    A form is the ASCII character that a character stands for, LETTER or OTHER. Characters that nobody sees are left out.
    """
    n = 0
    place = 0
    i = U64(i)
    end = U64(end)
    while i < end:
        c = U32(data[i])
        if c == 60 and end - i >= 5 and is_break(data, i):
            i += U64(5)
            place += 4
        elif c < 0x80:
            chars[n] = c
            forms[n] = c
            places[n] = place
            n += 1
            i += U64(1)
        else:
            left = end - i
            c, size = beyond_ascii(
                data[i],
                data[i + U64(1)] if left > 1 else 0,
                data[i + U64(2)] if left > 2 else 0,
                data[i + U64(3)] if left > 3 else 0,
            )
            i += U64(size)
            form = folds[c]
            if form != DROPPED:
                chars[n] = c if form >= 0x80 else form
                forms[n] = form
                places[n] = place
                n += 1
        place += 1
    return n


@compiled
def number_end(forms, i, n):
    """The end of the groups of digits that begin at i, and how many digits they have. A group without end ends them."""
    digits = 0
    last = i
    gap = 0
    run = 0
    whole = i
    before = 0
    j = i
    while j < n:
        form = forms[j]
        if CLASS[form] & IS_DIGIT:
            if gap:
                whole = last
                before = digits
                run = 0
            run += 1
            if run > MAX_GROUP:
                return whole, before
            digits += 1
            gap = 0
            last = j + 1
        elif CLASS[form] & IS_JOINT:
            gap += 1
            if gap > 3 or j - i > MAX_NUMBER:
                break
        else:
            break
        j += 1
    return last, digits


@compiled
def date_like(forms, i, end):
    """Whether the groups of digits are no more than a date or a span of years."""
    first = 0
    second = 0
    third = 0
    groups = 0
    inside = False
    years = 0
    for j in range(i, end):
        if CLASS[forms[j]] & IS_DIGIT:
            if not inside:
                groups += 1
                if j + 4 <= end:
                    century = (forms[j] - 48) * 10 + forms[j + 1] - 48
                    years += 14 < century < 22
            inside = True
            first += groups == 1
            second += groups == 2
            third += groups == 3
        else:
            inside = False
    if groups == 2:
        return first == 4 and second == 4 and years == 2
    if groups != 3 or not years:
        return False
    return (first == 4 and second <= 2 and third <= 2) or (first <= 2 and second <= 2 and third == 4)


@compiled
def find_row(forms, n, countries, sorts, starts, ends):
    """The candidates of one text, in the order of their places, nearly; returns how many."""
    count = 0
    limit = len(sorts)
    i = 0
    number_stop = 0
    token_stop = 0
    address_stop = 0
    while i < n and count < limit - 4:
        form = forms[i]
        kind = CLASS[form]
        if kind & IS_TOKEN and i >= token_stop:
            j = i
            seen = 0
            digits = 0
            capitals = 0
            while j < n and CLASS[forms[j]] & IS_TOKEN:
                # _at_
                if (
                    forms[j] == 95
                    and at(forms, j + 3, n) == 95
                    and forms[j + 1] | 32 == 97
                    and forms[j + 2] | 32 == 116
                ):
                    sorts[count] = HIDDEN_EMAIL
                    starts[count] = max(0, j - MAX_LOCAL)
                    ends[count] = min(n, j + MAX_LOCAL)
                    count += count < limit - 4
                seen |= CLASS[forms[j]]
                digits += CLASS[forms[j]] & IS_DIGIT
                capitals += 64 < forms[j] < 91
                j += 1
            token_stop = j
            if digits == 0:
                if j - i >= 10 and form == 45 and at(forms, i + 5, n) == 66 and at(forms, i + 6, n) == 69:
                    sorts[count] = PEM
                    starts[count] = i
                    ends[count] = min(n, i + MAX_PEM)
                    count += 1
                elif 20 <= j - i <= MAX_TOKEN and capitals >= 4:
                    sorts[count] = TOKEN
                    starts[count] = i
                    ends[count] = j
                    count += 1
                i = j
                continue
            if 16 <= j - i <= MAX_TOKEN and seen & IS_ALPHA:
                sorts[count] = TOKEN
                starts[count] = i
                ends[count] = j
                count += 1
        if kind & IS_DIGIT:
            before = at(forms, i - 1, n)
            # The letter of an escaped line break or tab is none.
            escaped = (before == 110 or before == 116 or before == 114) and at(forms, i - 2, n) == 92
            if i >= number_stop and (escaped or not is_word(before)):
                end, digits = number_end(forms, i, n)
                number_stop = end
                if digits >= 7 and not date_like(forms, i, end):
                    sorts[count] = NUMBER
                    starts[count] = i
                    ends[count] = end
                    count += 1
            if (
                i >= 2
                and CLASS[forms[i - 1]] & IS_ALPHA
                and CLASS[forms[i - 2]] & IS_ALPHA
                and not is_word(at(forms, i - 3, n))
                and CLASS[at(forms, i + 1, n)] & IS_DIGIT
                and countries[(forms[i - 2] & 31) * 32 + (forms[i - 1] & 31)]
            ):
                j = i
                size = 2
                while j < n and j < i + 44:
                    if is_word(forms[j]):
                        size += 1
                    elif not ((forms[j] == 32 or forms[j] == 45) and is_word(at(forms, j + 1, n))):
                        break
                    j += 1
                if size >= 15:
                    sorts[count] = IBAN
                    starts[count] = i - 2
                    ends[count] = j
                    count += 1
        elif form == 64:  # @
            before = at(forms, i - 1, n)
            after = at(forms, i + 1, n)
            if CLASS[before] & IS_LOCAL and CLASS[after] & IS_DOMAIN:
                a = i
                while a > 0 and i - a < MAX_LOCAL and CLASS[forms[a - 1]] & IS_LOCAL:
                    a -= 1
                b = i + 1
                dotted = False
                while b < n and b - i < MAX_DOMAIN and CLASS[forms[b]] & IS_DOMAIN:
                    dotted |= forms[b] == 46 and b > i + 1 and CLASS[at(forms, b + 1, n)] & IS_DOMAIN != 0
                    b += 1
                if dotted:
                    sorts[count] = EMAIL
                    starts[count] = a
                    ends[count] = b
                    count += 1
            elif before == 32 or before == 91 or before == 40 or after == 32:
                sorts[count] = HIDDEN_EMAIL
                starts[count] = max(0, i - MAX_LOCAL)
                ends[count] = min(n, i + MAX_LOCAL)
                count += 1
        elif form == 58:  # :
            if at(forms, i + 1, n) == 47 and at(forms, i + 2, n) == 47:
                j = i + 3
                colon = False
                while j < n and j < i + 200 and forms[j] > 32 and forms[j] != 64 and forms[j] != 47:
                    colon |= forms[j] == 58
                    j += 1
                if colon and at(forms, j, n) == 64:
                    a = i
                    while a > 0 and i - a < 16 and (is_word(forms[a - 1]) or forms[a - 1] == 43):
                        a -= 1
                    sorts[count] = CREDENTIALS
                    starts[count] = a
                    ends[count] = min(n, j + MAX_DOMAIN)
                    count += 1
            elif i >= address_stop:
                a = i
                while a > 0 and i - a < 5 and CLASS[forms[a - 1]] & IS_HEX:
                    a -= 1
                b = i
                colons = 0
                double = False
                while b < n and b - i < MAX_NUMBER and (CLASS[forms[b]] & IS_HEX or forms[b] == 58 or forms[b] == 46):
                    colons += forms[b] == 58
                    double |= forms[b] == 58 and b > i and forms[b - 1] == 58
                    b += 1
                address_stop = b
                if (colons >= 7 or double) and b - a > 3:
                    sorts[count] = ADDRESS
                    starts[count] = a
                    ends[count] = b
                    count += 1
        elif kind & IS_OPEN and i + 3 < n:
            second = forms[i + 1] | 32
            third = forms[i + 2] | 32
            bracket = form != 32
            if form == 32 and forms[i + 1] == 97 and forms[i + 2] == 116 and forms[i + 3] == 32:  # at
                b = i + 4
                dotted = False
                while b < n and b - i < MAX_DOMAIN and CLASS[forms[b]] & IS_DOMAIN:
                    dotted |= forms[b] == 46 and CLASS[at(forms, b + 1, n)] & IS_ALPHA != 0
                    b += 1
                if dotted:
                    sorts[count] = HIDDEN_EMAIL
                    starts[count] = max(0, i - MAX_LOCAL)
                    ends[count] = min(n, b + 16)
                    count += 1
            if second == 100 and third == 111 and forms[i + 3] | 32 == 116 and is_close(at(forms, i + 4, n)):  # dot
                sorts[count] = HIDDEN_EMAIL
                starts[count] = max(0, i - MAX_LOCAL)
                ends[count] = min(n, i + 40)
                count += 1
            elif bracket and (
                (second == 97 and third == 116 and is_close(forms[i + 3]))
                or (forms[i + 1] == 32 and third == 97 and forms[i + 3] | 32 == 116 and at(forms, i + 4, n) == 32)
            ):  # (at) and ( at )
                sorts[count] = HIDDEN_EMAIL
                starts[count] = max(0, i - MAX_LOCAL)
                ends[count] = min(n, i + MAX_LOCAL)
                count += 1
        i += 1
    return count


@compiled
def scan(data, offsets, first, folds, countries, kinds, found, text, places):
    """Fills the columns of candidates of the texts from `first` on, as far as there is room.

    `found` has the columns row, sort, start, end and start and end of its window, all but the row as indices of `text`,
    which holds the windows one after another, each before a line break; `places` are those of its characters in the
    text that they come from. Returns the first text that was not looked at, the number of candidates and the length of
    `text`.
    """
    longest = longest_text(offsets, first)
    chars = np.empty(longest, np.uint32)
    forms = np.empty(longest, np.uint8)
    origin = np.empty(longest, np.int32)
    sorts = np.empty(MAX_CANDIDATES + 4, np.int32)
    starts = np.empty(MAX_CANDIDATES + 4, np.int32)
    ends = np.empty(MAX_CANDIDATES + 4, np.int32)
    count = 0
    size = 0
    r = first
    while r < len(offsets) - 1:
        if size + offsets[r + 1] - offsets[r] + MAX_CANDIDATES > len(text) or count + MAX_CANDIDATES + 4 > len(found):
            break
        n = unfold(data, offsets[r], offsets[r + 1], folds, chars, forms, origin)
        here = find_row(forms, n, countries, sorts, starts, ends)
        left = 0  # where the window that is being written begins and ends in this text
        right = -1
        begin = size
        for k in range(here):
            if not kinds >> sorts[k] & 1:
                continue
            a = max(0, starts[k] - BEFORE)
            b = min(n, ends[k] + AFTER)
            if right < 0 or a > right:
                if right >= 0:
                    text[size] = 10
                    places[size] = -1
                    size += 1
                left = a
                right = a
                begin = size
            for j in range(right, b):
                text[size] = chars[j]
                places[size] = origin[j]
                size += 1
            right = max(right, b)
            found[count, 0] = r
            found[count, 1] = sorts[k]
            found[count, 2] = begin + max(starts[k], left) - left
            found[count, 3] = begin + ends[k] - left
            found[count, 4] = begin
            found[count, 5] = size
            count += 1
        if right >= 0:
            text[size] = 10
            places[size] = -1
            size += 1
        r += 1
    return r, count, size
