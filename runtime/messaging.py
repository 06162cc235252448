"""INS1 over ZeroMQ: the publisher of a line and a subscriber. docs/protocol.md is normative."""

from __future__ import annotations

import errno
import socket as posix_socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from inspectd.errors import ConfigError, ProtocolError
from inspectd.frame import CameraStatus
from inspectd.inspection import Inspection
from inspectd.wire import (
    MAX_PAYLOAD_BYTES,
    STATION_STREAM,
    DeviceHealth,
    Flags,
    HeartbeatBody,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    Recipe,
    State,
    StreamPosition,
    heartbeat_message,
    mask_message,
    preview_message,
    read_body,
    state_message,
    topic_of,
    verdict_message,
)

__all__ = ["CameraStream", "Publisher", "Silence", "Subscriber"]

DRAIN_S = 1.0
"""How long closing a publisher may wait for subscribers to take what was sent."""

_LINK_HEARTBEAT_MS = 500
_LINK_TIMEOUT_MS = 1500
_SEND_HIGH_WATER_MARK = 200
_SUBSCRIPTION_BYTES = 1024


@dataclass(frozen=True, slots=True)
class CameraStream:
    """What a publisher has to know of a camera.

    Attributes:
        scale_mm_per_px: side of a pixel in the part's plane, None where it is not known.
        simulated: its frames do not come from a real camera; all its messages say so.
    """

    scale_mm_per_px: float | None = None
    simulated: bool = False


class Publisher:
    """Sends verdicts, masks, heartbeats and changes of state; used from one thread.

    The order of `cameras` gives the stream numbers. Sending never blocks: ZeroMQ drops the newest messages
    for a subscriber that is more than 200 behind, and the gap in seq tells the subscriber so.

    Args:
        endpoint: address to bind, such as `tcp://*:5560`, `tcp://127.0.0.1:*` (any free port) or `ipc:///run/x`.
        epoch: of this start, from `EpochCounter.next`.
        cameras: the cameras of the line.
        station: name of the station.
        recipe: what the station is set to.
        mask_encoding: how masks are coded.
        preview: send the picture of every part too.
        heartbeat_s: period of the heartbeat.
        monotonic_ns: clock of all intervals.
        utc_ns: clock of labels.

    Attributes:
        drops: frames lost before inspection since the start; the line counts them, the heartbeat tells them.
        camera_status: how the cameras are; the heartbeat tells it.
        health, health_reason: how the station is, and why it is not NORMAL; the heartbeat tells it.
        endpoint: the address; after `open` with the port that was chosen.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        epoch: int,
        cameras: Mapping[str, CameraStream],
        station: str = "station",
        recipe: Recipe = Recipe(),  # noqa: B008 - frozen
        mask_encoding: MaskEncoding = MaskEncoding.RLE8,
        preview: bool = False,
        heartbeat_s: float = 0.25,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        for camera in cameras:
            topic_of(MessageType.VERDICT, camera)
        self.endpoint = endpoint
        self.epoch = epoch
        self.drops = 0
        self.camera_status: Mapping[str, CameraStatus] = {}
        self.health, self.health_reason = DeviceHealth.NORMAL, ""
        self._cameras = dict(cameras)
        self._streams = {camera: stream for stream, camera in enumerate(self._cameras)}
        self._station = station
        self._recipe = recipe
        self._mask_encoding = mask_encoding
        self._preview = preview
        self._heartbeat_ns = round(heartbeat_s * 1e9)
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._last: Counter[int] = Counter()
        self._state = State.PREOPERATIONAL
        self._subscriptions = 0
        self._opened_ns = 0
        self._next_heartbeat_ns = 0
        self._link: _Link | None = None

    def open(self) -> None:
        """Bind the address.

        Raises:
            ConfigError: the address is taken or cannot be bound.
        """
        if self.endpoint.startswith("ipc://"):
            self._check_path(Path(self.endpoint.removeprefix("ipc://")))
        link = _Link(zmq.XPUB, self.endpoint)
        link.socket.sndhwm = _SEND_HIGH_WATER_MARK
        link.socket.maxmsgsize = _SUBSCRIPTION_BYTES
        try:
            link.socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            link.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(_in_use(self.endpoint)) from error
            raise ConfigError(
                f"publish.endpoint {self.endpoint}: cannot be bound ({error.strerror}); expected an address of this "
                f"machine such as tcp://*:5560, or ipc:// and a path in a folder that exists"
            ) from error
        self.endpoint = link.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._opened_ns = self._next_heartbeat_ns = self._monotonic_ns()
        self._link = link

    def _check_path(self, path: Path) -> None:
        """Whatever libzmq finds at the path it deletes without a word, to make its socket there."""
        try:
            taken = path.exists() and not path.is_socket()
        except OSError:
            return  # an impossible path: binding tells why
        if taken:
            raise ConfigError(
                f"publish.endpoint {self.endpoint}: there is a file or folder of this name already; expected the path "
                f"of a socket that is made when the line starts"
            )
        if _is_listening(str(path)):
            raise ConfigError(_in_use(self.endpoint))

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Give subscribers up to `drain_s` to take what was sent, then let go. May be called twice."""
        if self._link is not None:
            self._link.close(drain_s)
            self._link = None

    def __enter__(self) -> Publisher:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> State:
        """What the station is doing; a new value is published at once."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        if state is self._state:
            return
        seq = self._last[STATION_STREAM] + 1
        self._send(state_message(self._station, state, self._state, epoch=self.epoch, seq=seq, flags=Flags.NOT_DURABLE))
        self._last[STATION_STREAM] = seq
        self._state = state

    def publish(self, inspection: Inspection) -> int:
        """Send the verdict on a part, its mask unless it was not inspected, and its preview where asked for.

        Returns:
            The number of the result in its stream, from 1.

        Raises:
            ProtocolError: the camera is not one of ours, or something in the result does not fit the format;
                the number is given only to a verdict that went out.
        """
        camera = inspection.frame.camera
        if camera not in self._cameras:
            raise ProtocolError(f"camera {camera!r} is not one of {list(self._cameras)}")
        stream = self._streams[camera]
        settings = self._cameras[camera]
        origin = Origin(
            epoch=self.epoch,
            stream=stream,
            seq=self._last[stream] + 1,
            state=self._state,
            latency_us=self._latency_us(inspection.frame.received_ns),
            # There is no journal: nothing that is sent can be asked for again.
            flags=Flags.NOT_DURABLE | (Flags.SIMULATED if settings.simulated else Flags.NONE),
            recipe=self._recipe,
        )
        self._send(verdict_message(inspection, origin, created_ns=self._utc_ns()))
        self._last[stream] = origin.seq
        if inspection.mask is not None:
            scale = settings.scale_mm_per_px
            self._send(mask_message(inspection, origin, encoding=self._mask_encoding, scale_mm_per_px=scale))
        if self._preview:
            self._send(preview_message(inspection, origin))
        return origin.seq

    def tick(self) -> None:
        """Send the heartbeat if it is due; to be called several times in each of its periods."""
        self._read_subscriptions()
        now_ns = self._monotonic_ns()
        if now_ns < self._next_heartbeat_ns:
            return
        self._next_heartbeat_ns = now_ns + self._heartbeat_ns
        positions = [(stream, camera) for camera, stream in self._streams.items()] + [(STATION_STREAM, "")]
        self._send(
            heartbeat_message(
                self._station,
                self._state,
                [
                    StreamPosition(stream=stream, camera=camera, last=self._last[stream], oldest=self._last[stream] + 1)
                    for stream, camera in positions
                ],
                epoch=self.epoch,
                uptime_s=(now_ns - self._opened_ns) / 1e9,
                drops=self.drops,
                health=self.health,
                health_reason=self.health_reason,
                cameras=self.camera_status,
            )
        )

    def wait_for_subscriber(self, timeout_s: float, *, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Wait until somebody has subscribed to something; heartbeats go on meanwhile.

        Returns:
            False if nobody has in time, or before `is_over`.
        """
        deadline_ns = self._monotonic_ns() + round(timeout_s * 1e9)
        while True:
            self.tick()
            if self._subscriptions > 0:
                return True
            left_ns = deadline_ns - self._monotonic_ns()
            if left_ns <= 0 or is_over():
                return False
            self._socket.poll(min(left_ns, self._heartbeat_ns) // 1_000_000 + 1)

    @property
    def _socket(self) -> zmq.Socket[bytes]:
        if self._link is None:
            raise RuntimeError(f"the publisher at {self.endpoint} is not open")
        return self._link.socket

    def _send(self, message: Message) -> None:
        self._socket.send_multipart(message.to_parts())

    def _latency_us(self, received_ns: int) -> int:
        if received_ns == 0:
            return 0
        return min(max(self._monotonic_ns() - received_ns, 0) // 1000, 2**32 - 1)

    def _read_subscriptions(self) -> None:
        """Count them; and libzmq keeps each one until it is read."""
        while self._socket.poll(0):
            match self._socket.recv_multipart()[0][:1]:
                case b"\x01":
                    self._subscriptions += 1
                case b"\x00":
                    self._subscriptions -= 1


@dataclass(frozen=True, slots=True)
class Silence:
    """No message came."""

    waited_s: float


class Subscriber:
    """Receives INS1 and counts what it missed; used from one thread.

    A message is missed where the seq of a verdict or of a change of state jumps, or where a heartbeat tells of a
    later one than was received. The first message that is seen of a stream is where counting begins; after a new
    start of the station it begins at 1. Streams whose verdicts are not subscribed to are not counted.

    Args:
        endpoint: address to connect to; the publisher may come later.
        topics: prefixes of the topics to receive; heartbeats should be among them.

    Attributes:
        epoch: of the latest message, None before the first.
        restarts: how often the epoch changed.
        lost: missed messages by stream.
        refused: messages that did not follow INS1.
    """

    def __init__(self, endpoint: str, *, topics: Sequence[str] = ("ins1/",)) -> None:
        self.endpoint = endpoint
        self.epoch: int | None = None
        self.restarts = 0
        self.lost: Counter[int] = Counter()
        self.refused = 0
        self._topics = tuple(topics)
        self._last: dict[int, int] = {}
        self._link: _Link | None = None

    def open(self) -> None:
        """Connect; returns before the connection stands.

        Raises:
            ConfigError: the address is not one.
        """
        link = _Link(zmq.SUB, self.endpoint)
        link.socket.maxmsgsize = MAX_PAYLOAD_BYTES
        for topic in self._topics:
            link.socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        try:
            link.socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            link.close()
            raise ConfigError(
                f"endpoint {self.endpoint}: cannot be connected to ({error.strerror}); expected an address such as "
                f"tcp://192.168.0.5:5560 or ipc:///run/inspectd/pub"
            ) from error
        self._link = link

    def close(self) -> None:
        """Let go. May be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> Subscriber:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def receive(self, timeout_s: float) -> Message | Silence:
        """The next message, or `Silence` if none comes in time.

        Raises:
            ProtocolError: a message came that does not follow INS1; it is counted, and the next may be fine.
        """
        if self._link is None:
            raise RuntimeError(f"the subscriber to {self.endpoint} is not open")
        if not self._link.socket.poll(max(0, round(timeout_s * 1000))):
            return Silence(timeout_s)
        try:
            message = Message.from_parts(self._link.socket.recv_multipart())
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
            case MessageType.VERDICT | MessageType.STATE:
                self._reach(header.stream, header.seq, missed_to=header.seq - 1)
            case MessageType.HEARTBEAT:
                for position in read_body(message, HeartbeatBody).streams:
                    kind = MessageType.VERDICT if position.camera else MessageType.STATE
                    if topic_of(kind, position.camera).startswith(self._topics):
                        self._reach(position.stream, position.last, missed_to=position.last)

    def _reach(self, stream: int, seq: int, *, missed_to: int) -> None:
        last = self._last.get(stream, 0 if self.restarts else missed_to)
        self.lost[stream] += max(0, missed_to - last)
        self._last[stream] = max(last, seq)


class _Link:
    """A socket with a context of its own, and the options that both sides of INS1 share.

    Raises:
        ConfigError: the endpoint has a port that no machine has.
    """

    def __init__(self, kind: int, endpoint: str) -> None:
        port = endpoint.rpartition(":")[2]
        if endpoint.startswith("tcp://") and port.isdecimal() and int(port) > 65535:
            # libzmq takes such a number modulo 65536.
            raise ConfigError(f"endpoint {endpoint}: the port is above 65535")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[Any] = self.context.socket(kind)
        self.socket.linger = 0
        # Without these a subscriber stays deaf after its network was away for a second.
        self.socket.heartbeat_ivl = _LINK_HEARTBEAT_MS
        self.socket.heartbeat_timeout = _LINK_TIMEOUT_MS
        self.socket.ipv6 = "[" in endpoint

    def close(self, drain_s: float = 0.0) -> None:
        """Ending the context waits until everything is sent, but not longer than the socket may linger."""
        self.socket.close(linger=round(drain_s * 1000))
        self.context.term()


def _is_listening(path: str) -> bool:
    with posix_socket.socket(posix_socket.AF_UNIX, posix_socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _in_use(endpoint: str) -> str:
    return (
        f"publish.endpoint {endpoint}: port in use, perhaps by another line on this machine; stop that one "
        f"(`ss -ltnpx` shows who listens where), or set another publish.endpoint"
    )
