"""The writing side of the simulated camera: a ring of frames in a mapped file (layout: feed.c)."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from inspectd.buttons import LINES, line_part
from inspectd.errors import CameraError

from . import producer_path

__all__ = ["FrameFeed", "feed_buttons", "is_fed"]

_MAGIC = b"INSPFEED"
_VERSION = 2
_HEADER = struct.Struct("<8s6I")  # magic, version, width, height, channels, slots, closed
_CLOSED_OFFSET = 28
_WRITTEN_OFFSET = 64
_CONSUMED_OFFSET = 128
_FIRST_SLOT = 512
_PART_ID_SIZE = 8
_ALIGNMENT = 64
_MAX_SIDE = 65535
_POLL_S = 0.001
_STOP_POLL_S = 0.2
_LOCK = struct.Struct("@hhqqixxxx")  # struct flock of Linux: kind, whence, start, length, process


class FrameFeed:
    """Puts frames before a simulated camera, which takes them in order and loses none of them unseen.

    A feed of the same geometry at `path` is continued, so that a renderer that was restarted goes on before a camera
    that stayed open; any other feed is replaced, and a camera that has it open sees nothing more. One writer at a time.

    Args:
        path: the feed file; on a RAM disk (/dev/shm) nothing is ever written to a drive.
        width: px.
        height: px.
        channels: 1 (camera delivers Mono8) or 3 (RGB8).
        slots: frames that may wait before the camera.
        clock: seconds, monotonic.
        sleep: seconds.

    Raises:
        CameraError: impossible geometry, a file that is no feed or has another writer, or the producer is not built.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        channels: int = 3,
        slots: int = 8,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and channels in (1, 3) and slots > 0):
            raise CameraError(
                f"{path}: a feed of {slots} slots of {width}x{height} px with {channels} channels is not possible; "
                f"expected sides of 1 to {_MAX_SIDE} px, 1 or 3 channels and at least 1 slot"
            )
        self.path = path
        self.shape = (height, width, channels)
        self._slots = slots
        self._stride = -(-(_PART_ID_SIZE + width * height * channels) // _ALIGNMENT) * _ALIGNMENT
        self._clock, self._sleep = clock, sleep
        library = ctypes.CDLL(str(producer_path()))
        self._store, self._load = library.inspectd_feed_store, library.inspectd_feed_load
        self._store.argtypes, self._store.restype = [ctypes.c_void_p, ctypes.c_uint64], None
        self._load.argtypes, self._load.restype = [ctypes.c_void_p], ctypes.c_uint64

        self._descriptor = self._open()
        self._memory = np.frombuffer(mmap.mmap(self._descriptor, self._size), dtype=np.uint8)
        self._set_closed(False)

    @property
    def _size(self) -> int:
        return _FIRST_SLOT + self._slots * self._stride

    def _open(self) -> int:
        header = self._header()
        try:
            if not self._is_own(header):
                self._create(header)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CameraError(f"{self.path}: cannot make a feed here: {error.strerror}; choose another path") from error
        try:
            # Of the open file, not of the process: else whoever closes the file here, too, gives the lock away.
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            os.close(descriptor)
            raise CameraError(f"{self.path}: another process feeds this camera already; end it first") from error
        return descriptor

    def _header(self) -> bytes:
        height, width, channels = self.shape
        return _HEADER.pack(_MAGIC, _VERSION, width, height, channels, self._slots, 0)

    def _is_own(self, header: bytes) -> bool:
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            found = file.read(_HEADER.size)
        if found[: len(_MAGIC)] != _MAGIC:
            raise CameraError(f"{self.path}: exists and is not a frame feed; remove it or choose another path")
        return found[:_CLOSED_OFFSET] == header[:_CLOSED_OFFSET] and self.path.stat().st_size == self._size

    def _create(self, header: bytes) -> None:
        # Renamed into place, so that a camera never maps a file that is still growing.
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with draft.open("wb") as file:
            file.write(header)
            file.truncate(self._size)
        draft.replace(self.path)

    def _set_closed(self, closed: bool) -> None:
        self._memory[_CLOSED_OFFSET : _CLOSED_OFFSET + 4].view(np.uint32)[0] = closed

    def _counter(self, offset: int) -> int:
        return int(self._load(self._memory.ctypes.data + offset))

    @property
    def written(self) -> int:
        """Frames put since the file was made."""
        return self._counter(_WRITTEN_OFFSET)

    @property
    def consumed(self) -> int:
        """Frames that the camera has taken (exposed or lost for want of a buffer) since the file was made."""
        return self._counter(_CONSUMED_OFFSET)

    def put(self, pixels: NDArray[np.uint8], timeout_s: float, *, part_id: int | None = None) -> bool:
        """Place one frame behind those that wait, waiting for a free slot first.

        Args:
            pixels: uint8 [H, W, C] of the feed's geometry; copied.
            timeout_s: how long to wait for a free slot.
            part_id: the number that travels with the frame; `written` unless given.

        Returns:
            False if no slot came free in time; the frame was not placed.

        Raises:
            ValueError: pixels of another type or shape.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self.shape:
            raise ValueError(f"{self.path}: expected uint8 {list(self.shape)}, got {pixels.dtype} {list(pixels.shape)}")
        written = self.written
        deadline = self._clock() + timeout_s
        while written - self.consumed >= self._slots:
            if self._clock() >= deadline:
                return False
            self._sleep(_POLL_S)
        start = _FIRST_SLOT + written % self._slots * self._stride
        slot = self._memory[start : start + _PART_ID_SIZE + pixels.size]
        slot[:_PART_ID_SIZE].view(np.uint64)[0] = written if part_id is None else part_id
        slot[_PART_ID_SIZE:].reshape(self.shape)[:] = pixels
        self._store(self._memory.ctypes.data + _WRITTEN_OFFSET, written + 1)
        return True

    def close(self) -> None:
        """Say that nothing more will come; what waits can still be taken, and the file stays. May be called twice."""
        if self._descriptor < 0:
            return
        self._set_closed(True)
        del self._memory  # the last reference to the mapping
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> FrameFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_fed(path: Path) -> bool:
    """Whether somebody has the feed open for writing."""
    try:
        with path.open("rb") as file:
            asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            (kind, *_) = _LOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK)


def feed_buttons(
    path: Path,
    *,
    seed: int,
    defect_rate: float,
    size: int = 256,
    lines: Sequence[str] = LINES,
    slots: int = 8,
    count: int | None = None,
    stop: Event | None = None,
) -> None:
    """Render the production line `seed` onto a feed; the whole of a renderer process.

    Part `n` of `inspectd.buttons.line_part` has the part id `n`. A feed that is continued goes on with the next part.
    It ends after `count` parts of the line, when `stop` is set, or when the parent process is gone; an interrupt from
    the terminal is left to the parent.

    Args:
        path: the feed file.
        seed: the production line.
        defect_rate: share of parts with a defect, 0 to 1.
        size: side of the square picture, px.
        lines: the products that are mixed on the line.
        slots: parts rendered ahead of the camera.
        count: parts on the line; endless unless given.
        stop: set by the parent to end.

    Raises:
        CameraError: as `FrameFeed`.
        ConfigError: as `inspectd.buttons.line_part`.
    """
    parent = parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with FrameFeed(path, size, size, channels=3, slots=slots) as feed:
        while count is None or feed.written < count:
            part = line_part(feed.written, seed, defect_rate, lines, size)
            placed = False
            while not placed:
                if (stop is not None and stop.is_set()) or (parent is not None and not parent.is_alive()):
                    return
                placed = feed.put(part.image, _STOP_POLL_S)
