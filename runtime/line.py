"""The line: cameras, inspection, publishing.

    camera ── grab thread ── mailbox ── judge (thread) ──┐
    camera ── grab thread ──┘                            main thread ── journal ── publish
                                 deadlines, commands ────┘

Every frame that is grabbed and not dropped gets exactly one verdict. The main thread never waits for a camera, for the
engine or for the disk: a frame that is not judged by its deadline is NOT_INSPECTED then, whatever the engine does. A
camera that looks for its device again by itself is told in the heartbeats as long as it is away, and the line goes on
with the others. A thread that dies takes the line down with its error, after what was grabbed has been inspected.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from inspectd.bundle import Bundle
from inspectd.config import Config
from inspectd.errors import (
    CameraError,
    EndOfFrames,
    FrameTimeout,
    IncompleteFrame,
    InferenceError,
    InspectdError,
    ProtocolError,
)
from inspectd.frame import CameraState, CameraStatus, FrameSource
from inspectd.inspection import Inspection, Verdict
from inspectd.wire import DeviceHealth, State

from .engine import Engine, self_test
from .frozen import watches_for
from .histogram import Histogram
from .mailbox import Arrival, Mailbox, Slot
from .messaging import Publisher, Sent
from .models import LoadedBundle, Model, Models
from .optics import ImageWatch, Optics, load_optics, scales_of
from .sources.damaged import DamagedFrame, stand_in

__all__ = ["STAGES", "Line", "Summary", "open_limit_s"]

READ_S = 0.1
"""How long a camera is waited for before its thread looks whether the line stops."""
HANG_S = 10.0
"""A camera that does not come back from a read for so long hangs in its driver; so long may its thread take to end."""
DRAIN_S = 2.0
"""So long after it was told to stop a camera is asked for what it still has."""
OPEN_S = 600.0
"""A bundle, a camera or a self-test that takes longer hangs, and the process is replaced."""
BUILD_S = 3600.0
"""The same where an engine may have to be built, which takes a small computer long."""
JUDGE_S = 30.0
"""An engine that takes longer for one frame hangs."""
JOB_S = 0.25
"""While frames wait, the thread that judges does something else once in so long; a line at its limit loses no more."""
LATENCIES_KEPT = 100_000
"""Frames that the percentiles of the latency are taken over: the latest."""
STAGES = ("wait", "pre", "infer", "post", "journal", "total")
"""Where a frame's time goes; each has a histogram."""
_TAKEN_A_TURN = 100
"""Results and commands that are taken in one go."""
_TRIGGER_S = 5.0
"""So long a camera may take to acquire before a software trigger is sent all the same."""

ABORTED = "aborted"
_LATE_IN_A_ROW = 5
"""So many late results in a row speak against a model that is on trial: one may be the machine's fault."""
_log = logging.getLogger("inspectd.line")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a line has done.

    Attributes:
        frames: frames that were grabbed and not dropped.
        verdicts: verdicts that were published; as many as frames, or something went wrong.
        ok, ng, review, not_inspected: how they came out.
        dropped: frames that gave way to newer ones because the inspection was too slow.
        lost: frames that never arrived, by gaps in the cameras' numbers.
        cameras: how each camera is, and what it has done.
        fps: verdicts per second between the first frame's arrival and the last verdict.
        latency_p50_ms, latency_p99_ms: from a frame's arrival at the host to its published verdict; 0 without frames.
        overdue: of those that were not inspected, those that were not judged by their deadline.
        not_durable: verdicts that were published without being in the journal; all of them where there is none.
    """

    frames: int
    verdicts: int
    ok: int
    ng: int
    review: int
    not_inspected: int
    dropped: int
    lost: int
    cameras: Mapping[str, CameraStatus]
    fps: float
    latency_p50_ms: float
    latency_p99_ms: float
    overdue: int = 0
    not_durable: int = 0

    @property
    def complete(self) -> bool:
        """Whether every frame got exactly one verdict."""
        return self.frames == self.verdicts == self.ok + self.ng + self.review + self.not_inspected

    def to_json(self) -> str:
        """One line of JSON."""
        latency = {"p50": round(self.latency_p50_ms, 3), "p99": round(self.latency_p99_ms, 3)}
        counts = ("frames", "verdicts", "ok", "ng", "review", "not_inspected", "dropped", "lost")
        values = {name: getattr(self, name) for name in (*counts, "overdue", "not_durable")}
        cameras = {name: {**asdict(status), "state": status.state.value} for name, status in self.cameras.items()}
        return json.dumps({**values, "fps": round(self.fps, 2), "latency_ms": latency, "cameras": cameras})


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What the thread that judges has to say of a frame: a result, or that it has died itself."""

    mailbox: Mailbox
    number: int
    inspection: Inspection | None
    model: Model | None = None
    is_our_fault: bool = False
    was_inferred: bool = False
    died: Exception | None = None


@dataclass(eq=False)
class _Execution:
    """One stretch of acquiring, from its start to the verdict on its last frame."""

    mailbox: Mailbox
    sources: Sequence[FrameSource]
    trigger: tuple[str, int] | None = None
    trigger_by_ns: int = 0


class Line:
    """Cameras and models at work; used from one thread, but for `stop`, `abort` and `post`.

    Args:
        config: the configuration.
        bundle: what judges.
        engine: what runs it.
        sources: the cameras, in the order of the configuration; opened and closed here.
        publisher: where verdicts go; opened and closed by the caller.
        frames: `run` stops after so many; None to go on until `stop` or until all cameras are at their end.
        models: instead of bundle and engine, the station's models, which may be swapped meanwhile.
        optics: the cameras' calibrations, where they are loaded already.
        archive: told of each verdict that went out.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.

    Raises:
        ConfigError: the acceptance rule does not fit the bundle, or a calibration cannot be used.

    Attributes:
        image_watch: which cameras give bad pictures.
        frozen: by camera, whether it gives one and the same picture again and again.
        gives_grey: by camera, whether the latest of its pictures was grey.
        standing: how the station is apart from cameras and engine, and why; heartbeats tell the worst.
        each_turn: called several times in each period of the heartbeat, also while cameras are waited for.
        judges: told by the thread that judges when it begins with a part (True) and is done with it (False).
        inspected: told of each part by the thread that judges, before what its picture is like is taken into account.
        swap_failed: told why, where a model failed soon after a swap and the one before judges again.
    """

    def __init__(
        self,
        config: Config,
        bundle: Bundle | None,
        engine: Engine | None,
        sources: Sequence[FrameSource],
        publisher: Publisher,
        *,
        frames: int | None = None,
        models: Models | None = None,
        optics: Mapping[str, Optics] | None = None,
        archive: Callable[[Sent], None] = lambda _sent: None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self._optics = load_optics(config.cameras) if optics is None else optics
        if models is None:
            if bundle is None or engine is None:
                raise ValueError("a line needs models, or a bundle and its engine")
            scales = scales_of(self._optics)
            models = Models(Model.make(LoadedBundle(bundle, engine), config.acceptance, scales=scales, clock=clock))
        self._slots = {
            name: Slot(camera.queue_frames, camera.free_running, (camera.verdict_within_ms or 0) * 1_000_000)
            for name, camera in config.cameras.items()
        }
        self.models = models
        self.standing = (publisher.health, publisher.health_reason)
        self.each_turn: Callable[[], None] = lambda: None
        self.judges: Callable[[bool], None] = lambda _is_judging: None
        self.inspected: Callable[[Inspection], None] = lambda _inspection: None
        self.swap_failed: Callable[[str], None] = lambda _why: None
        self._cameras = tuple(sources)
        self._sources = list(sources)
        self._publisher = publisher
        self.image_watch = ImageWatch()
        self.frozen = watches_for(config.cameras)
        self.gives_grey = dict.fromkeys(config.cameras, False)
        self._archive = archive
        publisher.sent = self._note_sent
        self._free_running = {name: camera.free_running for name, camera in config.cameras.items()}
        self._frames = frames
        self._clock = clock
        self._utc = utc
        # Cameras' threads end within a fraction of the heartbeat's period, and so does the wait for frames.
        self._tick_s = min(READ_S, config.publish.heartbeat_ms / 4000)
        self._inbox: queue.SimpleQueue[_Judged | Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop = self._abort = False
        self._is_open = False
        self._engine_failed = False
        self._execution: _Execution | None = None
        self._attending = threading.Event()
        self._attendant: threading.Thread | None = None
        self._lost_attendants: list[threading.Thread] = []
        self._reading_since_ns: dict[str, int | None] = dict.fromkeys(config.cameras)
        self._judging_since_ns = self._job_done_ns = 0
        self._opened = self._opening_since_ns = 0
        self._open_limit_s = open_limit_s(config)
        self._judge_thread: threading.Thread | None = None
        self._hanging: set[str] = set()
        self._stuck: dict[str, threading.Thread] = {}
        self._accepted_before = self._dropped_before = 0
        self._failure: Exception | None = None
        self._verdicts: Counter[Verdict] = Counter()
        self._late_in_a_row = 0
        self._late_engine: Engine | None = None
        self._judged = self._overdue = self._too_late = self._not_durable = 0
        self._histograms = {stage: Histogram() for stage in STAGES}
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._first_ns = 0
        self._last_ns = 0

    # What others may do

    def stop(self) -> None:
        """Grab nothing more, inspect what was grabbed, end. Takes no lock, so that a signal handler can call it."""
        self._stop = True
        # Before Python 3.13 a `get` whose time is up when a signal comes waits for ever: for this.
        self.post()

    def abort(self) -> None:
        """Grab nothing more, give what was grabbed NOT_INSPECTED, end."""
        self._abort = True
        self.stop()

    def post(self, act: Callable[[], None] | None = None) -> None:
        """Have something done in the line's thread between two frames; None just wakes it. From any thread."""
        self._inbox.put(act)

    def rearm(self) -> None:
        """Forget that it was stopped, so that it can execute again."""
        self._stop = self._abort = False

    def attend(self, timeout_s: float) -> None:
        """Do what is to be done between two frames, waiting for it at most so long; while nothing is executed."""
        self.models.close_retired()
        self.tell_health()
        self._tick()
        self._take(self._next(timeout_s))

    @property
    def is_open(self) -> bool:
        """Whether its cameras were opened."""
        return self._is_open

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop

    @property
    def failure(self) -> Exception | None:
        """Why a camera's thread ended, if it did not end as it should."""
        return self._failure if self._execution is None else self._execution.mailbox.failure

    def with_engine(self, act: Callable[[], None]) -> None:
        """Have something short done by the thread that judges, between two frames; by another where none does.

        Best while no frame waits; else once in `JOB_S`.
        """
        if self._execution is None:
            self.wait_for(act)
        else:
            self._jobs.put(act)
            self._execution.mailbox.nudge()

    # What it has done

    @property
    def triggers(self) -> int:
        """Parts that have to have a verdict: waiting + verdicts, always."""
        return self._accepted_before + (0 if self._execution is None else self._execution.mailbox.accepted)

    @property
    def waiting(self) -> int:
        """Parts that have none yet: they wait, are judged, or their verdict waits for the disk."""
        return self.triggers - self._verdicts.total()

    @property
    def verdicts(self) -> Mapping[Verdict, int]:
        """How many of each went out."""
        return self._verdicts

    @property
    def overdue(self) -> int:
        """Parts that were not judged by their deadline."""
        return self._overdue

    @property
    def not_durable(self) -> int:
        """Verdicts that went out without being in the journal."""
        return self._not_durable

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Of each stage."""
        return self._histograms

    @property
    def stages(self) -> dict[str, tuple[int, float, float]]:
        """How far each stage has come, how long it has been at what it does (0: idle), and how long it may be, s."""
        now_ns = self._clock()

        def busy(since_ns: int | None) -> float:
            return (now_ns - since_ns) / 1e9 if since_ns else 0.0

        return {
            "judge": (self._judged, busy(self._judging_since_ns), JUDGE_S),
            "publish": (self._verdicts.total(), 0.0, JUDGE_S),
            "open": (self._opened, busy(self._opening_since_ns), self._open_limit_s),
        }

    def summary(self) -> Summary:
        """What has been done so far."""
        seconds = (self._last_ns - self._first_ns) / 1e9
        verdicts = self._verdicts.total()
        p50, p99 = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (0.0, 0.0)
        return Summary(
            frames=self.triggers,
            verdicts=verdicts,
            ok=self._verdicts[Verdict.OK],
            ng=self._verdicts[Verdict.NG],
            review=self._verdicts[Verdict.REVIEW],
            not_inspected=self._verdicts[Verdict.NOT_INSPECTED],
            dropped=self.dropped,
            lost=self.lost,
            cameras=self.cameras(),
            fps=verdicts / seconds if seconds > 0 else 0.0,
            latency_p50_ms=float(p50),
            latency_p99_ms=float(p99),
            overdue=self._overdue,
            not_durable=self._not_durable,
        )

    @property
    def dropped(self) -> int:
        """Frames that gave way: in the mailbox, or where a camera's process found no place."""
        now = 0 if self._execution is None else self._execution.mailbox.dropped
        return (
            self._dropped_before
            + now
            + sum(status.overruns for name, status in self.cameras().items() if self._free_running[name])
        )

    @property
    def lost(self) -> int:
        """Frames that never arrived."""
        return sum(status.missed for status in self.cameras().values())

    def cameras(self) -> dict[str, CameraStatus]:
        """How each camera is."""
        return {source.name: source.status for source in self._cameras}

    @property
    def misfits(self) -> Mapping[str, str]:
        """Cameras whose frames cannot be judged by their calibrations, and why."""
        return {name: each.misfit for name, each in self._optics.items() if each.misfit}

    @property
    def calibrated(self) -> Mapping[str, str]:
        """What is calibrated of each camera, for people; of those of which anything is."""
        return {name: words for name, each in self._optics.items() if (words := each.words())}

    # One run, from the opening to the end

    def open(self) -> None:
        """Self-test, and connect to the cameras; heartbeats go on meanwhile.

        Raises:
            BundleError: the self-test failed.
            CameraError: cameras could not be opened; every fault, one a line.
        """
        self._publisher.tick()
        try:
            model = self.models.current
            if model is not None:
                self.wait_for(partial(self_test, model.engine, model.bundle))
            self._each("open")
            self.tell_health()
            self._publisher.state = State.READY
        except BaseException:
            self._publisher.state = State.ERROR
            self.close()
            raise
        self._is_open = True

    def run(self) -> None:
        """Open what is not open yet, inspect until the end, let the cameras go.

        `summary` tells what was done, also after an error.

        Raises:
            BundleError, CameraError: as `open`.
            CameraError: a camera was lost; what had been grabbed was inspected first.
            ProtocolError: a verdict could not be published.
        """
        if not self._is_open:
            self.open()
        try:
            if not self._stop:
                self._publisher.state = State.CONTINUOUS_EXECUTION
                self.execute(limit=self._frames)
        except BaseException:
            self._publisher.state = State.ERROR
            raise
        finally:
            self.close()
        self._publisher.state = State.HALTED
        self._publisher.flush()
        self._publisher.tick()

    def connect(self) -> None:
        """Connect to the cameras; heartbeats go on meanwhile.

        Raises:
            CameraError: cameras could not be opened, and were let go; every fault, one a line.
        """
        if stuck := [camera for camera, thread in self._stuck.items() if thread.is_alive()]:
            # Its thread is still in the driver: opened anew there would be two of them.
            raise CameraError(_hangs(*stuck))
        self._stuck.clear()
        self._hanging.clear()
        self._sources = list(self._cameras)
        try:
            self._each("open")
        except BaseException:
            self.close()
            raise
        self._is_open = True
        self._attend_cameras()

    def close(self) -> None:
        """Let the cameras go; `run` does so too. One that hangs is waited for no longer than for a read."""
        self._leave_cameras()
        threads = {
            source.name: threading.Thread(target=self._let_go, args=(source,), name=f"close-{source.name}", daemon=True)
            for source in self._sources
            if source.name not in self._stuck or not self._stuck[source.name].is_alive()
        }
        # Side by side: one that hangs takes seconds to be ended.
        for thread in threads.values():
            thread.start()
        deadline_ns = self._clock() + round(HANG_S * 1e9)
        for camera, thread in threads.items():
            while thread.is_alive() and self._clock() < deadline_ns:
                self._tick()
                thread.join(self._tick_s / 5)
            if thread.is_alive():
                self._stuck[camera] = thread
                _log.error("camera %r could not be let go within %g s; its driver hangs", camera, HANG_S)
        self._is_open = False

    def _let_go(self, source: FrameSource) -> None:
        try:
            source.close()
        except Exception:  # noqa: BLE001 - the others are let go all the same
            _log.exception("camera %r could not be let go", source.name)

    def execute(
        self, *, cameras: Iterable[str] | None = None, limit: int | None = None, trigger: tuple[str, int] | None = None
    ) -> None:
        """Acquire and judge until `stop`, `abort`, `limit`, or until the cameras are at their end.

        Args:
            cameras: those that acquire; None for all.
            limit: so many parts, dropped ones not counted.
            trigger: camera and number of a software trigger to be sent once.

        Raises:
            CameraError: a camera was lost, or refuses to acquire; what had been grabbed was inspected first.
            InferenceError: the engine hangs.
            ProtocolError: a verdict could not be published.
        """
        if self._judge_thread is not None and self._judge_thread.is_alive():
            # Two threads would have one engine.
            raise InferenceError(_engine_hangs(self._judging_s))
        self._leave_cameras()
        if any(thread.is_alive() for thread in self._lost_attendants):
            # It would take frames from the thread that grabs.
            raise CameraError(_hangs(*(source.name for source in self._sources)))
        self._lost_attendants.clear()
        self._failure = None
        sources = [source for source in self._sources if cameras is None or source.name in set(cameras)]
        slots = {source.name: self._slots[source.name] for source in sources}
        execution = _Execution(Mailbox(slots, limit=limit), sources, trigger, self._clock() + round(_TRIGGER_S * 1e9))
        self._execution = execution
        try:
            self._each("start", sources)
            self._work(execution)
        finally:
            self._end(execution)
        if execution.mailbox.failure is not None:
            raise execution.mailbox.failure

    def _end(self, execution: _Execution) -> None:
        """Add up what was done; whatever went wrong, no part is left without a verdict."""
        mailbox = execution.mailbox
        mailbox.close()
        for arrival in mailbox.give_up():
            self._finish(self._refused(arrival, "the line ended before it was inspected"))
        self._publisher.flush()
        self._failure = mailbox.failure
        self._accepted_before += mailbox.accepted
        self._dropped_before += mailbox.dropped
        self._execution = None
        for source in execution.sources:
            if source in self._sources:
                source.stop()
        if self._is_open:
            self._attend_cameras()

    # Between executions

    def _attend_cameras(self) -> None:
        """A camera that is away is looked for although nothing is acquired."""
        if self._attendant is None:
            self._attending = threading.Event()
            self._attending.set()
            self._attendant = threading.Thread(
                target=self._attend_all, args=(self._attending,), name="attend", daemon=True
            )
            self._attendant.start()

    def _leave_cameras(self) -> None:
        attendant, self._attendant = self._attendant, None
        if attendant is not None:
            self._attending.clear()
            deadline_ns = self._clock() + round(HANG_S * 1e9)
            while attendant.is_alive() and self._clock() < deadline_ns:
                self._tick()
                attendant.join(self._tick_s / 5)
            if attendant.is_alive():
                self._lost_attendants.append(attendant)

    def _attend_all(self, attending: threading.Event) -> None:
        while attending.is_set():
            for source in list(self._sources):
                if not attending.is_set():
                    return
                try:
                    source.attend()
                except InspectdError as error:
                    _log.error("%s", error)  # its status says so too
                    attending.clear()
            time.sleep(READ_S / 2)

    def wait_for(self, act: Callable[[], None]) -> None:
        """Do something that may take seconds in a thread of its own; heartbeats go on meanwhile.

        Raises:
            Exception: what it raises.
        """
        self._opening_since_ns = self._clock()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="wait") as worker:
                doing = worker.submit(act)
                while not doing.done():
                    self._tick()
                    wait([doing], self._tick_s)
                doing.result()
        finally:
            self._opening_since_ns = 0
            self._opened += 1

    def _each(self, step: Literal["open", "start"], sources: Sequence[FrameSource] | None = None) -> None:
        """In a thread of its own, for a camera may take seconds, and the heartbeat must not wait for it."""
        faults = []
        for source in self._sources if sources is None else sources:
            if self._stop:
                break
            try:
                self.wait_for(source.open if step == "open" else source.start)
            except CameraError as error:
                faults.append(error)
        if faults:
            raise faults[0] if len(faults) == 1 else CameraError("\n".join(map(str, faults)))

    # One execution

    def _work(self, execution: _Execution) -> None:
        threads = {
            source.name: threading.Thread(
                target=self._grab, args=(source, execution.mailbox), name=f"grab-{source.name}", daemon=True
            )
            for source in execution.sources
        }
        judge = threading.Thread(target=self._judge_all, args=(execution.mailbox,), name="judge", daemon=True)
        self._judge_thread = judge
        for thread in (judge, *threads.values()):
            thread.start()
        try:
            while not execution.mailbox.finished:
                self._turn(execution)
        finally:
            execution.mailbox.close()
            self._join([thread for camera, thread in threads.items() if camera not in self._hanging])
            self._stuck = {camera: thread for camera, thread in threads.items() if thread.is_alive()}
            stuck = list(self._stuck)
            # To close a camera whose driver is still at work may hang as well, or crash it.
            self._sources = [source for source in self._sources if source.name not in stuck]
        if execution.mailbox.failure is None and stuck:
            raise CameraError(_hangs(*stuck))
        self._join([judge])
        if not judge.is_alive():
            self._do_jobs()  # that came too late for it
        else:
            raise InferenceError(_engine_hangs(self._judging_s))

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for threads to end; what waits for the disk is published meanwhile, and heartbeats go on."""
        deadline_ns = self._clock() + round(HANG_S * 1e9)
        while any(thread.is_alive() for thread in threads) and self._clock() < deadline_ns:
            self._tick()
            self._take(self._next(self._tick_s / 5))

    @property
    def _judging_s(self) -> float:
        since_ns = self._judging_since_ns
        return (self._clock() - since_ns) / 1e9 if since_ns else 0.0

    def _turn(self, execution: _Execution) -> None:
        mailbox = execution.mailbox
        self._publisher.drops = self.dropped + self.lost
        self.tell_health()
        if mailbox.failure is not None:
            self._publisher.state = State.ERROR
        self._tick()
        if self._stop:
            mailbox.close()
        if self._abort:
            for arrival in mailbox.give_up():
                self._finish(self._refused(arrival, ABORTED))
        self._give_up_hanging(mailbox)
        if self._judging_s > JUDGE_S:
            raise InferenceError(_engine_hangs(self._judging_s))
        self._send_trigger(execution)
        now_ns = self._clock()
        for arrival in mailbox.overdue(now_ns):
            self._overdue += 1
            limit_ms = self._slots[arrival.frame.camera].deadline_ns / 1e6
            self._finish(self._refused(arrival, f"no verdict within its deadline of {limit_ms:g} ms"))
        due_ns = mailbox.next_due_ns
        until_due_s = self._tick_s if due_ns is None else max(0.0, (due_ns - now_ns) / 1e9)
        self._take(self._next(min(self._tick_s, until_due_s)))

    def _tick(self) -> None:
        self._publisher.tick()
        self.each_turn()

    def _next(self, timeout_s: float) -> _Judged | Callable[[], None] | None:
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _take(self, item: _Judged | Callable[[], None] | None) -> None:
        # Not all that is there: commands that come as fast as they are done would keep heartbeats waiting.
        for left in reversed(range(_TAKEN_A_TURN)):
            if isinstance(item, _Judged):
                self._take_judged(item)
            elif item is not None:
                item()
            if not left or self._inbox.empty():
                break
            item = self._inbox.get_nowait()  # this thread alone takes from it
        self._publisher.pump()

    def _take_judged(self, judged: _Judged) -> None:
        if self._execution is None or judged.mailbox is not self._execution.mailbox:
            return  # of an execution that is over: its parts have their verdicts, and numbers begin anew
        if judged.died is not None:
            raise judged.died
        if judged.inspection is None:
            return
        # Of what passes no part the reason is worth more than the deadline.
        passes = judged.inspection.verdict is not Verdict.NOT_INSPECTED
        is_in_time = judged.mailbox.settle(judged.number, self._clock() if passes else None)
        self._judge_model(judged, is_in_time=is_in_time)
        if not is_in_time:
            self._too_late += 1
            frame = judged.inspection.frame
            _log.warning(
                "camera %r: frame %d: its result came after its deadline: NOT_INSPECTED",
                frame.camera,
                frame.frame_id,
            )
            return
        inspection = judged.inspection
        if self._abort:
            # What came while cameras stopped, or was there already: nobody knows what its verdict is worth.
            inspection = self._refused(Arrival(inspection.frame), ABORTED)
        try:
            self._finish(inspection)
        except ProtocolError as error:
            # A part that was taken up has a verdict, whatever cannot be said of it.
            self._finish(
                replace(
                    inspection,
                    verdict=Verdict.NOT_INSPECTED,
                    defects=(),
                    mask=None,
                    image=None,
                    reason=f"its result could not be published: {error}",
                )
            )
            raise

    def _judge_model(self, judged: _Judged, *, is_in_time: bool) -> None:
        """What a frame says of the model that judged it, while that is on trial."""
        current = self.models.current
        if judged.model is None or judged.inspection is None or current is None:
            return
        if judged.model.engine is not current.engine or not judged.was_inferred:
            return
        # Those of the model before are its own: it may have been too slow itself.
        if is_in_time or self._late_engine is not current.engine:
            self._late_in_a_row, self._late_engine = 0, current.engine
        self._late_in_a_row += not is_in_time
        why = judged.inspection.reason if judged.is_our_fault else ""
        if self._late_in_a_row >= _LATE_IN_A_ROW:
            why = f"{_LATE_IN_A_ROW} results in a row came after their deadline"
        if not why:
            if is_in_time:
                self.models.passed()
        elif self.models.is_watched:
            self._late_in_a_row = 0
            self.models.roll_back()
            self.swap_failed(why)

    def _send_trigger(self, execution: _Execution) -> None:
        if execution.trigger is None:
            return
        camera, number = execution.trigger
        source = next(source for source in execution.sources if source.name == camera)
        if source.status.state is CameraState.STREAMING or self._clock() > execution.trigger_by_ns:
            execution.trigger = None
            source.trigger(number)

    def _give_up_hanging(self, mailbox: Mailbox) -> None:
        """A camera that hangs would leave a line that looks alive and inspects nothing."""
        for camera, since_ns in self._reading_since_ns.items():
            if since_ns is not None and self._clock() - since_ns > HANG_S * 1e9:
                self._hanging.add(camera)
                mailbox.finish(camera, CameraError(_hangs(camera)))

    def tell_health(self) -> None:
        """What the heartbeats say of the station: the worst that is so now."""
        health, reason = self.standing
        self._publisher.camera_status = self.cameras()
        # While the line runs, a camera that is open and does not acquire inspects nothing either.
        running = self._publisher.state is State.CONTINUOUS_EXECUTION
        well = {CameraState.STREAMING} if running else {CameraState.STREAMING, CameraState.READY}
        away = [
            status.reason or f"camera {name!r} does not acquire yet"
            for name, status in self._publisher.camera_status.items()
            if status.state not in well
        ]
        if away and (self._is_open or running):
            health, reason = DeviceHealth.FAILURE, "; ".join(away)
        model = self.models.current
        if model is not None and (why := model.engine.failure) is not None:
            health, reason = DeviceHealth.FAILURE, f"the engine failed: {why}"
            if not self._engine_failed:
                _log.error("NOTHING MORE IS INSPECTED UNTIL THE LINE IS STARTED AGAIN: %s", why)
            self._engine_failed = True
        self._publisher.health, self._publisher.health_reason = health, reason

    def _finish(self, inspection: Inspection) -> None:
        if inspection.image is not None:
            self.image_watch.note(inspection.frame.camera, inspection.image)
        self._publisher.publish(inspection)
        if inspection.verdict is Verdict.NOT_INSPECTED:
            frame = inspection.frame
            _log.warning("camera %r: frame %d not inspected: %s", frame.camera, frame.frame_id, inspection.reason)

    def _note_sent(self, sent: Sent) -> None:
        inspection = sent.inspection
        received_ns, timings = inspection.frame.received_ns, inspection.timings
        self._last_ns = self._clock()
        self._first_ns = self._first_ns or received_ns
        total_ms = (self._last_ns - received_ns) / 1e6
        self._latencies_ms.append(total_ms)
        self._histograms["total"].add(total_ms)
        if inspection.verdict is not Verdict.NOT_INSPECTED:
            for stage, took_ms in (
                ("wait", timings.wait_ms),
                ("pre", timings.pre_ms),
                ("infer", timings.infer_ms),
                ("post", timings.post_ms),
            ):
                self._histograms[stage].add(took_ms)
        if sent.durable:
            self._histograms["journal"].add(sent.journal_ms)
        else:
            self._not_durable += 1
        self._verdicts[inspection.verdict] += 1
        self._archive(sent)

    # The thread that judges

    def _judge_all(self, mailbox: Mailbox) -> None:
        try:
            while not mailbox.drained:
                self.models.close_retired()
                # One, and then a look for a part: what is asked for without end keeps none waiting.
                if mailbox.is_empty or self._clock() - self._job_done_ns > JOB_S * 1e9:
                    self._do_job()
                got = mailbox.get(READ_S if self._jobs.empty() else 0.0)
                if got is not None:
                    number, arrival = got
                    self.judges(True)
                    try:
                        self._inbox.put(self._judge(mailbox, number, arrival))
                    finally:
                        self.judges(False)
        except BaseException as error:  # noqa: BLE001 - a thread that dies unseen would leave a line that inspects nothing
            failure = InferenceError(f"the thread that judges died of {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._inbox.put(_Judged(mailbox, 0, None, died=failure))
        self._do_jobs()
        self._inbox.put(None)

    def _do_jobs(self) -> None:
        # Those that are there: what they ask for again is done once cameras stand still.
        for _ in range(self._jobs.qsize()):
            self._do_job()

    def _do_job(self) -> None:
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            return
        self._judging_since_ns = self._clock()
        job()
        self._judging_since_ns, self._job_done_ns = 0, self._clock()

    def _judge(self, mailbox: Mailbox, number: int, arrival: Arrival) -> _Judged:
        model = self.models.current
        if arrival.fault or model is None:
            return _Judged(mailbox, number, self._refused(arrival, arrival.fault or "the station has no model"), model)
        begun_ns = self._clock()
        limit_ns = self._slots[arrival.frame.camera].deadline_ns
        if limit_ns and begun_ns - arrival.frame.received_ns >= limit_ns:
            # It was too old when it came; the deadline gives it its verdict, and it says nothing of the model.
            return _Judged(mailbox, number, None, model)
        self._judging_since_ns = begun_ns
        optics = self._optics[arrival.frame.camera]
        self.gives_grey[arrival.frame.camera] = arrival.frame.pixels.shape[2] == 1
        try:
            # The first of all: what was not taken of this part is not corrected, measured or painted on either.
            self.frozen[arrival.frame.camera].look(arrival.frame)
            frame, health = optics.prepare(arrival.frame)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows whether the picture is one
            self._judging_since_ns = 0
            return _Judged(mailbox, number, self._refused(arrival, str(error) or type(error).__name__), model)
        inspection = model.inspector.inspect(frame, begun_ns=begun_ns)
        self.inspected(inspection)
        failed = inspection.verdict is Verdict.NOT_INSPECTED
        inspection = optics.conclude(inspection, health)
        self._judging_since_ns = 0
        self._judged += 1
        return _Judged(mailbox, number, inspection, model, is_our_fault=failed, was_inferred=True)

    def _refused(self, arrival: Arrival, reason: str) -> Inspection:
        model = self.models.current
        return Inspection(
            frame=arrival.frame,
            verdict=Verdict.NOT_INSPECTED,
            defects=(),
            mask=None,
            bundle_digest="" if model is None else model.bundle.digest,
            reason=reason,
        )

    # The cameras' threads

    def _grab(self, source: FrameSource, mailbox: Mailbox) -> None:
        """A camera's thread: whatever ends it is told to the mailbox."""
        try:
            self._grab_until_refused(source, mailbox)
        except EndOfFrames:
            mailbox.finish(source.name)
        except InspectdError as error:
            mailbox.finish(source.name, error)
        except BaseException as error:  # noqa: BLE001 - a thread that dies unseen would leave a line that inspects nothing
            failure = CameraError(f"camera {source.name!r}: its thread died of {type(error).__name__}: {error}")
            failure.__cause__ = error
            mailbox.finish(source.name, failure)
        else:
            mailbox.finish(source.name)
        self._inbox.put(None)

    def _grab_until_refused(self, source: FrameSource, mailbox: Mailbox) -> None:
        stop_by_ns = 0
        while not mailbox.is_full:
            if mailbox.is_over and not stop_by_ns:
                source.stop()
                stop_by_ns = self._clock() + round(DRAIN_S * 1e9)
            self._reading_since_ns[source.name] = self._clock()
            try:
                arrival = Arrival(source.read(READ_S))
            except FrameTimeout:
                if stop_by_ns and self._clock() > stop_by_ns:
                    return
                continue
            except DamagedFrame as error:
                arrival = Arrival(error.frame, str(error))
            except IncompleteFrame as error:
                frame = stand_in(source.name, 0, acquired_ns=self._utc(), received_ns=self._clock())
                arrival = Arrival(frame, str(error) or "incomplete frame")
            finally:
                self._reading_since_ns[source.name] = None
            if not mailbox.put(source.name, arrival):
                return


def open_limit_s(config: Config) -> float:
    """How long a station may take to open what it judges by, s."""
    return BUILD_S if config.model.rebuild else OPEN_S


def _engine_hangs(seconds: float) -> str:
    return f"the engine has not come back from a frame for {seconds:.0f} s; it hangs. Start the line again"


def _hangs(*cameras: str) -> str:
    return (
        f"camera {', '.join(map(repr, cameras))}: has not come back within {HANG_S:g} s; its driver hangs. "
        f"Check cable and power, and start the line again"
    )
