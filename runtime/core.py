"""The station at work: its state, what clients command, its alarms, its models.

    Preoperational ── Initialized ── Ready ── ContinuousExecution        states.py
         └ by itself where station.start is "automatic", else by commands of control

Everything here is the line's thread, between two frames; what takes longer (loading a model) is done beside it and
posted. A fault leads to the state Error with an alarm, and from there a client or a restart leads on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from inspectd import __version__
from inspectd.bundle import Bundle
from inspectd.config import Config, GenicamCamera, effective_rule, load_config
from inspectd.errors import (
    BundleError,
    CameraError,
    ConfigError,
    DeviceError,
    InferenceError,
    InspectdError,
    MissingDependencyError,
    ProtocolError,
    RequestError,
)
from inspectd.frame import CameraState, FrameSource
from inspectd.inspection import AcceptanceRule, ClassRule, Verdict
from inspectd.wire import (
    OPERATIONS,
    ROLES,
    Arguments,
    DeviceHealth,
    Recipe,
    Severity,
    State,
    StatsBody,
    camera_bodies,
)

from .alarms import Alarms, Lasting
from .archive import ArchiveKeeper
from .beats import Alarm as ReportedAlarm
from .beats import Beat, Reporter, Stage
from .clock import is_synchronised
from .control import Client, Outcome
from .engine import Engine, golden_samples, self_test
from .gate import Gate
from .journal import Journal, JournalFault
from .line import Line, Summary
from .messaging import Publisher, Sent
from .models import Model, Models
from .states import EXECUTING, Event, StateMachine

__all__ = ["ActiveModel", "Core", "LoadedBundle"]

WATCH_S = 0.25
STATS_S = 1.0
CLOCK_S = 10.0
"""How often it is asked whether the clock is synchronised."""
CLOCK_STEP_S = 1.0
"""The clock was stepped where it moved so far against the monotonic one between two looks."""
_IDLE_S = 0.05
_log = logging.getLogger("inspectd.station")

Answering = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle and the engine that was opened for it; `fallback` says why it is not the one that is configured."""

    bundle: Bundle
    engine: Engine
    fallback: str = ""


class ActiveModel:
    """Which model was activated by a client, kept over restarts in a file of the state folder.

    It holds as long as `model.bundle` of the configuration is the one that it took the place of.
    """

    def __init__(self, path: Path, configured: str) -> None:
        self._path = path
        self._configured = configured

    def read(self) -> str:
        """Path of the bundle; empty where the configured one judges."""
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))
            return str(value["bundle"]) if value["instead_of"] == self._configured else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def write(self, bundle: Path) -> None:
        """Keep it, on the disk when this returns.

        Raises:
            OSError: the disk does not take it.
        """
        temporary = self._path.with_name(self._path.name + ".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"bundle": str(bundle), "instead_of": self._configured}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def forget(self) -> None:
        """The configured one judges."""
        self._path.unlink(missing_ok=True)


class Core:
    """A station from its start to its end.

    Args:
        config: the configuration.
        config_file: where it was read from, for `reload_config`; None where it was not.
        loaded: what judges; or why nothing can.
        sources: the cameras.
        publisher: open.
        journal: where results are kept; None for nowhere.
        open_bundle: opens a bundle by its path, as the configuration says; for `load_model`.
        active: which model was activated.
        restored: bodies of the alarms that were open when the station ended.
        archive: where pictures are kept; None for nowhere.
        frames: end after so many parts.
        stays: whether a fault leads to Error and a wait for somebody; else it ends the station.
        ready: called once the station is Ready for the first time.
        gate: guards the addresses that other machines reach; None where there are none.
        reporter: to the supervisor.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.
    """

    def __init__(
        self,
        config: Config,
        *,
        config_file: Path | None,
        loaded: LoadedBundle | InspectdError,
        sources: Iterable[FrameSource],
        publisher: Publisher,
        journal: Journal | None,
        open_bundle: Callable[[Path, Config], LoadedBundle],
        active: ActiveModel,
        restored: Iterable[str] = (),
        archive: ArchiveKeeper | None = None,
        frames: int | None = None,
        stays: bool = True,
        ready: Callable[[], None] = lambda: None,
        gate: Gate | None = None,
        reporter: Reporter | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.publisher = publisher
        self._config_file = config_file
        self._acceptance = config.acceptance
        self._scales = {name: camera.scale_mm_per_px for name, camera in config.cameras.items()}
        self._clock = clock
        self._utc = utc
        self._journal = journal
        self._open_bundle = open_bundle
        self._active = active
        self._archive = archive
        self._frames = frames
        self._stays = stays
        self.ready = ready
        self._gate = gate
        self._gate_at = 0
        self._refused_keys: Counter[str] = Counter()
        if gate is not None:
            gate.refused = self._note_refused
            self._gate_at = gate.generation
        self._reporter = reporter or Reporter()
        self._is_working = False
        self._stats: StatsBody | None = None
        self._unusable = loaded if isinstance(loaded, InspectdError) else None
        model = None
        if isinstance(loaded, LoadedBundle):
            try:
                model = self._model(loaded)
            except ConfigError as error:
                loaded.engine.close()
                self._unusable = error
        self.models = Models(model, watch_frames=config.model.watch_frames)
        self.line = Line(
            config, None, None, list(sources), publisher, models=self.models, archive=self._offer, clock=clock, utc=utc
        )
        self.line.each_turn = self._each_turn
        self.line.swap_failed = self._note_failed_swap
        self.alarms = Alarms(config.station.name, epoch=publisher.epoch, publish=publisher.alarm, utc=utc)
        self.alarms.restore(restored)
        self._overdue = Lasting(self.alarms, "line.overdue")
        self._archive_refusing = Lasting(self.alarms, "archive.refusing")
        self._keys_refused = Lasting(self.alarms, "security.refused")
        self._machine = StateMachine()
        self._auto = config.station.start == "automatic"
        self._was_ready = False
        self._terminate = False
        self.failure: Exception | None = None
        self._next: dict[str, Any] | None = None
        self._ending: Event | None = None
        self._answer_at_end: list[Answering] = []
        self._loading = False
        self._next_watch_ns = self._next_stats_ns = self._next_clock_ns = 0
        self._overdue_seen = 0
        self._refused_seen = self._archive_restarts = 0
        self._clock_offset_ns = utc() - clock()

    # From the start to the end

    @property
    def epoch(self) -> int:
        """Of this start."""
        return self.publisher.epoch

    @property
    def state(self) -> State:
        """What the station is doing."""
        return self._machine.state

    def post(self, act: Callable[[], None]) -> None:
        """Have something done in the line's thread between two frames; from any thread."""
        self.line.post(act)

    def stop(self) -> None:
        """Drain and end. Takes no lock, so that a signal handler can call it."""
        self._terminate = True
        self.line.stop()

    @property
    def is_stopped(self) -> bool:
        """Whether it is to end."""
        return self._terminate

    def run(self) -> Summary:
        """Work until `stop`, or until all cameras are at their end.

        Raises:
            InspectdError: a fault, where the station does not stay.
        """
        self._is_working = True
        try:
            while not self._terminate:
                if self._next is not None:
                    self._execute(self._next)
                elif not (self._auto and self._advance()):
                    self.line.attend(_IDLE_S)
        finally:
            self.line.close()
            self.models.close()
        if self.failure is None and self.state is not State.HALTED:
            self._take(Event.HALT)
        self.publisher.flush()
        self.publisher.tick()
        if self.failure is not None:
            raise self.failure
        return self.line.summary()

    def _advance(self) -> bool:
        """Go one state on by itself; False where it has to be led."""
        match self.state:
            case State.PREOPERATIONAL:
                self._take(Event.SELECT_MODE_AUTOMATIC)
            case State.INITIALIZED:
                self._prepare()
            case State.READY if self._runs_by_itself():
                if not self._was_ready:
                    self._was_ready = True
                    self.ready()
                    if self._terminate:
                        return True
                self._start(Event.START_CONTINUOUS, limit=self._frames)
            case _:
                return False
        return True

    def _runs_by_itself(self) -> bool:
        """Whether any camera delivers without being asked for each part."""
        return any(not _waits_for_software(camera) for camera in self.config.cameras.values())

    def _take(self, event: Event, reason: str = "") -> None:
        self._machine.take(event)
        self.publisher.change_state(self.state, reason)

    def _prepare(self) -> None:
        """Self-test and cameras; Ready, or Error."""
        model = self.models.current
        self.line.rearm()
        if self._terminate:
            self.line.stop()
        try:
            if model is None:
                raise self._unusable or BundleError("the station has no model")
            self.line.wait_for(partial(self_test, model.engine, model.bundle))
            self.line.connect()
        except InspectdError as error:
            self._fault(error)
        else:
            self._take(Event.PREPARE_RECIPE)

    def _start(self, event: Event, **how: Any) -> None:  # noqa: ANN401 - arguments of Line.execute
        self._take(event)
        self._next = how
        self._ending = None

    def _execute(self, how: dict[str, Any]) -> None:
        self._next = None
        self.line.rearm()
        if self._terminate or self._ending is not None:
            self.line.stop()
        try:
            if not self.line.is_stopped:
                self.line.execute(**how)
        except InspectdError as error:
            self._fault(error)
        else:
            self._end_of_execution(single="trigger" in how)
        answers, self._answer_at_end = self._answer_at_end, []
        for answer in answers:
            answer({"state": self.state.label})

    def _end_of_execution(self, *, single: bool) -> None:
        by_itself = self._ending is None and not self._terminate
        if self._ending is Event.HALT or self._terminate or (by_itself and not single):
            self.line.close()
            self._take(Event.HALT)
            # All cameras are at their end, or all parts done: there is nothing more to do for this process.
            self._terminate = self._terminate or by_itself
        else:
            self._take(self._ending or Event.DONE)
        self._ending = None

    def _fault(self, error: InspectdError) -> None:
        code = _FAULTS.get(type(error)) or next(
            (code for kind, code in _FAULTS.items() if isinstance(error, kind)), "station.fault"
        )
        self.line.close()
        if self._stays:
            self.alarms.set(code, Severity.ERROR, str(error))
        self._machine.take(Event.FAULT)
        self.publisher.change_state(self.state, str(error))
        self._auto = False
        if not self._stays:
            self.failure = error
            self._terminate = True

    @property
    def _fallback(self) -> str:
        model = self.models.current
        return "" if model is None else model.fallback

    def _offer(self, sent: Sent) -> None:
        if self._archive is not None:
            self._archive.offer(sent.inspection, sent.message)

    # Several times a second

    def _each_turn(self) -> None:
        now_ns = self._clock()
        if now_ns >= self._next_watch_ns:
            self._next_watch_ns = now_ns + round(WATCH_S * 1e9)
            self._watch(now_ns)
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = now_ns + round(STATS_S * 1e9)
            self._stats = self.stats()
            self.publisher.stats(self._stats)
        if self._archive is not None:
            self._archive.look_after()
        self._reporter.tick(self._beat)
        for told in self._reporter.received():
            if isinstance(told, ReportedAlarm):
                self._take_alarm(told)

    def _beat(self) -> Beat:
        stats, self._stats = self._stats, None
        model, publisher = self.models.current, self.publisher
        judging = "no model" if model is None else f"{model.bundle.card.name!r} on {model.engine.name}"
        return Beat(
            state=self.state.label,
            ready=self._is_working,
            status=f"{self.state.label}, {sum(self.line.verdicts.values())} verdicts, {judging}",
            stages={
                name: Stage(done=done, busy_s=busy_s, limit_s=limit_s)
                for name, (done, busy_s, limit_s) in self.line.stages.items()
            },
            stats=stats,
            health=publisher.health,
            reason=publisher.health_reason,
            cameras=camera_bodies(publisher.camera_status),
            facts=self._facts(),
        )

    def _facts(self) -> dict[str, JsonValue]:
        """What `inspectd status` shows beside."""
        facts: dict[str, JsonValue] = {"epoch": self.epoch, "publish": self.publisher.endpoint}
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
            self.alarms.set(told.code, told.severity, told.message)
        elif self.alarms.is_active(told.code):
            self.alarms.clear(told.code)
        else:
            self.alarms.tell(told.code, told.severity, told.message)

    def _watch(self, now_ns: int) -> None:
        wanted: dict[str, tuple[Severity, str]] = {}
        if self._journal is not None:
            fault, why = self._journal.fault
            if fault is not JournalFault.NONE:
                wanted[fault.value] = (Severity.ERROR, why)
        self.alarms.hold(wanted, prefix="journal.")
        if self._journal is not None and (damage := self._journal.take_damage()):
            self.alarms.tell("journal.damaged", Severity.ERROR, damage)
        away = {
            f"camera.away.{name}": (Severity.ERROR, status.reason)
            for name, status in self.line.cameras().items()
            if status.state in (CameraState.CONNECTING, CameraState.LOST) and status.reason and self.line.is_open
        }
        self.alarms.hold(away, prefix="camera.away.")
        self._watch_model()
        self._watch_archive(now_ns)
        self._watch_gate(now_ns)
        self._watch_deadlines(now_ns)
        self._watch_clock(now_ns)
        self._tell_standing()

    def _watch_model(self) -> None:
        model = self.models.current
        why = "" if model is None else model.engine.failure or ""
        told = f"the engine failed: {why}; nothing is inspected until the start" if why else ""
        self.alarms.show("model.engine", Severity.ERROR, told)
        self.alarms.show("model.fallback", Severity.WARNING, self._fallback)

    def _watch_archive(self, now_ns: int) -> None:
        archive = self._archive
        if archive is None:
            return
        told = f"pictures are not archived: {archive.fault}" if archive.fault else ""
        self.alarms.show("archive.failing", Severity.WARNING, told)
        if archive.restarts > self._archive_restarts:
            self._archive_restarts = archive.restarts
            told = f"the process of the archive {archive.last_end}, and was started again"
            self.alarms.tell("process.restarted.archive", Severity.WARNING, told)
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
            self.publisher.rebind()
        self.alarms.show("security.keys", Severity.WARNING, gate.fault)
        refused, self._refused_keys = self._refused_keys, Counter()
        told = "; ".join(f"{why} ({count} times)" if count > 1 else why for why, count in refused.items())
        self._keys_refused.look(now_ns, told)

    def _watch_deadlines(self, now_ns: int) -> None:
        more = self.line.overdue > self._overdue_seen
        self._overdue_seen = self.line.overdue
        told = "parts are not judged by their deadline and are NOT_INSPECTED; the engine is too slow, or hangs"
        self._overdue.look(now_ns, told if more else "")

    def _watch_clock(self, now_ns: int) -> None:
        if now_ns >= self._next_clock_ns:
            self._next_clock_ns = now_ns + round(CLOCK_S * 1e9)
            self.publisher.time_synced = is_synchronised()
        offset_ns = self._utc() - now_ns
        if abs(moved_s := (offset_ns - self._clock_offset_ns) / 1e9) > CLOCK_STEP_S:
            self.alarms.tell(
                "clock.stepped",
                Severity.WARNING,
                f"the clock was set {'forward' if moved_s > 0 else 'back'} by {abs(moved_s):.1f} s; times of results "
                f"before and after cannot be compared. Their order is that of epoch and seq",
            )
        self._clock_offset_ns = offset_ns

    def _tell_standing(self) -> None:
        """What the heartbeats say beside cameras and engine."""
        active = self.alarms.active
        errors = [alarm.message for alarm in active if alarm.severity is Severity.ERROR]
        if self.state is State.ERROR:
            self.line.standing = (DeviceHealth.FAILURE, "; ".join(errors) or "the station is in Error")
        elif self._fallback:
            self.line.standing = (DeviceHealth.OFF_SPEC, self._fallback)
        elif active:
            self.line.standing = (DeviceHealth.MAINTENANCE_REQUIRED, "; ".join(alarm.message for alarm in active))
        else:
            self.line.standing = (DeviceHealth.NORMAL, "")

    def stats(self) -> StatsBody:
        """The counters."""
        line, model = self.line, self.models.current
        archive = self._archive
        return StatsBody(
            station=self.config.station.name,
            uptime_s=round(self.publisher.uptime_s, 3),
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
            alarms=len(self.alarms.open),
            model_digest="" if model is None else model.bundle.digest,
            memory_bytes=_resident_bytes(),
            descriptors=len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,  # noqa: PTH112, PTH208
        )

    # Commands

    def note_control(self, fault: str) -> None:
        """Whether commands can be taken at all."""
        self.alarms.show("control.failing", Severity.ERROR, fault)

    def do(self, op: str, arguments: Arguments, client: Client, answer: Answering) -> None:
        """Do what an operation asks for; the answer may come later.

        Raises:
            RequestError: it is not done.
        """
        args = arguments.model_dump()
        match op:
            case "hello":
                answer(self._hello(client))
            case "snapshot":
                answer(self.snapshot())
            case "select_mode_automatic":
                self._need(Event.SELECT_MODE_AUTOMATIC)
                self._take(Event.SELECT_MODE_AUTOMATIC)
                answer({"state": self.state.label})
            case "prepare_recipe":
                self._prepare_recipe(args, answer)
            case "start_continuous":
                self._need(Event.START_CONTINUOUS)
                if not self._runs_by_itself():
                    raise RequestError("start_continuous: every camera waits for start_single_job (trigger = Software)")
                self._start(Event.START_CONTINUOUS)
                answer({"state": self.state.label})
            case "start_single_job":
                self._start_single(args)
                answer({"state": self.state.label})
            case "stop" | "abort" | "halt":
                self._end(Event(op), answer)
            case "reset":
                self._need(Event.RESET)
                self._reset()
                answer({"state": self.state.label})
            case "ack_alarm":
                self.alarms.acknowledge(args["alarm_id"], client.name)
                answer({"alarms": len(self.alarms.open)})
            case "self_test":
                self._self_test(answer)
            case "set_threshold":
                answer(self._set_threshold(args))
            case "load_model":
                self._load_model(args["bundle"], answer)
            case "activate" | "rollback":
                answer(self._swap(op))
            case "reload_config":
                answer(self._reload())
            case "fault.inject":
                self._inject(args["fault"], answer)
            case _:
                raise RequestError(f"{op}: this station cannot do that", code="unknown_operation", field="op")

    def _need(self, event: Event) -> None:
        """Raises WrongState where it leads nowhere; nothing is changed."""
        StateMachine(self.state).take(event)

    def _hello(self, client: Client) -> dict[str, Any]:
        may = [
            name
            for name, operation in OPERATIONS.items()
            if ROLES.index(operation.role) <= ROLES.index(client.role)
            and (name != "fault.inject" or self.config.control.fault_injection)
        ]
        return {
            "station": self.config.station.name,
            "protocol": "INS1 1.0",
            "version": __version__,
            "epoch": self.epoch,
            "role": client.role,
            "client": client.name,
            "operations": may,
        }

    def snapshot(self) -> dict[str, Any]:
        """Where everything stands; the earlier epochs are filled in from the disk."""
        model, standby, previous = self.models.current, self.models.standby, self.models.previous
        recipe = self.publisher.recipe
        return {
            "station": self.config.station.name,
            "epoch": self.epoch,
            "state": self.state.label,
            "deviceHealth": self.publisher.health.value,
            "healthReason": self.publisher.health_reason,
            "streams": [position.model_dump(by_alias=True) for position in self.publisher.positions()],
            "epochs": [],
            "alarms": [alarm.model_dump(by_alias=True, mode="json") for alarm in self.alarms.open],
            "recipe": {
                "recipe_no": recipe.number,
                "internal_id": recipe.internal_id,
                "external_id": recipe.external_id,
                "job_id": recipe.job_id,
            },
            "model": {
                **_named(model),
                "loaded": _named(standby) or None,
                "previous": _named(previous) or None,
            },
            "acceptance": {}
            if model is None
            else {name: model.rule.rule(name).model_dump() for name in model.bundle.card.classes},
        }

    def _prepare_recipe(self, args: dict[str, Any], answer: Answering) -> None:
        self._need(Event.PREPARE_RECIPE)
        self.publisher.recipe = Recipe(
            number=args["recipe_no"],
            internal_id=args["internal_id"],
            external_id=args["external_id"],
            job_id=args["job_id"],
        )
        if self.state is State.READY:
            self._take(Event.PREPARE_RECIPE)
        else:
            self._prepare()
        if self.state is State.ERROR:
            raise RequestError(
                f"prepare_recipe: {self.line.standing[1] or self._unusable or self.failure}", code="failed"
            )
        answer({"state": self.state.label})

    def _start_single(self, args: dict[str, Any]) -> None:
        self._need(Event.START_SINGLE_JOB)
        names = list(self.config.cameras)
        name = args["camera"] or names[0]
        if not args["camera"] and len(names) > 1:
            raise RequestError(
                f"start_single_job: which camera: {', '.join(names)}?", code="bad_request", field="camera"
            )
        if name not in names:
            raise RequestError(f"start_single_job: no camera {name!r}", code="not_found", field="camera")
        trigger = (name, args["trigger_id"]) if _waits_for_software(self.config.cameras[name]) else None
        self._start(Event.START_SINGLE_JOB, cameras=[name], limit=1, trigger=trigger)

    def _end(self, event: Event, answer: Answering) -> None:
        self._need(event)
        self._auto = False
        if self.state not in EXECUTING:
            self.line.close()
            self._take(event)
            answer({"state": self.state.label})
            return
        # The stronger one holds, whoever was first.
        if self._ending is None or _STRENGTH.index(event) > _STRENGTH.index(self._ending):
            self._ending = event
        self._answer_at_end.append(answer)
        if event is Event.ABORT:
            self.line.abort()
        else:
            self.line.stop()

    def _reset(self) -> None:
        self.line.close()
        for code in set(_FAULTS.values()) | {"station.fault"}:
            self.alarms.clear(code)
        self._take(Event.RESET)
        self._auto = self.config.station.start == "automatic"
        if self.models.current is None:
            opened: list[LoadedBundle] = []
            try:
                # To build an engine takes minutes.
                self.line.wait_for(lambda: opened.append(self._open_bundle(self._bundle_path(), self.config)))
                self.models.current = self._model(opened[0])
                self._unusable = None
            except InspectdError as error:
                self._unusable = error
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a bundle, it can be mended and tried again
                self._unusable = BundleError(f"{type(error).__name__}: {error}")

    def _bundle_path(self) -> Path:
        return Path(self._active.read() or self.config.model.bundle)

    def _self_test(self, answer: Answering) -> None:
        model = self.models.current
        if model is None:
            raise RequestError("self_test: the station has no model", code="wrong_state")

        samples = golden_samples(model.engine, model.bundle)

        def test() -> None:
            """One sample, so that no part has to wait for all of them."""
            outcome: Outcome
            try:
                next(samples)
            except StopIteration:
                outcome = {"samples": len(model.bundle.golden().samples), "passed": True}
            except InspectdError as error:
                outcome = RequestError(f"self_test: {error}", code="failed")
            else:
                self.post(lambda: self.line.with_engine(test))
                return
            self.post(lambda: self._note_self_test(outcome, answer))

        self.line.with_engine(test)

    def _note_self_test(self, outcome: Outcome, answer: Answering) -> None:
        if isinstance(outcome, RequestError):
            self.alarms.set("model.self_test", Severity.ERROR, str(outcome))
        else:
            self.alarms.clear("model.self_test")
        answer(outcome)

    # Models and rules

    def _model(self, loaded: LoadedBundle, acceptance: AcceptanceRule | None = None) -> Model:
        rule = self._acceptance if acceptance is None else acceptance
        return Model.make(
            loaded.bundle, loaded.engine, rule, scales=self._scales, clock=self._clock, fallback=loaded.fallback
        )

    def _set_threshold(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self.models.current
        if model is None:
            raise RequestError("set_threshold: the station has no model", code="wrong_state")
        name = args.pop("class_name")
        if name not in model.bundle.card.classes:
            raise RequestError(
                f"set_threshold: no class {name!r}; there are {', '.join(model.bundle.card.classes)}",
                code="not_found",
                field="class",
            )
        changes = {key: value for key, value in args.items() if value is not None}
        try:
            changed = ClassRule.model_validate({**model.rule.rule(name).model_dump(exclude_none=True), **changes})
        except ValidationError as error:
            raise RequestError(f"set_threshold: {error.errors()[0]['msg']}", code="bad_request") from None
        acceptance = AcceptanceRule(
            default=self._acceptance.default, classes={**self._acceptance.classes, name: changed}
        )
        self._judge_by(acceptance)
        return {name: changed.model_dump()}

    def _judge_by(self, acceptance: AcceptanceRule) -> None:
        models = self.models

        def changed(model: Model | None, rule: AcceptanceRule = acceptance) -> Model | None:
            if model is None:
                return None
            return self._model(LoadedBundle(model.bundle, model.engine, model.fallback), rule)

        def of_its_classes(model: Model | None) -> AcceptanceRule:
            known = () if model is None else model.bundle.card.classes
            return acceptance.model_copy(
                update={"classes": {name: each for name, each in acceptance.classes.items() if name in known}}
            )

        try:
            current = changed(models.current)
        except ConfigError as error:
            raise RequestError(str(error)) from error
        # Those that may judge later too, so that there is no frame between a swap and its rule; of the classes that
        # they have.
        with contextlib.suppress(ConfigError):
            models.standby = changed(models.standby, of_its_classes(models.standby))
        with contextlib.suppress(ConfigError):
            models.previous = changed(models.previous, of_its_classes(models.previous))
        models.current = current
        self._acceptance = acceptance

    def _load_model(self, name: str, answer: Answering) -> None:
        if self._loading:
            raise RequestError("load_model: another model is being loaded", code="busy")
        folder = self._models_dir()
        path = folder / name
        if not os.path.exists(path):  # noqa: PTH110 - it says False of what may not be looked at, and raises nothing
            found = (
                ", ".join(sorted(each.name for each in folder.iterdir()))
                if os.access(folder, os.R_OK | os.X_OK)
                else "it cannot be read"
            )
            raise RequestError(f"load_model: no {name!r} in {folder}: {found}", code="not_found", field="bundle")
        self._loading = True

        def load() -> None:
            outcome: Model | InspectdError
            try:
                loaded = self._open_bundle(path, self.config)
                try:
                    self_test(loaded.engine, loaded.bundle)
                    outcome = self._model(loaded)
                except InspectdError:
                    loaded.engine.close()
                    raise
            except InspectdError as error:
                outcome = error
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a bundle, the line goes on with its own
                outcome = BundleError(f"{type(error).__name__}: {error}")
            self.post(lambda: loaded_(outcome))

        def loaded_(outcome: Model | InspectdError) -> None:
            self._loading = False
            if isinstance(outcome, InspectdError):
                answer(RequestError(f"load_model: {outcome}"))
                return
            self.models.load(outcome)
            answer(_named(outcome))

        threading.Thread(target=load, name="load-model", daemon=True).start()

    def _models_dir(self) -> Path:
        configured = self.config.model
        if configured.models_dir is not None:
            return configured.models_dir
        if configured.bundle == "demo":
            return self.config.station.state_dir / "models"
        return Path(configured.bundle).parent

    def _swap(self, op: str) -> dict[str, Any]:
        wanted = self.models.standby if op == "activate" else self.models.previous
        if wanted is not None:
            thresholds = dict(zip(wanted.bundle.card.classes, wanted.bundle.card.thresholds, strict=True))
            try:
                effective_rule(self._acceptance, wanted.bundle.class_map, thresholds)
            except ConfigError as error:
                raise RequestError(f"{op}: {error}") from error
        model = self.models.activate() if op == "activate" else self.models.roll_back()
        self._keep_active()
        self._unusable = None
        self.alarms.clear("model.rolled_back")
        _log.warning("model %r (%s) judges from now on", model.bundle.card.name, model.bundle.digest[:12])
        return _named(model)

    def _keep_active(self) -> None:
        model = self.models.current
        if model is None:
            return
        try:
            if str(model.bundle.path) == self.config.model.bundle:
                self._active.forget()
            else:
                self._active.write(model.bundle.path)
        except OSError as error:
            self.alarms.set(
                "model.not_kept",
                Severity.WARNING,
                f"which model judges could not be kept ({error.strerror}); after a restart it is the configured one",
            )

    def _note_failed_swap(self, why: str) -> None:
        model = self.models.current
        name = "" if model is None else model.bundle.card.name
        self.alarms.set(
            "model.rolled_back",
            Severity.ERROR,
            f"the model that was activated failed ({why}); {name!r}, the one before, judges again",
        )
        self._keep_active()

    # The configuration again

    def _reload(self) -> dict[str, Any]:
        if self._config_file is None:
            raise RequestError("reload_config: this station has no configuration file")
        try:
            new = load_config(self._config_file)
        except ConfigError as error:
            raise RequestError(f"reload_config: {error}") from error
        changed = _differences(self.config.model_dump(), new.model_dump())
        cold = [name for name in changed if not name.startswith(_HOT)]
        if cold:
            raise RequestError(
                f"reload_config: {', '.join(cold)}: needs a restart of the station; nothing was applied", field=cold[0]
            )
        self._judge_by(new.acceptance)
        self.config = self.config.model_copy(update={"acceptance": new.acceptance})
        return {"applied": changed}

    # Faults on purpose

    def _inject(self, fault: str, answer: Answering) -> None:
        if not self.config.control.fault_injection:
            raise RequestError(
                "fault.inject: is off; set control.fault_injection where a line is tested", code="forbidden"
            )
        _log.warning("fault on purpose: %s", fault)
        match fault:
            case "crash":
                os.kill(os.getpid(), 9)
            case "hang":
                threading.Event().wait()
            case _:
                model = self.models.current
                if model is not None:
                    self.models.replace_rule(replace(model, inspector=_FailsOnce(model, self)))  # type: ignore[arg-type]
                answer({"fault": fault})


class _FailsOnce:
    """An inspector whose next frame fails."""

    def __init__(self, model: Model, core: Core) -> None:
        self._model, self._core = model, core

    def inspect(self, frame: Any) -> Any:  # noqa: ANN401 - as Inspector.inspect
        self._core.models.replace_rule(self._model)
        return self._model.inspector.refuse(frame, "a fault on purpose")


_FAULTS: dict[type[InspectdError], str] = {
    CameraError: "camera.failed",
    BundleError: "model.failed",
    InferenceError: "model.failed",
    DeviceError: "model.failed",
    MissingDependencyError: "model.failed",
    ConfigError: "config.faulty",
    ProtocolError: "line.unpublished",
}
_STRENGTH = (Event.STOP, Event.ABORT, Event.HALT)
_HOT = ("acceptance",)
"""Settings that can be changed while the station runs."""


def _waits_for_software(camera: object) -> bool:
    return isinstance(camera, GenicamCamera) and camera.trigger == "Software"


def _named(model: Model | None) -> dict[str, Any]:
    return {} if model is None else {"name": model.bundle.card.name, "digest": model.bundle.digest}


def _differences(old: Any, new: Any, path: str = "") -> list[str]:  # noqa: ANN401 - of any TOML
    """Dotted paths of what is not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            each
            for key in keys
            for each in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [path]


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
