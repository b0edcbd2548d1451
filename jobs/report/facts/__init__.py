"""What the report of a run shows, as plain dataclasses: `gather` collects it, `jobs.report.page` renders it.

All texts are as they came from pages or files: hostile, not escaped. Counts are records unless they say otherwise; those that
were reckoned from a sample are marked by `estimated` and scaled up to the whole run. What a run has nothing to say of is None
or empty.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jobs.report.facts.costs import Costs, Stage


class Piece(NamedTuple):
    """A stretch of text and what it is: "" plain; "offending" what a rule counts; "masked" stands for personal data;
    "match" was matched with a benchmark; "differs" is not in the duplicate beside it."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Problem:
    """A part of the report that could not be made, and why, in words: `part` is the name of the field of Facts."""

    part: str
    why: str


@dataclass(frozen=True)
class Attempt:
    """One time that the run was started. `ended` is None while it goes on, and where it was killed."""

    started: str | None
    ended: str | None
    outcome: str
    error: str | None = None


@dataclass(frozen=True)
class Asked:
    """One line of what the recipe asks for: `what` ("languages", "rules", "near-duplicates") and it in words."""

    what: str
    words: str


@dataclass(frozen=True)
class Sampled:
    """What figures that read rows were reckoned from: the share of records, and how many rows those are.

    `share` is 1 where all were read. `texts` says in words which texts examples were chosen from.
    """

    share: float
    rows: int
    texts: str = ""


@dataclass(frozen=True)
class About:
    """What the run is and what became of it.

    `outcome` is done, failed (`error` says why), killed, going on, or unfinished (it was asked for some stages only).
    `stages` are the names of all, `stages_done` of those that are done. Times are ISO 8601 UTC. `measures` is the folder of
    the run that measured, for one that was decided again. `n_records` is None while nothing was read.
    """

    folder: str
    recipe: str
    description: str
    digest: str
    asked: list[Asked]
    version: str
    begun_by: str | None
    n_inputs: int
    input_bytes: int
    inputs: list[str]
    """The first ten, by name."""
    begun: str | None
    ended: str | None
    outcome: str
    error: str | None
    attempts: list[Attempt]
    stages: list[str]
    stages_done: list[str]
    measures: str | None
    host: dict[str, Any]
    n_records: int | None
    n_kept: int | None
    n_errors: int | None
    n_curated_words: int | None
    n_curated_bytes: int | None
    sampled: Sampled | None


@dataclass(frozen=True)
class FunnelStep:
    """A reason (or a group of them): records that it decided, that broke it at all, that broke nothing else; what is left
    after it. Bytes and tokens left are estimates where `Funnel.estimated`; None where they are not known. `bytes_left` are
    payload bytes as archived; `text_bytes_left` UTF-8 of extracted text, None in groups before there is text."""

    name: str
    decided: int
    hits: int | None
    sole: int | None
    left: int
    bytes_left: int | None = None
    text_bytes_left: int | None = None
    tokens_left: int | None = None


@dataclass(frozen=True)
class FunnelGroup:
    """Steps of one group (archive, extraction, language, rules, scores, deduplication, decontamination, personal data,
    other), and the group as one step: its `hits` and `sole` are None."""

    name: str
    whole: FunnelStep
    steps: list[FunnelStep]


@dataclass(frozen=True)
class Funnel:
    """From what was read to what was kept. `start` is a step named "read" that decided nothing; `end` one named "curated"
    with the text as it was written, after edits, exact. `complete` is False where the run was not decided yet: then there
    are groups only for what was."""

    start: FunnelStep
    groups: list[FunnelGroup]
    end: FunnelStep | None
    complete: bool
    estimated: bool
    tokens_how: str
    """How tokens were estimated, in a sentence."""


@dataclass(frozen=True)
class Histogram:
    """How a value is spread. `edges` has one more than each list in `series`. With `log` edges grow by a factor and what is 0
    or less is in `zeros`, by series. `n` have a value, `missing` have not, `not_finite` are NaN or infinite. Values beyond
    the first and the last edge are counted in the first and the last bin; `least` and `most` are the true ends.

    Series of a rule: kept, alone (dropped by this rule and no other), other (dropped by others, too or instead); of a signal
    without a bound: kept, other.
    """

    edges: list[float]
    series: dict[str, list[int]]
    log: bool
    zeros: dict[str, int]
    n: int
    missing: int
    not_finite: int
    least: float | None
    most: float | None
    estimated: bool


@dataclass(frozen=True)
class Curve:
    """What would be kept if one end of a bound were elsewhere. `side` is minimum or maximum, `bound` where it is now (it is
    one of `thresholds`, which rise). At each threshold: `kept` of the pages that are kept now would stay, and `newly` pages
    would pass the rules that now break this one only (they were never compared, scored or decontaminated, so fewer of them
    would be kept); the same in tokens."""

    side: str
    bound: float
    thresholds: list[float]
    kept: list[int]
    newly: list[int]
    kept_tokens: list[int]
    newly_tokens: list[int]


@dataclass(frozen=True)
class Rule:
    """One bound of the recipe, the gates of language and script included. `among` says which pages it is asked of where that
    is not all ("pages in en"). `meaning`, `unit`, `source` are of the signal, `rule_source` of the bound. hits, sole and
    decided are exact where the run was decided, else None."""

    name: str
    group: str
    signal: str
    meaning: str
    unit: str
    source: str
    rule_source: str
    minimum: float | None
    maximum: float | None
    among: str
    hits: int | None
    sole: int | None
    decided: int | None
    histogram: Histogram | None
    curves: list[Curve]


@dataclass(frozen=True)
class Signal:
    """A measure that no bound asks for."""

    name: str
    meaning: str
    unit: str
    source: str
    histogram: Histogram | None


@dataclass(frozen=True)
class Measured:
    """What was measured of a page beside the bound: of the language gate `signal` says the language, too."""

    signal: str
    value: float | str | None
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True)
class Beside:
    """The page that a duplicate gave way to: None where it is not known. `excerpt` of it, marked like that of the example."""

    doc_id: str | None
    url: str | None
    similarity: float | None
    excerpt: list[Piece]


@dataclass(frozen=True)
class Example:
    """One record. `url` is in pieces, the offending part marked. `title` as the ledger has it. `excerpt` is of the extracted
    text, personal data masked; [] where there is no text. `cut_before` and `cut_after` say that the text goes on there.
    `note` is what else there is to say: status, media type, error. `file` and `offset` are its place in the inputs."""

    doc_id: str
    file: str
    offset: int
    outcome: str
    reason: str | None
    url: list[Piece]
    title: str | None
    measured: list[Measured]
    excerpt: list[Piece]
    cut_before: bool = False
    cut_after: bool = False
    note: str = ""
    beside: Beside | None = None


@dataclass(frozen=True)
class Reason:
    """A reason of the ledger, in the funnel's order: exact counts, what is asked in words, and random drops and keeps (kept
    pages that were asked and passed), the same for the same run and seed. `keeps_are` says what keeps are, if there are any
    ("kept pages that this rule was asked of")."""

    name: str
    group: str
    asks: str
    decided: int
    hits: int
    sole: int
    drops: list[Example]
    keeps: list[Example]
    keeps_are: str


@dataclass(frozen=True)
class Share:
    """One value of a breakdown: records and words (of extracted text) before, and of those what was kept. `value` None is
    "not known"."""

    value: str | None
    before: int
    after: int
    words_before: int
    words_after: int


@dataclass(frozen=True)
class Breakdown:
    """Records by some property, the largest first (dates: in order of time), and all others as `rest` (value: "others", None
    where there are none). `name` is languages, hosts, domains, topics, dates, media types, dumps, sources; `among` says what
    "before" is (all records, records with text, pages that were scored). `distinct` is how many values there are in what was
    read."""

    name: str
    among: str
    unit: str
    """Of dates: "year", "month" or "day"; otherwise empty."""
    rows: list[Share]
    rest: Share | None
    distinct: int
    estimated: bool


@dataclass(frozen=True)
class ClusterSize:
    """Clusters of `low` to `high` pages (both included), and the pages in them."""

    low: int
    high: int
    clusters: int
    pages: int


@dataclass(frozen=True)
class Cluster:
    """A cluster and the address of the page that was kept of it, or of its first."""

    cluster: str
    size: int
    removed: int
    url: str | None
    title: str | None


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates among the pages that the rules keep. `removed` is by method (url, exact, minhash), exact; `similarity`
    of removed pages to the page that was kept, series "removed"; size 1 in `spectrum` are pages that are alone."""

    compared: int | None
    removed: dict[str, int]
    spectrum: list[ClusterSize]
    similarity: Histogram | None
    largest: list[Cluster]
    cut_lines: int | None
    """Lines and paragraphs that were cut as repeated; None where it is not known."""
    estimated: bool


@dataclass(frozen=True)
class ReliabilityBin:
    """Scores in [low, high): how many examples, their mean score, the share of positives; None where there are none."""

    low: float
    high: float
    n: int
    mean_score: float | None
    share: float | None


@dataclass(frozen=True)
class Reliability:
    """How right a model is, on which examples: from its card. `figures` by name (roc_auc, average_precision,
    calibration_error, accuracy …), as the card has them: a number, or value, low and high."""

    among: str
    examples: int | None
    bins: list[ReliabilityBin]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Head:
    """A classifier of the recipe. `scores` series: kept, other; `bounds` are rules on its columns. `topics` for a head that
    tells classes apart. `purpose` and `failures` are from its card."""

    name: str
    model: str
    label: str | None
    purpose: str
    failures: list[str]
    sha256: str | None
    reliability: list[Reliability]
    column: str
    scores: Histogram | None
    topics: bool
    in_quality: bool


@dataclass(frozen=True)
class QualityBin:
    """Pages in one bin of quality, and how many of them were kept; words kept."""

    number: int
    pages: int
    kept: int
    words_kept: int


@dataclass(frozen=True)
class Classifiers:
    """Heads, bins of quality, and the word lists: pages with any listed word, and of how many."""

    heads: list[Head]
    quality_bins: list[QualityBin]
    keep: str
    """How pages are kept by quality, in words; empty where none is dropped by it."""
    listed: list[Histogram]
    listed_names: list[str]
    listed_pages: dict[str, int]
    """By column, pages with a listed word."""
    scored: int
    estimated: bool


@dataclass(frozen=True)
class Kind:
    """A kind of personal data: places that were masked, and pages that had one, among those that were kept or dropped for
    having too many."""

    kind: str
    hits: int
    pages: int


@dataclass(frozen=True)
class Personal:
    """Personal data. `masked` are the kinds that the recipe masks, `how` the way."""

    masked: list[str]
    how: str
    max_hits: int | None
    kinds: list[Kind]
    pages: int
    """Pages with any."""
    dropped: int
    """Pages with too much, exact."""
    estimated: bool


@dataclass(frozen=True)
class Benchmark:
    """What was found of one benchmark: as `pipeline.contamination.proof.summary`."""

    name: str
    items: int
    found: int
    pages: int
    short: int
    empty: int
    duplicate: int
    decoys: int
    decoy_pages: int
    false_pages: float | None
    best_score: float | None


@dataclass(frozen=True)
class Match:
    """The best page of a benchmark's item, the personal data of the excerpt masked."""

    benchmark: str
    item: str
    score: float | None
    n_pages: int
    doc_id: str | None
    url: str | None
    text: str
    excerpt: list[Piece]


@dataclass(frozen=True)
class Contamination:
    """Benchmark items in the pages that rules and deduplication keep. `action` is what was done about it (cut, drop, tag)."""

    mode: str
    action: str
    searched: int
    benchmarks: list[Benchmark]
    matches: list[Match]


@dataclass(frozen=True)
class Count:
    """How many there are of something."""

    name: str
    n: int


@dataclass(frozen=True)
class ErrorKind:
    """Errors of one kind (numbers and names taken out of the message), with some that are whole."""

    reason: str
    message: str
    n: int
    examples: list[Example]


@dataclass(frozen=True)
class DamagedFile:
    """An input file of which something could not be read. `problem` says so where it is all of it."""

    path: str
    read: int
    errors: int
    lost_bytes: int
    size: int
    problem: str | None


@dataclass(frozen=True)
class PutAside:
    """What ended every worker that touched it."""

    stage: str
    parts: int
    records: int
    places: list[str]


@dataclass(frozen=True)
class Extraction:
    """How pages became text. `engines` are named NAME VERSION. `escalated` are pages that the cascade read with its slow
    engine, None for other engines. `flaws` are what was wrong with records but could be lived with."""

    engine: str
    engines: list[Count]
    escalated: int | None
    charsets: list[Count]
    flaws: list[Count]
    record_types: list[Count]
    skipped: list[Count]
    """Records of the inputs that hold no page, by type: exact."""
    errors: list[ErrorKind]
    damaged: list[DamagedFile]
    quarantined: list[PutAside]
    text_bytes: int | None
    estimated: bool


@dataclass(frozen=True)
class Facts:
    """Everything that the report of a run shows. `problems` are the parts that could not be made, and why; those are None or
    empty, as are parts that the run has nothing to say of."""

    about: About
    funnel: Funnel | None = None
    rules: list[Rule] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)
    duplicates: Duplicates | None = None
    classifiers: Classifiers | None = None
    personal: Personal | None = None
    contamination: Contamination | None = None
    extraction: Extraction | None = None
    stages: list[Stage] = field(default_factory=list)
    costs: Costs | None = None
    problems: list[Problem] = field(default_factory=list)


def as_json(facts: Any) -> Any:
    """Facts as dicts, lists, strings, numbers and None: what is not a finite number becomes None, a lone surrogate U+FFFD."""
    if dataclasses.is_dataclass(facts) and not isinstance(facts, type):
        return {f.name: as_json(getattr(facts, f.name)) for f in dataclasses.fields(facts)}
    if isinstance(facts, dict):
        return {str(key): as_json(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [as_json(value) for value in facts]
    if isinstance(facts, float):
        return facts if math.isfinite(facts) else None
    if isinstance(facts, str):
        return facts.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return facts
