"""Sentences in many scripts, written for the tests, and tokenizers that are trained on them."""

import random
from collections.abc import Iterator
from functools import cache

from pipeline.tokenizer.files import TokenizerFile, parse
from pipeline.tokenizer.training import Options, train

SENTENCES = (
    "The mill stands at the river, and the river doesn't wait for anybody's corn.",
    "She'd counted 1,024 sacks by 7:45; they'll need 365 more before 2031-02-28.",
    "Die Mühle mahlt größer als früher: 12,5 Tonnen täglich, sagt Frau Weiß.",
    "L'été dernier, l'eau manquait; c'était la première fois depuis 1976 !",
    "¿Cuánto cuesta la harina? El niño pagó 3,50 € y salió corriendo.",
    "Мельница стоит у реки, и никто не помнит, кто её построил в 1812 году.",
    "Ο μύλος αλέθει σιτάρι όλη τη μέρα, ακόμα και την Κυριακή.",
    "水车在河边转动，没有人记得是谁建造的。今天是二〇三一年。",
    "川のそばの水車は、今日もゆっくりと回っています。カタカナもあります。",
    "강가의 물레방아는 오늘도 천천히 돌아갑니다. 모두 좋아해요!",
    "กังหันน้ำริมแม่น้ำหมุนช้าๆทุกวันและไม่มีใครจำได้ว่าใครสร้าง",
    "الطاحونة قرب النهر تدور كل يوم، ولا أحد يتذكر مَنْ بناها ١٢٣٤.",
    "הטחנה ליד הנהר מסתובבת לאט, ואיש אינו זוכר מי בנה אותה.",
    "नदी के किनारे चक्की धीरे-धीरे घूमती है, १२ घंटे रोज़।",
    "def grind(corn: int) -> float:\n\tif corn  ==  0:\r\n        return 0.0\n    return corn * 0.75  # flour\n",
    "for (let i = 0; i < sacks.length; ++i) { total += sacks[i].weight; } // NaN?\n\n\n",
    '{"name": "mill", "sacks": [1, 22, 333, 4444], "open": null, "path": "C:\\\\corn"}\n',
    "<p class='x'>Tom &amp; Anna's</p>\t<a href=\"https://example.com/a_b?c=%20d#e\">link</a>",
    "HELLO WorldWide iPhone McDonald's CamelCase ALLCAPS'S we'LL o'clock ’tis",
    "👩‍👩‍👧‍👦 says 👍🏽 and 🏳️‍🌈, e\u0301 is not é, \u200bzero\u00adwidth\ufeff, ﬁne ½ ² Ⅻ",
    "   spaces    of      many\u00a0\u00a0kinds \u3000 \t\t tabs\x0b\x0c\x85\u2028 end   ",
)


def corpus(seed: int = 0, texts: int = 400) -> list[str]:
    """Texts of several sentences each."""
    rng = random.Random(seed)
    return [
        rng.choice((" ", "\n", "\n\n", " ")).join(rng.choices(SENTENCES, k=rng.randint(1, 6))) for _ in range(texts)
    ]


@cache
def trained(
    words: str = "gpt4", digits: str = "triples", spaces: str = "lines", vocab_size: int = 900
) -> TokenizerFile:
    """A tokenizer of those sentences."""
    options = {"vocab_size": vocab_size, "words": words, "digits": digits, "spaces": spaces}
    return parse(train(corpus(), Options.model_validate(options)))


FAST = (
    ("gpt2", "runs", "runs"),
    ("gpt4", "triples", "lines"),
    ("gpt4", "single", "lines"),
    ("gpt4o", "triples", "lines"),
)
"""Options whose tokenizers gigatoken reads."""


def combinations() -> Iterator[tuple[str, str, str]]:
    """Every way of splitting texts that training offers."""
    for words in ("gpt2", "gpt4", "gpt4o"):
        for digits in ("runs", "triples", "single"):
            for spaces in ("runs", "lines", "single"):
                yield words, digits, spaces
