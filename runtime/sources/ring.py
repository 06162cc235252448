"""Frames between two processes: a ring of slots in memory that has no name.

    camera's process                                             the line
    FrameRing.create, write   ── (slot, generation) by socket ──▶  lease
                              ◀── (slot, generation) is free ──

Each time a slot is written it gets a new generation, which stands in its header beside a checksum of the header.
Whoever was told of (slot, generation) gets that frame or an error, never another frame. The writer writes only to
slots that were given back, so that a frame stays as it is for as long as somebody looks at it, without being copied.
The memory (`memfd_create`) belongs to the processes that have it open: nothing is left behind by those that are killed.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspectd.errors import CameraError
from inspectd.frame import Frame

__all__ = ["FrameRing", "RingDamaged"]

_RING = struct.Struct("<8sIIQ")  # magic, version, slots, bytes a slot
_MAGIC, _VERSION = b"INSPRING", 1
_SLOT = struct.Struct(
    "<QQQqqIIII"
)  # generation, frame id, trigger id, acquired, received, height, width, channels, flags
_CRC = struct.Struct("<I")
_PIXELS_AT = 64
_PAGE = 4096
_CAMERA_CLOCK = 1
assert _SLOT.size + _CRC.size <= _PIXELS_AT  # noqa: S101 - the layout's own


class RingDamaged(CameraError):
    """A slot does not hold the frame that was told of."""


@dataclass(frozen=True, slots=True, eq=False)
class _Lease:
    """Keeps a slot for as long as a picture in it is looked at: NumPy holds on to whom it got its memory from."""

    memory: mmap.mmap
    __array_interface__: dict[str, Any]
    free: Callable[[], None]

    def __del__(self) -> None:
        self.free()


class FrameRing:
    """The ring as one of the two processes sees it.

    Attributes:
        descriptor: of the memory, to be sent to the other process; closed by `close`.
        slots: frames that it holds.
    """

    def __init__(self, descriptor: int) -> None:
        """Map a ring that another process has made.

        Raises:
            RingDamaged: it is none.
        """
        self.descriptor = descriptor
        try:
            size = os.fstat(descriptor).st_size
        except OSError as error:
            raise RingDamaged(f"the memory of a camera's process did not arrive: {error.strerror}") from error
        if size < _RING.size:
            raise RingDamaged("the memory of a camera's process is no ring of frames")
        try:
            self._memory = mmap.mmap(descriptor, size)
        except (OSError, ValueError) as error:
            raise RingDamaged(f"the memory of a camera's process cannot be mapped: {error}") from error
        magic, version, self.slots, self._stride = _RING.unpack_from(self._memory)
        if (magic, version) != (_MAGIC, _VERSION) or size != _PAGE + self.slots * self._stride:
            raise RingDamaged("the memory of a camera's process is no ring of frames of this version")
        # An address stands for the memory where it is handed to NumPy without being copied.
        self._address = int(np.frombuffer(self._memory, np.uint8).ctypes.data)

    @classmethod
    def create(cls, slots: int, frame_bytes: int) -> FrameRing:
        """Make a ring; memory is taken only as frames are written.

        Args:
            slots: frames that it holds.
            frame_bytes: of the largest frame.
        """
        stride = -(-(_PIXELS_AT + frame_bytes) // _PAGE) * _PAGE
        descriptor = os.memfd_create("inspectd-frames", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _PAGE + slots * stride)
        os.pwrite(descriptor, _RING.pack(_MAGIC, _VERSION, slots, stride), 0)
        return cls(descriptor)

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last frame that is looked at."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def picture(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Where the picture of a slot is written: uint8 `shape`, writable.

        Raises:
            ValueError: it is larger than a slot.
        """
        if _PIXELS_AT + math.prod(shape) > self._stride:
            raise ValueError(
                f"a picture of {list(shape)} does not fit into a ring for {self._stride - _PIXELS_AT} bytes"
            )
        start = self._start(slot) + _PIXELS_AT
        return np.ndarray(shape, np.uint8, self._memory, start)

    def write(self, slot: int, generation: int, frame: Frame) -> None:
        """Say of the picture in a slot what it is; pixels that lie elsewhere are copied there.

        Args:
            slot: one that is free.
            generation: higher than any before.
            frame: its pixels may be those of `picture(slot)`.

        Raises:
            ValueError: it is larger than a slot.
        """
        place = self.picture(slot, frame.pixels.shape)
        if place.ctypes.data != frame.pixels.ctypes.data:
            place[:] = frame.pixels
        height, width, channels = frame.pixels.shape
        flags = _CAMERA_CLOCK if frame.camera_clock else 0
        header = _SLOT.pack(
            generation,
            frame.frame_id,
            frame.trigger_id,
            frame.acquired_ns,
            frame.received_ns,
            height,
            width,
            channels,
            flags,
        )
        start = self._start(slot)
        self._memory[start : start + _SLOT.size + _CRC.size] = header + _CRC.pack(zlib.crc32(header))

    def lease(self, slot: int, generation: int, camera: str, free: Callable[[], None]) -> Frame:
        """The frame in a slot, uncopied and read-only.

        Args:
            slot: as told by the writer.
            generation: as told by the writer.
            camera: its name.
            free: called once nobody looks at the picture any more, in whichever thread that happens.

        Raises:
            RingDamaged: the slot holds another frame, or none.
        """
        if not 0 <= slot < self.slots:
            raise RingDamaged(f"camera {camera!r}: its process told of slot {slot} of {self.slots}")
        start = self._start(slot)
        header = bytes(self._memory[start : start + _SLOT.size])
        (checksum,) = _CRC.unpack_from(self._memory, start + _SLOT.size)
        found, frame_id, trigger_id, acquired_ns, received_ns, height, width, channels, flags = _SLOT.unpack(header)
        if checksum != zlib.crc32(header) or found != generation:
            what = "another frame" if found != generation else "a damaged header"
            raise RingDamaged(f"camera {camera!r}: slot {slot} holds {what}: {found}, told of {generation}")
        if _PIXELS_AT + height * width * channels > self._stride:
            raise RingDamaged(f"camera {camera!r}: slot {slot} claims a picture that does not fit into it")
        interface = {
            "version": 3,
            "shape": (height, width, channels),
            "typestr": "|u1",
            "data": (self._address + start + _PIXELS_AT, True),
        }
        pixels = np.asarray(_Lease(self._memory, interface, free))
        return Frame(
            camera,
            frame_id,
            pixels,
            acquired_ns=acquired_ns,
            trigger_id=trigger_id,
            received_ns=received_ns,
            camera_clock=bool(flags & _CAMERA_CLOCK),
        )

    def _start(self, slot: int) -> int:
        return _PAGE + slot * int(self._stride)
