"""Personal data in texts: where it stands and what it is, never what to do about it.

A compiled scan over the bytes of all texts finds the places where something could stand, with a few words around each.
Only those go to the recognisers: Presidio's (https://microsoft.github.io/presidio/), called without its engine, and our
own. What they know by heart, and where it comes from, is in `words.yaml`.
"""

import difflib
from collections.abc import Sequence

import pyarrow as pa

KINDS: tuple[str, ...] = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "IP_ADDRESS",
    "CREDIT_CARD",
    "US_SSN",
    "IBAN_CODE",
    "CRYPTO",
    "URL_CREDENTIALS",
    "API_KEY",
)
"""What patterns and checksums find."""
NAME_KINDS: tuple[str, ...] = ("PERSON", "LOCATION")
"""What an NLP model finds, in English texts only."""
HITS = pa.schema(
    [
        ("row", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("kind", pa.string()),
        ("score", pa.float32()),
    ]
)
"""One row a hit: the index of its text, its characters [start, end), its kind, how sure (0 to 1)."""


class Detector:
    """Finds personal data of some kinds.

    Args:
        kinds: of `KINDS` and `NAME_KINDS`. With one of the latter an NLP model reads every English text: milliseconds
            a page instead of a fraction of one. It reads the first 100,000 characters.
        role_addresses: whether e-mail addresses of offices (info@, support@) and of mailing lists count too.

    Raises ValueError for unknown kinds. Cheap to make and to pickle; Presidio is loaded when the first text has
    something to look at.
    """

    def __init__(self, kinds: Sequence[str] = KINDS, role_addresses: bool = False) -> None:
        known = KINDS + NAME_KINDS
        for kind in kinds:
            if kind not in known:
                near = difflib.get_close_matches(str(kind).upper(), known, 1, 0)
                raise ValueError(f"no kind of personal data is called {kind!r}; did you mean {near[0]}?")
        self.kinds = tuple(kind for kind in known if kind in kinds)
        self.role_addresses = role_addresses

    def find(self, texts: pa.Array, languages: pa.Array | Sequence[str | None] | None = None) -> pa.Table:
        """What stands where, under `HITS`: by row and start, without overlaps; a null text has nothing.

        Where two readings overlap the longer one counts, then the surer one, then the order of the kinds.

        Args:
            texts: strings.
            languages: ISO 639-1 code of each text. It decides which national formats are known: those of English texts
                without this argument, none in texts whose language is null or has no formats in `words.yaml`. E-mail,
                IP, bank, card and wallet addresses, keys and international telephone numbers know no language.

        Characters that cannot be seen (zero width) do not part a value. At most 10,000 places of a text are looked at,
        which bounds its time; the places behind are not.

        Raises UsageError when names are asked for and the model is not installed.
        """
        from pipeline.signals.pii.search import search

        return search(texts, languages, self.kinds, self.role_addresses)
