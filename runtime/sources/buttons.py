"""Rendered buttons as a camera."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inspectd.buttons import line_part
from inspectd.config import ButtonsCamera
from inspectd.errors import CameraError, EndOfFrames
from inspectd.frame import STREAMING, CameraStatus, Frame

from .pace import Pace

__all__ = ["ButtonsSource"]


class ButtonsSource:
    """Delivers the parts of an endless rendered production line; the first `ahead` of them are rendered at opening."""

    def __init__(
        self,
        name: str,
        camera: ButtonsCamera,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._camera = camera
        self._clock = clock
        self._utc = utc
        self._pace = Pace(camera.fps, clock=clock, sleep=sleep)
        self._ahead: list[NDArray[np.uint8]] = []
        self._delivered = 0
        self._stopped = False
        self._open = False

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""
        return self._name

    @property
    def status(self) -> CameraStatus:
        """Always streaming."""
        return STREAMING

    def open(self) -> None:
        """Render what is wanted ahead."""
        self._ahead = [self._part(index) for index in range(self._camera.ahead)]
        self._open = True

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

    def read(self, timeout_s: float) -> Frame:
        """The next part; see `FrameSource.read`. Rendering may take longer than `timeout_s`.

        Raises:
            FrameTimeout: it is not due yet.
            EndOfFrames: the source is closed.
        """
        if not self._open or self._stopped:
            raise EndOfFrames(f"camera {self._name!r} is closed or stopped")
        self._pace.wait(timeout_s, self._name)
        index = self._delivered
        pixels = self._ahead[index] if index < len(self._ahead) else self._part(index)
        self._delivered += 1
        # Frames count from 1, parts of the line from 0.
        return Frame(self._name, index + 1, pixels, acquired_ns=self._utc(), received_ns=self._clock())

    def close(self) -> None:
        """Forget what was rendered ahead."""
        self._ahead = []
        self._open = False

    def _part(self, index: int) -> NDArray[np.uint8]:
        camera = self._camera
        part = line_part(index, camera.seed, camera.defect_rate, size=camera.size)
        return np.ascontiguousarray(part.image)
