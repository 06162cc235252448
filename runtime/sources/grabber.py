"""A camera as the line sees it: a process that has it open, and another one when that has failed.

    absent, held, lost, hanging, killed  ──  the process ends or is ended  ──  after a while the next one

Whatever becomes of the process, the line goes on, the status says what is wrong, and frames that had come stay as they
are. Every software trigger comes back once: as a frame, or as a DamagedFrame with the reason.

The parts of a camera that a line triggers are counted here, from 1 at each start, as whoever triggers it counts them.
Where it is not certain any more which part a frame shows, it has the number 0, which is nobody's, until the next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from inspectd.config import GenicamCamera
from inspectd.errors import CameraAway, CameraError, CameraLost, EndOfFrames, FrameTimeout
from inspectd.frame import CameraState, CameraStatus, Frame
from inspectd.runtime.ending import kill_and_reap
from inspectd.runtime.restarts import BackOff, History
from inspectd.runtime.signals import interrupts_held

from .damaged import DamagedFrame, stand_in
from .frame_ids import MOST_MISSED, FrameIds, Step
from .genicam import gives_part_numbers
from .grab import OVERRUN
from .grab_link import Kind, Link, LinkClosed, Packet
from .ring import FrameRing, RingDamaged

__all__ = ["GrabProcess", "Grabber"]

COMMAND = (sys.executable, "-m", "inspectd.runtime.sources.grab")
OPEN_S = 30.0
"""So long may it take to find and open a camera: discovery on a network alone takes seconds."""
SILENT_S = 5.0
"""A process that has told nothing for so long hangs in its producer, and is killed."""
PAUSE_S = 5.0
"""So long may a camera take to stop acquiring before it is started again."""
STOP_S = 3.0
"""So long may a process take to let its camera go; a GigE camera that was not let go stays locked for a while."""
LATE_NS = 1_000_000_000
BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
"""Between two attempts to reach a camera; the last one goes on."""
_OPEN_POLL_S = 0.1
_LAST_PART = 0xFFFF_FFFF  # what a header has room for; 1 comes after it, for 0 is no part
_log = logging.getLogger("inspectd.camera")


class Grabber:
    """A GenICam camera in a process of its own, connected again whenever it is lost; a `FrameSource`.

    Args:
        name: of the camera in the configuration.
        camera: its settings.
        too_often: how many failures of its processes are too many, and how long in health makes up for them; its pauses
            are not for cameras, which are looked for at least every 5 s.
        clock: ns, monotonic; the one of its processes too.
        utc: ns since the Unix epoch.
        sleep: seconds.
    """

    def __init__(
        self,
        name: str,
        camera: GenicamCamera,
        *,
        too_often: BackOff | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._camera = camera
        self._clock = clock
        self._utc = utc
        self._sleep = sleep
        self._child: GrabProcess | None = None
        self._wanted = self._pausing = False
        self._complained = self._device = self._pixel_format = ""
        self._attempts = 0
        self._next_attempt_ns = 0
        self._too_often = too_often or BackOff()
        self._history = History()
        self._connected_ns = 0
        self._ids = FrameIds()
        self._numbers_parts = not (
            camera.free_running or camera.trigger == "Software" or gives_part_numbers(camera.producer)
        )
        self._part: int | None = None  # the latest since the start; None where that is not known
        self._ready: deque[Frame | DamagedFrame] = deque()
        self._triggers: deque[int] = deque()
        self._answer_by_ns = 0  # for the first of them, which alone has been sent; 0 where it was not
        self._lock = threading.Lock()
        self._status = CameraStatus(CameraState.CONNECTING, "is not opened yet")

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""
        return self._name

    @property
    def status(self) -> CameraStatus:
        """How it is; may be asked from any thread."""
        return self._status

    @property
    def process(self) -> int | None:
        """Number of the process that has the camera, None while there is none."""
        return None if self._child is None else self._child.number

    def open(self) -> None:
        """Start the process and wait until it has the camera, or has said why not.

        Raises:
            CameraError: settings that the camera does not take, no producer; and where it does not reconnect, a camera
                that is away.
        """
        # Opened again, it is as unknown as at first.
        with self._lock:
            self._triggers.clear()
            self._answer_by_ns = 0
            self._set(state=CameraState.CONNECTING, reason="is not opened yet")
        self._ready.clear()
        with self._complaining():
            self._connect()
        self._hear_while(CameraState.CONNECTING)

    def start(self) -> None:
        """Acquire from now on, or as soon as the camera is there.

        Raises:
            CameraError: it refuses; where it does not reconnect, also a camera that is gone.
        """
        deadline_ns = self._clock() + round(PAUSE_S * 1e9)
        while self._pausing and self._clock() < deadline_ns:
            with self._complaining():
                self._hear(_OPEN_POLL_S)
        # What came after the last one was read is of before.
        self._ready.clear()
        self._pausing = False
        self._wanted = True
        self._part = None
        self._set(uncounted="")
        is_there = self._status.state is CameraState.READY
        if is_there:
            self._begin()
            self._hear_while(CameraState.READY)
        if is_there and self._status.state is CameraState.STREAMING:
            self._part = 0 if self._numbers_parts else None
        else:
            self._lose_count("it was not there when the line was started")

    def stop(self) -> None:
        """Acquire nothing more; what is on its way can still be read. Never waits."""
        if not self._wanted:
            return
        self._wanted = False
        with self._lock:
            unsent = [number for number in self._triggers if not self._answer_by_ns or number != self._triggers[0]]
            self._triggers = deque(list(self._triggers)[:1] if self._answer_by_ns else [])
        for number in unsent:
            self._ready.append(self._missing(0, number, f"trigger {number} was not sent: the camera was stopped"))
        if self._child is not None and self._status.state is CameraState.STREAMING:
            self._pausing = True
            with contextlib.suppress(LinkClosed):
                self._child.link.tell(Kind.PAUSE)

    def attend(self) -> None:
        """See to the camera while nothing is acquired.

        Raises:
            CameraError: it is gone, and is not looked for again.
        """
        with self._complaining():
            if self._child is None:
                self._look_again(0)
            else:
                self._hear(0)
        self._ready.clear()

    def read(self, timeout_s: float) -> Frame:
        """The next frame; see `FrameSource.read`.

        Raises:
            FrameTimeout: nothing came in time, or the camera is away and looked for.
            DamagedFrame: a frame came whose picture cannot be used; or, triggered, one that should have come did not.
            CameraLost, CameraError: the camera is gone or refuses its settings, and is not looked for again.
        """
        deadline_ns = self._clock() + round(timeout_s * 1e9)
        while not self._ready:
            if not self._wanted and not self._pausing:
                raise EndOfFrames(f"camera {self._name!r}: is stopped")
            left_s = (deadline_ns - self._clock()) / 1e9
            if left_s <= 0:
                raise FrameTimeout(f"camera {self._name!r}: no frame within {timeout_s:g} s")
            with self._complaining():
                if self._child is None:
                    self._look_again(left_s)
                else:
                    self._hear(left_s)
        arrived = self._ready.popleft()
        if isinstance(arrived, DamagedFrame):
            raise arrived
        return arrived

    def trigger(self, trigger_id: int) -> None:
        """Send a software trigger; the answer comes by `read`: a frame with this number, or why there is none.

        May be called from any thread.

        Args:
            trigger_id: the PLC's number of the part.
        """
        with self._lock:
            if self._child is not None and self._status.state is CameraState.STREAMING:
                self._triggers.append(trigger_id)
                self._send_trigger()
                return
        why = self._status.reason or "it does not acquire"
        self._ready.append(self._missing(0, trigger_id, f"trigger {trigger_id} came while there was no camera: {why}"))

    def close(self) -> None:
        """Let go of the camera and end the process."""
        self._wanted = self._pausing = False
        if self._child is not None:
            self._child.end()
            self._child = None

    # The process

    def _hear_while(self, state: CameraState) -> None:
        """Settings that are refused are told here, at the start; a camera that is away is looked for by `read`."""
        while self._status.state is state and self._child is not None:
            with self._complaining(of=CameraAway):
                self._hear(_OPEN_POLL_S)

    @contextlib.contextmanager
    def _complaining(self, of: type[CameraError] = CameraError) -> Iterator[None]:
        """An alarm for each new reason; that the camera is still away is no news."""
        try:
            yield
        except of as error:
            if not self._camera.reconnect:
                raise
            if str(error) != self._complained:
                _log.error("%s; looking for it again", error)
            self._complained = str(error)

    def _look_again(self, left_s: float) -> None:
        wait_s = (self._next_attempt_ns - self._clock()) / 1e9
        if wait_s > 0:
            self._sleep(min(wait_s, left_s))
        else:
            self._connect()

    def _connect(self) -> None:
        """Start a process for the camera.

        Raises:
            CameraAway: this machine has no room for one now.
        """
        try:
            self._child = GrabProcess(self._name, self._camera, self._clock)
        except OSError as error:
            raise self._lose(f"no process can be started for it: {error.strerror}", failed=True) from error

    def _hear(self, timeout_s: float) -> None:
        """Take what the process tells next.

        Raises:
            CameraError: the camera or the process is gone; it was ended.
        """
        child = self._child
        if child is None:
            return
        try:
            packet = child.hear(timeout_s)
            self._note_health()
            if packet is not None:
                self._take(child, packet)
                return
        except LinkClosed:
            # What fails at once fails again: a broken installation is no camera that may come back.
            told, broken = child.how_it_ended(), child.failed and self._status.connections == 0
            raise self._lose(told, away=not broken, failed=True) from None
        except RingDamaged as error:
            raise self._lose(str(error), failed=True) from error
        if child.hangs:
            why = f"its producer hangs: nothing was heard of its process for {child.silent_s:.0f} s"
            raise self._lose(why, hangs=True, failed=True)
        if self._answer_by_ns and self._clock() > self._answer_by_ns:
            # Whatever came now could be the answer to this one or to the next.
            raise self._lose(f"it did not answer trigger {self._triggers[0]} in {self._camera.trigger_timeout_ms} ms")

    def _take(self, child: GrabProcess, packet: Packet) -> None:
        match packet.kind:
            case Kind.READY:
                child.take_ring(packet)
                self._check_format(packet.facts["pixel_format"])
                self._connected_ns = self._clock()
                self._device = packet.facts["device"]
                # What is wrong is over only once it acquires again.
                reason = self._status.reason if self._wanted else ""
                self._set(
                    state=CameraState.READY,
                    reason=reason,
                    connections=self._status.connections + 1,
                    serial=packet.facts["serial"],
                )
                self._ids.connect()
                if self._wanted:
                    self._begin()
            case Kind.STARTED:
                if self._complained:
                    _log.warning("camera %r: %s is back", self._name, self._device)
                self._complained = ""
                self._set(state=CameraState.STREAMING, reason="")
            case Kind.PAUSED:
                self._pausing = False
                self._miss(packet.facts["unread"], "was still on its way when the camera was stopped")
                self._ids.pause()
                self._answer_all("the camera was stopped before its picture came")
                self._set(state=CameraState.READY)
                if self._wanted:
                    self._begin()
            case Kind.FRAME:
                # With the frame, for it may be judged when another camera has taken this one's place.
                self._arrive(replace(child.frame(*packet.place), serial=self._status.serial))
            case Kind.UNUSABLE:
                self._arrive_unusable(packet)
            case Kind.LOST:
                facts = packet.facts
                self._miss(facts["unread"], "was not fetched when the camera was lost")
                raise self._lose(facts["reason"], away=facts["away"])
            case _:
                pass

    def _check_format(self, pixel_format: str) -> None:
        """One that lost its power starts with formats of its own, and in grey the network would not see all defects.

        Raises:
            CameraError: it is another one than before; it is looked for again, for it may be set as it was.
        """
        if not self._pixel_format:
            self._pixel_format = pixel_format
        if pixel_format != self._pixel_format:
            raise self._lose(
                f"sends {pixel_format} now, and sent {self._pixel_format} before; set "
                f"cameras.{self._name}.features.PixelFormat to the one that is meant, and start the line again"
            )

    def _begin(self) -> None:
        if self._child is not None:
            # One that has ended meanwhile is noticed by the next `read`.
            with contextlib.suppress(LinkClosed):
                self._child.link.tell(Kind.START)

    def _note_health(self) -> None:
        """A process that has had its camera for long enough makes up for those before."""
        if self._history != History() and self._status.state in (CameraState.READY, CameraState.STREAMING):
            healthy_s = (self._clock() - self._connected_ns) / 1e9
            self._history = self._too_often.after_health(self._history, healthy_s)
            if self._status.failing != self._history.failing:
                self._set(failing=self._history.failing)

    def _lose(self, reason: str, *, away: bool = True, hangs: bool = False, failed: bool = False) -> CameraError:
        """End the process, answer all triggers, and note when to look again; what the caller has to raise.

        `failed` if the process is to blame, and not a camera that is absent.
        """
        if failed:
            self._history, _ = self._too_often.after_failure(self._history, self._clock() / 1e9)
            self._set(failing=self._history.failing)
        told = reason if reason.startswith("camera ") else f"camera {self._name!r}: {reason}"
        child, self._child = self._child, None
        # What was triggered until it is there again nobody knows.
        self._lose_count("it was lost")
        self._pausing = False
        was = self._status.state
        with self._lock:
            self._set(state=CameraState.LOST if self._status.connections else CameraState.CONNECTING, reason=told)
        self._answer_all(told)
        if child is not None:
            child.end(hangs=hangs)
        back_off_s = BACK_OFF_S[min(self._attempts, len(BACK_OFF_S) - 1)]
        self._attempts += 1
        self._next_attempt_ns = self._clock() + round(back_off_s * 1e9)
        if not away:
            return CameraError(told)
        return CameraLost(told) if was is CameraState.STREAMING else CameraAway(told)

    def _answer_all(self, why: str) -> None:
        """Answer the triggers that no frame will answer any more."""
        with self._lock:
            unanswered = list(self._triggers)
            self._triggers.clear()
            self._answer_by_ns = 0
        for number in unanswered:
            self._ready.append(self._missing(0, number, f"no frame for trigger {number}: {why}"))

    # Frames

    def _arrive(self, frame: Frame) -> None:
        self._attempts = 0
        if fault := self._note_step(self._ids.take(frame.frame_id)):
            self._refuse(frame, fault)
            return
        late = frame.camera_clock and self._utc() - frame.acquired_ns > LATE_NS
        status = self._status
        self._set(
            frames=status.frames + 1,
            late=status.late + late,
            host_clock=status.host_clock + (not frame.camera_clock),
        )
        self._ready.append(replace(frame, trigger_id=self._number(frame.trigger_id)))

    def _arrive_unusable(self, packet: Packet) -> None:
        facts = packet.facts
        overrun = facts["cause"] == OVERRUN
        self._note_step(self._ids.take(facts["frame_id"], damaged=not overrun))
        frame = stand_in(
            self._name, facts["frame_id"], acquired_ns=facts["acquired_ns"], received_ns=facts["received_ns"]
        )
        self._refuse(replace(frame, trigger_id=facts["trigger_id"]), facts["reason"], overrun=overrun)

    def _refuse(self, frame: Frame, reason: str, *, overrun: bool = False) -> None:
        """Count a frame whose picture is not to be looked at."""
        if overrun:
            self._set(overruns=self._status.overruns + 1)
        else:
            self._set(unusable=self._status.unusable + 1)
        # A camera that runs freely just has one frame less; of a triggered one it is a part.
        if not (overrun and self._camera.free_running):
            told = stand_in(self._name, frame.frame_id, acquired_ns=frame.acquired_ns, received_ns=frame.received_ns)
            number = self._number(frame.trigger_id)
            self._ready.append(DamagedFrame(reason, replace(told, trigger_id=number)))

    def _note_step(self, step: Step) -> str:
        """Count what is missing before a frame.

        Returns:
            Why it is no picture of a part itself; empty where it is.

        Raises:
            CameraLost: of a camera with software triggers, a frame that cannot be the answer to the one that was sent.
        """
        if self._camera.trigger == "Software":
            self._check_answer(step)
            return ""
        # Where a camera that runs freely began to count is nobody's loss.
        if step.missing and not (step.is_first and self._camera.free_running):
            self._miss(step.missing, f"did not arrive before frame {step.frame_id}: lost between camera and host")
        if step.is_stray and (step.frame_id == step.previous or not self._camera.free_running):
            told = f"frame {step.frame_id} came after frame {step.previous}"
            self._lose_count(told)
            return f"camera {self._name!r}: {told}: which part it shows is not known"
        if step.missing is None:
            self._lose_count(f"its first frame is number {step.frame_id}, and how many were before it is not known")
        return ""

    def _check_answer(self, step: Step) -> None:
        """One trigger is under way at a time, so that a frame can be the answer to no other; if it is an answer."""
        if not self._answer_by_ns:
            raise self._lose(f"frame {step.frame_id} came without a trigger")
        if not step.is_first and (step.missing != 0 or step.frame_id == step.previous):
            raise self._lose(
                f"frame {step.frame_id} came after frame {step.previous}: which trigger it answers is not known"
            )

    def _miss(self, frames: int, why: str) -> None:
        """Count frames that are not there; of a camera that is triggered by a line each is a part."""
        if frames <= 0:
            return
        self._set(missed=self._status.missed + frames)
        if not self._camera.free_running and self._camera.trigger != "Software":
            # A jump that is none must not keep the line busy; all of them are counted.
            told = min(frames, MOST_MISSED)
            self._ready.extend(self._missing(0, self._next_part(), f"a frame {why}") for _ in range(told))
            if frames > told:
                self._lose_count(f"{frames} frames are missing at once")

    def _number(self, of_camera: int) -> int:
        """The number of the part that has just come: the trigger's, the camera's own, or by the station's count."""
        return self._answered() or of_camera or self._next_part()

    def _next_part(self) -> int:
        if self._part is None:
            return 0
        self._part = self._part % _LAST_PART + 1
        return self._part

    def _lose_count(self, why: str) -> None:
        """Give parts no numbers from now on: a wrong one could pass a part by the picture of its neighbour."""
        self._part = None
        if self._numbers_parts and self._wanted and not self._status.uncounted:
            told = (
                f"camera {self._name!r}: which part a frame shows is not known: {why}; until the line is stopped and "
                f"started its parts have no number (trigger_id 0), and a PLC has to reject them"
            )
            _log.error("%s", told)
            self._set(uncounted=told)

    def _answered(self) -> int:
        """The number of the trigger that a frame answers, 0 if there is none; the next one is sent."""
        with self._lock:
            if not self._answer_by_ns:
                return 0
            self._answer_by_ns = 0
            number = self._triggers.popleft()
            self._send_trigger()
        return number

    def _send_trigger(self) -> None:
        """Send the first of those that wait, if none is under way; the lock is held."""
        if self._answer_by_ns or not self._triggers or self._child is None:
            return
        self._answer_by_ns = self._clock() + self._camera.trigger_timeout_ms * 1_000_000
        # A process that takes no packets gives no answer either.
        with contextlib.suppress(LinkClosed):
            self._child.link.tell(Kind.TRIGGER)

    def _missing(self, frame_id: int, trigger_id: int, reason: str) -> DamagedFrame:
        frame = stand_in(self._name, frame_id, acquired_ns=self._utc(), received_ns=self._clock())
        return DamagedFrame(f"camera {self._name!r}: {reason}", replace(frame, trigger_id=trigger_id))

    def _set(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]


class GrabProcess:
    """A process that has one camera open, or is about to.

    Attributes:
        link: to it.
        number: of the process.
    """

    def __init__(self, name: str, camera: GenicamCamera, clock: Callable[[], int]) -> None:
        self._name = name
        self._clock = clock
        self._ring: FrameRing | None = None
        self._ended = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Never written to: that it is closed, by whatever ends the line, ends the process.
        life, self._life = os.pipe()
        self.link = Link(ours, waits=False)
        try:
            # Both may come to the whole group; the line lets its cameras go in its own time.
            with interrupts_held(signal.SIGINT, signal.SIGTERM):
                self._process = subprocess.Popen(
                    [*COMMAND, str(theirs.fileno()), str(life), name, camera.model_dump_json()],
                    pass_fds=(theirs.fileno(), life),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # Modules of the folder that the line was started in are not its own.
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                )
        except OSError:
            ours.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life)
        self.number = self._process.pid
        self._heard_ns = clock()

    @property
    def silent_s(self) -> float:
        """How long nothing was heard of it."""
        return (self._clock() - self._heard_ns) / 1e9

    @property
    def hangs(self) -> bool:
        """Whether nothing was heard of it for longer than it may take to do what it is doing."""
        return self.silent_s > (OPEN_S if self._ring is None else SILENT_S)

    def hear(self, timeout_s: float) -> Packet | None:
        """What it tells next, None if nothing in time.

        Raises:
            LinkClosed: it has ended.
        """
        packet = self.link.receive(timeout_s)
        if packet is not None:
            self._heard_ns = self._clock()
        return packet

    def take_ring(self, packet: Packet) -> None:
        """Map the ring that came with a packet.

        Raises:
            RingDamaged: it is none.
        """
        try:
            ring = FrameRing(packet.descriptor)
        except RingDamaged:
            if packet.descriptor >= 0:
                os.close(packet.descriptor)
            raise
        ring.close()
        self._ring = ring

    def frame(self, slot: int, generation: int) -> Frame:
        """The frame that it told of; its slot is given back when nobody looks at the picture any more.

        Raises:
            RingDamaged: there is another one.
        """
        if self._ring is None:
            raise RingDamaged(f"camera {self._name!r}: its process told of a frame before it had a place for it")
        link = self.link
        return self._ring.lease(slot, generation, self._name, lambda: link.free(slot, generation))

    def how_it_ended(self) -> str:
        """In words, of a process whose link is closed."""
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return "its process has closed its link"
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}, by somebody or by a crash in the producer"
        return f"its process ended with status {status}; what it said is above"

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error of its own, and by no signal."""
        return (self._process.poll() or 0) > 0

    def end(self, *, hangs: bool = False) -> None:
        """Let it let go of its camera; end it if it does not. May be called twice, and from any thread.

        Args:
            hangs: it is known to; it is not waited for.
        """
        if not self._ended.acquire(blocking=False):
            return
        with contextlib.suppress(LinkClosed):
            self.link.tell(Kind.STOP)
        try:
            self._process.wait(0 if hangs else STOP_S)
        except subprocess.TimeoutExpired:
            kill_and_reap(self._process, STOP_S)
        os.close(self._life)
        self.link.close()
