"""The self-test: is the engine still the network that was exported, and does what judges still find known defects?

    the bundle's golden samples     masks and scores as at export; at each start, every hour, and when somebody asks
    master parts ([golden])         verdicts as expected, by the inspector and rule of every part; at each start, after
                                    each change of model or rule, at the times that are set, and when somebody asks
    their defects, painted          found on pictures that the line takes now, where `golden.paint` says so; at the same
                                    times, but at a start once there are parts to paint on (painted_parts.py)

While parts are judged a test is a thread of its own that reads and unpacks its pictures, and has each of them judged
between two frames, where no part waits or after a while: no part waits for more than one of them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from inspectd.config import Config
from inspectd.errors import BundleError, InferenceError, InspectdError, MasterPartsError, RequestError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Inspection
from inspectd.masters import MastersResult, open_masters, run_masters
from inspectd.wire import Severity, State

from .alarms import Alarms
from .beats import MastersBeat
from .control import Outcome
from .engine import golden_checks
from .journal import Entry
from .models import Model, Models
from .painted_parts import NextParts, PaintedResult, check_painting, paintable_parts, run_painted
from .schedule import Schedule
from .states import EXECUTING, PREPARED

__all__ = ["SelfTest", "SelfTests", "check_masters"]

LOOK_S = 0.25
STEP_S = 60.0
"""So long a picture of a test may take: longer than a camera may hold up the line."""
TEST_S = 900.0
"""A test that has not ended by then hangs, on a disk for example."""
PARTS_S = 20.0
"""So long a test waits for parts to paint on; if fewer come, they are painted on once they have come."""
SAMPLES_S = 3600.0
"""So long after its latest test an engine is held against its export again: it may go wrong at any frame."""
UNPAINTED_S = 3600.0
"""After so much execution in which they have not come somebody has to know."""
_TOLD, _MOST_TEXT = 20, 200
"""So many missed parts are told to monitoring by their names, and so much of each: a beat must not become too long."""
_T = TypeVar("_T")
_log = logging.getLogger("inspectd.station")


class _Changed(Exception):
    """Something else judges than when the test began."""


@dataclass(frozen=True, slots=True, eq=False)
class SelfTest:
    """What came of one test.

    Attributes:
        why: what it was done for.
        begun: when, UTC, as a label.
        seconds: how long it took.
        digest: of the bundle that judged.
        samples: golden samples of the bundle that were compared.
        engine_fault: why nobody knows that the engine is as at export; empty where it is.
        engine_differs: whether it is not, and that is why.
        engine_alone: whether nothing else was tested.
        masters: how the master parts came out; None where there are none, or they could not be judged.
        masters_fault: why they could not be judged; empty otherwise.
        painted: how their defects came out when they were painted on pictures of now; None where they were not.
        painted_fault: why they could not be painted; empty otherwise.
        unpainted: why they are still to be painted; empty otherwise.
    """

    why: str
    begun: str
    seconds: float
    digest: str
    samples: int = 0
    engine_fault: str = ""
    engine_differs: bool = False
    engine_alone: bool = False
    masters: MastersResult | None = None
    masters_fault: str = ""
    painted: PaintedResult | None = None
    painted_fault: str = ""
    unpainted: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything is as it should."""
        results = [result for result in (self.masters, self.painted) if result is not None]
        return not self.faults and all(result.passed for result in results)

    @property
    def faults(self) -> list[str]:
        """What could not be done, and why."""
        return [each for each in (self.engine_fault, self.masters_fault, self.painted_fault) if each]

    @property
    def unusable(self) -> str:
        """Why known defects could not be judged, stored or painted; empty where they could."""
        return self.masters_fault or self.painted_fault

    @property
    def missed(self) -> str:
        """Which known defects are missed, stored and painted, in words; empty where none is."""
        results = [result for result in (self.masters, self.painted) if result is not None]
        return "; ".join(filter(None, (result.told_missed() for result in results)))

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        masters = None if self.masters is None else self.masters.body()
        about = {"why": self.why, "begun": self.begun, "seconds": self.seconds, "digest": self.digest}
        painted = {} if self.painted is None else {"painted": self.painted.body()}
        waits = {"unpainted": self.unpainted} if self.unpainted else {}
        fault = {"fault": self.unusable} if self.unusable else {}
        return {
            "samples": self.samples,
            "passed": self.passed,
            **about,
            "masters": masters,
            **painted,
            **waits,
            **fault,
        }


def check_masters(config: Config, model: Model, judge: Callable[[Frame], Inspection] | None = None) -> MastersResult:
    """Judge the master parts of a configuration.

    Args:
        config: with a set.
        model: what judges, by its own inspector.
        judge: has a frame judged by it elsewhere; None here and now.

    Raises:
        ConfigError: there is no set, it cannot be used, or the model does not have its classes.
        InspectdError: what `judge` raises.
    """
    if config.golden.file is None:
        raise ValueError("no master parts are configured")
    judge = judge or model.inspector.inspect
    return run_masters(open_masters(config.golden.file), model.bundle.class_map, judge, camera=config.golden_camera)


class SelfTests:
    """The self-tests of a station; the line's thread, but for `refuse` and `note`.

    Args:
        config: the configuration.
        models: what judges.
        alarms: of the station.
        post: has something done in the line's thread; from any thread.
        with_engine: has something done by the thread that judges, between two frames.
        wait_for: does something that takes seconds in a thread of its own, and waits for it; heartbeats go on.
        state: what the station is doing.
        fail: leads the station to Error.
        keep: has something written to the journal.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.

    Attributes:
        last: the latest test of the master parts; None before the first.
    """

    def __init__(
        self,
        config: Config,
        *,
        models: Models,
        alarms: Alarms,
        post: Callable[[Callable[[], None]], None],
        with_engine: Callable[[Callable[[], None]], None],
        wait_for: Callable[[Callable[[], None]], None],
        state: Callable[[], State],
        fail: Callable[[InspectdError], None],
        keep: Callable[[Entry], object],
        epoch: int,
        clock: Callable[[], int],
        utc: Callable[[], int],
    ) -> None:
        self._config = config
        self._models = models
        self._alarms = alarms
        self._post = post
        self._with_engine = with_engine
        self._wait_for = wait_for
        self._state = state
        self._fail = fail
        self._keep = keep
        self._epoch = epoch
        self._clock = clock
        self._utc = utc
        golden = config.golden
        every_s = None if golden.every_h is None else golden.every_h * 3600
        self._schedule = Schedule(golden.at, every_s, clock=clock, utc=utc)
        self._has_masters = golden.file is not None
        self._is_fatal = golden.on_failure == "error"
        self._samples = Schedule((), SAMPLES_S, clock=clock, utc=utc)
        self._next_parts = NextParts(config.golden_camera, golden.paint) if golden.paint else None
        self._paintable: tuple[tuple[str, str, AcceptanceRule], list[int]] | None = None
        self._unseen: PaintedResult | None = None
        self._is_unpainted = False
        self._waiting_since_ns: int | None = None
        self._waited_ns = 0
        self._tested: tuple[str, AcceptanceRule] | None = None
        self._running: object | None = None
        self._running_alone = False
        self._running_since_ns = self._next_look_ns = 0
        self._answers: list[Callable[[Outcome], None]] = []
        self._count = 0
        self.last: SelfTest | None = None

    # When

    def at_start(self, model: Model) -> None:
        """Test before the first part; heartbeats go on meanwhile.

        Raises:
            BundleError: the engine is not the network that was exported.
            ConfigError: defects cannot be painted, which `golden.paint` asks for.
            MasterPartsError: too few known defects are found, or the parts cannot be used, and that is no mere alarm.
        """
        self._schedule.due()  # times that have passed are done with now
        self._running = None  # and so is a test that was under way
        if self._next_parts is not None and self._config.golden.file is not None:
            check_painting(self._config)
            # What a camera has shown before it was seen to says nothing of now.
            self._next_parts.want(anew=True)
        tests: list[SelfTest] = []
        self._wait_for(lambda: tests.append(self._test(model, "at the start", lambda act: act())))
        fault = self._note(tests[0], model)
        self._answer(self._told(tests[0]))
        if tests[0].engine_fault:
            raise BundleError(tests[0].engine_fault)
        if fault is not None:
            raise fault

    def look(self) -> None:
        """At every turn of the line: begin a test if it is time."""
        now_ns = self._clock()
        if now_ns < self._next_look_ns:
            return
        self._next_look_ns = now_ns + round(LOOK_S * 1e9)
        self._wait_for_parts(now_ns)
        if self._running is not None:
            if now_ns - self._running_since_ns > TEST_S * 1e9:
                self._give_up(self._running)
            return
        why, model = self._schedule.due(), self._models.current
        # Before a station is ready, and after an error, it is tested anyway.
        if model is None or self._state() not in PREPARED:
            return
        if self._has_masters and self._tested != _what_judges(model):
            why = "another model or rule judges"
        if not why and self._is_unpainted and self._next_parts is not None and self._next_parts.are_there:
            why = "there are parts to paint on"
        if why:
            self._begin(why)
        elif samples_why := self._samples.due():
            self._begin(samples_why, engine_alone=True)

    def _wait_for_parts(self, now_ns: int) -> None:
        """Count the time for which defects are still to be painted, and tell if it is too long."""
        is_waiting = self._is_unpainted and self._state() in EXECUTING
        if is_waiting and self._waiting_since_ns is not None:
            self._waited_ns += now_ns - self._waiting_since_ns
        self._waiting_since_ns = now_ns if is_waiting else None
        if self._waited_ns >= UNPAINTED_S * 1e9:
            paint, camera = self._config.golden.paint, self._config.golden_camera
            self._alarms.set(
                "golden.unpainted",
                Severity.WARNING,
                f"in {UNPAINTED_S / 3600:g} h of execution known defects could not be painted on pictures of now: "
                f"between two tests {camera} gives too few parts for it (golden.paint = {paint})",
            )

    def ask(self, answer: Callable[[Outcome], None]) -> None:
        """Somebody wants to know. Whoever asks while a test is under way is told how that one comes out.

        Raises:
            RequestError: there is no model.
        """
        if self._models.current is None:
            raise RequestError("self_test: the station has no model", code="wrong_state")
        self._answers.append(answer)
        if self._running is None:
            self._begin("asked for")

    def note(self, inspection: Inspection) -> None:
        """A part was judged; the thread that judges."""
        if self._next_parts is not None:
            self._next_parts.note(inspection)

    def refuse(self, model: Model) -> None:
        """Hold a model that may judge later against the master parts; from any thread.

        Raises:
            MasterPartsError: it does not find them, and the station must not judge by such a one.
            ConfigError: they cannot be used, or it does not have their classes.
        """
        if self._has_masters and self._is_fatal:
            result = check_masters(self._config, model)
            if not result.passed:
                raise MasterPartsError(result.told_missed())

    # A test

    def _begin(self, why: str, *, engine_alone: bool = False) -> None:
        mark = self._running = object()
        self._running_alone, self._running_since_ns = engine_alone, self._clock()
        args = mark, why, engine_alone
        threading.Thread(target=self._run, args=args, name="self-test", daemon=True).start()

    def _run(self, mark: object, why: str, engine_alone: bool) -> None:
        outcome = None
        while outcome is None:
            outcome = self._once(why, engine_alone)
        self._post(partial(self._end, mark, outcome))

    def _once(self, why: str, engine_alone: bool) -> tuple[SelfTest, Model] | RequestError | None:
        """What came of it; None where something else judges now."""
        model = self._models.current
        if model is None:
            return RequestError("self_test: the station has no model", code="failed")
        try:
            between = partial(self._between_frames, model)
            return self._test(model, why, between, engine_alone=engine_alone), model
        except _Changed:
            return None

    def _between_frames(self, model: Model, act: Callable[[], _T]) -> _T:
        done: Future[_T] = Future()

        def do() -> None:
            # In the thread that judges, which alone closes engines.
            if self._models.current is not model:
                done.set_exception(_Changed())
                return
            try:
                done.set_result(act())
            except BaseException as error:  # noqa: BLE001 - it must not take the thread along; it is raised below
                done.set_exception(error)

        self._post(lambda: self._with_engine(do))
        try:
            return done.result(STEP_S)
        except FutureTimeoutError:
            raise InferenceError(f"a picture of the self-test was not judged within {STEP_S:g} s") from None

    def _test(
        self, model: Model, why: str, between: Callable[[Callable[[], Any]], Any], *, engine_alone: bool = False
    ) -> SelfTest:
        """Everything; what goes wrong is part of it."""
        begun, begun_ns = self._label(), self._clock()
        samples, engine_fault, engine_differs, masters, masters_fault = 0, "", False, None, ""
        painted, painted_fault, unpainted = None, "", ""
        try:
            for check in golden_checks(model.engine, model.bundle):
                try:
                    between(check)
                except BundleError:
                    engine_differs = True
                    raise
                samples += 1
        except _Changed:
            raise
        except Exception as error:  # noqa: BLE001 - see `_words`
            engine_fault = _words(error)

        def judge(frame: Frame) -> Inspection:
            return between(lambda: model.inspector.inspect(frame))  # type: ignore[no-any-return]

        if self._has_masters and not engine_alone:
            try:
                masters = check_masters(self._config, model, judge)
            except _Changed:
                raise
            except Exception as error:  # noqa: BLE001 - see `_words`
                masters_fault = f"master parts cannot be judged: {_words(error)}"
        if masters is not None and self._next_parts is not None:
            try:
                painted, unpainted = self._paint(self._next_parts, model, judge)
            except _Changed:
                raise
            except Exception as error:  # noqa: BLE001 - see `_words`
                painted_fault = f"known defects cannot be painted: {_words(error)}"
        return SelfTest(
            why=why,
            begun=begun,
            seconds=round((self._clock() - begun_ns) / 1e9, 3),
            digest=model.bundle.digest,
            samples=samples,
            engine_fault=engine_fault,
            engine_differs=engine_differs,
            engine_alone=engine_alone,
            masters=masters,
            masters_fault=masters_fault,
            painted=painted,
            painted_fault=painted_fault,
            unpainted=unpainted,
        )

    def _paint(
        self, parts: NextParts, model: Model, judge: Callable[[Frame], Inspection]
    ) -> tuple[PaintedResult | None, str]:
        """How painted defects came out; or why they wait."""
        golden = self._config.golden
        if golden.file is None:
            raise ValueError("no master parts are configured")
        parts.want(anew=not parts.are_there)
        wait_until_s = time.monotonic() + PARTS_S
        while not parts.are_there and self._state() in EXECUTING and time.monotonic() < wait_until_s:
            time.sleep(LOOK_S)
        pictures = parts.take()
        if not pictures:
            return None, f"known defects are painted once {golden.paint} parts have come"
        masters, camera = open_masters(golden.file), self._config.golden_camera

        def judge_one(frame: Frame) -> Inspection:
            # Many of them take their time on a line that is busy: that is no hanging.
            self._running_since_ns = self._clock()
            return judge(frame)

        known = masters.record.sha256, *_what_judges(model)
        if self._paintable is None or self._paintable[0] != known:
            self._paintable = known, paintable_parts(masters, judge_one, camera=camera, count=golden.paint)
        return run_painted(masters, self._paintable[1], pictures, judge_one, camera=camera), ""

    def _label(self) -> str:
        return datetime.fromtimestamp(self._utc() // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _end(self, mark: object, outcome: tuple[SelfTest, Model] | RequestError) -> None:
        if mark is not self._running:
            return  # given up
        if not isinstance(outcome, RequestError) and outcome[1] is not self._models.current:
            # Whoever asks after a change wants to know of what judges now.
            self._begin(outcome[0].why, engine_alone=outcome[0].engine_alone)
            return
        self._running = None
        if isinstance(outcome, RequestError):
            self._answer(outcome)
            return
        test, model = outcome
        fault = self._note(test, model)
        if test.engine_alone and self._answers and self._has_masters:
            self._begin("asked for")  # while the samples alone were tested
        else:
            self._answer(self._told(test))
        # One that differs misses what nobody knows of; of one that fails no part is OK.
        if test.engine_differs:
            self._fail(BundleError(test.engine_fault))
        elif fault is not None:
            self._fail(fault)

    def _answer(self, outcome: Outcome) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer(outcome)

    def _told(self, test: SelfTest) -> Outcome:
        if test.faults:
            return RequestError(f"self_test: {'; '.join(test.faults)}", code="failed")
        return test.body() if self._has_masters else {"samples": test.samples, "passed": True}

    def _give_up(self, mark: object) -> None:
        why, model = f"the self-test has not ended within {TEST_S:g} s; it hangs", self._models.current
        if model is None:
            self._end(mark, RequestError(f"self_test: {why}", code="failed"))
        else:
            test = SelfTest("hangs", self._label(), TEST_S, model.bundle.digest, masters_fault=why)
            if self._running_alone or not self._has_masters:
                test = replace(test, masters_fault="", engine_fault=why, engine_alone=True)
            self._end(mark, (test, model))

    # What follows from it

    def _note(self, test: SelfTest, model: Model) -> MasterPartsError | None:
        """Alarms and journal; what leads the station to Error of the master parts, if anything does."""
        self._samples.done()
        engine_fault = f"self_test: {test.engine_fault}" if test.engine_fault else ""
        self._alarms.show("model.self_test", Severity.ERROR, engine_fault)
        if not self._has_masters or test.engine_alone:
            return None
        self.last = test
        self._schedule.done()
        self._tested = _what_judges(model)
        self._count += 1
        row = f"self_test-{self._epoch}-{self._count}"
        # As a command that the station gave itself: who asked for one has an entry of his own.
        args, answer = json.dumps({"why": test.why}), json.dumps({"ok": True, "result": test.body()})
        begun = ("station", row, self._utc(), self._epoch, "station", "operator", "self_test", args)
        self._keep(Entry(begun=begun, ended=("station", row, answer)))
        self._is_unpainted = bool(test.unpainted)
        if test.painted is not None:
            self._unseen = test.painted
            self._waited_ns = 0
            self._alarms.clear("golden.unpainted")
        if test.masters is not None:
            self._log(test, test.masters)
            # Where defects could not be judged or painted, nobody knows that what was missed is found again.
            unseen = self._unseen.told_missed() if self._unseen is not None else ""
            missed = "; ".join(filter(None, (test.masters.told_missed(), unseen)))
            is_enough = test.masters.passed and (self._unseen is None or self._unseen.passed)
            self._alarms.show("golden.missed", Severity.WARNING if is_enough else Severity.ERROR, missed)
            self._alarms.show("golden.rejected", Severity.WARNING, test.masters.told_rejected())
        self._alarms.show("golden.unusable", Severity.ERROR, test.unusable)
        results = [result for result in (test.masters, test.painted) if result is not None]
        is_found = not test.unusable and test.masters is not None and all(result.passed for result in results)
        return None if is_found or not self._is_fatal else MasterPartsError(test.unusable or test.missed)

    def _log(self, test: SelfTest, masters: MastersResult) -> None:
        found = masters.known - len(masters.missed)
        _log.log(
            logging.WARNING if masters.missed or masters.rejected else logging.INFO,
            "self-test (%s): %d of %d known defects found, %d of %d good parts accepted, in %.1f s",
            *(test.why, found, masters.known),
            *(masters.good - len(masters.rejected), masters.good, test.seconds),
        )
        if (painted := test.painted) is not None:
            known, missed = len(painted.outcomes), len(painted.missed)
            _log.log(
                logging.WARNING if missed else logging.INFO,
                "self-test (%s): %d of %d painted defects found%s",
                *(test.why, known - missed, known),
                f"; the pictures {painted.change}" if str(painted.change) else "",
            )

    @property
    def beat(self) -> MastersBeat | None:
        """The latest test of the master parts, for monitoring."""
        test = self.last
        if test is None:
            return None
        result, painted = test.masters, test.painted
        names = [] if result is None else [each.part.name for each in result.missed]
        names += [] if painted is None else [f"{each.part.name} (painted)" for each in painted.missed]
        return MastersBeat(
            begun=test.begun,
            seconds=test.seconds,
            passed=not test.unusable and result is not None and result.passed and (painted is None or painted.passed),
            known=0 if result is None else result.known,
            missed=0 if result is None else len(result.missed),
            good=0 if result is None else result.good,
            rejected=0 if result is None else len(result.rejected),
            painted=0 if painted is None else len(painted.outcomes),
            painted_missed=0 if painted is None else len(painted.missed),
            names=tuple(name[-_MOST_TEXT:] for name in names[:_TOLD]),
            fault=test.unusable[:_MOST_TEXT],
        )


def _words(error: Exception) -> str:
    """Whatever it is: nobody knows that defects are found, and that has to be told."""
    if isinstance(error, InspectdError):
        return str(error)
    _log.error("self-test: unexpected failure", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _what_judges(model: Model) -> tuple[str, AcceptanceRule]:
    return model.bundle.digest, model.rule
