"""A process of the station as its supervisor holds it: from its start to its end, with what it told meanwhile."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from inspectd.wire import StatsBody

from .beats import LINK_VARIABLE, Alarm, Beat, BeatLink, Bye, LinkClosed, PacketRefused, Siblings
from .ending import kill_and_reap

__all__ = ["Child", "ChildProcess", "in_words"]

START_S = 60.0
"""So long may a process that is not ready yet be silent: what it loads may hold the interpreter."""
SILENT_S = 5.0
"""A process that is ready and does not beat for so long hangs."""
DRAIN_S = 15.0
"""So long may a process take to end after SIGTERM."""
_KILLED_S = 3.0
_MOST_PACKETS = 100
_NAME = re.compile(r"[A-Za-z0-9_-]+")

_log = logging.getLogger("inspectd.supervisor")


@dataclass(frozen=True, slots=True)
class Child:
    """What is to run beside others, and how long it may take for what.

    Attributes:
        name: in messages, alarms and metrics; letters, digits, `_` and `-`.
        command: program and arguments.
        essential: whether the station is this one: what it ends with, the supervisor ends with.
        environment: set for it, beside the supervisor's own.
        start_s: so long may it be silent until it is ready, s.
        silent_s: so long from then on, s.
        drain_s: so long may it take to end after SIGTERM, s.
    """

    name: str
    command: Sequence[str]
    essential: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = START_S
    silent_s: float = SILENT_S
    drain_s: float = DRAIN_S

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a child named {self.name!r}: expected letters, digits, '_' and '-'")


class ChildProcess:
    """One process of a child.

    Attributes:
        number: of the process.
        began_s: when it was started, by the supervisor's clock.
        beat: its latest; None before the first.
        stats: its latest.
        bye: what it said before its end.
        ready_s: when it was first ready; None before.

    Args:
        child: what to start.
        clock: s, monotonic.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, child: Child, clock: Callable[[], float]) -> None:
        self.child = child
        self.beat: Beat | None = None
        self.stats: StatsBody | None = None
        self.bye: Bye | None = None
        self.ready_s: float | None = None
        self._clock = clock
        self._untold: dict[str, Alarm] = {}
        self._complained = False
        self._is_closed = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                list(child.command),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C comes to a whole group; a process hears of it from its supervisor, once.
                start_new_session=True,
                # Modules of the folder that the station was started in are not its own.
                env={
                    **os.environ,
                    "PYTHONSAFEPATH": "1",
                    **child.environment,
                    LINK_VARIABLE: str(theirs.fileno()),
                },
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.link = BeatLink(ours)
        self.number = self._process.pid
        self.began_s = self._heard_s = clock()
        self._beaten_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still be heard."""
        return not self._is_closed

    @property
    def beat_age_s(self) -> float | None:
        """How old its latest beat is; None before the first."""
        return None if self._beaten_s is None else max(0.0, self._clock() - self._beaten_s)

    @property
    def is_fresh(self) -> bool:
        """Whether it does what it should: it starts within its time, or beats and works."""
        return not self.hangs()

    def hear(self) -> None:
        """Take what it has told; never waits, and however much it tells, others have their turn."""
        for _ in range(_MOST_PACKETS):
            if self._is_closed:
                return
            try:
                packet = self.link.receive()
            except PacketRefused as error:
                if not self._complained:
                    _log.warning("%s sent %s; passed over", self.child.name, error)
                self._complained = True
                continue
            except LinkClosed:
                self._close()
                return
            match packet:
                case None:
                    return
                case Beat():
                    self._take(packet)
                case Bye():
                    self.bye = packet
                    self._heard_s = self._clock()
                case _:
                    pass

    def hear_out(self) -> None:
        """Take all that is left of a process that has ended; its good-bye comes last."""
        for _ in range(_MOST_PACKETS):
            if self._is_closed:
                return
            self.hear()

    def _take(self, beat: Beat) -> None:
        self._heard_s = self._beaten_s = self._clock()
        self.stats = beat.stats or self.stats
        self.beat = beat
        if beat.ready and self.ready_s is None:
            self.ready_s = self._heard_s

    def hangs(self) -> str:
        """In what it hangs, for people; empty where it does not."""
        limit_s = self.child.start_s if self.ready_s is None else self.child.silent_s
        silent_s = self._clock() - self._heard_s
        if silent_s > limit_s:
            return f"nothing was heard of it for {silent_s:.1f} s"
        if self.beat is not None:
            for name, stage in self.beat.stages.items():
                if stage.busy_s > stage.limit_s:
                    return f"stage {name!r} has been busy for {stage.busy_s:.1f} s, of at most {stage.limit_s:g} s"
        return ""

    def excuse(self, seconds: float) -> None:
        """The supervisor itself did not run for so long, and perhaps nothing did: that counts for nobody."""
        self._heard_s += seconds

    def tell(self, packet: Alarm | Siblings) -> None:
        """Send; an alarm that finds no place is kept for the next `tell_again`."""
        if isinstance(packet, Alarm):
            self._untold[packet.code] = packet
            self.tell_again()
            return
        try:
            self.link.send(packet)
        except PacketRefused as error:
            if not self._complained:
                _log.warning("%s: %s; not sent", self.child.name, error)
            self._complained = True

    def tell_again(self) -> None:
        """Send the alarms that found no place."""
        for code, alarm in list(self._untold.items()):
            if self._is_closed or not self.link.send(alarm):
                return
            del self._untold[code]

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def close(self) -> None:
        """Kill it if it still runs, and forget it."""
        kill_and_reap(self._process, _KILLED_S)
        self._close()

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.link.close()


def in_words(status: int) -> str:
    """How a process ended: 'ended by SIGSEGV', 'ended with status 1'."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"
