"""Rendered buttons as a camera."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inspectd.buttons import line_part
from inspectd.config import ButtonsCamera
from inspectd.errors import EndOfFrames
from inspectd.frame import Frame

from .pace import PacedSource

__all__ = ["ButtonsSource"]


class ButtonsSource(PacedSource):
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
        super().__init__(name, camera.fps, clock=clock, utc=utc, sleep=sleep)
        self._camera = camera
        self._ahead: list[NDArray[np.uint8]] = []
        self._open = False

    def open(self) -> None:
        """Render what is wanted ahead."""
        self._ahead = [self._part(index) for index in range(self._camera.ahead)]
        self._open = True

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
