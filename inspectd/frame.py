"""What a camera delivers, and what everything that delivers frames looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "FrameSource"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one part.

    Attributes:
        camera: name of the camera in the configuration.
        frame_id: the camera's own number (GenTL block id); gaps in it are lost frames.
        pixels: uint8 [H, W, C], C = 1 (grey) or 3 (RGB), contiguous.
        acquired_ns: moment of exposure, ns since the Unix epoch (UTC); a label, never a clock.
        trigger_id: the PLC's part or trigger number, 0 when free-running.
        received_ns: `time.monotonic_ns()` when the frame reached the host; latencies count from here.
        source: the file that it was read from, relative to the camera's folder; empty where it comes from a camera.

    Raises:
        ValueError: pixels of another type or shape, or a negative number.
    """

    camera: str
    frame_id: int
    pixels: NDArray[np.uint8]
    acquired_ns: int
    trigger_id: int = 0
    received_ns: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(
                f"frame {self.frame_id} of camera {self.camera!r}: expected uint8 [H, W, 1 or 3], "
                f"got {pixels.dtype} {list(pixels.shape)}"
            )
        if not pixels.flags.c_contiguous:
            raise ValueError(f"frame {self.frame_id} of camera {self.camera!r}: pixels are not contiguous")
        if self.frame_id < 0 or self.trigger_id < 0:
            raise ValueError(f"frame id {self.frame_id} and trigger id {self.trigger_id} must not be negative")

    @property
    def height(self) -> int:
        """Rows, px."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, px."""
        return int(self.pixels.shape[1])


class FrameSource(Protocol):
    """A camera, or what stands in for one. `open` and `start` once, `read` in a loop from one thread, `close` always.

    `close` may be called at any time after construction, also when `open` failed, and twice.
    """

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""

    def open(self) -> None:
        """Connect and set up, so that all that can be wrong with the device is known before anything is announced.

        Raises:
            CameraError: the device is absent, busy, or delivers what cannot be used; every fault, one a line.
        """

    def start(self) -> None:
        """Start to acquire: what is not read from now on is lost.

        Raises:
            CameraError: the device refuses.
        """

    def read(self, timeout_s: float) -> Frame:
        """The next frame, waiting at most `timeout_s`.

        Raises:
            FrameTimeout: nothing came in time.
            IncompleteFrame: a damaged frame came; it counts as one.
            CameraLost: the device is gone.
            EndOfFrames: a finite source is at its end.
        """

    def close(self) -> None:
        """Stop and let go of the device. Never raises for a device that is gone."""
