"""What the report of a run shows of time and money: stages, their costs, and those of a whole crawl."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step of a stage. What is not known is None."""

    name: str
    seconds: float | None
    cpu_seconds: float | None
    tasks: int | None
    skew: float | None
    bytes_written: int | None
    shuffle_bytes: int | None


@dataclass(frozen=True)
class Stage:
    """A stage. `state` is done, failed, killed, going on, not done or not begun; the numbers are over all attempts, None
    where they were not measured (an older version). Rates are of records (and bytes) of inputs, whatever the stage reads of
    them: a second, and a second of a processor (`_per_core`). `bytes_rate` counts bytes of input files. `cost` is that of
    its processor time. `progress` is (done, total) tasks of the step that goes on."""

    name: str
    state: str
    seconds: float | None
    cpu_seconds: float | None
    records_rate: float | None
    records_per_core: float | None
    bytes_rate: float | None
    bytes_per_core: float | None
    peak_bytes: int | None
    tasks: int | None
    failed_tasks: int | None
    skew: float | None
    slowest: str | None
    bytes_read: int | None
    bytes_written: int | None
    shuffle_bytes: int | None
    cost: float | None
    progress: tuple[int, int] | None
    steps: list[Step]


@dataclass(frozen=True)
class Projected:
    """A stage of a whole crawl: core-hours and their price."""

    stage: str
    core_hours: float
    cost: float


@dataclass(frozen=True)
class Projection:
    """This run's processor time by the ratio of bytes onto a whole crawl: rough, as `how` says. `sources` say where the
    numbers of the crawl come from. `hours` is wall time on `cores` cores."""

    crawl: str
    crawl_bytes: float
    crawl_files: int
    crawl_pages: float
    ratio: float
    stages: list[Projected]
    core_hours: float
    cost: float
    cores: int
    hours: float
    pages_kept: float | None
    text_bytes_kept: float | None
    how: str
    sources: list[str]


@dataclass(frozen=True)
class Costs:
    """What processor time costs: `core_hour` in `currency`, of which `price_source` says where it comes from."""

    core_hour: float
    currency: str
    price_source: str
    total: float | None
    total_core_hours: float | None
    total_seconds: float | None
    projection: Projection | None
