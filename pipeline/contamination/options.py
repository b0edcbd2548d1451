"""The `decontaminate` of a recipe: which benchmarks are looked for, how, and what is done where one of their items stands."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.contamination.benchmark import Benchmark
from pipeline.contamination.matching import Matching
from pipeline.options import Options, Share

_DEFAULT = Matching()
Nats = Annotated[float, Field(ge=0)]


class Evidence(Options):
    """How much of an item has to stand at one place for mode `idf` to find it; `Matching` says what each number means."""

    edited: Share = _DEFAULT.edited
    long: Nats = _DEFAULT.long
    whole: Share = _DEFAULT.whole
    alone: Nats = _DEFAULT.alone
    bare: Nats = _DEFAULT.bare
    short: Share = _DEFAULT.short
    answered: Share = _DEFAULT.answered
    together: Nats = _DEFAULT.together
    apart: Nats = _DEFAULT.apart
    passage: Share = _DEFAULT.passage
    hair: Share = _DEFAULT.hair


class Decontamination(Options):
    """Benchmarks whose items are looked for in the pages that rules and deduplication keep, and what is done about them.

    `mode`: GPT-3's N-grams, or as much of an item as `evidence` asks for, weighed by how rare its words are. `ngram`: the
    least and the greatest N.

    `action`: `cut` takes out each item with `context` characters on both sides, drops pieces shorter than `least_piece`
    and pages that fall in more than `most_pieces`; `drop` takes the page; `mark` only notes it. N-grams that stand in
    more than `common` pages of the run are common text (null: none is). `decoys`: how many items made of shuffled pieces
    of others are looked for beside them, to count false alarms.
    """

    benchmarks: tuple[Benchmark, ...] = ()
    mode: Literal["idf", "ngram"] = "idf"
    evidence: Evidence = Evidence()
    action: Literal["cut", "drop", "mark"] = "cut"
    ngram: tuple[int, int] = (8, 13)
    common: int | None = Field(default=10, ge=1)
    context: int = Field(default=200, ge=0, le=100_000)
    least_piece: int = Field(default=200, ge=1)
    most_pieces: int = Field(default=10, ge=1)
    decoys: int = Field(default=10_000, ge=0)

    @model_validator(mode="after")
    def _sizes(self) -> "Decontamination":
        if not 5 <= self.ngram[0] <= self.ngram[1] <= 50:
            raise ValueError(f"ngram is [least, most] words, from 5 to 50, not {list(self.ngram)}")
        return self

    @property
    def matching(self) -> Matching:
        """How matches are judged."""
        return Matching(mode=self.mode, **self.evidence.model_dump())

    @property
    def looks(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.benchmarks)
