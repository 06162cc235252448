"""The station at work: its state, and what clients command.

    Preoperational ── Initialized ── Ready ── ContinuousExecution        states.py
         └ by itself where station.start is "automatic", else by commands of control

Everything here is the line's thread, between two frames. What judges, and how it is changed, is judging.py; alarms and
counters are watching.py. A fault leads to the state Error with an alarm, and from there a client or a restart leads on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspectd import __version__
from inspectd.config import Config, GenicamCamera, load_config
from inspectd.errors import (
    BundleError,
    CameraError,
    ConfigError,
    DeviceError,
    InferenceError,
    InspectdError,
    MasterPartsError,
    MissingDependencyError,
    ProtocolError,
    RequestError,
)
from inspectd.frame import FrameSource
from inspectd.masters import Masters
from inspectd.wire import OPERATIONS, ROLES, Arguments, Recipe, Severity, State

from .active_model import ActiveModel
from .alarms import Alarms
from .archive import ArchiveKeeper
from .augment import Augmenting
from .beats import Reporter
from .challenge import Challenges
from .control import Client
from .gate import Gate
from .journal import Journal
from .judging import Answering, Judging, OpenBundle
from .line import Line, Summary
from .marking import Marking
from .messaging import Publisher, Sent
from .models import LoadedBundle, Model, Models
from .optics import Optics, scales_of
from .self_testing import SelfTests
from .states import EXECUTING, Event, StateMachine
from .watching import Watching

__all__ = ["Core"]

_IDLE_S = 0.05
_log = logging.getLogger("inspectd.station")


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
        active: which model was activated; taken up.
        optics: the cameras' calibrations.
        restored: bodies of the alarms that were open when the station ended.
        archive: where pictures are kept; None for nowhere.
        frames: end after so many parts.
        stays: whether a fault leads to Error and a wait for somebody; else it ends the station.
        ready: called once the station is Ready for the first time.
        gate: guards the addresses that other machines reach; None where there are none.
        challenge: the master parts that are put through a camera; None where there are none.
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
        open_bundle: OpenBundle,
        active: ActiveModel,
        optics: Mapping[str, Optics],
        restored: Iterable[str] = (),
        archive: ArchiveKeeper | None = None,
        frames: int | None = None,
        stays: bool = True,
        ready: Callable[[], None] = lambda: None,
        gate: Gate | None = None,
        challenge: Masters | None = None,
        reporter: Reporter | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.publisher = publisher
        self._config_file = config_file
        self._archive = archive
        self._frames = frames
        self._stays = stays
        self.ready = ready
        self.alarms = Alarms(config.station.name, epoch=publisher.epoch, publish=publisher.alarm, utc=utc)
        self.alarms.restore(restored)
        self.judging = Judging(
            config,
            loaded,
            open_bundle=open_bundle,
            active=active,
            scales=scales_of(optics),
            alarms=self.alarms,
            post=self.post,
            clock=clock,
        )
        self.line = Line(
            config,
            None,
            None,
            list(sources),
            publisher,
            models=self.models,
            optics=optics,
            archive=self._offer,
            clock=clock,
            utc=utc,
        )
        self._augmenting = Augmenting(config, self.alarms, self._load)
        self.self_tests = SelfTests(
            config,
            models=self.models,
            alarms=self.alarms,
            post=self.post,
            with_engine=self.line.with_engine,
            wait_for=self.line.wait_for,
            state=lambda: self.state,
            fail=self._fail,
            keep=(lambda _entry: None) if journal is None else journal.submit,
            epoch=self.epoch,
            clock=clock,
            utc=utc,
        )
        self._challenges = Challenges(
            config,
            challenge,
            models=self.models,
            alarms=self.alarms,
            state=lambda: self.state,
            fail=self._fail,
            keep=(lambda _entry: None) if journal is None else journal.submit,
            epoch=self.epoch,
            clock=clock,
            utc=utc,
        )
        self.judging.prove = self._prove
        self._marking = Marking(config, self.post)
        self._watching = Watching(
            config.station.name,
            line=self.line,
            judging=self.judging,
            self_tests=self.self_tests,
            publisher=publisher,
            alarms=self.alarms,
            state=lambda: self.state,
            journal=journal,
            archive=archive,
            gate=gate,
            augment=lambda: self._augmenting.body,
            reporter=reporter or Reporter(),
            clock=clock,
            utc=utc,
        )
        self.line.each_turn = self._turn
        self.line.judges = self._augmenting.hold
        self.line.inspected = self.self_tests.note
        self.line.swap_failed = self.judging.note_failed_swap
        self._machine = StateMachine()
        self._auto = config.station.start == "automatic"
        self._was_ready = False
        self._terminate = False
        self.failure: Exception | None = None
        self._next: dict[str, Any] | None = None
        self._ending: Event | None = None
        self._broken: InspectdError | None = None
        self._error: InspectdError | None = None
        self._answer_at_end: list[Answering] = []

    # From the start to the end

    @property
    def epoch(self) -> int:
        """Of this start."""
        return self.publisher.epoch

    @property
    def models(self) -> Models:
        """Those that judge, may judge, and have judged."""
        return self.judging.models

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
        self._watching.is_working = True
        self.judging.take_up()
        self._augmenting.take_up()
        self._challenges.take_up()
        # Before the first heartbeat, which would say that all is well.
        self._watching.tell_standing()
        self.line.tell_health()
        try:
            while not self._terminate:
                if self._next is not None:
                    self._execute(self._next)
                elif not (self._auto and self._advance()):
                    self.line.attend(_IDLE_S)
        finally:
            self._augmenting.close()
            self._challenges.close()
            self.line.close()
            self.judging.close(in_order=self._terminate and self.failure is None)
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
        self.line.rearm()
        if self._terminate:
            self.line.stop()
        try:
            self.self_tests.at_start(self.judging.usable())
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
        if self._terminate or self._ending is not None or self._broken is not None:
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
        if self._broken is not None and not self._terminate:
            self._fault(self._broken)
            return
        by_itself = self._ending is None and not self._terminate
        if self._ending is Event.HALT or self._terminate or (by_itself and not single):
            self.line.close()
            self._take(Event.HALT)
            # All cameras are at their end, or all parts done: there is nothing more to do for this process.
            self._terminate = self._terminate or by_itself
        else:
            self._take(self._ending or Event.DONE)
        self._ending = None

    def _fail(self, error: InspectdError) -> None:
        """Lead to Error from whatever is done now: what was grabbed must not pass."""
        if self.state in EXECUTING:
            self._broken = error
            self.line.abort()
        else:
            self._fault(error)

    def _fault(self, error: InspectdError) -> None:
        self._error = error
        code = _FAULTS.get(type(error)) or next(
            (code for kind, code in _FAULTS.items() if isinstance(error, kind)), "station.fault"
        )
        self.line.close()
        # Who judged the master parts has told of them, and will take it back.
        if self._stays and not isinstance(error, MasterPartsError):
            self.alarms.set(code, Severity.ERROR, str(error))
        self._machine.take(Event.FAULT)
        # Whatever else went wrong while cameras were let go ends in this very state.
        self._broken = self._ending = None
        self.publisher.change_state(self.state, str(error))
        self._watching.look()
        self._auto = False
        if not self._stays:
            self.failure = error
            self._terminate = True

    def _prove(self, model: Model) -> None:
        """Refuse a model that must not judge; from the thread that loads it."""
        self._challenges.refuse(model)
        self.self_tests.refuse(model)

    def _turn(self) -> None:
        self._watching.turn()
        self._augmenting.look()
        self._challenges.look()

    def _load(self) -> tuple[float, int]:
        """How long parts were judged in all, ms, and how many were overdue."""
        stages = (self.line.histograms[stage] for stage in ("pre", "infer", "post"))
        return sum(stage.sum_ms for stage in stages), self.line.overdue

    def _offer(self, sent: Sent) -> None:
        self._challenges.note(sent.inspection, sent.message.header)
        if self._archive is not None:
            self._archive.offer(sent.inspection, sent.message)

    # Commands

    def note_control(self, fault: str) -> None:
        """Whether commands can be taken at all."""
        self.alarms.show("control.failing", Severity.ERROR, fault)

    def note_slow_disk(self, told: str) -> None:
        """What clients cannot be given because a disk hangs."""
        self.alarms.show("control.slow", Severity.WARNING, told)

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
                self.self_tests.ask(answer)
            case "challenge":
                self._challenges.begin(answer)
            case "challenge_cancel":
                self._challenges.cancel(answer)
            case "set_threshold":
                answer(self.judging.set_threshold(args))
            case "load_model":
                self.judging.load(args["bundle"], answer)
            case "activate":
                self.judging.activate(answer)
            case "rollback":
                self.judging.roll_back(answer)
            case "reload_config":
                answer(self._reload())
            case "augment":
                self._augmenting.begin(args, answer)
            case "augment_cancel":
                self._augmenting.cancel(answer)
            case "mark":
                self._marking.begin(args, client.name, self.epoch, answer)
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
                **({} if model is None else model.named),
                "loaded": None if standby is None else standby.named,
                "previous": None if previous is None else previous.named,
            },
            "augment": None if (augment := self._augmenting.body) is None else augment.model_dump(),
            "self_test": None if self.self_tests.last is None else self.self_tests.last.body(),
            "challenge": self._challenges.body,
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
            raise RequestError(f"prepare_recipe: {self._error}", code="failed")
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
                self.line.wait_for(lambda: opened.append(self.judging.open_again()))
                self.judging.use(opened[0])
            except InspectdError as error:
                self.judging.unusable = error
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a bundle, it can be mended and tried again
                self.judging.unusable = BundleError(f"{type(error).__name__}: {error}")

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
        undone = self.judging.judge_by(new.acceptance)
        self.config = self.config.model_copy(update={"acceptance": new.acceptance})
        return {"applied": changed, "undone": undone}

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

    def inspect(self, frame: Any, **_more: Any) -> Any:  # noqa: ANN401 - as Inspector.inspect
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
