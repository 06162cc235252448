"""What Prometheus reads: the report of a station as metrics, with units in their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from inspectd.frame import CameraState
from inspectd.wire import DeviceHealth, HistogramBody, State, StatsBody

from .beats import Beat, MastersBeat, ProcessStatus
from .report import Report

__all__ = ["CONTENT_TYPE", "metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `metrics` gives; what the library names latest depends on its version."""
_Values: TypeAlias = Mapping[Any, float]
"""By the values of the labels, a tuple."""


def metrics(report: Report) -> bytes:
    """A report in the text format of Prometheus.

    What the core counts is left out while nothing is heard of it: old numbers would look like a line at rest.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(lambda: _all(report)))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        """The metrics, as the library asks for them."""
        return self._collect()


def _all(report: Report) -> Iterator[Metric]:
    yield _gauge("info", "Version of inspectd and name of the station.", {(report.version, report.station): 1}, _INFO)
    yield _gauge("healthy", "Whether supervisor and core work, as /healthz answers.", {(): not report.unhealthy()})
    yield _gauge("ready", "Whether parts would be judged now, as /readyz answers.", {(): not report.unready()})
    yield _gauge("supervisor_uptime_seconds", "Since the supervisor was started.", {(): report.uptime_s})
    yield from _processes(report.processes)
    beat = report.fresh_beat
    if beat is None:
        return
    yield from _state(beat)
    yield from _cameras(beat)
    if beat.masters is not None:
        yield from _masters(beat.masters)
    core = report.core
    if core is not None and core.stats is not None:
        yield from _stats(core.stats)


def _processes(processes: Mapping[str, ProcessStatus]) -> Iterator[Metric]:
    def of(values: Callable[[ProcessStatus], float | None]) -> dict[tuple[str, ...], float]:
        told = {(name,): values(process) for name, process in processes.items()}
        return {labels: value for labels, value in told.items() if value is not None}

    label = ("process",)
    text = "Whether the process runs and is ready."
    yield _gauge("process_up", text, of(lambda process: process.state == "running"), label)
    text = "Whether it failed so often that it is tried at long intervals only."
    yield _gauge("process_failing", text, of(lambda process: process.failing), label)
    text = "How often it was started again."
    yield _counter("process_restarts", text, of(lambda process: process.restarts), label)
    text = "How old its latest beat is."
    yield _gauge("process_beat_age_seconds", text, of(lambda process: process.beat_age_s), label)
    stages = {
        (name, stage): values
        for name, process in processes.items()
        if process.pid is not None and process.beat is not None
        for stage, values in process.beat.stages.items()
    }
    both = ("process", "stage")
    text = "Pieces of work that a stage has done."
    yield _counter("stage_done", text, {labels: stage.done for labels, stage in stages.items()}, both)
    text = "How long a stage has been at its present piece of work; 0 where it waits for one."
    yield _gauge("stage_busy_seconds", text, {labels: stage.busy_s for labels, stage in stages.items()}, both)


def _state(beat: Beat) -> Iterator[Metric]:
    states = {(state.label,): state.label == beat.state for state in State}
    yield _gauge("state", "The station's state: 1 for the one that it is in.", states, ("state",))
    health = {(health.value,): health is beat.health for health in DeviceHealth}
    yield _gauge("device_health", "The station's deviceHealth: 1 for what it is.", health, ("health",))


def _cameras(beat: Beat) -> Iterator[Metric]:
    label = ("camera",)
    up = {(camera.camera,): camera.state is CameraState.STREAMING for camera in beat.cameras}
    yield _gauge("camera_up", "Whether the camera acquires.", up, label)
    for name, text in (
        ("connections", "How often the camera was opened."),
        ("frames", "Pictures that came whole."),
        ("unusable", "Frames that came and are no pictures."),
        ("missed", "Frames that never came."),
        ("overruns", "Frames that found no place and were let go."),
        ("late", "Frames that came more than a second after their exposure."),
    ):
        suffix = name if name in {"connections", "frames"} else f"{name}_frames"
        values = {(camera.camera,): getattr(camera, name) for camera in beat.cameras}
        yield _counter(f"camera_{suffix}", text, values, label)


def _stats(stats: StatsBody) -> Iterator[Metric]:
    verdicts = {(name,): count for name, count in stats.verdicts.items()}
    yield _counter("verdicts", "Verdicts, by how they came out.", verdicts, ("verdict",))
    for field, name, text in (
        ("triggers", "triggers", "Parts that have to have a verdict."),
        ("dropped", "dropped_frames", "Frames of free-running cameras that gave way to newer ones."),
        ("lost", "lost_frames", "Frames that never arrived."),
        ("overdue", "overdue_parts", "Parts that were not judged by their deadline."),
        ("not_durable", "not_durable_verdicts", "Verdicts published without being on the disk."),
        ("archived", "archived_pictures", "Pictures given to the archive."),
        ("archive_refused", "archive_refused_pictures", "Pictures that the archive could not take."),
    ):
        yield _counter(name, text, {(): getattr(stats, field)})
    for field, name, text in (
        ("uptime_s", "core_uptime_seconds", "Since the core was started."),
        ("waiting", "waiting_parts", "Parts that have no verdict yet."),
        ("alarms", "alarms", "Alarms that are active or not acknowledged."),
        ("journal_rows", "journal_rows", "Messages in the journal."),
        ("journal_bytes", "journal_bytes", "Size of the journal."),
        ("memory_bytes", "core_resident_memory_bytes", "Resident memory of the core."),
        ("descriptors", "core_open_fds", "Files and sockets that the core has open."),
    ):
        yield _gauge(name, text, {(): getattr(stats, field)})
    yield _gauge("model_info", "sha256 of the bundle that judges.", {(stats.model_digest,): 1}, ("digest",))
    yield _latency(stats.latency)


def _masters(masters: MastersBeat) -> Iterator[Metric]:
    for name, text, value in (
        ("passed", "Whether as many known defects were found as have to be.", masters.passed),
        ("known_defects", "Master parts with a known defect; 0 where they could not be judged.", masters.known),
        ("missed_defects", "Those of them that were not found the last time.", masters.missed),
        ("rejected_good_parts", "Good master parts that were not OK the last time.", masters.rejected),
        ("painted_defects", "Known defects that were painted on pictures of that time.", masters.painted),
        ("missed_painted_defects", "Those of them that were not found.", masters.painted_missed),
        ("test_time_seconds", "When they were last judged, since 1970.", _seconds(masters.begun)),
        ("test_duration_seconds", "How long that took.", masters.seconds),
    ):
        yield _gauge(f"golden_{name}", text, {(): value})


def _seconds(utc: str) -> float:
    return datetime.strptime(utc, "%Y-%m-%dT%H:%M:%S%z").timestamp()


def _latency(stages: Mapping[str, HistogramBody]) -> Metric:
    text = "How long a part took, by stage; total is from its arrival to its verdict."
    family = HistogramMetricFamily("inspectd_latency_seconds", text, labels=("stage",))
    for stage, histogram in stages.items():
        if len(histogram.counts) != len(histogram.upper_ms) + 1:
            continue  # of another version; a histogram that is wrong is worse than none
        buckets, below = [], 0
        for upper_ms, count in zip((*histogram.upper_ms, float("inf")), histogram.counts, strict=True):
            below += count
            bound = "+Inf" if upper_ms == float("inf") else f"{upper_ms / 1000:.9g}"
            buckets.append((bound, float(below)))
        family.add_metric((stage,), buckets=buckets, sum_value=histogram.sum_ms / 1000)
    return family


_INFO = ("version", "station")


def _gauge(name: str, text: str, values: _Values, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"inspectd_{name}", text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, float(value))
    return family


def _counter(name: str, text: str, values: _Values, labels: Sequence[str] = ()) -> CounterMetricFamily:
    family = CounterMetricFamily(f"inspectd_{name}", text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, float(value))
    return family
