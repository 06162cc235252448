"""How a part gets from the line to the archive's process: one ZeroMQ message over a socket of this machine.

    DEALER, the line   [serial][frame, JSON][topic][header][body][pixels][labels]  ──▶   ROUTER, the archive's process
                       ◀──  [serial, what became of it]

Labels are there where there is a mask; topic, header and body are the verdict as it was published. Both ends are of the
same version, and nobody else connects. Each part is answered once it lies on the disk, or cannot. PUSH and PULL would
not do: a PULL that is behind drops what is still in the system's buffer when its PUSH is closed, so that the last parts
of a station were lost without a trace (4 of 30).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ConfigError, ProtocolError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.sources.damaged import is_stand_in
from inspectd.wire import Message

__all__ = ["ArchiveReceiver", "ArchiveSender", "Handover"]

WAITING_PARTS = 32
"""So many parts wait for the archive at most; what comes then is refused."""
WAITING_BYTES = 256 * 2**20
"""And so many bytes, so that large pictures do not take the line's memory. One picture may always wait."""
DRAIN_S = 3.0
"""So long may the end of a line wait for the archive to write what it was given."""
ASK_S = 2.0
"""Between two questions to an archive that does not answer: what it had taken is lost where it was killed."""
_RECEIVE_PARTS = 1
_PART_BYTES = 2**30
_POLL_MS = 50
_SERIAL = struct.Struct("<Q")
_ANSWER = struct.Struct("<QB")
_log = logging.getLogger("inspectd.archive")


class _Became(IntEnum):
    """What became of a part."""

    REFUSED = 0
    WRITTEN = 1
    PASSED = 2
    """It was only asked how far the archive has come."""


@dataclass(frozen=True, slots=True, eq=False)
class Handover:
    """A part to be archived.

    Attributes:
        frame: its picture, and where it comes from.
        verdict: the verdict message as it was published.
        mask: what was found; None if and only if the part was not inspected.
        sender: who handed it over; for the answer.
        serial: its number there.
    """

    frame: Frame
    verdict: Message
    mask: Mask | None
    sender: bytes = b""
    serial: int = 0


class ArchiveSender:
    """The line's end; used from one thread. It never waits, and whatever becomes of the archive, it raises nothing.

    While the archive's process is away, parts wait for the next one, as many as may wait.

    Args:
        endpoint: `ipc://PATH`, the one that the archive's process binds.
        settings: the section `archive`; tells which OK parts are wanted.
        clock: s, monotonic.

    Attributes:
        offered: parts that were to be archived.
        written: those that lie on the disk.
        refused: those that do not: too many waited, they could not be written, or they were lost with a process.

    Raises:
        ConfigError: the address cannot be connected to.
    """

    def __init__(
        self, endpoint: str, settings: ArchiveSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.offered = 0
        self.written = 0
        self.refused = 0
        self._ok_every = settings.ok_every
        self._clock = clock
        self._good: Counter[str] = Counter()
        self._serial = 0
        self._waiting: deque[tuple[int, int]] = deque()  # serial and bytes
        self._waiting_bytes = 0
        self._asked_s = float("-inf")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[Any] | None = self._context.socket(zmq.DEALER)
        # Questions wait too.
        self._socket.sndhwm = 2 * WAITING_PARTS
        self._socket.linger = 0
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close(0)
            raise ConfigError(_no_address(endpoint, error)) from error

    @property
    def waiting(self) -> int:
        """Parts that were taken and of which nothing is known yet."""
        return len(self._waiting)

    def wants(self, inspection: Inspection) -> bool:
        """Whether a part is to be archived; to be asked once for each part, for it counts the good ones."""
        match inspection.verdict:
            case Verdict.NG | Verdict.REVIEW:
                return True
            case Verdict.NOT_INSPECTED:
                return not is_stand_in(inspection.frame)
            case Verdict.OK:
                camera = inspection.frame.camera
                self._good[camera] += 1
                return self._ok_every > 0 and self._good[camera] % self._ok_every == 0

    def offer(self, inspection: Inspection, verdict: Message) -> bool:
        """Hand a part over if it is to be archived. The frame may be let go of afterwards: what is sent is a copy.

        Args:
            inspection: the part.
            verdict: its verdict message, as it is published.

        Returns:
            False if it was to be archived and is refused; it is counted.
        """
        if not self.wants(inspection):
            return True
        self.offered += 1
        self.hear()
        with contextlib.suppress(zmq.ZMQError, MemoryError):
            if self._send(inspection, verdict):
                return True
        self.refused += 1
        return False

    def hear(self) -> None:
        """Take the archive's answers, so that `written` and `refused` are those of now; `offer` does so too."""
        with contextlib.suppress(zmq.ZMQError):
            while self._socket is not None and self._socket.poll(0):
                serial, became = _ANSWER.unpack(self._socket.recv())
                self._settle(serial, _Became(became))

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Give the archive up to `drain_s` to write what waits; the rest counts as refused. May be called twice."""
        if self._socket is None:
            return
        deadline_s = self._clock() + drain_s
        self.hear()
        while self._waiting and self._clock() < deadline_s:
            self._ask()
            self._socket.poll(_POLL_MS)
            self.hear()
        if self._waiting:
            self.refused += len(self._waiting)
            _log.warning("the archive has not taken the last %d pictures; they are not archived", len(self._waiting))
            self._waiting.clear()
        self._socket.close(linger=0)
        self._context.term()
        self._socket = None

    def _send(self, inspection: Inspection, verdict: Message) -> bool:
        frame, mask = inspection.frame, inspection.mask
        size = frame.pixels.nbytes + (0 if mask is None else mask.labels.nbytes)
        full = len(self._waiting) >= WAITING_PARTS or self._waiting_bytes + size > WAITING_BYTES
        if self._socket is None or (self._waiting and full):
            self._ask()
            return False
        facts = {
            "camera": frame.camera,
            "frame_id": frame.frame_id,
            "acquired_ns": frame.acquired_ns,
            "trigger_id": frame.trigger_id,
            "source": frame.source,
            "camera_clock": frame.camera_clock,
            "serial": frame.serial,
            "shape": frame.pixels.shape,
            "classes": None if mask is None else mask.classes.names,
        }
        head = [_SERIAL.pack(self._serial + 1), json.dumps(facts).encode("ascii"), *verdict.to_parts()[:3]]
        # Copied once, by ZeroMQ: they may lie in a camera's ring, whose slot is written again once it is given back.
        arrays = [frame.pixels] if mask is None else [frame.pixels, mask.labels]
        self._socket.send_multipart([*head, *(np.ascontiguousarray(array).data for array in arrays)], zmq.NOBLOCK)
        self._serial += 1
        self._waiting.append((self._serial, size))
        self._waiting_bytes += size
        return True

    def _ask(self) -> None:
        """Ask how far the archive has come; what it does not know of by then is lost."""
        if self._socket is not None and self._clock() - self._asked_s >= ASK_S:
            self._asked_s = self._clock()
            with contextlib.suppress(zmq.ZMQError):
                self._socket.send(_SERIAL.pack(self._serial), zmq.NOBLOCK)

    def _settle(self, answered: int, became: _Became) -> None:
        # Answers come in the order of the parts: what was not answered by now never will be.
        while self._waiting and self._waiting[0][0] <= answered:
            serial, size = self._waiting.popleft()
            self._waiting_bytes -= size
            if serial == answered and became is _Became.WRITTEN:
                self.written += 1
            else:
                self.refused += 1


class ArchiveReceiver:
    """The archive's end; used from one thread.

    Args:
        endpoint: `ipc://PATH`; nobody but this user can connect to it.

    Raises:
        ConfigError: the address cannot be bound.
    """

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        # What was received is lost with this process; what has not been waits at the line for the next one.
        self._socket.rcvhwm = _RECEIVE_PARTS
        self._socket.linger = 0
        self._socket.maxmsgsize = _PART_BYTES
        mode = os.umask(0o077)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(_no_address(endpoint, error)) from error
        finally:
            os.umask(mode)

    def receive(self, timeout_s: float) -> Handover | None:
        """The next part, None if none comes in time; to be answered.

        Raises:
            ProtocolError: something came that is no part; the next may be one.
        """
        if not self._socket.poll(max(0, round(timeout_s * 1000))):
            return None
        sender, *parts = (part.buffer for part in self._socket.recv_multipart(copy=False))
        try:
            (serial,) = _SERIAL.unpack(parts[0])
            if len(parts) == 1:
                self._tell(bytes(sender), serial, _Became.PASSED)
                return self.receive(timeout_s)
            return _unpack(bytes(sender), serial, parts[1:])
        except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            raise ProtocolError(f"archive: what came over its socket is no part of a line: {error}") from error

    def answer(self, part: Handover, *, written: bool) -> None:
        """Tell the line what became of a part."""
        self._tell(part.sender, part.serial, _Became.WRITTEN if written else _Became.REFUSED)

    def close(self) -> None:
        """Let go. May be called twice."""
        # The last answers should leave.
        self._socket.close(linger=_POLL_MS)
        self._context.term()

    def _tell(self, sender: bytes, serial: int, became: _Became) -> None:
        # A line that has gone is told nothing.
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([sender, _ANSWER.pack(serial, became)], zmq.NOBLOCK)


def _unpack(sender: bytes, serial: int, parts: list[memoryview]) -> Handover:
    if len(parts) not in (5, 6):
        raise ValueError(f"expected 6 or 7 parts, got {len(parts) + 1}")
    facts = json.loads(bytes(parts[0]))
    verdict = Message.from_parts([bytes(part) for part in parts[1:4]])
    shape = tuple(facts.pop("shape"))
    classes = facts.pop("classes")
    if facts["camera"] != verdict.camera:
        raise ValueError(f"a frame of camera {facts['camera']!r} with a verdict of {verdict.camera!r}")
    pixels: NDArray[np.uint8] = np.frombuffer(parts[4], np.uint8).reshape(shape)
    mask = None
    if classes is not None:
        mask = Mask(np.frombuffer(parts[5], np.uint8).reshape(shape[:2]), ClassMap(tuple(classes)))
    return Handover(Frame(pixels=pixels, **facts), verdict, mask, sender, serial)


def _no_address(endpoint: str, error: zmq.ZMQError) -> str:
    return (
        f"archive: {endpoint} cannot be used ({error.strerror}); expected ipc:// and a path of at most 107 bytes in a "
        f"folder that exists: set a shorter station.state_dir"
    )
