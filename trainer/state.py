"""What a run has to remember beside its parameters: where it is, and what it leaves out."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Skipped(NamedTuple):
    """Samples first … end of a phase that a rollback left out."""

    phase: int
    first: int
    end: int


@dataclass
class RunState:
    """Everything is a number that all ranks share; nothing of it depends on how many there are.

    `step` is the next step to take, `sample` the first sample of its phase that it reads, `tokens` what was learned from,
    `withheld` how many steps were left out, `loss` that of the last step, None before the first and where it was not finite.
    """

    step: int = 0
    sample: int = 0
    tokens: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    judge: dict[str, Any] = field(default_factory=dict)
    withheld: int = 0
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self) | {"skipped": [list(part) for part in self.skipped]}

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> "RunState":
        """What `to_json` gave."""
        return cls(**{**body, "skipped": [Skipped(*part) for part in body["skipped"]]})


def next_sample(phase: int, sample: int, skipped: list[Skipped]) -> int:
    """`sample`, or the first one after it that no rollback has left out. Ranges may overlap."""
    moved = True
    while moved:
        moved = False
        for part in skipped:
            if part.phase == phase and part.first <= sample < part.end:
                sample, moved = part.end, True
    return sample
