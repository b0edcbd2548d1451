"""The contenders that `benchmarks/pii.py` measures beside ours, each as a function from a text to its hits.

Presidio runs where Crawlmill runs. datatrove runs in an environment of its own: started with that interpreter, this
file answers each JSON line on standard input with one: `{"texts": [...]}` with the hits, `{"time": [...]}` with seconds.

Dolma's rules are written anew from what is published of them, so they stand for that kind of rule, not for the program.
"""

import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

DOLMA_WINDOW = 100  # characters
NOT_DIALLED = ("isbn", "doi", "#")

_EMAIL = re.compile(r"[\w.+%-]+@[a-z\d-]+(?:\.[a-z\d-]+)*\.[a-z]{2,}\b", re.ASCII | re.IGNORECASE)
_PHONE = re.compile(r"(?<=\s)\(?\d{3}\)?[ .-]{0,2}\d{3}[ .-]?\d{4}(?!\d)", re.ASCII)
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)", re.ASCII)


class Hit(NamedTuple):
    """Characters [start, end) of a text, and the kind they are taken for."""

    start: int
    end: int
    kind: str


Find = Callable[[str], list[Hit]]


def dolma(text: str) -> list[Hit]:
    """E-mail, US phone 3-3-4 after white space, IPv4; the last two not near ISBN, DOI or a number sign."""
    hits = [Hit(*found.span(), "EMAIL_ADDRESS") for found in _EMAIL.finditer(text)]
    for kind, pattern in (("PHONE_NUMBER", _PHONE), ("IP_ADDRESS", _IP)):
        for found in pattern.finditer(text):
            near = text[max(0, found.start() - DOLMA_WINDOW) : found.end() + DOLMA_WINDOW].lower()
            if kind == "IP_ADDRESS" and any(int(part) > 255 for part in found.group().split(".")):
                continue
            if not any(word in near for word in NOT_DIALLED):
                hits.append(Hit(*found.span(), kind))
    return hits


def presidio() -> Find:
    """Stock recognisers of patterns for the kinds that both have, over a blank spaCy pipeline; scores as they come."""
    import spacy
    import tldextract

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # its own list: no network
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
            self.nlp = {"en": spacy.blank("en")}

        def load(self) -> None:
            """Nothing to load."""

    kinds = ("Email", "Phone", "Ip", "CreditCard", "UsSsn", "Iban", "Crypto")
    recognisers = [getattr(predefined_recognizers, f"{kind}Recognizer")(supported_language="en") for kind in kinds]
    registry = RecognizerRegistry(recognizers=recognisers, supported_languages=["en"])
    engine = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=["en"])
    return lambda text: [Hit(hit.start, hit.end, hit.entity_type) for hit in engine.analyze(text, language="en")]


def datatrove() -> tuple[Find, Callable[[str], Any]]:
    """What its formatter would replace, in its order, and the formatter itself, for timing."""
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    replacers = (("EMAIL_ADDRESS", formatter.emails_replacer), ("IP_ADDRESS", formatter.ip_replacer))

    def hits(text: str) -> Iterator[Hit]:
        for kind, replacer in replacers:
            for found in replacer.regex.finditer(text):
                if replacer.validator is None or replacer.validator(found.group()):
                    yield Hit(*found.span(), kind)

    return lambda text: list(hits(text)), formatter.format


def main() -> None:
    """Answers for datatrove until standard input ends."""
    find, mask = datatrove()
    for line in sys.stdin:
        asked = json.loads(line)
        if "texts" in asked:
            print(json.dumps([find(text) for text in asked["texts"]]), flush=True)
            continue
        if "version" in asked:
            print(json.dumps(importlib.metadata.version("datatrove")), flush=True)
            continue
        start = time.process_time()
        for text in asked["time"]:
            mask(text)
        print(json.dumps(time.process_time() - start), flush=True)


if __name__ == "__main__":
    main()
