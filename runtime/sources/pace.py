"""Frames at a steady rate from a source that has no clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from inspectd.errors import CameraError, FrameTimeout
from inspectd.frame import STREAMING, CameraStatus

__all__ = ["Pace", "PacedSource"]


class Pace:
    """Lets one frame through every `1 / fps` seconds; without a rate it never waits."""

    def __init__(
        self,
        fps: float | None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_ns = 0 if fps is None else round(1e9 / fps)
        self._clock = clock
        self._sleep = sleep
        self._due_ns = 0

    def wait(self, timeout_s: float, camera: str) -> None:
        """Wait for the next frame's moment.

        Raises:
            FrameTimeout: it comes later than in `timeout_s`, which has been waited for.
        """
        if not self._period_ns:
            return
        now = self._clock()
        # One late frame must not be followed by a burst that makes up for it.
        due = max(self._due_ns, now)
        wait_s = (due - now) / 1e9
        if wait_s > timeout_s:
            self._sleep(timeout_s)
            raise FrameTimeout(f"camera {camera!r}: the next frame is not due yet")
        if wait_s > 0:
            self._sleep(wait_s)
        self._due_ns = due + self._period_ns


class PacedSource:
    """What a camera that is no device has in common with every other of its kind.

    Args:
        name: of the camera in the configuration.
        fps: its rate; None for as fast as it is read.
        clock: monotonic, in ns.
        utc: in ns since 1970.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        name: str,
        fps: float | None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._clock = clock
        self._utc = utc
        self._pace = Pace(fps, clock=clock, sleep=sleep)
        self._delivered = 0
        self._stopped = False

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""
        return self._name

    @property
    def status(self) -> CameraStatus:
        """Always streaming."""
        return STREAMING

    def start(self) -> None:
        """Go on where it was stopped."""
        self._stopped = False

    def stop(self) -> None:
        """Deliver nothing more for now."""
        self._stopped = True

    def attend(self) -> None:
        """Nothing to see to."""

    def trigger(self, trigger_id: int) -> None:
        """Takes none.

        Raises:
            CameraError: always.
        """
        raise CameraError(f"camera {self._name!r}: takes no software trigger (part {trigger_id})")
