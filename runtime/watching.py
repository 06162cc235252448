"""What the station sees of itself several times a second: alarms, heartbeats' health, beats, counters."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from inspectd.frame import CameraState
from inspectd.inspection import Verdict
from inspectd.wire import AugmentBody, DeviceHealth, Severity, State, StatsBody, camera_bodies

from .alarms import Alarms, Lasting
from .archive import ArchiveKeeper
from .beats import Alarm as ReportedAlarm
from .beats import Beat, Reporter, Stage
from .clock import is_synchronised
from .gate import Gate
from .journal import Journal, JournalFault
from .judging import Judging
from .line import Line
from .messaging import Publisher
from .self_testing import SelfTests

__all__ = ["Watching"]

WATCH_S = 0.25
STATS_S = 1.0
CLOCK_S = 10.0
"""How often it is asked whether the clock is synchronised."""
CLOCK_STEP_S = 1.0
"""The clock was stepped where it moved so far against the monotonic one between two looks."""
_log = logging.getLogger("inspectd.station")


class Watching:
    """Looks after a station; the line's thread.

    Args:
        station: name of the station.
        line: the line.
        judging: what judges.
        self_tests: whether it does so well.
        publisher: of the line.
        alarms: to raise.
        state: what the station is doing.
        journal: where results are kept; None for nowhere.
        archive: where pictures are kept; None for nowhere.
        gate: guards the addresses that other machines reach; None where there are none.
        augment: how far an augmentation is; None where there is none.
        reporter: to the supervisor.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.

    Attributes:
        is_working: whether the station has begun.
    """

    def __init__(
        self,
        station: str,
        *,
        line: Line,
        judging: Judging,
        self_tests: SelfTests,
        publisher: Publisher,
        alarms: Alarms,
        state: Callable[[], State],
        journal: Journal | None,
        archive: ArchiveKeeper | None,
        gate: Gate | None,
        augment: Callable[[], AugmentBody | None],
        reporter: Reporter,
        clock: Callable[[], int],
        utc: Callable[[], int],
    ) -> None:
        self._station = station
        self._line = line
        self._judging = judging
        self._self_tests = self_tests
        self._publisher = publisher
        self._alarms = alarms
        self._state = state
        self._journal = journal
        self._archive = archive
        self._gate = gate
        self._augment = augment
        self._gate_at = 0
        self._refused_keys: Counter[str] = Counter()
        if gate is not None:
            gate.refused = self._note_refused
            self._gate_at = gate.generation
        self._reporter = reporter
        self._clock = clock
        self._utc = utc
        self._stats: StatsBody | None = None
        self._overdue = Lasting(alarms, "line.overdue", Severity.ERROR)
        self._frozen = {name: Lasting(alarms, f"camera.frozen.{name}", Severity.ERROR) for name in line.frozen}
        self._repeated_seen = dict.fromkeys(line.frozen, 0)
        self._archive_refusing = Lasting(alarms, "archive.refusing")
        self._keys_refused = Lasting(alarms, "security.refused")
        self._flooded = Lasting(alarms, "publish.flooded")
        self._next_watch_ns = self._next_stats_ns = self._next_clock_ns = 0
        self._overdue_seen = self._refused_seen = self._archive_restarts = 0
        self._clock_offset_ns = utc() - clock()
        self.is_working = False

    def look(self) -> None:
        """Look now: what has just changed is told with the next heartbeat, and with the next answer."""
        now_ns = self._clock()
        self._next_watch_ns = now_ns + round(WATCH_S * 1e9)
        self._watch(now_ns)

    def turn(self) -> None:
        """Look, if it is time."""
        now_ns = self._clock()
        if now_ns >= self._next_watch_ns:
            self.look()
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = now_ns + round(STATS_S * 1e9)
            self._stats = self.stats()
            self._publisher.stats(self._stats)
        self._self_tests.look()
        if self._archive is not None:
            self._archive.look_after()
        self._reporter.tick(self._beat)
        for told in self._reporter.received():
            if isinstance(told, ReportedAlarm):
                self._take_alarm(told)

    def _beat(self) -> Beat:
        stats, self._stats = self._stats, None
        model, publisher = self._judging.models.current, self._publisher
        judging = "no model" if model is None else f"{model.bundle.card.name!r} on {model.engine.name}"
        return Beat(
            state=self._state().label,
            ready=self.is_working,
            status=f"{self._state().label}, {sum(self._line.verdicts.values())} verdicts, {judging}",
            stages={
                name: Stage(done=done, busy_s=busy_s, limit_s=limit_s)
                for name, (done, busy_s, limit_s) in self._line.stages.items()
            },
            stats=stats,
            health=publisher.health,
            reason=publisher.health_reason,
            cameras=camera_bodies(publisher.camera_status),
            facts=self._facts(),
            masters=self._self_tests.beat,
        )

    def _facts(self) -> dict[str, JsonValue]:
        """What `inspectd status` shows beside."""
        facts: dict[str, JsonValue] = {"epoch": self._publisher.epoch, "publish": self._publisher.endpoint}
        if calibrated := self._line.calibrated:
            facts["calibration"] = dict(calibrated)
        if self._journal is not None:
            facts["journal"] = {"fault": self._journal.fault[1], "lag": self._journal.lag}
        if self._archive is not None:
            facts["archive"] = {
                "bytes": self._archive.size_bytes,
                "restarts": self._archive.restarts,
                "fault": self._archive.fault,
            }
        return facts

    def _take_alarm(self, told: ReportedAlarm) -> None:
        """What the supervisor has to say is published by this process; also that the one before it died."""
        if told.active:
            self._alarms.set(told.code, told.severity, told.message)
        elif self._alarms.is_active(told.code):
            self._alarms.clear(told.code)
        else:
            self._alarms.tell(told.code, told.severity, told.message)

    def _watch(self, now_ns: int) -> None:
        wanted: dict[str, tuple[Severity, str]] = {}
        if self._journal is not None:
            fault, why = self._journal.fault
            if fault is not JournalFault.NONE:
                wanted[fault.value] = (Severity.ERROR, why)
        self._alarms.hold(wanted, prefix="journal.")
        if self._journal is not None and (damage := self._journal.take_damage()):
            self._alarms.tell("journal.damaged", Severity.ERROR, damage)
        away = {
            f"camera.away.{name}": (Severity.ERROR, status.reason)
            for name, status in self._line.cameras().items()
            if status.state in (CameraState.CONNECTING, CameraState.LOST) and status.reason and self._line.is_open
        }
        self._alarms.hold(away, prefix="camera.away.")
        uncounted = {
            f"camera.uncounted.{name}": (Severity.ERROR, status.uncounted)
            for name, status in self._line.cameras().items()
            if status.uncounted
        }
        self._alarms.hold(uncounted, prefix="camera.uncounted.")
        failing = {
            f"process.failing.camera-{name}": (
                Severity.ERROR,
                f"the process of camera {name!r} crashed or hung again and again, by its producer or for want of "
                f"memory; the log says how",
            )
            for name, status in self._line.cameras().items()
            if status.failing
        }
        self._alarms.hold(failing, prefix="process.failing.camera-")
        bad = {f"camera.image.{name}": (Severity.ERROR, why) for name, why in self._line.image_watch.bad.items()}
        self._alarms.hold(bad, prefix="camera.image.")
        self._watch_frozen(now_ns)
        foreign = {
            f"camera.calibration.{name}": (Severity.ERROR, f"camera {name!r}: parts are NOT_INSPECTED: {why}")
            for name, why in self._line.misfits.items()
        }
        self._alarms.hold(foreign, prefix="camera.calibration.")
        self._watch_colour()
        self._judging.look()
        self._watch_archive(now_ns)
        self._watch_gate(now_ns)
        self._alarms.show("publish.failing", Severity.ERROR, self._publisher.fault)
        flood, self._publisher.flood = self._publisher.flood, ""
        self._flooded.look(now_ns, flood)
        self._watch_deadlines(now_ns)
        self._watch_clock(now_ns)
        self.tell_standing()

    def _watch_frozen(self, now_ns: int) -> None:
        for name, watch in self._line.frozen.items():
            more = watch.refused > self._repeated_seen[name]
            self._repeated_seen[name] = watch.refused
            told = f"camera {name!r}: parts are NOT_INSPECTED: it gives one and the same picture again and again"
            self._frozen[name].look(now_ns, told if more or watch.is_frozen else "")

    def _watch_colour(self) -> None:
        model = self._judging.models.current
        grey = {
            f"camera.grey.{name}": (
                Severity.ERROR,
                f"the bundle was trained on pictures in colour, and those of camera {name!r} are grey: defects that "
                f"only their colour shows pass",
            )
            for name, is_grey in self._line.gives_grey.items()
            if is_grey and model is not None and model.bundle.is_in_colour
        }
        self._alarms.hold(grey, prefix="camera.grey.")

    def _watch_archive(self, now_ns: int) -> None:
        archive = self._archive
        if archive is None:
            return
        told = f"pictures are not archived: {archive.fault}" if archive.fault else ""
        self._alarms.show("archive.failing", Severity.WARNING, told)
        if archive.restarts > self._archive_restarts:
            self._archive_restarts = archive.restarts
            told = f"the process of the archive {archive.last_end}, and was started again"
            self._alarms.tell("process.restarted.archive", Severity.WARNING, told)
        told = f"the process of the archive {archive.last_end}, again and again; it is tried at long intervals"
        self._alarms.show("process.failing.archive", Severity.ERROR, told if archive.failing else "")
        more = archive.refused > self._refused_seen
        self._refused_seen = archive.refused
        told = "the archive does not keep up: pictures of parts are missing in it"
        self._archive_refusing.look(now_ns, told if more else "")

    def _note_refused(self, why: str) -> None:
        """From the gate's threads; told by the next look."""
        self._refused_keys[why] += 1

    def _watch_gate(self, now_ns: int) -> None:
        gate = self._gate
        if gate is None:
            return
        if gate.generation != self._gate_at:
            self._gate_at = gate.generation
            _log.warning("keys were revoked or changed: all connections are cut and made anew")
            self._publisher.rebind()
        self._alarms.show("security.keys", Severity.WARNING, gate.fault)
        refused, self._refused_keys = self._refused_keys, Counter()
        told = "; ".join(f"{why} ({count} times)" if count > 1 else why for why, count in refused.items())
        self._keys_refused.look(now_ns, told)

    def _watch_deadlines(self, now_ns: int) -> None:
        more = self._line.overdue > self._overdue_seen
        self._overdue_seen = self._line.overdue
        told = "parts are not judged by their deadline and are NOT_INSPECTED; the engine is too slow, or hangs"
        self._overdue.look(now_ns, told if more else "")

    def _watch_clock(self, now_ns: int) -> None:
        if now_ns >= self._next_clock_ns:
            self._next_clock_ns = now_ns + round(CLOCK_S * 1e9)
            self._publisher.time_synced = is_synchronised()
        offset_ns = self._utc() - now_ns
        if abs(moved_s := (offset_ns - self._clock_offset_ns) / 1e9) > CLOCK_STEP_S:
            self._alarms.tell(
                "clock.stepped",
                Severity.WARNING,
                f"the clock was set {'forward' if moved_s > 0 else 'back'} by {abs(moved_s):.1f} s; times of results "
                f"before and after cannot be compared. Their order is that of epoch and seq",
            )
        self._clock_offset_ns = offset_ns

    def tell_standing(self) -> None:
        """What the heartbeats say beside cameras and engine."""
        active = self._alarms.active
        errors = [alarm.message for alarm in active if alarm.severity is Severity.ERROR]
        if self._state() is State.ERROR:
            self._line.standing = (DeviceHealth.FAILURE, "; ".join(errors) or "the station is in Error")
        elif self._judging.fallback:
            self._line.standing = (DeviceHealth.OFF_SPEC, self._judging.fallback)
        elif active:
            self._line.standing = (DeviceHealth.MAINTENANCE_REQUIRED, "; ".join(alarm.message for alarm in active))
        else:
            self._line.standing = (DeviceHealth.NORMAL, "")

    def stats(self) -> StatsBody:
        """The counters."""
        line, model = self._line, self._judging.models.current
        archive = self._archive
        return StatsBody(
            station=self._station,
            uptime_s=round(self._publisher.uptime_s, 3),
            triggers=line.triggers,
            waiting=line.waiting,
            verdicts={verdict.name: line.verdicts.get(verdict, 0) for verdict in Verdict},
            dropped=line.dropped,
            lost=line.lost,
            overdue=line.overdue,
            not_durable=line.not_durable,
            latency={stage: histogram.body() for stage, histogram in line.histograms.items()},
            journal_rows=0 if self._journal is None else self._journal.rows,
            journal_bytes=0 if self._journal is None else self._journal.used_bytes,
            archived=0 if archive is None else archive.written,
            archive_refused=0 if archive is None else archive.refused,
            alarms=len(self._alarms.open),
            augment=self._augment(),
            model_digest="" if model is None else model.bundle.digest,
            memory_bytes=_resident_bytes(),
            descriptors=len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,  # noqa: PTH112, PTH208
        )


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
