"""The line: cameras, inspection, publishing.

    camera ── grab thread ── mailbox ── inspect ── publish
    camera ── grab thread ──┘           └── main thread ──┘

Every frame that is grabbed and not dropped gets exactly one verdict. A camera that looks for its device again by
itself is told in the heartbeats as long as it is away, and the line goes on with the others. A thread that dies takes
the line down with its error, after what was grabbed has been inspected.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from inspectd.bundle import Bundle
from inspectd.config import Config, effective_rule
from inspectd.errors import CameraError, EndOfFrames, FrameTimeout, IncompleteFrame, InspectdError
from inspectd.frame import CameraState, CameraStatus, FrameSource
from inspectd.inspection import Inspection, Verdict
from inspectd.wire import DeviceHealth, State

from .engine import Engine, self_test
from .inspector import Inspector
from .mailbox import Arrival, Mailbox, Slot
from .messaging import Publisher
from .sources.damaged import DamagedFrame, stand_in

__all__ = ["Line", "Summary"]

READ_S = 0.1
"""How long a camera is waited for before its thread looks whether the line stops."""
HANG_S = 10.0
"""A camera that does not come back from a read for so long hangs in its driver; so long may its thread take to end."""
LATENCIES_KEPT = 100_000
"""Frames that the percentiles of the latency are taken over: the latest."""

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

    @property
    def complete(self) -> bool:
        """Whether every frame got exactly one verdict."""
        return self.frames == self.verdicts == self.ok + self.ng + self.review + self.not_inspected

    def to_json(self) -> str:
        """One line of JSON."""
        latency = {"p50": round(self.latency_p50_ms, 3), "p99": round(self.latency_p99_ms, 3)}
        counts = ("frames", "verdicts", "ok", "ng", "review", "not_inspected", "dropped", "lost")
        values = {name: getattr(self, name) for name in counts}
        cameras = {name: {**asdict(status), "state": status.state.value} for name, status in self.cameras.items()}
        return json.dumps({**values, "fps": round(self.fps, 2), "latency_ms": latency, "cameras": cameras})


class Line:
    """A line on its way; made for one `run`.

    Args:
        config: the configuration.
        bundle: what judges.
        engine: what runs it.
        sources: the cameras, in the order of the configuration; opened and closed here.
        publisher: where verdicts go; opened and closed by the caller.
        frames: stop after so many; None to go on until `stop` or until all cameras are at their end.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.

    Raises:
        ConfigError: the acceptance rule does not fit the bundle.
    """

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        engine: Engine,
        sources: Sequence[FrameSource],
        publisher: Publisher,
        *,
        frames: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
        rule = effective_rule(config.acceptance, bundle.class_map, thresholds)
        scales = {name: camera.scale_mm_per_px for name, camera in config.cameras.items()}
        slots = {name: Slot(camera.queue_frames, camera.free_running) for name, camera in config.cameras.items()}
        self._bundle = bundle
        self._engine = engine
        self._cameras = tuple(sources)
        self._sources = list(sources)
        self._publisher = publisher
        self._free_running = {name: camera.free_running for name, camera in config.cameras.items()}
        self._inspector = Inspector(bundle, engine, rule, scales=scales, clock=clock)
        self._mailbox = Mailbox(slots, limit=frames)
        self._clock = clock
        self._utc = utc
        # Cameras' threads end within a fraction of the heartbeat's period, and so does the wait for frames.
        self._tick_s = min(READ_S, config.publish.heartbeat_ms / 4000)
        self._stop = False
        self._is_open = False
        self._engine_failed = False
        self._as_started = (publisher.health, publisher.health_reason)
        self._reading_since_ns: dict[str, int | None] = dict.fromkeys(config.cameras)
        self._hanging: set[str] = set()
        self._verdicts: Counter[Verdict] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._first_ns = 0
        self._last_ns = 0

    def stop(self) -> None:
        """Grab nothing more, inspect what was grabbed, end. Takes no lock, so that a signal handler can call it."""
        self._stop = True

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop

    @property
    def failure(self) -> Exception | None:
        """Why a camera's thread ended, if it did not end as it should."""
        return self._mailbox.failure

    def summary(self) -> Summary:
        """What has been done so far."""
        seconds = (self._last_ns - self._first_ns) / 1e9
        verdicts = self._verdicts.total()
        p50, p99 = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (0.0, 0.0)
        return Summary(
            frames=self._mailbox.accepted,
            verdicts=verdicts,
            ok=self._verdicts[Verdict.OK],
            ng=self._verdicts[Verdict.NG],
            review=self._verdicts[Verdict.REVIEW],
            not_inspected=self._verdicts[Verdict.NOT_INSPECTED],
            dropped=self._dropped,
            lost=self._lost,
            cameras=self._status(),
            fps=verdicts / seconds if seconds > 0 else 0.0,
            latency_p50_ms=float(p50),
            latency_p99_ms=float(p99),
        )

    def open(self) -> None:
        """Self-test, and connect to the cameras; heartbeats go on meanwhile.

        Raises:
            BundleError: the self-test failed.
            CameraError: cameras could not be opened; every fault, one a line.
        """
        self._publisher.tick()
        try:
            self_test(self._engine, self._bundle)
            self._each("open")
            self._tell_health()
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
                self._each("start")
                self._work()
        except BaseException:
            self._publisher.state = State.ERROR
            raise
        finally:
            self.close()
        self._publisher.state = State.HALTED
        self._publisher.tick()

    def close(self) -> None:
        """Let the cameras go; `run` does so too."""
        for source in self._sources:
            source.close()

    def _each(self, step: Literal["open", "start"]) -> None:
        """In a thread of its own, for a camera may take seconds, and the heartbeat must not wait for it."""
        faults = []
        with ThreadPoolExecutor(1, thread_name_prefix=step) as worker:
            for source in self._sources:
                if self._stop:
                    break
                doing = worker.submit(source.open if step == "open" else source.start)
                while not doing.done():
                    self._publisher.tick()
                    wait([doing], self._tick_s)
                try:
                    doing.result()
                except CameraError as error:
                    faults.append(error)
        if faults:
            raise faults[0] if len(faults) == 1 else CameraError("\n".join(map(str, faults)))

    def _work(self) -> None:
        threads = {
            source.name: threading.Thread(target=self._grab, args=(source,), name=f"grab-{source.name}", daemon=True)
            for source in self._sources
        }
        self._publisher.state = State.CONTINUOUS_EXECUTION
        for thread in threads.values():
            thread.start()
        try:
            self._inspect_all()
        finally:
            self._mailbox.close()
            for camera, thread in threads.items():
                thread.join(0 if camera in self._hanging else HANG_S)
            stuck = [camera for camera, thread in threads.items() if thread.is_alive()]
            # To close a camera whose driver is still at work may hang as well, or crash it.
            self._sources = [source for source in self._sources if source.name not in stuck]
        if self.failure is not None:
            raise self.failure
        if stuck:
            raise CameraError(_hangs(*stuck))

    def _inspect_all(self) -> None:
        while not self._mailbox.drained:
            self._publisher.drops = self._dropped + self._lost
            self._tell_health()
            if self.failure is not None:
                self._publisher.state = State.ERROR
            self._publisher.tick()
            if self._stop:
                self._mailbox.close()
            self._give_up_hanging()
            arrival = self._mailbox.get(self._tick_s)
            if arrival is not None:
                self._finish(self._judge(arrival))

    def _give_up_hanging(self) -> None:
        """A camera that hangs would leave a line that looks alive and inspects nothing."""
        for camera, since_ns in self._reading_since_ns.items():
            if since_ns is not None and self._clock() - since_ns > HANG_S * 1e9:
                self._hanging.add(camera)
                self._mailbox.finish(camera, CameraError(_hangs(camera)))

    @property
    def _dropped(self) -> int:
        """Frames that gave way: in the mailbox, or where a camera's process found no place."""
        return self._mailbox.dropped + sum(
            status.overruns for name, status in self._status().items() if self._free_running[name]
        )

    @property
    def _lost(self) -> int:
        return sum(status.missed for status in self._status().values())

    def _status(self) -> dict[str, CameraStatus]:
        return {source.name: source.status for source in self._cameras}

    def _tell_health(self) -> None:
        """What the heartbeats say of the station: the worst that is so now."""
        health, reason = self._as_started
        self._publisher.camera_status = self._status()
        # While the line runs, a camera that is open and does not acquire inspects nothing either.
        running = self._publisher.state is State.CONTINUOUS_EXECUTION
        well = {CameraState.STREAMING} if running else {CameraState.STREAMING, CameraState.READY}
        away = [
            status.reason or f"camera {name!r} does not acquire yet"
            for name, status in self._publisher.camera_status.items()
            if status.state not in well
        ]
        if away:
            health, reason = DeviceHealth.FAILURE, "; ".join(away)
        if (why := self._engine.failure) is not None:
            health, reason = DeviceHealth.FAILURE, f"the engine failed: {why}"
            if not self._engine_failed:
                _log.error("NOTHING MORE IS INSPECTED UNTIL THE LINE IS STARTED AGAIN: %s", why)
            self._engine_failed = True
        self._publisher.health, self._publisher.health_reason = health, reason

    def _judge(self, arrival: Arrival) -> Inspection:
        if not arrival.fault:
            return self._inspector.inspect(arrival.frame)
        return self._inspector.refuse(arrival.frame, arrival.fault)

    def _finish(self, inspection: Inspection) -> None:
        frame = inspection.frame
        self._publisher.publish(inspection)
        self._last_ns = self._clock()
        self._first_ns = self._first_ns or frame.received_ns
        self._latencies_ms.append((self._last_ns - frame.received_ns) / 1e6)
        self._verdicts[inspection.verdict] += 1
        if inspection.verdict is Verdict.NOT_INSPECTED:
            _log.warning("camera %r: frame %d not inspected: %s", frame.camera, frame.frame_id, inspection.reason)

    def _grab(self, source: FrameSource) -> None:
        """A camera's thread: whatever ends it is told to the mailbox."""
        try:
            self._grab_until_refused(source)
        except EndOfFrames:
            self._mailbox.finish(source.name)
        except InspectdError as error:
            self._mailbox.finish(source.name, error)
        except BaseException as error:  # noqa: BLE001 - a thread that dies unseen would leave a line that inspects nothing
            failure = CameraError(f"camera {source.name!r}: its thread died of {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._mailbox.finish(source.name, failure)
        else:
            self._mailbox.finish(source.name)

    def _grab_until_refused(self, source: FrameSource) -> None:
        while not self._mailbox.is_over:
            self._reading_since_ns[source.name] = self._clock()
            try:
                arrival = Arrival(source.read(READ_S))
            except FrameTimeout:
                continue
            except DamagedFrame as error:
                arrival = Arrival(error.frame, str(error))
            except IncompleteFrame as error:
                frame = stand_in(source.name, 0, acquired_ns=self._utc(), received_ns=self._clock())
                arrival = Arrival(frame, str(error) or "incomplete frame")
            finally:
                self._reading_since_ns[source.name] = None
            if not self._mailbox.put(source.name, arrival):
                return


def _hangs(*cameras: str) -> str:
    return (
        f"camera {', '.join(map(repr, cameras))}: has not come back from a read within {HANG_S:g} s; its driver hangs. "
        f"Check cable and power, and start the line again"
    )
