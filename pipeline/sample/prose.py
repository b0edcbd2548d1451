"""Text for the sample: a small grammar over phrase banks. The same random state gives the same text everywhere."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

BANKS = Path(__file__).parent / "banks"

_CHOICE = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@cache
def bank(name: str) -> Any:
    """The parsed data file `banks/NAME.yaml`."""
    return yaml.safe_load((BANKS / f"{name}.yaml").read_text(encoding="utf-8"))


def topics() -> tuple[str, ...]:
    """Names of the English topics, in the order of the data file."""
    return tuple(bank("topics"))


class Deck:
    """Draws from a list without repeating an entry before all were drawn, so that a page does not repeat itself."""

    def __init__(self, random: Random, cards: Sequence[str]):
        self.random, self.cards, self.rest = random, list(cards), [""][:0]

    def draw(self) -> str:
        """The next entry."""
        if not self.rest:
            self.rest = self.cards[:]
            self.random.shuffle(self.rest)
        return self.rest.pop()


class English:
    """English prose on one topic: sentences, paragraphs, titles. Holds the state of one page."""

    def __init__(self, random: Random, topic: str):
        self.random, self.topic = random, topic
        common, words = bank("english"), bank("topics")[topic]
        lists = {
            "thing": words["things"],
            "adjective": [*words["adjectives"], *common["adjectives"]],
            "effect": common["effects"],
            "object": words["objects"],
            "habit": words["habits"],
            "reason": words["reasons"],
            "detail": words["details"],
            "name": common["names"],
            "town": common["towns"],
            "month": common["months"],
            "day": common["days"],
            "first": common["firsts"],
            "often": common["often"],
            "noticed": common["noticed"],
            "helps": common["helps"],
            "while": common["while"],
            "people": words["people"],
            "template": common["templates"],
            "anecdote": common["anecdotes"],
            "title": common["titles"],
        }
        self.decks = {name: Deck(random, cards) for name, cards in lists.items()}

    def _noun_phrase(self) -> str:
        noun = self.decks["thing"].draw()
        if self.random.random() < 0.6:
            noun = f"{self.decks['adjective'].draw()} {noun}"
        article = self.random.choice(("the", "the", "a", "every", "this", "such a", "one"))
        if article.endswith("a") and noun[0] in "aeiou":
            article += "n"
        return f"{article} {noun}"

    def _slot(self, name: str) -> str:
        random = self.random
        if name == "np":
            return self._noun_phrase()
        if name == "act":
            return f"{self.decks['effect'].draw()} {self.decks['object'].draw()}"
        if name == "do":
            return f"{self.decks['effect'].draw().removesuffix('s')} {self.decks['object'].draw()}"
        if name == "year":
            return str(random.randrange(1887, 2024))
        if name == "number":
            return str(random.randrange(24, 990))
        if name == "small":
            return random.choice(("two", "three", "four", "five", "six", "seven", "eight", "nine", "eleven", "twelve"))
        return self.decks[name].draw()

    def fill(self, template: str) -> str:
        """The template with choices made and slots filled, first letter in upper case."""
        chosen = _CHOICE.sub(lambda m: self.random.choice(m[1].split("|")), template)
        text = _SLOT.sub(lambda m: self._slot(m[1]), chosen)
        return text[0].upper() + text[1:]

    def sentence(self) -> str:
        """One sentence that ends in punctuation, 6 to 40 words."""
        return self.fill(self.decks["anecdote" if self.random.random() < 0.16 else "template"].draw())

    def sentences(self, n: int) -> list[str]:
        """`n` sentences."""
        return [self.sentence() for _ in range(n)]

    def paragraph(self, low: int = 3, high: int = 6) -> str:
        """One paragraph of `low` to `high` sentences."""
        return " ".join(self.sentences(self.random.randint(low, high)))

    def title(self) -> str:
        """A headline without full stop."""
        return self.fill(self.decks["title"].draw())

    def heading(self) -> str:
        """A few words for a section."""
        return self.fill(self.random.choice(("{object}", "{np}", "{detail}", "{np} and {object}", "{habit}")))


class Foreign:
    """Prose in another language from whole-sentence templates of `banks/languages.yaml`."""

    def __init__(self, random: Random, language: str):
        self.random, self.language = random, language
        words = bank("languages")[language]
        self.joiner: str = words.get("joiner", " ")
        self.lists: dict[str, Deck] = {k: Deck(random, v) for k, v in words.items() if isinstance(v, list)}

    def _slot(self, name: str) -> str:
        if name == "year":
            return str(self.random.randrange(1887, 2024))
        if name == "number":
            return str(self.random.randrange(12, 990))
        return self.lists[name].draw()

    def sentence(self) -> str:
        """One sentence with its own end mark."""
        text = _SLOT.sub(lambda m: self._slot(m[1]), self.lists["sentences"].draw())
        return text[0].upper() + text[1:]

    def paragraph(self, low: int = 3, high: int = 5) -> str:
        """One paragraph."""
        return self.joiner.join(self.sentence() for _ in range(self.random.randint(low, high)))

    def title(self) -> str:
        """A headline."""
        return self.lists["titles"].draw()
