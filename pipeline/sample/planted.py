"""Kinds with something planted: copies, personal data, benchmark items, boilerplate, insults. All are kept today."""

from random import Random

from pipeline.sample import layouts
from pipeline.sample.draft import Draft
from pipeline.sample.layouts import Main
from pipeline.sample.page import DUMPS, Page, document, paragraphs
from pipeline.sample.prose import English, bank

ADVERBS = (
    "perhaps",
    "indeed",
    "quietly",
    "again",
    "clearly",
    "almost",
    "simply",
    "nearly",
    "just",
    "surely",
    "also",
    "now",
)


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    """The word n-grams of a text, in lower case."""
    words = text.lower().split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(one: str, other: str, n: int = 5) -> float:
    """Jaccard similarity of the word n-grams of two texts."""
    a, b = shingles(one, n), shingles(other, n)
    return len(a & b) / len(a | b) if a | b else 1.0


def edited(texts: list[str], target: float, random: Random, english: English) -> list[str]:
    """A version whose 5-gram Jaccard similarity to `texts` is the first at or below `target`: sentences replaced while
    the way is long, single words put in when it is short."""
    whole = " ".join(texts)
    texts = list(texts)
    while (now := jaccard(whole, " ".join(texts))) > target:
        at = random.randrange(len(texts))
        if now - target > 0.15:
            parts = texts[at].split(". ")
            parts[random.randrange(len(parts))] = english.sentence().rstrip(".?")
            texts[at] = ". ".join(parts).rstrip(".") + "."
        else:
            words = texts[at].split()
            words.insert(random.randrange(1, len(words)), random.choice(ADVERBS))
            texts[at] = " ".join(words)
    return texts


def _cluster(page: Page, name: str, relation: str, similarity: float) -> Page:
    page.notes["cluster"] = {"id": name, "relation": relation, "jaccard": round(similarity, 3)}
    return page


def exact_copy(draft: Draft) -> list[Page]:
    """A page at two addresses of one host, byte for byte."""
    main = layouts.article(draft.english)
    first = draft.page(main)
    url = first.url + ("&" if "?" in first.url else "?") + f"utm_source=feed&session={draft.random.randrange(10**6)}"
    second = draft.page(main, url=url, must_contain=first.must_contain)
    name = f"exact-url-{draft.index}"
    return [_cluster(first, name, "original", 1.0), _cluster(second, name, "exact", 1.0)]


def recrawl(draft: Draft) -> list[Page]:
    """The same page at the same address in both dumps."""
    main = layouts.article(draft.english)
    url = draft.url(main.title)
    pages = [draft.page(main, url=url, dump=dump) for dump in DUMPS]
    pages[1].must_contain = pages[0].must_contain
    name = f"exact-dump-{draft.index}"
    return [_cluster(pages[0], name, "original", 1.0), _cluster(pages[1], name, "exact", 1.0)]


def syndicated(draft: Draft) -> list[Page]:
    """The same text on two hosts in two layouts: the bytes differ, the main text does not."""
    main = layouts.article(draft.english)
    pages = [draft.page(main), draft.page(main, home=draft.other_sites(1)[0])]
    name = f"syndicated-{draft.index}"
    return [_cluster(pages[0], name, "original", 1.0), _cluster(pages[1], name, "exact", 1.0)]


def near_copy(draft: Draft) -> list[Page]:
    """An article and three edited versions of it, at 5-gram Jaccard similarities of about 0.9, 0.8 and 0.5."""
    main = layouts.article(draft.english, words=300)
    name = f"near-{draft.index}"
    pages = [_cluster(draft.page(main), name, "original", 1.0)]
    for target, home in zip((0.9, 0.8, 0.5), draft.other_sites(3), strict=True):
        texts = edited(main.prose, target, draft.random, draft.english)
        version = Main(main.title, paragraphs(texts), texts)
        page = draft.page(version, home=home)
        pages.append(_cluster(page, name, "near", jaccard(" ".join(main.prose), " ".join(texts))))
    return pages


def licence_notice(draft: Draft) -> list[Page]:
    """An article that quotes the same licence paragraph as its fellows on other hosts."""
    notice = bank("sites")["licence"].strip()
    main = layouts.article(draft.english)
    return [draft.page(Main(main.title, main.html + paragraphs([notice]), main.prose), notes={"repeated": [notice]})]


def host_boilerplate(draft: Draft) -> list[Page]:
    """Articles of one host that carry the same three paragraphs inside their main part."""
    blocks: list[str] = bank("sites")["host_blocks"]
    main = layouts.article(draft.english)
    html = paragraphs(blocks[:1]) + main.html + paragraphs(blocks[1:])
    page = draft.page(Main(main.title, html, main.prose))
    page.url = f"https://circle.tarnfield.example/contributions/{draft.index}"
    page.notes["boilerplate"] = list(blocks)
    return [page]


CARDS = ("4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "6011111111111117", "4012 8888 8888 1881")
"""Numbers that payment networks reserve for tests. They pass the Luhn check."""
PUBLIC_ADDRESSES = ("198.41.0.4", "192.5.5.241", "193.0.14.129", "199.7.83.42")
"""Root name servers: routable, and nobody's home."""


def german_iban(account: int) -> str:
    """The IBAN of an account at the bank code 10000000, with valid check digits (ISO 13616)."""
    bban = f"10000000{account:010d}"
    check = 98 - int(f"{bban}131400") % 97
    return f"DE{check:02d}{bban}"


def personal_data(draft: Draft) -> list[Page]:
    """An article with two to four personal identifiers, each in a sentence."""
    random, english = draft.random, draft.english
    name = english.decks["name"].draw()
    mailbox = name.lower().replace(" ", random.choice((".", "_", "")))
    number = f"{random.randrange(100, 200):04d}"
    found = {
        # Below example.org, since addresses under reserved top-level domains are seen not to be real.
        "email": f"{mailbox}{random.randrange(2, 99)}@{draft.site.host.removeprefix('www.').partition('.')[0]}.example.org",
        "phone": random.choice(
            (f"(212) 555-{number}", f"+1 415 555 {number}", f"+44 20 7946 0{random.randrange(100, 999)}")
        ),
        "ip": random.choice(PUBLIC_ADDRESSES),
        "private_ip": f"10.0.{random.randrange(256)}.{random.randrange(1, 255)}",
        "iban": german_iban(random.randrange(10**10)),
        "credit_card": random.choice(CARDS),
    }
    sentences = {
        "email": f"{name} answers letters at {found['email']} within a week.",
        "phone": f"Call {name} on {found['phone']} after six in the evening.",
        "ip": f"The log of that night shows a request from {found['ip']} and nothing else.",
        "private_ip": f"The printer in the hall can be reached at {found['private_ip']} from inside the house.",
        "iban": f"Gifts for the roof may be sent to the account {found['iban']} of the association.",
        "credit_card": f"On the slip somebody had written the card number {found['credit_card']} in pencil.",
    }
    first = ("email", "phone", "ip", "iban", "credit_card", "private_ip")[draft.index % 6]
    kinds = [first, *random.sample([k for k in found if k != first], random.randint(1, 3))]
    texts = layouts.prose_paragraphs(english, 160)
    for kind in kinds:
        at = random.randrange(len(texts))
        texts[at] = f"{texts[at]} {sentences[kind]}"
    page = draft.page(Main(english.title(), paragraphs(texts), texts))
    page.notes["pii"] = [{"kind": kind, "value": found[kind]} for kind in kinds]
    page.must_contain = [found[kind] for kind in kinds]
    return [page]


def item_id(index: int) -> str:
    """The id of a benchmark item."""
    return f"orlamund-{index:03d}"


def benchmark_leak(draft: Draft) -> list[Page]:
    """An article that quotes an item of the sample's benchmark: word for word, or with two or three words changed."""
    items = bank("benchmark")
    index = draft.index % len(items)
    question, answer = items[index]["question"], items[index]["answer"]
    verbatim = draft.index % 5 != 4
    if not verbatim:
        words = question.split()
        for _ in range(2):
            words.insert(draft.random.randrange(2, len(words) - 1), draft.random.choice(ADVERBS))
        question = " ".join(words)
    texts = layouts.prose_paragraphs(draft.english, 170)
    quoted = f"One of the exercises reads as follows. {question} The answer given there is: {answer}."
    texts.insert(draft.random.randrange(1, len(texts) + 1), quoted)
    page = draft.page(Main(draft.english.title(), paragraphs(texts), texts))
    page.must_contain = [question]
    page.notes["contaminated"] = [{"item": item_id(index), "verbatim": verbatim, "quoted": question}]
    return [page]


def toxic(draft: Draft) -> list[Page]:
    """A thread in which people insult each other in invented words."""
    words, random = bank("sites"), draft.random
    main = layouts.thread(draft.english)
    insults = []
    for template in random.sample(words["toxic"], 3):
        town = draft.english.decks["town"].draw()
        insults.append(template.format(insult=random.choice(words["insults"]), town=town))
    html = main.html + "".join(
        f'<div class="post"><div class="post-body">{paragraphs([t])}</div></div>' for t in insults
    )
    return [draft.page(Main(main.title, html, main.prose), notes={"toxic": insults})]


LANGUAGES = {"de": 36, "fr": 30, "es": 30, "ru": 12, "el": 6, "ja": 8, "zh": 8, "ar": 6}
"""Language -> pages in a sample of 1,600."""


def foreign(draft: Draft, language: str) -> list[Page]:
    """An article in another language."""
    writer = draft.foreign(language)
    texts = [writer.paragraph() for _ in range(draft.random.randint(3, 4))]
    main = Main(writer.title(), paragraphs(texts), texts)
    home = draft.site
    html = document(home, main.title, main.html, language)
    fields = {"language": language, "expect": "dropped", "reasons": ("gates.language",)}
    return [draft.page(main, home=home, body=html.encode("utf-8"), **fields)]


KINDS = {
    "exact_copy": (14, exact_copy),
    "recrawl": (16, recrawl),
    "syndicated": (8, syndicated),
    "near_copy": (14, near_copy),
    "licence_notice": (24, licence_notice),
    "host_boilerplate": (36, host_boilerplate),
    "personal_data": (42, personal_data),
    "benchmark_leak": (40, benchmark_leak),
    "toxic": (14, toxic),
}
"""Kind -> (calls of the builder in a sample of 1,600, builder); a call may give several pages."""
