"""The publisher of a line: numbers, the journal first, then the socket."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import zmq

from inspectd.errors import ConfigError, ProtocolError
from inspectd.frame import CameraStatus
from inspectd.inspection import Inspection
from inspectd.runtime.journal import Entry, Journal, OpenAlarm, Ticket
from inspectd.wire import (
    STATION_STREAM,
    AlarmBody,
    DeviceHealth,
    Flags,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    Recipe,
    State,
    StatsBody,
    StreamPosition,
    alarm_message,
    heartbeat_message,
    mask_message,
    preview_message,
    state_message,
    stats_message,
    topic_of,
    verdict_message,
)

from .link import Link, bind, let_go

__all__ = ["CameraStream", "Publisher", "Sent"]

DRAIN_S = 1.0
"""How long closing a publisher may wait for subscribers to take what was sent."""

_log = logging.getLogger("inspectd.station")
_SEND_HIGH_WATER_MARK = 200
_PATIENCE_NS = 1_000_000_000
"""That an address is not free at once is nothing to tell of; that it is not after so long is."""
_SUBSCRIPTIONS_A_TICK = 200
_MOST_SUBSCRIPTIONS = 10_000
"""Of all clients together."""
_MOST_FULL_TICKS = 20
_LONGEST_SUBSCRIPTION = 128
"""Bytes, the first of which says that it is one; no topic is so long. libzmq takes some fifty times as much memory."""
_RECEIVE_HIGH_WATER_MARK = 200
"""Subscriptions on their way. With more libzmq comes to no end of taking them up; with none it takes all memory."""
_SUBSCRIPTION_BYTES = 1024  # the handshake of CURVE has to come through too


@dataclass(frozen=True, slots=True)
class CameraStream:
    """What a publisher has to know of a camera.

    Attributes:
        scale_mm_per_px: side of a pixel in the part's plane, None where it is not known.
        simulated: its frames do not come from a real camera; all its messages say so.
    """

    scale_mm_per_px: float | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A verdict that went out.

    Attributes:
        inspection: the result.
        message: its verdict as it was sent.
        durable: whether it was on the disk before.
        sent_ns: when it went out, monotonic.
        journal_ms: how long the disk took; 0 without a journal.
    """

    inspection: Inspection
    message: Message
    durable: bool
    sent_ns: int
    journal_ms: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """What waits to be sent until it is on the disk."""

    messages: Sequence[Message]
    ticket: Ticket | None
    inspection: Inspection | None = None
    origin: Origin | None = None


class Publisher:
    """Sends verdicts, masks, heartbeats, alarms and changes of state; used from one thread.

    The order of `cameras` gives the stream numbers. Sending never blocks: ZeroMQ drops the newest messages
    for a subscriber that is more than 200 behind, and the gap in seq tells the subscriber so. With a journal what
    counts is on the disk before it is sent; `pump` sends what has got there. Where the disk fails or takes too long it
    is sent all the same, and says so.

    Args:
        endpoint: address to bind, such as `tcp://*:5560`, `tcp://127.0.0.1:*` (any free port) or `ipc:///run/x`.
        epoch: of this start, from `EpochCounter.next`.
        cameras: the cameras of the line.
        station: name of the station.
        recipe: what the station is set to.
        mask_encoding: how masks are coded.
        preview: send the picture of every part too.
        heartbeat_s: period of the heartbeat.
        journal: keeps what is sent; None to keep nothing.
        commit_timeout_s: how long something waits for the disk.
        keep_masks: whether masks are kept too.
        local: a second address, on this machine alone, that is never encrypted.
        socket_mode: permissions of the socket of each `ipc://` address; None leaves those of the process.
        secure: sets keys on the socket before `endpoint` is bound.
        context: of the socket, where keys need one that is shared.
        sent: told of each verdict that went out.
        monotonic_ns: clock of all intervals.
        utc_ns: clock of labels.

    Attributes:
        drops: frames lost before inspection since the start; the line counts them, the heartbeat tells them.
        camera_status: how the cameras are; the heartbeat tells it.
        fault: why nobody is sent anything; empty where all is well.
        flood: why all connections were cut at last for the sake of memory; whoever tells of it empties it.
        health, health_reason: how the station is, and why it is not NORMAL; the heartbeat tells it.
        time_synced: whether the computer's clock is synchronised; messages tell it.
        recipe: what the station is set to; verdicts tell it.
        endpoint: the address; after `open` with the port that was chosen.
        sent: as above; whoever counts them sets it.
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
        journal: Journal | None = None,
        commit_timeout_s: float = 0.2,
        keep_masks: bool = True,
        local: str = "",
        socket_mode: int | None = None,
        secure: Callable[[zmq.Socket[Any]], None] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        sent: Callable[[Sent], None] = lambda _sent: None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        for camera in cameras:
            topic_of(MessageType.VERDICT, camera)
        self.endpoint = endpoint
        self.epoch = epoch
        self.drops = 0
        self.camera_status: Mapping[str, CameraStatus] = {}
        self.fault = self.flood = ""
        self.health, self.health_reason = DeviceHealth.NORMAL, ""
        self.time_synced = False
        self.recipe = recipe
        self.sent = sent
        self._cameras = dict(cameras)
        self._streams = {camera: stream for stream, camera in enumerate(self._cameras)}
        self._station = station
        self._mask_encoding = mask_encoding
        self._preview = preview
        self._heartbeat_ns = round(heartbeat_s * 1e9)
        self._journal = journal
        self._commit_timeout_ns = round(commit_timeout_s * 1e9)
        self._keep_masks = keep_masks
        self._local = local
        self._socket_mode = socket_mode
        self._secure = secure
        self._context = context
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._numbered: Counter[int] = Counter()
        self._last: Counter[int] = Counter()
        self._pending: deque[_Pending] = deque()
        self._state = State.PREOPERATIONAL
        self._subscriptions = self._full_ticks = 0
        self._opened_ns = 0
        self._next_heartbeat_ns = 0
        self._link: Link | None = None
        self._cut_ns: int | None = None
        """Since when nobody is let in, ns; None while the addresses are bound."""

    def open(self) -> None:
        """Bind the addresses.

        Raises:
            ConfigError: one is taken or cannot be bound.
        """
        self._bind()
        self._opened_ns = self._next_heartbeat_ns = self._monotonic_ns()

    def _bind(self) -> None:
        link = Link(zmq.XPUB, self.endpoint, context=self._context)
        link.socket.sndhwm = _SEND_HIGH_WATER_MARK
        link.socket.rcvhwm = _RECEIVE_HIGH_WATER_MARK
        link.socket.maxmsgsize = _SUBSCRIPTION_BYTES
        try:
            if self._local:
                # Before the keys: an address takes those that the socket has when it is bound.
                bind(link.socket, self._local, setting="station.state_dir", mode=self._socket_mode)
            if self._secure is not None:
                self._secure(link.socket)
            self.endpoint = bind(link.socket, self.endpoint, setting="publish.endpoint", mode=self._socket_mode)
        except BaseException:
            link.close()
            raise
        self._link = link

    def rebind(self) -> None:
        """Cut every client off, and let in anew whoever may still come; they find in the journal what they missed.

        The addresses are bound by the ticks that follow, one try each: the system takes a moment to give them free, and
        the line does not wait for it. Until then nobody is sent anything.
        """
        if self._link is not None:
            link, self._link = self._link, None
            self._subscriptions = self._full_ticks = 0
            self._cut_ns = self._monotonic_ns()
            let_go(link, *filter(None, (self._local, self.endpoint)))
            self._try_to_bind(self._cut_ns)

    def _try_to_bind(self, since_ns: int) -> None:
        try:
            self._bind()
        except (ConfigError, zmq.ZMQError, OSError) as error:  # also of a machine that has no descriptor left
            if self._monotonic_ns() - since_ns > _PATIENCE_NS:
                self.fault = f"nobody is sent anything: {error}; it is tried again by itself"
        else:
            self._cut_ns, self.fault = None, ""

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Send what waits, give subscribers up to `drain_s` to take it, then let go. May be called twice."""
        if self._link is not None or self._cut_ns is not None:
            self.flush()
        self._cut_ns = None
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
        self.change_state(state)

    def change_state(self, state: State, reason: str = "") -> None:
        """Publish what the station is doing from now on, if that is new."""
        if state is self._state:
            return
        seq = self._numbered[STATION_STREAM] + 1
        message = state_message(self._station, state, self._state, epoch=self.epoch, seq=seq, reason=reason)
        self._numbered[STATION_STREAM] = seq
        self._state = state
        self._keep([message])

    def alarm(self, body: AlarmBody) -> None:
        """Publish an alarm that came, went or was acknowledged."""
        seq = self._numbered[STATION_STREAM] + 1
        message = alarm_message(body, self._state, epoch=self.epoch, seq=seq)
        self._numbered[STATION_STREAM] = seq
        is_open = body.active or not body.acked
        self._keep([message], alarm=OpenAlarm(body.alarm_id, body.model_dump_json(by_alias=True) if is_open else ""))

    def stats(self, body: StatsBody) -> None:
        """Publish the counters."""
        self._send(stats_message(body, self._state, epoch=self.epoch))

    def publish(self, inspection: Inspection) -> int:
        """Number the verdict on a part, keep it, and send it as soon as it is on the disk, with its mask and preview.

        Returns:
            The number of the result in its stream, from 1.

        Raises:
            ProtocolError: the camera is not one of ours, or something in the result does not fit the format;
                the number is given only to a verdict that goes out.
        """
        camera = inspection.frame.camera
        if camera not in self._cameras:
            raise ProtocolError(f"camera {camera!r} is not one of {list(self._cameras)}")
        stream = self._streams[camera]
        settings = self._cameras[camera]
        synced = self.time_synced or inspection.frame.camera_clock
        origin = Origin(
            epoch=self.epoch,
            stream=stream,
            seq=self._numbered[stream] + 1,
            state=self._state,
            latency_us=self._latency_us(inspection.frame.received_ns),
            flags=(Flags.SIMULATED if settings.simulated else Flags.NONE)
            | (Flags.TIME_SYNCED if synced else Flags.NONE),
            recipe=self.recipe,
        )
        messages = [verdict_message(inspection, origin, created_ns=self._utc_ns())]
        if inspection.mask is not None:
            scale = settings.scale_mm_per_px
            messages.append(mask_message(inspection, origin, encoding=self._mask_encoding, scale_mm_per_px=scale))
        self._numbered[stream] = origin.seq
        self._keep(messages, inspection=inspection, origin=origin)
        return origin.seq

    def pump(self) -> None:
        """Send what has got to the disk since, and what has waited for it too long, in its order."""
        while self._pending and self._is_due(self._pending[0]):
            self._emit(self._pending.popleft())

    def flush(self) -> None:
        """Wait for the disk, as long as something may wait for it, and send all."""
        while self._pending:
            self.pump()
            if self._pending:
                time.sleep(0.001)

    @property
    def waiting(self) -> int:
        """Results that wait for the disk."""
        return len(self._pending)

    def tick(self) -> None:
        """Send what waits, and the heartbeat if it is due; to be called several times in each of its periods."""
        if self._cut_ns is not None:
            self._try_to_bind(self._cut_ns)
        self.pump()
        self._read_subscriptions()
        now_ns = self._monotonic_ns()
        if now_ns < self._next_heartbeat_ns:
            return
        self._next_heartbeat_ns = now_ns + self._heartbeat_ns
        self._send(
            heartbeat_message(
                self._station,
                self._state,
                self.positions(),
                epoch=self.epoch,
                uptime_s=self.uptime_s,
                drops=self.drops,
                journal_lag=0 if self._journal is None else self._journal.lag,
                health=self.health,
                health_reason=self.health_reason,
                cameras=self.camera_status,
            )
        )

    @property
    def uptime_s(self) -> float:
        """Seconds since `open`."""
        return (self._monotonic_ns() - self._opened_ns) / 1e9

    def positions(self) -> list[StreamPosition]:
        """How far each stream has come."""
        streams = [(stream, camera) for camera, stream in self._streams.items()] + [(STATION_STREAM, "")]
        return [
            StreamPosition(stream=stream, camera=camera, last=self._last[stream], oldest=self._oldest(stream))
            for stream, camera in streams
        ]

    def _oldest(self, stream: int) -> int:
        held = None if self._journal is None else self._journal.oldest(stream)
        # What is on the disk and was not sent yet does not count yet.
        return self._last[stream] + 1 if held is None else min(held, self._last[stream] + 1)

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
            pause_ms = min(left_ns, self._heartbeat_ns) // 1_000_000 + 1
            if self._cut_ns is None:
                self._socket.poll(pause_ms)
            else:
                time.sleep(pause_ms / 1000)

    @property
    def _socket(self) -> zmq.Socket[bytes]:
        if self._link is None:
            raise RuntimeError(f"the publisher at {self.endpoint} is not open")
        return self._link.socket

    def _keep(
        self,
        messages: Sequence[Message],
        *,
        inspection: Inspection | None = None,
        origin: Origin | None = None,
        alarm: OpenAlarm | None = None,
    ) -> None:
        ticket = None
        if self._journal is not None:
            kept = messages if self._keep_masks else messages[:1]
            ticket = self._journal.submit(Entry(messages=kept, alarm=alarm))
        self._pending.append(_Pending(messages, ticket, inspection, origin))
        self.pump()

    def _is_due(self, pending: _Pending) -> bool:
        ticket, journal = pending.ticket, self._journal
        if ticket is None or journal is None or ticket.answered:
            return True
        return journal.is_slow or self._monotonic_ns() - ticket.submitted_ns > self._commit_timeout_ns

    def _emit(self, pending: _Pending) -> None:
        ticket, inspection = pending.ticket, pending.inspection
        durable = ticket is not None and ticket.durable
        latency_us = 0 if inspection is None else self._latency_us(inspection.frame.received_ns)
        messages = []
        for message in pending.messages:
            kept = durable and (self._keep_masks or message.header.msg_type != MessageType.MASK)
            flags = message.header.flags | (Flags.NONE if kept else Flags.NOT_DURABLE)
            # The checksum is over body and payload alone.
            messages.append(replace(message, header=replace(message.header, flags=flags, latency_us=latency_us)))
        for message in messages:
            self._send(message)
        self._last[messages[0].header.stream] = messages[0].header.seq
        if inspection is None or pending.origin is None:
            return
        if self._preview:
            flags = pending.origin.flags | Flags.NOT_DURABLE
            self._send(preview_message(inspection, replace(pending.origin, flags=flags, latency_us=latency_us)))
        self.sent(
            Sent(
                inspection=inspection,
                message=messages[0],
                durable=durable,
                sent_ns=self._monotonic_ns(),
                journal_ms=(ticket.committed_ns - ticket.submitted_ns) / 1e6 if ticket is not None and durable else 0.0,
            )
        )

    def _send(self, message: Message) -> None:
        # While nobody is let in it is as with a socket that nobody has subscribed at: the journal has it.
        if self._cut_ns is None:
            self._socket.send_multipart(message.to_parts())

    def _latency_us(self, received_ns: int) -> int:
        if received_ns == 0:
            return 0
        return min(max(self._monotonic_ns() - received_ns, 0) // 1000, 2**32 - 1)

    def _read_subscriptions(self) -> None:
        """Count them; and libzmq keeps each one until it is read. A client must not hold up the line with them."""
        if self._cut_ns is not None:
            return
        for _ in range(_SUBSCRIPTIONS_A_TICK):
            if not self._socket.poll(0):
                self._full_ticks = 0
                return
            frame = self._socket.recv(copy=False)
            if len(frame.buffer) > _LONGEST_SUBSCRIPTION:
                self._cut_flood("subscribes to what is longer than any topic", frame)
                return
            match bytes(frame.buffer[:1]):
                case b"\x01":
                    self._subscriptions += 1
                case b"\x00":
                    # Of a connection that ended, libzmq also takes back what it had not yet given out.
                    self._subscriptions = max(0, self._subscriptions - 1)
            if self._subscriptions > _MOST_SUBSCRIPTIONS:
                self._cut_flood(f"has subscribed to more than {_MOST_SUBSCRIPTIONS} topics", frame)
                return
        self._full_ticks += 1
        if self._full_ticks > _MOST_FULL_TICKS:
            self._cut_flood("subscribes to topics without an end", frame)

    def _cut_flood(self, what: str, frame: zmq.Frame) -> None:
        """Subscriptions are memory of this process, which nothing else bounds: with the connections they are gone."""
        try:
            name = f"client {frame.get('User-Id')!r}"
        except zmq.ZMQError:
            name = "a client without keys"
        self.flood = f"{name} {what}: all connections were cut and made anew"
        _log.warning("%s", self.flood)
        self.rebind()
