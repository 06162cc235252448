"""What a process of the station and its supervisor say to each other, and the process's side of it.

    process     beat, at least every 250 ms; bye, before an end on purpose
    supervisor  alarm, for the process that publishes; siblings, how the other processes are

Packets are JSON over a pair of SOCK_SEQPACKET sockets, whose closing by whatever ends the supervisor ends the process.
Neither side ever waits for the other: what does not fit is dropped, and the next beat says it all again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from inspectd.wire import CameraBody, DeviceHealth, Severity, StatsBody

from .sources.grab_link import LinkClosed

__all__ = [
    "LINK_VARIABLE",
    "MAX_PACKET_BYTES",
    "PERIOD_S",
    "Alarm",
    "Beat",
    "BeatLink",
    "Bye",
    "LinkClosed",
    "MastersBeat",
    "PacketRefused",
    "ProcessState",
    "ProcessStatus",
    "Reporter",
    "Siblings",
    "Stage",
    "Work",
]

LINK_VARIABLE = "INSPECTD_LINK"
"""Environment variable with the descriptor of a process's end of the pair."""
MAX_PACKET_BYTES = 65_536
PERIOD_S = 0.2
"""Between two beats; at most 250 ms may pass, and this leaves time for a turn of a loop."""
ORPHAN_S = 20.0
"""So long may a process whose supervisor is gone take to end in good order; then it ends itself by SIGKILL."""
_BYE_S = 1.0
_MOST_TEXT = 500

_log = logging.getLogger("inspectd.beats")


class PacketRefused(Exception):
    """A packet that is too big, or none of those that are known. The link goes on."""


class _Packet(BaseModel):
    # Fields that a later version added are passed over.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Stage(_Packet):
    """A stage of a process's work, such as a camera's thread or the engine."""

    done: int = Field(ge=0)
    """How often it came to its end."""
    busy_s: float = Field(0.0, ge=0)
    """How long it has been at the work that it has in hand; 0 where it has none."""
    limit_s: float = Field(gt=0)
    """After so long at one piece of work it hangs, and the process is replaced."""


class MastersBeat(_Packet):
    """How the master parts came out the last time."""

    begun: str
    """When, UTC."""
    seconds: float = Field(ge=0)
    """How long it took."""
    passed: bool
    """Whether as many known defects were found as have to be."""
    known: int = Field(ge=0)
    """Defective ones; 0 where they could not be judged."""
    missed: int = Field(ge=0)
    """Those of them that were not found."""
    good: int = Field(ge=0)
    """Good ones."""
    rejected: int = Field(ge=0)
    """Those of them that were not OK."""
    painted: int = Field(0, ge=0)
    """Known defects that were painted on pictures of now."""
    painted_missed: int = Field(0, ge=0)
    """Those of them that were not found."""
    names: tuple[str, ...] = ()
    """Of the first that were missed."""
    fault: str = ""
    """Why they could not be judged; empty otherwise."""


class Beat(_Packet):
    """That a process is alive, and how it is."""

    kind: Literal["beat"] = "beat"
    state: str
    """Of the core the station's state, by the names of INS1; of others a word."""
    ready: bool
    """Whether it has started and does its work. Not whether parts are judged: a station that waits is ready too."""
    status: str = ""
    """What it does, in one line for people."""
    stages: dict[str, Stage] = {}
    stats: StatsBody | None = None
    """Once a second; the supervisor keeps the latest."""
    health: DeviceHealth = Field(DeviceHealth.NORMAL, strict=False)
    reason: str = ""
    """Why the health is not NORMAL, for people."""
    cameras: tuple[CameraBody, ...] = ()
    facts: dict[str, JsonValue] = {}
    """What else `inspectd status` may show, such as the size of an archive."""
    masters: MastersBeat | None = None
    """Of the core, where there are master parts."""
    reloading: bool = False
    """Whether a new configuration is being taken up."""


class Bye(_Packet):
    """That the process ends on purpose: where its exit status is the one named here, it is not started again."""

    kind: Literal["bye"] = "bye"
    exit: int = Field(ge=0, le=255)
    reason: str = ""


class Alarm(_Packet):
    """An alarm that the core has to publish for the supervisor."""

    kind: Literal["alarm"] = "alarm"
    code: str = Field(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_-]+)*$")
    """`process.restarted.NAME` or `process.failing.NAME`."""
    severity: Severity = Field(strict=False)
    message: str
    active: bool


ProcessState = Literal["starting", "running", "waiting", "stopping", "ended"]
"""Of a process: until its first `ready`, then; between two tries; from SIGTERM on; not started again."""


class ProcessStatus(_Packet):
    """How a process of the station is, as its supervisor sees it."""

    state: ProcessState
    essential: bool
    pid: int | None = None
    restarts: int = Field(0, ge=0)
    failing: bool = False
    """Whether it failed so often that it is tried at long intervals only."""
    running_s: float = Field(0.0, ge=0)
    """How long the present process has run."""
    beat_age_s: float | None = None
    """How old the latest beat is; None before the first of the present process."""
    last_end: str = ""
    """How it last ended, for people; empty if it has not."""
    beat: Beat | None = None
    """The latest, also of a process that has ended."""
    stats: StatsBody | None = None
    """As `beat`."""


class Siblings(_Packet):
    """How the other processes are, for the core to tell of."""

    kind: Literal["siblings"] = "siblings"
    processes: dict[str, ProcessStatus]


Packet = Beat | Bye | Alarm | Siblings
_PACKETS: TypeAdapter[Packet] = TypeAdapter(Annotated[Packet, Field(discriminator="kind")])


class BeatLink:
    """One end of the pair. Sending is safe from any thread, receiving is one thread's.

    Args:
        end: a connected SOCK_SEQPACKET socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)

    def fileno(self) -> int:
        """Its descriptor, for `poll`."""
        return self._end.fileno()

    def send(self, packet: Packet) -> bool:
        """Send without waiting; whether it went. A closed link is noticed by `receive`.

        Raises:
            PacketRefused: it is bigger than the other side takes.
        """
        content = packet.model_dump_json().encode()
        if len(content) > MAX_PACKET_BYTES:
            raise PacketRefused(f"a {packet.kind} of {len(content)} bytes; expected at most {MAX_PACKET_BYTES}")
        try:
            self._end.send(content)
        except OSError:
            return False
        return True

    def receive(self) -> Packet | None:
        """The next packet, None if there is none.

        Raises:
            PacketRefused: one that cannot be used; it is gone, and the next one may be well.
            LinkClosed: the other process has ended, and all that it sent was received.
        """
        try:
            try:
                content, _, flags, _ = self._end.recvmsg(MAX_PACKET_BYTES)
            except ConnectionResetError:
                # It ended without having read all. The system says so once, before it gives out what had been sent.
                content, _, flags, _ = self._end.recvmsg(MAX_PACKET_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkClosed from error
        if not content:
            raise LinkClosed
        if flags & socket.MSG_TRUNC:
            raise PacketRefused(f"a packet of more than {MAX_PACKET_BYTES} bytes")
        try:
            return _PACKETS.validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise PacketRefused(f"a packet that is none of ours: {place}: {first['msg']}".rstrip()) from None

    def close(self) -> None:
        """Hang up."""
        self._end.close()


class Work:
    """A stage as the thread that works in it goes through it; any thread may ask.

        with work:
            engine.run(...)

    Args:
        limit_s: after so long at one piece of work it hangs.
        clock: s, monotonic.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._done = 0
        self._since_s: float | None = None

    def __enter__(self) -> None:
        self._since_s = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._since_s = None
        self._done += 1

    @property
    def stage(self) -> Stage:
        """How far it is."""
        since_s = self._since_s
        busy_s = 0.0 if since_s is None else max(0.0, self._clock() - since_s)
        return Stage(done=self._done, busy_s=busy_s, limit_s=self._limit_s)


class Reporter:
    """A process's side: it beats, says good-bye, and hears what the supervisor tells. Without one it does nothing.

    A supervisor that is gone sets `supervisor_gone`, and `gone` is called, from another thread: the process has to end
    in good order. One that has not after `orphan_s` is ended by SIGKILL: its ports and cameras are free for the next.

    Args:
        end: this process's end of the pair; None where nobody supervises it.
        gone: called once when the supervisor has gone.
        orphan_s: how long the process may then go on, s.
        clock: s, monotonic.
    """

    def __init__(
        self,
        end: socket.socket | None = None,
        *,
        gone: Callable[[], None] = lambda: None,
        orphan_s: float = ORPHAN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = None if end is None else BeatLink(end)
        self.gone = gone
        self._orphan_s = orphan_s
        self._clock = clock
        self._next_s = 0.0
        self._is_gone = self._told_too_big = False
        self._closing = -1
        if self._link is not None:
            self._closing = os.eventfd(0)
            self._watch = threading.Thread(target=self._wait, args=(self._link,), name="supervisor", daemon=True)
            self._watch.start()

    @classmethod
    def from_environment(
        cls, environment: MutableMapping[str, str] = os.environ, *, gone: Callable[[], None] = lambda: None
    ) -> Reporter:
        """Of the supervisor that started this process, if one did; the variable is removed from the environment."""
        number = environment.pop(LINK_VARIABLE, "")
        if not number.isdecimal():
            return cls()
        try:
            end = socket.socket(fileno=int(number))
        except OSError:
            return cls()
        # Processes that this one starts would keep the link open.
        end.set_inheritable(False)
        return cls(end, gone=gone)

    @property
    def is_supervised(self) -> bool:
        """Whether there is, or was, a supervisor."""
        return self._link is not None

    @property
    def supervisor_gone(self) -> bool:
        """Whether there was one that has ended: then this process has to end too."""
        return self._is_gone

    def tick(self, make: Callable[[], Beat]) -> None:
        """Send a beat if one is due; for each turn of a loop.

        Args:
            make: gives the beat; called only if it is sent.
        """
        if self._link is not None and self._clock() >= self._next_s:
            self.beat(make())

    def beat(self, beat: Beat) -> None:
        """Send a beat now. Never waits and never raises: one that finds no place is dropped."""
        if self._link is None or self._is_gone:
            return
        self._next_s = self._clock() + PERIOD_S
        try:
            self._link.send(beat)
        except PacketRefused as error:
            if not self._told_too_big:
                _log.warning("%s; beats go without cameras, statistics and facts", error)
            self._told_too_big = True
            # That the process is alive has to be told in any case.
            short = {"status": beat.status[:_MOST_TEXT], "reason": beat.reason[:_MOST_TEXT]}
            bare = beat.model_copy(update={**short, "cameras": (), "stats": None, "facts": {}})
            with contextlib.suppress(PacketRefused):
                self._link.send(bare)

    def bye(self, status: int, reason: str = "") -> None:
        """Tell that the process ends now, on purpose, with this exit status; waits for a second at most."""
        if self._link is None or self._is_gone:
            return
        place = select.poll()
        place.register(self._link, select.POLLOUT)
        until_s = self._clock() + _BYE_S
        while not self._link.send(Bye(exit=status, reason=reason[:_MOST_TEXT])):
            left_s = until_s - self._clock()
            if left_s <= 0 or self._is_gone:
                return
            place.poll(left_s * 1000)

    def received(self) -> list[Alarm | Siblings]:
        """What the supervisor has told since the last time; never waits."""
        told: list[Alarm | Siblings] = []
        if self._link is None:
            return told
        while True:
            try:
                packet = self._link.receive()
            except PacketRefused as error:
                _log.warning("from the supervisor: %s; passed over", error)
                continue
            except LinkClosed:
                return told  # the thread tells
            if packet is None:
                return told
            if isinstance(packet, Alarm | Siblings):
                told.append(packet)

    def close(self) -> None:
        """Hang up; from now on it does nothing."""
        if self._link is not None and self._closing >= 0:
            os.eventfd_write(self._closing, 1)
            self._watch.join()
            os.close(self._closing)
            self._closing = -1
            self._link.close()
            self._link = None

    def _wait(self, link: BeatLink) -> None:
        ended = select.poll()
        ended.register(link, select.POLLRDHUP)  # not for what comes to be read
        ended.register(self._closing, select.POLLIN)
        if self._closing in dict(ended.poll()):
            return
        self._is_gone = True
        _log.error("the supervisor has gone; this process ends too")
        self.gone()
        ended.unregister(link)
        if not ended.poll(self._orphan_s * 1000):
            _log.error("not ended within %g s after the supervisor; killed", self._orphan_s)
            os.kill(os.getpid(), signal.SIGKILL)
