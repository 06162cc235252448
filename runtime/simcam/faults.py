"""Faults of the simulated camera, injected through its feed from any process, and the account of its frames."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType

from inspectd.errors import CameraError

from . import producer_path

__all__ = ["SENT", "Faults", "Sent"]

_AT = 256  # struct faults in the feed, see sim.h
_FIELDS = (
    "incomplete", "dropped", "late", "duplicate", "late_ms",
    "stalled", "lost", "silent", "refused", "absent", "hanging", "padding", "format", "line1", "breaks",
)  # fmt: skip
_WORD = struct.Struct("<I")
_MOMENT = struct.Struct("<Q")
_REBOOT_AT = _AT + 64
_SENT = struct.Struct("<5Q")
_SENT_AT = _AT + 128
_HEADER = struct.Struct("<8sI")
_EXPECTED = (b"INSPFEED", 2)
_SIZE = 512


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the frames of a feed since it was made; over all openings of the camera.

    Attributes:
        exposed: parts that the camera has seen: delivered, without a buffer, or dropped.
        delivered: frames that were put into a buffer, incomplete ones too.
        without_buffer: frames for which there was no buffer.
        dropped: frames that were lost by a fault.
        incomplete: frames that were delivered in part.
    """

    exposed: int
    delivered: int
    without_buffer: int
    dropped: int
    incomplete: int


SENT = Sent(0, 0, 0, 0, 0)
"""Of a feed that is new."""


class Faults:
    """The faults of one simulated camera.

    The first four concern the next frames and count down; the others last until `clear`. What a fault does to a
    consumer is what a real camera does: see docs/simulated-camera.md.

    Args:
        path: the camera's feed.

    Raises:
        CameraError: it is no feed of this version, or the producer is not built.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.path = path
        self._clock = clock
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CameraError(f"{path}: cannot be opened as a camera's feed: {error.strerror}") from error
        try:
            found = os.pread(descriptor, _HEADER.size, 0)
            if os.fstat(descriptor).st_size < _SIZE or _HEADER.unpack(found) != _EXPECTED:
                raise CameraError(f"{path}: is no feed of a simulated camera of this version")
            self._memory = mmap.mmap(descriptor, _SIZE)
            self._feed_add = ctypes.CDLL(str(producer_path())).inspectd_feed_add
        finally:
            os.close(descriptor)

    def incomplete(self, frames: int) -> None:
        """Of the next frames half of the lines arrive."""
        self._set("incomplete", frames)

    def drop(self, frames: int) -> None:
        """The next frames are exposed and never arrive: a gap in the numbers."""
        self._set("dropped", frames)

    def late(self, frames: int, delay_ms: int) -> None:
        """The next frames arrive so much later than they were exposed."""
        self._set("late_ms", delay_ms)
        self._set("late", frames)

    def duplicate(self, frames: int) -> None:
        """The next frames repeat the number of the one before."""
        self._set("duplicate", frames)

    def stall(self) -> None:
        """No frames come, and everything else answers."""
        self._set("stalled", 1)

    def lose(self) -> None:
        """The cable is pulled: events and ports fail, the camera is not listed. It has to be opened anew afterwards."""
        self._set("lost", 1)
        self._add("breaks", 1)

    def silence(self) -> None:
        """The link is gone without an error: no frames come, and ports time out."""
        self._set("silent", 1)

    def refuse(self) -> None:
        """Another host holds the camera: it cannot be opened."""
        self._set("refused", 1)

    def hide(self) -> None:
        """The camera is not listed."""
        self._set("absent", 1)

    def hang(self) -> None:
        """The producer does not come back from the next call that concerns the camera."""
        self._set("hanging", 1)

    def pad(self, padding_bytes: int) -> None:
        """Lines end with bytes that are no pixels, from the next opening on."""
        self._set("padding", padding_bytes)

    def claim_format(self, code: int) -> None:
        """Frames claim to have this pixel format."""
        self._set("format", code)

    def reboot(self, duration_ms: int) -> None:
        """The camera is gone for so long, and comes back as it was switched on."""
        _MOMENT.pack_into(self._memory, _REBOOT_AT, self._clock() + duration_ms * 1_000_000)
        self._add("breaks", 1)

    def pulse(self, count: int = 1) -> None:
        """Pulses on the camera's input Line1; what came while it does not acquire is not kept. No fault."""
        self._add("line1", count)

    def clear(self) -> None:
        """No fault any more; a connection that was lost stays lost."""
        for name in _FIELDS:
            if name != "breaks":
                self._set(name, 0)
        _MOMENT.pack_into(self._memory, _REBOOT_AT, 0)

    @property
    def active(self) -> dict[str, int]:
        """The faults that are set, and how many frames of each are left."""
        words = {name: _WORD.unpack_from(self._memory, self._place(name))[0] for name in _FIELDS}
        (until_ns,) = _MOMENT.unpack_from(self._memory, _REBOOT_AT)
        words["rebooting_ms"] = max(0, until_ns - self._clock()) // 1_000_000
        return {name: value for name, value in words.items() if value and name not in {"late_ms", "line1", "breaks"}}

    @property
    def sent(self) -> Sent:
        """The account of all frames."""
        return Sent(*_SENT.unpack_from(self._memory, _SENT_AT))

    def sent_since(self, before: Sent) -> Sent:
        """The account of the frames after an earlier one."""
        return Sent(*(now - then for now, then in zip(astuple(self.sent), astuple(before), strict=True)))

    def close(self) -> None:
        """Let go of the feed; faults stay as they are."""
        self._memory.close()

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _set(self, name: str, value: int) -> None:
        if not 0 <= value < 2**32:
            raise CameraError(f"{self.path}: {name} {value} is not possible; expected 0 to {2**32 - 1}")
        _WORD.pack_into(self._memory, self._place(name), value)

    def _add(self, name: str, more: int) -> None:
        # In one step: the camera takes from some of these words at the same time.
        word = ctypes.c_uint32.from_buffer(self._memory, self._place(name))
        self._feed_add(ctypes.byref(word), ctypes.c_uint32(more))

    @staticmethod
    def _place(name: str) -> int:
        return _AT + _WORD.size * _FIELDS.index(name)
