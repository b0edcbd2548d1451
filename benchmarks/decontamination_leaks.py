"""Leaks made from benchmark items: what a page that holds a test item could look like. Pure; a function of seed and item.

An item is a row of ITEMS (`question`, `choices`, `answer`, `passage`). Its leaks, by kind:

verbatim       passage, question, lettered choices and the answer, as a page of quizzes prints them
reformatted    the same words otherwise set: case, lines, labels, bullets, typographic quotes, words divided at the ends
               of lines, numbers with spaces, and what extraction of HTML leaves behind
reordered      choices in another order; None for an item with fewer than two different ones
paraphrased N  in each run of N words one replaced, dropped or swapped with the next; N is 12, 8 or 5
question       the question and its passage, without choices and answer
apart          question and choices at the start of a long page, the answer thousands of words later
embedded       verbatim, somewhere in a page of 20,000 words
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

KINDS = (
    "verbatim",
    "reformatted",
    "reordered",
    "paraphrased 12",
    "paraphrased 8",
    "paraphrased 5",
    "question",
    "apart",
    "embedded",
)
LONG_PAGE = 20_000  # words
APART = 3_000  # words between a question and its answer, at least
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SYNONYMS = """
    about:roughly after:following all:every also:too always:constantly amount:quantity answer:reply ask:inquire
    bag:sack ball:sphere because:since before:prior begin:start best:finest big:large book:volume bought:purchased
    box:carton boy:lad buy:purchase car:vehicle carry:bear cause:reason change:alter child:kid children:kids
    city:town correct:right cost:price day:date describe:explain different:distinct each:every earn:make earth:world
    eat:consume end:finish explain:describe fast:quick father:dad find:discover first:initial following:next
    food:meals form:shape friend:companion friends:pals gave:handed get:obtain girl:lass give:hand good:fine
    grow:develop happen:occur hard:tough has:owns help:assist home:house hot:warm house:home important:vital
    increase:rise job:work keep:hold kind:sort large:big later:afterwards learn:study leave:depart left:remaining
    less:fewer likely:probable little:small live:dwell long:lengthy look:glance made:built make:build man:guy
    many:numerous method:way money:cash more:additional most:nearly mother:mom move:shift much:plenty near:close
    need:require new:recent number:count object:thing often:frequently old:aged one:single only:just order:sequence
    other:another part:piece people:persons person:individual place:spot plant:herb problem:issue produce:yield
    put:set reason:cause result:outcome right:correct road:street run:sprint said:stated same:equal says:states
    school:academy see:notice sell:vend show:display sit:rest small:little sold:marketed some:several spend:pay
    start:begin statement:claim store:shop story:tale street:road student:pupil students:pupils take:grab talk:speak
    teacher:tutor tell:inform thing:object think:believe time:moment total:sum town:city travel:journey true:valid
    try:attempt type:kind use:employ used:employed usually:normally very:quite walk:stroll want:wish water:liquid
    way:manner weight:mass whole:entire with:using woman:lady work:labour write:note year:twelvemonth young:youthful
"""
SYNONYMS: dict[str, str] = dict(pair.split(":") for pair in _SYNONYMS.split())
FILLERS = [
    "really",
    "perhaps",
    "certain",
    "given",
    "actual",
    "single",
    "further",
    "usual",
    "simply",
    "various",
    "proper",
    "indeed",
]
LEFTOVERS = (
    "Show answer",
    "[edit]",
    "Question 7 of 40",
    "Share | Print | Report",
    "3 points",
    "&nbsp;",
    "Advertisement",
)


class Planted(NamedTuple):
    """A page with a leak: `text`, and where the leak stands in it, in characters [start, end)."""

    text: str
    start: int
    end: int


def draw_of(seed: int, kind: str, item: Mapping[str, Any]) -> random.Random:
    """The source of chance of one leak: a function of its arguments alone."""
    return random.Random(f"{seed}/{kind}/{item['benchmark']}/{item['item']}")


def leak(item: Mapping[str, Any], kind: str, seed: int = 1) -> tuple[str, ...] | None:
    """The passages of one kind that a page is to hold, in order; None where an item has no leak of the kind.

    Two passages (question, answer) for `apart`, one for all others. Raises KeyError for an unknown kind.
    """
    draw = draw_of(seed, kind, item)
    name, _, strength = kind.partition(" ")
    if name in ("verbatim", "embedded"):
        return (printed(item),)
    if name == "reformatted":
        return (reformatted(item, draw),)
    if name == "reordered":
        other = reordered(item, draw)
        return other and (printed(other),)
    if name == "paraphrased":
        return (printed(paraphrased(item, int(strength), draw)),)
    if name == "question":
        asked = _lines(item.get("passage"), item["question"])
        return (asked,) if asked else None
    if name == "apart":
        asked = _lines(item.get("passage"), item["question"], *_labelled(item["choices"], "{}."))
        return (asked, f"Answer: {item['answer']}") if asked and item.get("answer") else None
    raise KeyError(kind)


def planted(page: str, passages: Sequence[str], draw: random.Random) -> Planted:
    """The page with the passage between two of its lines or words; a second passage comes at the end.

    Two passages ask for a page of at least `APART` words (`long_page`). The place is that of the first.
    """
    first, *rest = passages
    breaks = [found.end() for found in re.finditer(r"\n", page)] or [found.end() for found in re.finditer(" ", page)]
    if rest:
        breaks = breaks[: max(1, len(breaks) // 10)]  # a question stands near the start, so that the answer is far
    at = draw.choice(breaks) if breaks else len(page)
    before = page[:at].rstrip() + "\n"
    text = "\n".join((before + first, page[at:], *rest))
    return Planted(text, len(before), len(before) + len(first))


def long_page(pages: Sequence[str], draw: random.Random, words: int = LONG_PAGE) -> str:
    """Pages drawn from `pages`, joined, with at least so many words."""
    chosen: list[str] = []
    while words > 0:
        chosen.append(draw.choice(pages))
        words -= len(chosen[-1].split())
    return "\n\n".join(chosen)


# ---- kinds


def printed(item: Mapping[str, Any], label: str = "{}.", answer: str = "Answer: ") -> str:
    """Passage, question, labelled choices and the answer on lines of their own; a program goes on where its start ends."""
    right = item.get("answer") or ""
    if right and not item["choices"] and re.search(r"^def .*:", item["question"], re.M):  # a function's head and body
        return _lines(item.get("passage"), item["question"], "    " + right)
    choices = list(item["choices"])
    if right and right in choices:
        right = _labelled(choices, label)[choices.index(right)]
    return _lines(
        item.get("passage"), item["question"], *_labelled(choices, label), f"{answer}{right}" if right else None
    )


def reordered(item: Mapping[str, Any], draw: random.Random) -> dict[str, Any] | None:
    """The item with its choices in another order, or None where there is no other."""
    choices = list(item["choices"])
    if len(set(choices)) < 2:
        return None
    other = choices
    while other == choices:
        other = draw.sample(choices, len(choices))
    return {**item, "choices": other}


def paraphrased(item: Mapping[str, Any], strength: int, draw: random.Random) -> dict[str, Any]:
    """The item with one word in each run of `strength` replaced, dropped or swapped; runs go on from field to field.

    What is left of a run at the end of the item is changed as often as its length says: a short item may stay whole.
    """
    fields = [item.get("passage") or "", item["question"], *item["choices"], item.get("answer") or ""]
    own = fields[-1] not in item["choices"]  # otherwise the answer is a choice, and changes with it
    tokens = [re.split(r"(\s+)", field) for field in (fields if own else fields[:-1])]
    places = [
        (i, j)
        for i, field in enumerate(tokens)
        for j, token in enumerate(field)
        if any(character.isalnum() for character in token)
    ]
    for start in range(0, len(places), strength):
        at = start + draw.randrange(strength)
        way = draw.random()
        if at >= len(places):
            continue
        i, j = places[at]
        i2, j2 = places[at + 1] if at + 1 < min(start + strength, len(places)) else (-1, -1)
        if way < 0.5:
            tokens[i][j] = _replaced(tokens[i][j], draw)
        elif way < 0.75 or i2 != i:
            tokens[i][j] = ""
        else:
            tokens[i][j], tokens[i][j2] = tokens[i][j2], tokens[i][j]
    passage, question, *choices = ("".join(field) for field in tokens)
    answer = choices.pop() if own else choices[item["choices"].index(fields[-1])]
    return {**item, "passage": passage or None, "question": question, "choices": choices, "answer": answer or None}


def reformatted(item: Mapping[str, Any], draw: random.Random) -> str:
    """The item set in another way: three to five of the changes, drawn without repetition, in a fixed order."""
    label = draw.choice(["{}.", "{})", "({})", "{lower})", "({lower})", "{number}.", "{number})", "•", "-", "[ ]"])
    answer = draw.choice(["Answer: ", "Correct answer: ", "ANSWER - ", "Ans. ", "Solution\n", "=> "])
    text = printed(item, label, answer)
    changes = (_case, _quotes, _numbers, _marks, _leftovers, _spaces, _lines_cut)
    chosen = set(draw.sample(range(len(changes)), draw.randint(3, 5)))
    for i, change in enumerate(changes):
        if i in chosen:
            text = change(text, draw)
    return text


# ---- changes of form


def _case(text: str, draw: random.Random) -> str:
    return draw.choice([str.upper, str.lower, str.title])(text)


def _quotes(text: str, draw: random.Random) -> str:
    text = re.sub(r'"([^"\n]*)"', draw.choice(["“\\1”", "«\\1»", "„\\1“", "''\\1''"]), text)
    return text.replace("'", "’").replace("...", "…").replace(" - ", " — ")


def _numbers(text: str, draw: random.Random) -> str:
    """Thousands apart by a space of some kind: 12,500 and 12500 become 12 500."""
    space = draw.choice([" ", "\u00a0", "\u202f"])
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", space, text)
    return re.sub(r"(?<![\d.])(\d{1,3})(\d{3})(?![\d])", rf"\1{space}\2", text)


def _marks(text: str, draw: random.Random) -> str:
    """Marks around every line, or around some words."""
    before, after = draw.choice(
        [("* ", ""), ("> ", ""), ("**", "**"), ("Q: ", ""), ("| ", " |"), ("", " ..."), ("— ", "")]
    )
    if draw.random() < 0.5:
        return "\n".join(f"{before}{line}{after}" if line.strip() else line for line in text.split("\n"))
    words = text.split(" ")
    mark = draw.choice(["*", "_", "“", "("])
    end = {"“": "”", "(": ")"}.get(mark, mark)
    return " ".join(f"{mark}{word}{end}" if word.isalpha() and draw.random() < 0.15 else word for word in words)


def _leftovers(text: str, draw: random.Random) -> str:
    """Pieces of the page around it between lines; in a third of the cases one entity, undecoded, between words."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 2)):
        lines.insert(draw.randint(0, len(lines)), draw.choice(LEFTOVERS))
    text = "\n".join(lines)
    if draw.random() < 1 / 3:
        text = text.replace("&", "&amp;")
        gaps = [found.start() for found in re.finditer(" ", text)]
        if gaps:
            at = draw.choice(gaps)
            text = f"{text[:at]} &nbsp; {text[at + 1 :]}"
    return text


def _spaces(text: str, draw: random.Random) -> str:
    """Other white space between words, and invisible characters within some."""
    other = draw.choice(["  ", "\u00a0", "\t", " \u00a0", "\u2009"])
    words = re.split(" ", text)
    hidden = draw.choice(["\u00ad", "\u200b", "\ufeff"])
    for i, word in enumerate(words):
        if len(word) > 6 and draw.random() < 0.1:
            words[i] = word[:3] + hidden + word[3:]
    return "".join(word + (other if draw.random() < 0.3 else " ") for word in words).rstrip(" ")


def _lines_cut(text: str, draw: random.Random) -> str:
    """Lines of a column as printed; in half of the cases words are divided with a hyphen where they reach its edge."""
    width = draw.randint(32, 76)
    divides = draw.random() < 0.5
    out: list[str] = []
    for line in text.split("\n"):
        now = ""
        for word in line.split(" "):
            room = width - len(now) - 1
            if len(now) + len(word) < width or not now:
                now = f"{now} {word}" if now else word
                continue
            if divides and word.isalpha() and len(word) >= 7 and 4 <= room <= len(word) - 3:
                out.append(f"{now} {word[: room - 1]}-")
                now = word[room - 1 :]
            else:
                out.append(now)
                now = word
        out.append(now)
    return "\n".join(out)


def _replaced(token: str, draw: random.Random) -> str:
    """Another word in place of that of a token; its marks stay."""
    found = re.search(r"\w+", token)
    if found is None:
        return token
    word = SYNONYMS.get(found.group().lower()) or draw.choice(FILLERS)
    if found.group()[0].isupper():
        word = word.capitalize()
    return token[: found.start()] + word + token[found.end() :]


# ---- printing


def _labelled(choices: Sequence[str], label: str) -> list[str]:
    return [
        f"{label.format(LETTERS[i % 26], lower=LETTERS[i % 26].lower(), number=i + 1)} {choice}"
        for i, choice in enumerate(choices)
    ]


def _lines(*parts: str | None) -> str:
    return "\n".join(_filled(parts))


def _filled(parts: Sequence[str | None]) -> Iterator[str]:
    return (part for part in parts if part and part.strip())
