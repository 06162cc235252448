"""What a camera delivers, and what everything that delivers frames looks like."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["STREAMING", "CameraState", "CameraStatus", "Frame", "FrameSource"]


class CameraState(Enum):
    """How a camera is."""

    CONNECTING = "Connecting"
    """It is looked for, for the first time."""
    READY = "Ready"
    """It is open and set, and does not acquire yet."""
    STREAMING = "Streaming"
    """It acquires."""
    LOST = "Lost"
    """It was there, and is looked for again."""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera is and what it has done since the line opened it.

    Attributes:
        state: how it is.
        reason: why it is not as it should be; empty where it is.
        connections: how often it was opened.
        frames: pictures that came whole.
        unusable: frames that came and are no pictures: incomplete, of another format, out of order.
        missed: frames that never came, by gaps in the camera's numbers, or were not fetched at a loss or a stop.
        overruns: frames that came while all places were taken, and were let go.
        late: frames that came more than a second after their exposure, by a camera's clock that is the host's (PTP).
        host_clock: frames whose time is the host's at their arrival, because the camera's clock is not UTC.
        serial: the camera's serial number; empty where it has none, or is not known yet.
        failing: whether the process that has it crashed or hung too often of late.
        uncounted: why the parts of a camera that a line triggers have no numbers; empty where they have, or need none.
    """

    state: CameraState
    reason: str = ""
    connections: int = 0
    frames: int = 0
    unusable: int = 0
    missed: int = 0
    overruns: int = 0
    late: int = 0
    host_clock: int = 0
    serial: str = ""
    failing: bool = False
    uncounted: str = ""


STREAMING = CameraStatus(CameraState.STREAMING)
"""Of a source that cannot be lost."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one part.

    Attributes:
        camera: name of the camera in the configuration.
        frame_id: the camera's own number (GenTL block id); gaps in it are lost frames.
        pixels: uint8 [H, W, C], C = 1 (grey) or 3 (RGB), contiguous.
        acquired_ns: moment of exposure, ns since the Unix epoch (UTC); a label, never a clock.
        trigger_id: the PLC's part or trigger number; of a camera that a line triggers, which part since its start it
            is. 0 when free-running, and where it is not known.
        received_ns: `time.monotonic_ns()` when the frame reached the host, and with `camera_clock` when it was exposed;
            deadlines and latencies count from here.
        source: the file that it was read from, relative to the camera's folder; empty where it comes from a camera.
        camera_clock: whether `acquired_ns` comes from the camera's own clock; else it is the host's, at arrival.
        serial: serial number of the camera that took it; empty where it has none.

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
    camera_clock: bool = False
    serial: str = ""

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
    """A camera, or what stands in for one: `open` once, `start` and `stop` in turns, `close` always.

    Between `start` and `stop`, and after it until the end, `read` is called in a loop from one thread; while nothing is
    acquired `attend` is.

    `close` may be called at any time after construction, also when `open` failed, and twice.
    """

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""

    @property
    def status(self) -> CameraStatus:
        """How it is; may be asked from any thread."""

    def open(self) -> None:
        """Connect and set up, so that all that can be wrong with the device is known before anything is announced.

        A source that reconnects by itself returns although the device is away; its status says so.

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
            EndOfFrames: a finite source is at its end; or it was stopped, and all that had come was read.
        """

    def stop(self) -> None:
        """Acquire nothing more; what had come can still be read, until `start` acquires anew. Never waits."""

    def attend(self) -> None:
        """See to the device while nothing is acquired: one that is away is looked for.

        Raises:
            CameraError: it is gone or refuses its settings, and is not looked for again.
        """

    def trigger(self, trigger_id: int) -> None:
        """Send a software trigger; the answer comes by `read`. Only of cameras that are triggered so.

        Args:
            trigger_id: the PLC's number of the part.
        """

    def close(self) -> None:
        """Stop and let go of the device. Never raises for a device that is gone."""
