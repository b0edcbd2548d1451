"""What a run measures, for Prometheus: served over HTTP while the run goes on, on request."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from jobs import observe
from jobs.measures import METRICS, PEAKS, SUMS
from jobs.runs import code_version
from pipeline.errors import UsageError

LOCALHOST = "127.0.0.1"

BOUNDS = tuple(2.0**power for power in range(-6, 15))
"""Upper bounds of the histogram of task durations, in seconds: 16 ms to 4.6 hours."""


class RunCollector(Collector):
    """Metrics of the run that this process works at; only those of the program itself where there is none."""

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield InfoMetricFamily("crawlmill", "the program", {"version": code_version()})
        meter = observe.current()
        if meter is None:
            return
        now = meter.now
        run = InfoMetricFamily("crawlmill_run", "the run", {"recipe": meter.run.recipe.name, "folder": meter.folder})
        yield run
        yield _gauge("crawlmill_run_start_time_seconds", "when this process opened the run", meter.opened)
        yield _gauge("crawlmill_last_progress_time_seconds", "when a task was last done", now.moved)
        yield _gauge("crawlmill_step_tasks", "tasks of the step that is being done", now.total)
        yield _gauge("crawlmill_step_tasks_done", "those of them that are done", now.done)
        state = GaugeMetricFamily("crawlmill_stage_state", "0 to be done, 1 being done, 2 done", labels=["stage"])
        for stage in meter.stages:
            state.add_metric([stage], 2 if meter.run.is_done(stage) else int(stage == now.stage))
        yield state
        if now.step is not None:
            step = GaugeMetricFamily("crawlmill_step_running", "the step that is being done", labels=["stage", "step"])
            step.add_metric([now.stage or "", now.step], 1)
            yield step
        records = GaugeMetricFamily("crawlmill_outcomes", "records by what became of them", labels=["outcome"])
        for outcome, count in sorted(meter.known.items()):
            records.add_metric([outcome], count)
        yield records
        yield from _of_stages(meter.so_far())


def _of_stages(stages: dict[str, dict]) -> Iterator[Metric]:  # type: ignore[type-arg]
    """Every sum as a counter, every peak as a gauge, and how long tasks took, by stage."""
    for name in (*SUMS, *PEAKS):
        _, meaning = METRICS[name]
        counts = name in SUMS
        family = (CounterMetricFamily if counts else GaugeMetricFamily)(f"crawlmill_{name}", meaning, labels=["stage"])
        for stage, facts in stages.items():
            family.add_metric([stage], facts[name] or 0)
        yield family
    durations = HistogramMetricFamily("crawlmill_task_duration_seconds", METRICS["task_seconds"][1], labels=["stage"])
    for stage, facts in stages.items():
        durations.add_metric([stage], list(_cumulated(facts["histogram"])), facts["task_seconds"])
    yield durations


def _cumulated(histogram: dict[str, int]) -> Iterable[tuple[str, float]]:
    """Tasks that took up to each of BOUNDS."""
    edges = sorted((float(edge), n) for edge, n in histogram.items())
    for bound in BOUNDS:
        yield f"{bound:g}", sum(n for edge, n in edges if edge <= bound * 1.0001)
    yield "+Inf", sum(n for _, n in edges)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value)


@contextmanager
def serving(port: int, host: str = LOCALHOST) -> Iterator[str]:
    """Serves metrics until the end of the block, and gives their address; any free port for 0.

    Raises UsageError where the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(RunCollector())
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot serve metrics at {host}:{port}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
