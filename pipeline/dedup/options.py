"""The `dedup` of a recipe: which duplicates are removed, and how they are told."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.options import Options, Share

Scope = Literal["dump", "global"] | Annotated[int, Field(ge=1)]
"""Which pages are compared: those of one dump, all, or those of so many dumps that follow each other by name. Dumps are
counted off in groups of that size from the first; a page without a dump belongs to a dump of its own name, `unknown`."""


class UrlDedup(Options):
    """Of the captures of one canonical address the newest is kept."""

    scope: Scope = "dump"


class ExactDedup(Options):
    """Of the pages with one normalised text the best is kept."""

    scope: Scope = "dump"


class LineDedup(Options):
    """Lines that stand in more than `max_copies` texts of one host in a dump are cut from all but `keep` of them: from all
    with 0, from all but the longest text with 1.

    Lines of fewer than `min_words` words, such as headings, are cut only where nothing but repeated lines lies between
    them and the top or the end of the page, as in a menu.
    """

    per: Literal["host"] = "host"
    max_copies: int = Field(default=5, ge=1)
    min_words: int = Field(default=4, ge=1)
    keep: Literal[0, 1] = 1


class ParagraphDedup(Options):
    """Paragraphs (lines of at least `min_words` words) that stand in more than `max_copies` texts of a dump are cut from
    all but `keep` of them, as with lines."""

    max_copies: int = Field(default=100, ge=1)
    min_words: int = Field(default=10, ge=1)
    keep: Literal[0, 1] = 1


class MinHashDedup(Options):
    """Of the pages with nearly the same text the best is kept.

    `ngram` words make an n-gram; `normalise` as RefinedWeb (case, accents, punctuation and white space do not count).
    Candidates share the `rows` minima of one of `bands` bands; give both, or a `target` similarity and the number of
    `hashes`, for which datasketch's optimiser finds them. `verify`: least similarity of a candidate pair, measured on
    the n-grams themselves (`by: ngrams`) or estimated (`by: signature`); null joins every candidate.
    """

    ngram: int = Field(default=5, ge=1, le=50)
    bands: int | None = Field(default=None, ge=1)
    rows: int | None = Field(default=None, ge=1)
    target: float | None = Field(default=None, gt=0, lt=1)
    hashes: int | None = Field(default=None, ge=2, le=10_000)
    seed: int = Field(default=1, ge=0, lt=2**32)
    normalise: bool = True
    verify: Share | None = 0.75
    by: Literal["ngrams", "signature"] = "ngrams"
    scope: Scope = "dump"

    @model_validator(mode="after")
    def _one_way(self) -> "MinHashDedup":
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give bands and rows together, or neither")
        if self.bands and self.rows:
            if self.target is not None:
                raise ValueError("give bands and rows, or a target similarity, not both")
            if self.hashes is not None and self.hashes < self.bands * self.rows:
                raise ValueError(f"{self.bands} bands of {self.rows} rows need {self.bands * self.rows} hashes")
        return self

    def banding(self) -> tuple[int, int, int]:
        """(hashes, bands, rows). Without any of them FineWeb's: 112 hashes in 14 bands of 8 rows."""
        if self.bands and self.rows:
            return self.hashes or self.bands * self.rows, self.bands, self.rows
        if self.target is None:
            return self.hashes or 112, 14, 8
        from pipeline.dedup.minhash import optimal_bands

        hashes = self.hashes or 112
        return hashes, *optimal_bands(self.target, hashes)


class Dedup(Options):
    """Which duplicates are removed; a method that is not named is not used. They are always taken in one order: lines
    and paragraphs are cut, then addresses, equal texts and near-duplicates are compared.

    `prefer` says which of several pages is kept: the first thing in which they differ decides, and at last the id.
    `upsample` maps cluster sizes to weights: a page takes the weight of the largest size that its cluster reaches.
    """

    url: UrlDedup | None = None
    exact: ExactDedup | None = None
    lines: LineDedup | None = None
    paragraphs: ParagraphDedup | None = None
    minhash: MinHashDedup | None = None
    prefer: tuple[Literal["quality", "newest", "oldest", "longest"], ...] = ("quality", "newest")
    upsample: dict[int, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _list_form(cls, value: Any) -> Any:
        """`[exact, {minhash: {...}}]` as `{exact: {}, minhash: {...}}`."""
        if not isinstance(value, list):
            return value
        methods: dict[str, Any] = {}
        for item in value:
            if isinstance(item, dict) and len(item) == 1:
                name, body = next(iter(item.items()))
            elif isinstance(item, str):
                name, body = item, None
            else:
                raise ValueError(f"an entry is a method, or a method with its options, not {item!r}")
            if name in methods:
                raise ValueError(f"{name!r} stands twice")
            methods[name] = {} if body is None else body
        return methods

    @property
    def compares(self) -> bool:
        """Whether documents are compared with each other."""
        return bool(self.url or self.exact or self.minhash)

    @property
    def cuts(self) -> bool:
        """Whether repeated lines or paragraphs are cut."""
        return bool(self.lines or self.paragraphs)
