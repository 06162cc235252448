"""What `inspectd status` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from inspectd.frame import CameraState
from inspectd.wire import CameraBody, DeviceHealth, HistogramBody, Severity, StatsBody

from .beats import MastersBeat, ProcessStatus
from .report import Report

__all__ = ["quantile_ms", "show"]

_VERDICTS = {"OK": "green", "NG": "red", "REVIEW": "yellow", "NOT_INSPECTED": "bold red"}
_STATES = {"running": "green", "starting": "yellow", "stopping": "yellow", "waiting": "bold red", "ended": ""}
_MIB = 2**20


def show(report: Report, *, as_json: bool) -> int:
    """Print a report; the exit status: 0 if parts would be judged now, else 1."""
    if as_json:
        sys.stdout.write(json.dumps(report.model_dump(mode="json"), indent=2) + "\n")
    else:
        Console(highlight=False).print(Group(*_parts(report)))
    return 0 if report.ready else 1


def quantile_ms(histogram: HistogramBody, share: float) -> tuple[float, bool] | None:
    """How long so large a share took at most, between the bounds of its bin.

    Args:
        histogram: what was counted.
        share: 0..1.

    Returns:
        ms, and whether it is more than that, for the last bin has no upper bound; None where nothing was counted.
    """
    total = sum(histogram.counts)
    if not total or len(histogram.counts) != len(histogram.upper_ms) + 1:
        return None
    wanted, below, lower = share * total, 0, 0.0
    for upper, count in zip(histogram.upper_ms, histogram.counts, strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * max(0.0, wanted - below) / count, False
        below, lower = below + count, upper
    return lower, True


def _parts(report: Report) -> Iterator[RenderableType]:
    why = report.reason
    yield _plain(f"station {report.station!r}: ", "bold").append_text(
        _plain(f"not ready: {why}", "bold red") if why else Text("ready", "bold green")
    )
    beat = report.fresh_beat
    if beat is not None:
        health = beat.health.value
        style = {DeviceHealth.NORMAL: "green", DeviceHealth.FAILURE: "bold red"}.get(beat.health, "yellow")
        line = _plain(f"{beat.state}, deviceHealth ").append(health, style)
        yield line.append_text(_plain(f": {beat.reason}")) if beat.reason else line
    yield Text()
    yield _processes(report.processes)
    core = report.core
    if core is not None and core.beat is not None and core.beat.cameras:
        yield _cameras(core.beat.cameras)
    if core is not None and core.stats is not None:
        if beat is None:
            yield Text("what follows was told before the core ended", "yellow")
        yield from _numbers(core.stats)
        if core.beat is not None and core.beat.masters is not None:
            yield _masters(core.beat.masters)
        yield _latencies(core.stats.latency)
    for name, process in report.processes.items():
        if process.beat is not None and process.beat.facts:
            facts = ", ".join(f"{key} {value}" for key, value in process.beat.facts.items())
            yield _plain(f"{name}: {facts}")
    for alarm in report.alarms:
        style = "bold red" if alarm.severity is Severity.ERROR else "yellow"
        yield Text("alarm ", style).append_text(_plain(f"{alarm.code}: {alarm.message}"))


def _processes(processes: Mapping[str, ProcessStatus]) -> Table:
    table = _table("process", "state", ">pid", ">up", ">beat", ">restarts", "last end")
    for name, process in processes.items():
        state = f"{process.state}, failing" if process.failing else process.state
        table.add_row(
            _plain(name),
            Text(state, "bold red" if process.failing else _STATES[process.state]),
            Text(str(process.pid or "")),
            Text(_duration(process.running_s) if process.pid else ""),
            Text("" if process.beat_age_s is None else f"{process.beat_age_s:.1f} s ago"),
            Text(str(process.restarts), "yellow" if process.restarts else ""),
            _plain(process.last_end),
        )
    return table


def _cameras(cameras: tuple[CameraBody, ...]) -> Table:
    table = _table("camera", "state", ">frames", ">missed", ">unusable", ">overruns", ">late", "reason")
    for camera in cameras:
        well = camera.state in {CameraState.STREAMING, CameraState.READY}
        table.add_row(
            _plain(camera.camera),
            Text(camera.state.value, "green" if well else "bold red"),
            *(
                _count(number)
                for number in (camera.frames, camera.missed, camera.unusable, camera.overruns, camera.late)
            ),
            _plain(camera.reason),
        )
    return table


def _numbers(stats: StatsBody) -> Iterator[Text]:
    line = Text("verdicts  ")
    for name, count in stats.verdicts.items():
        line.append_text(_plain(f"{name} ", _VERDICTS.get(name, ""))).append(f"{count:,}  ")
    yield line
    counts = (
        ("triggers", stats.triggers),
        ("waiting", stats.waiting),
        ("dropped", stats.dropped),
        ("lost", stats.lost),
        ("overdue", stats.overdue),
        ("not durable", stats.not_durable),
    )
    yield Text("parts     " + "  ".join(f"{name} {count:,}" for name, count in counts))
    yield Text(
        f"journal   {stats.journal_rows:,} rows, {stats.journal_bytes / _MIB:.1f} MiB\n"
        f"archive   {stats.archived:,} pictures, {stats.archive_refused:,} refused\n"
        f"core      up {_duration(stats.uptime_s)}, {stats.memory_bytes / _MIB:.0f} MiB, {stats.descriptors} files open"
    )
    if stats.alarms:
        yield Text(f"{stats.alarms} alarms are active or not acknowledged", "bold yellow")


def _masters(masters: MastersBeat) -> Text:
    when = f"{masters.begun}, in {masters.seconds:.1f} s"
    if masters.fault:
        return _plain(f"golden    {when}: {masters.fault}", "bold red")
    found = f"{masters.known - masters.missed} of {masters.known} known defects found"
    good = f"{masters.good - masters.rejected} of {masters.good} good parts accepted"
    painted = f", {masters.painted - masters.painted_missed} of {masters.painted} painted" if masters.painted else ""
    missed = f"; missed: {', '.join(masters.names)}" if masters.names else ""
    is_odd = masters.missed or masters.rejected or masters.painted_missed
    style = "bold red" if not masters.passed else "yellow" if is_odd else ""
    return _plain(f"golden    {when}: {found}, {good}{painted}{missed}", style)


def _latencies(latency: Mapping[str, HistogramBody]) -> Table:
    table = _table("latency", ">p50", ">p99", ">parts")
    for stage, histogram in latency.items():
        cells = []
        for share in (0.5, 0.99):
            found = quantile_ms(histogram, share)
            cells.append(Text("" if found is None else f"{'>' if found[1] else ''}{found[0]:.1f} ms"))
        table.add_row(_plain(stage), *cells, Text(f"{sum(histogram.counts):,}"))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def _count(number: int) -> Text:
    return Text(f"{number:,}")


def _duration(seconds: float) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    if hours >= 48:
        return f"{hours // 24:.0f} d"
    if hours:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def _plain(text: str, style: str = "") -> Text:
    """Text that came from elsewhere, without markup and without characters that a terminal would obey."""
    return Text("".join(sign if sign.isprintable() else "?" for sign in text), style=style)
