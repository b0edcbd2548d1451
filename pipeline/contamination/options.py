"""The `decontaminate` of a recipe: which benchmarks are looked for, how, and what is done where one of their items stands."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.options import Options


class Decontamination(Options):
    """Benchmarks whose items are looked for in the pages that rules and deduplication keep, and what is done about them.

    `action`: `cut` takes out each item with `context` characters on both sides, drops pieces shorter than `least_piece`
    and pages that fall in more than `most_pieces`; `drop` takes the page; `mark` only notes it. N-grams that stand in
    more than `common` pages of the run are common text (null: none is). `decoys`: how many items made of shuffled pieces
    of others are looked for beside them, to count false alarms.
    """

    benchmarks: tuple[str, ...] = ()
    mode: Literal["idf", "ngram"] = "idf"
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
    def looks(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.benchmarks)
