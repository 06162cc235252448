"""A client of INS1 that watches, and counts what it missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from inspectd.errors import ProtocolError
from inspectd.wire import MAX_PAYLOAD_BYTES, Flags, HeartbeatBody, Message, MessageType, read_body, topic_of

from .link import Connected

__all__ = ["Silence", "Subscriber"]


@dataclass(frozen=True, slots=True)
class Silence:
    """No message came."""

    waited_s: float


class Subscriber(Connected):
    """Receives INS1 and counts what it missed; used from one thread.

    A message is missed where the seq of a verdict or of a change of state jumps, or where a heartbeat tells of a
    later one than was received. The first message that is seen of a stream is where counting begins; after a new
    start of the station it begins at 1. Streams whose verdicts are not subscribed to are not counted.

    Args:
        endpoint: address to connect to; the publisher may come later.
        topics: prefixes of the topics to receive; heartbeats should be among them.
        secure: sets keys on the socket before it connects.

    Attributes:
        epoch: of the latest message, None before the first.
        restarts: how often the epoch changed.
        lost: missed messages by stream.
        refused: messages that did not follow INS1.
    """

    KIND = zmq.SUB

    def __init__(
        self,
        endpoint: str,
        *,
        topics: Sequence[str] = ("ins1/",),
        secure: Callable[[zmq.Socket[Any]], None] | None = None,
    ) -> None:
        super().__init__(endpoint, secure=secure)
        self.epoch: int | None = None
        self.restarts = 0
        self.lost: Counter[int] = Counter()
        self.refused = 0
        self._topics = tuple(topics)
        self._last: dict[int, int] = {}

    def _set(self, socket: zmq.Socket[Any]) -> None:
        socket.maxmsgsize = MAX_PAYLOAD_BYTES
        # With a queue that can be full, libzmq ends the process after a connection that was made anew (issue 3937).
        socket.rcvhwm = 0
        for topic in self._topics:
            socket.setsockopt_string(zmq.SUBSCRIBE, topic)

    def receive(self, timeout_s: float) -> Message | Silence:
        """The next message, or `Silence` if none comes in time.

        Raises:
            ProtocolError: a message came that does not follow INS1; it is counted, and the next may be fine.
        """
        if not self._socket.poll(max(0, round(timeout_s * 1000))):
            return Silence(timeout_s)
        try:
            message = Message.from_parts(self._socket.recv_multipart())
            self._follow(message)
        except ProtocolError:
            self.refused += 1
            raise
        return message

    def _follow(self, message: Message) -> None:
        header = message.header
        if Flags.REPLAYED in header.flags:
            return
        if header.epoch != self.epoch:
            self.restarts += self.epoch is not None
            self.epoch = header.epoch
            self._last = {}
        match header.msg_type:
            case MessageType.VERDICT | MessageType.STATE | MessageType.ALARM:
                if self._follows(message.camera):
                    self._reach(header.stream, header.seq, missed_to=header.seq - 1)
            case MessageType.HEARTBEAT:
                for position in read_body(message, HeartbeatBody).streams:
                    if self._follows(position.camera):
                        self._reach(position.stream, position.last, missed_to=position.last)

    def _follows(self, camera: str) -> bool:
        """Whether all that counts in the stream of a camera, or "" of the station, is subscribed to."""
        kinds = (MessageType.VERDICT,) if camera else (MessageType.STATE, MessageType.ALARM)
        return all(topic_of(kind, camera).startswith(self._topics) for kind in kinds)

    def _reach(self, stream: int, seq: int, *, missed_to: int) -> None:
        last = self._last.get(stream, 0 if self.restarts else missed_to)
        self.lost[stream] += max(0, missed_to - last)
        self._last[stream] = max(last, seq)
