"""What the line and a camera's process say to each other: packets over a pair of sockets, a kind and its content."""

from __future__ import annotations

import array
import contextlib
import json
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

__all__ = ["Kind", "Link", "LinkClosed", "Packet"]

_MAX_BYTES = 65_536
_RECEIVING = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_PLACE = struct.Struct("<IQ")  # slot, generation


class Kind(IntEnum):
    """Kinds of packets; those up to STARTED come from the camera's process."""

    READY = 1
    """The camera is open; with facts about it and the descriptor of the ring."""
    FRAME = 2
    """A frame lies in (slot, generation)."""
    UNUSABLE = 3
    """A frame came whose picture cannot be used; with its numbers, and why."""
    TICK = 4
    """Nothing to tell; the process is alive."""
    LOST = 5
    """The camera cannot be used, and the process ends; with the reason and whether it may come back."""
    STARTED = 6
    """It acquires from now on, and takes triggers."""
    PAUSED = 7
    """It acquires no more; with how many frames had come and were not told of for want of time."""
    START = 16
    """Start to acquire."""
    FREE = 17
    """Nobody looks at (slot, generation) any more."""
    TRIGGER = 18
    """Send the camera a software trigger."""
    PAUSE = 20
    """Acquire no more."""
    STOP = 19
    """Let go of the camera, and end."""


class LinkClosed(Exception):
    """The other process has ended."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it came; `descriptor` is -1 where it carries none, and belongs to the receiver."""

    kind: Kind
    content: bytes
    descriptor: int = -1

    @property
    def place(self) -> tuple[int, int]:
        """Slot and generation."""
        return _PLACE.unpack(self.content)

    @property
    def facts(self) -> dict[str, Any]:
        """What a packet tells in JSON."""
        return dict(json.loads(self.content)) if self.content else {}


class Link:
    """One end of the pair; sending is safe from any thread, receiving is one thread's.

    Args:
        end: a connected SOCK_SEQPACKET socket, blocking.
        waits: whether sending waits while the other process does not take its packets; else it counts as ended.
    """

    def __init__(self, end: socket.socket, *, waits: bool) -> None:
        self._end = end
        self._flags = 0 if waits else socket.MSG_DONTWAIT
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._unsent: deque[bytes] = deque()

    def tell(self, kind: Kind, *, descriptor: int | None = None, **facts: object) -> None:
        """Send a packet of facts.

        Raises:
            LinkClosed: the other process has ended, or takes no packets.
        """
        content = json.dumps(facts).encode() if facts else b""
        ancillary = []
        if descriptor is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes())]
        self._send(bytes([kind]) + content, ancillary)

    def tell_place(self, kind: Kind, slot: int, generation: int) -> None:
        """Send a slot and its generation, as `tell`."""
        self._send(bytes([kind]) + _PLACE.pack(slot, generation))

    def free(self, slot: int, generation: int) -> None:
        """Give a slot back. Never waits and never raises: it is called wherever the last look at a picture ends."""
        self._unsent.append(bytes([Kind.FREE]) + _PLACE.pack(slot, generation))
        self._send_unsent()

    def _send_unsent(self) -> None:
        with contextlib.suppress(IndexError):  # another thread sends the rest
            while True:
                packet = self._unsent.popleft()
                try:
                    self._end.send(packet, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    self._unsent.appendleft(packet)
                    return
                except OSError:
                    return  # the process has ended, and its ring with it

    def receive(self, timeout_s: float) -> Packet | None:
        """The next packet, None if none comes in time.

        Raises:
            LinkClosed: the other process has ended, and all that it sent was received.
        """
        if self._unsent:
            self._send_unsent()
        try:
            if not self._poll.poll(max(0.0, timeout_s) * 1000):
                return None
            try:
                content, ancillary, _, _ = self._receive()
            except ConnectionResetError:
                # It ended without having read all. The system says so once, before it gives out what had been sent.
                content, ancillary, _, _ = self._receive()
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkClosed from error
        if not content:
            raise LinkClosed
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return Packet(Kind(content[0]), content[1:], descriptors[0] if descriptors else -1)

    def _receive(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        return self._end.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(4), _RECEIVING)

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _send(self, packet: bytes, ancillary: Sequence[tuple[int, int, bytes]] = ()) -> None:
        try:
            self._end.sendmsg([packet], ancillary, self._flags)
        except OSError as error:
            raise LinkClosed from error
