"""A camera's own process: harvesters, which holds the interpreter while it waits, and nothing else.

One process is one connection. When the camera is lost it says why and ends, and what harvesters leaks with each
connection ends with it. The process of the line (grabber.py) starts the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inspectd.config import GenicamCamera
from inspectd.errors import CameraAway, FrameTimeout, InspectdError
from inspectd.frame import Frame
from inspectd.runtime.logs import set_up_as_told

from .damaged import DamagedFrame
from .genicam import GenicamSource
from .grab_link import Kind, Link, LinkClosed
from .ring import FrameRing

__all__ = ["main"]

SPARE_SLOTS = 4
"""Beyond those that wait: one is inspected, one published, one on its way, one written."""
OVERRUN = "overrun"
EXPOSED_S = 1.0
"""So long after a stop, and each frame that comes then, exposure and transfer of a triggered part may take."""
DRAIN_S = 1.5
"""So long at most in all; the line asks its cameras for no more than 2 s."""
_READ_S = 0.05
_TICK_S = 0.2


def main(arguments: list[str] | None = None) -> None:
    """The process: descriptors of the link and of the line's life, name of the camera, its settings as JSON."""
    link_end, life, name, settings = sys.argv[1:] if arguments is None else arguments
    _die_with(int(life))
    set_up_as_told(f"camera-{name}")
    link = Link(socket.socket(fileno=int(link_end)), waits=True)
    camera = GenicamCamera.model_validate_json(settings)
    # A line that has ended could not say so.
    with contextlib.suppress(LinkClosed):
        _Grab(link, camera, GenicamSource(name, camera)).run()
    link.close()


def _die_with(life: int) -> None:
    """End when the other end of a pipe is closed, even while a producer hangs and holds the interpreter.

    A thread could not: it would wait for the interpreter. The kernel's own answer to SIGIO is to end the process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    # A line that has ended before that is told by no signal.
    waiting = select.poll()
    waiting.register(life, select.POLLIN)
    if waiting.poll(0):
        sys.exit(0)


class _Grab:
    """One connection, from opening to its end."""

    def __init__(self, link: Link, camera: GenicamCamera, source: GenicamSource) -> None:
        self._link = link
        self._camera = camera
        self._source = source
        self._slots = camera.queue_frames + SPARE_SLOTS
        self._free = list(range(self._slots))
        self._slot: int | None = None
        self._lent: dict[int, int] = {}
        self._generation = 0
        self._told = 0.0
        self._unanswered = 0  # software triggers
        self._started = self._stopped = False

    def run(self) -> None:
        """Until the camera is lost or the line says stop."""
        try:
            self._source.open()
            self._run()
        except InspectdError as error:
            # What is left in the buffers of a camera that is gone is not inspected: it may be from long ago.
            unread = self._source.unread
            self._link.tell(Kind.LOST, reason=str(error), away=isinstance(error, CameraAway), unread=unread)
        finally:
            self._source.close()

    def _run(self) -> None:
        ring = FrameRing.create(self._slots, self._source.largest_bytes)
        self._link.tell(
            Kind.READY,
            descriptor=ring.descriptor,
            device=self._source.device,
            serial=self._source.serial,
            pixel_format=self._source.pixel_format,
        )
        ring.close()
        self._source.place = partial(self._place, ring)
        while not self._stopped:
            while not self._started and not self._stopped:
                self._hear(_TICK_S)
                self._tick()
            if not self._stopped:
                self._acquire(ring)

    def _acquire(self, ring: FrameRing) -> None:
        """Until the line says stop, or pause."""
        self._source.start()
        self._link.tell(Kind.STARTED)
        while self._started and not self._stopped:
            self._take(ring)
            self._hear(0)
        if not self._stopped:
            self._source.end_exposures()
            self._drain(ring)
            unread = self._source.unread
            self._source.stop()
            self._unanswered = 0
            self._link.tell(Kind.PAUSED, unread=unread)

    def _drain(self, ring: FrameRing) -> None:
        """Take what was exposed before: of a triggered camera each is a part, whose picture may be on its way."""
        began = quiet_since = time.monotonic()
        while not self._stopped and time.monotonic() - began < DRAIN_S:
            if self._take(ring):
                quiet_since = time.monotonic()
            elif not self._is_expecting or time.monotonic() - quiet_since >= EXPOSED_S:
                return
            self._hear(0)

    @property
    def _is_expecting(self) -> bool:
        """Whether a part may be under way; of pulses on a line nobody here knows."""
        if self._camera.trigger == "Software":
            return self._unanswered > 0
        return not self._camera.free_running

    def _take(self, ring: FrameRing) -> bool:
        """Pass on what comes next; False if nothing came for a while."""
        try:
            self._pass_on(self._source.read(_READ_S), ring)
        except FrameTimeout:
            self._tick()
            return False
        except DamagedFrame as error:
            self._refuse(error.frame, str(error), "")
        self._unanswered = max(0, self._unanswered - 1)
        return True

    def _hear(self, timeout_s: float) -> None:
        while (packet := self._link.receive(timeout_s)) is not None:
            timeout_s = 0
            match packet.kind:
                case Kind.START:
                    self._started = True
                case Kind.PAUSE:
                    self._started = False
                case Kind.STOP:
                    self._stopped = True
                case Kind.TRIGGER:
                    self._source.trigger()
                    self._unanswered += 1
                case Kind.FREE:
                    slot, generation = packet.place
                    if self._lent.get(slot) == generation:
                        del self._lent[slot]
                        self._free.append(slot)

    def _place(self, ring: FrameRing, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Where a picture is written: where it will be looked at, if there is room."""
        if not self._free:
            self._hear(0)
        self._slot = self._free[-1] if self._free else None
        return np.empty(shape, np.uint8) if self._slot is None else ring.picture(self._slot, shape)

    def _pass_on(self, frame: Frame, ring: FrameRing) -> None:
        if self._slot is None:
            self._refuse(frame, f"overrun: {self._slots} frames are being looked at or wait already", OVERRUN)
            return
        slot = self._free.pop()
        self._generation += 1
        ring.write(slot, self._generation, frame)
        self._lent[slot] = self._generation
        self._link.tell_place(Kind.FRAME, slot, self._generation)
        self._told = time.monotonic()

    def _refuse(self, frame: Frame, reason: str, cause: str) -> None:
        self._link.tell(
            Kind.UNUSABLE,
            reason=reason,
            cause=cause,
            frame_id=frame.frame_id,
            trigger_id=frame.trigger_id,
            acquired_ns=frame.acquired_ns,
            received_ns=frame.received_ns,
        )
        self._told = time.monotonic()

    def _tick(self) -> None:
        if time.monotonic() - self._told >= _TICK_S:
            self._link.tell(Kind.TICK)
            self._told = time.monotonic()


if __name__ == "__main__":
    main()
