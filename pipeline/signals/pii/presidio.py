"""Presidio's recognisers, imported without the deep-learning libraries that it and spaCy take where they are installed.

None of the recognisers uses them, and importing them costs each worker 5 seconds and 300 MB.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = ("torch", "transformers", "tensorflow", "mxnet")


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Modules that are not imported yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


with _hidden(_UNUSED):
    from presidio_analyzer import Pattern, PatternRecognizer
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        CryptoRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        UsSsnRecognizer,
    )

__all__ = [
    "CreditCardRecognizer",
    "CryptoRecognizer",
    "EmailRecognizer",
    "IbanRecognizer",
    "IpRecognizer",
    "Pattern",
    "PatternRecognizer",
    "UsSsnRecognizer",
]
