"""The supervisor: starts the processes of a station, starts again what fails, and ends with the one that judges.

    essential   its end on purpose is the supervisor's end; asked to stop, it drains first
    others      may fail as often as they like; they are ended after the essential one

What ends otherwise (a signal, a crash, silence, a stage that does not come to its end) is started again: soon at
first, less often then, and with an alarm where that does not help (restarts.py). The supervisor itself does next to
nothing, so that it has nothing to crash on; if it is killed all the same, the processes notice by their links, and end.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence

from inspectd import __version__

from .beats import Alarm, Siblings
from .charge import Charge
from .child import Child
from .report import Report
from .restarts import BackOff
from .sd_notify import Notifier
from .signals import stopping

__all__ = ["Child", "Supervisor"]

TICK_S = 0.1
_PAUSE_S = 1.0
"""A turn that took so long was none: the machine, or this process, stood still."""
_SIBLINGS_S = 1.0
_START_EXTENSION_S = 90
"""How long systemd is asked to wait further while the core starts; asked again with every status."""


class Supervisor:
    """The processes of a station; made for one `run`.

    Args:
        children: exactly one of them essential.
        notify: the service manager.
        station: its name, for reports.
        back_off: when what failed is started again.
        clock: s, monotonic.

    Raises:
        ValueError: none or several of the children are essential, or two have one name.
    """

    def __init__(
        self,
        children: Sequence[Child],
        notify: Notifier | None = None,
        *,
        station: str = "station",
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if sum(child.essential for child in children) != 1 or len({child.name for child in children}) != len(children):
            raise ValueError("a supervisor's children: expected exactly one that is essential, and each name once")
        self._notify = _Notices(notify or Notifier(), clock)
        self._station = station
        self._back_off = back_off or BackOff()
        self._clock = clock
        self._began_s = self._looked_s = clock()
        self._charges = [Charge(child, self._back_off, clock, self._raise) for child in children]
        self._core = next(charge for charge in self._charges if charge.child.essential)
        self._alarms: dict[str, Alarm] = {}
        self._told_s = -_SIBLINGS_S
        self._stop = False
        self._stopping = False

    def stop(self) -> None:
        """Ask the essential process to end in good order, then end. Takes no lock: a signal handler may call it."""
        self._stop = True

    def report(self) -> Report:
        """How everything is; may be asked from any thread."""
        now_s = self._clock()
        return Report(
            version=__version__,
            station=self._station,
            uptime_s=now_s - self._began_s,
            loop_age_s=max(0.0, now_s - self._looked_s),
            stopping=self._stopping,
            processes={charge.child.name: charge.report() for charge in self._charges},
            alarms=tuple(self._alarms.copy().values()),
        )

    def run(self) -> int:
        """Start everything, and see to it until the essential process has ended on purpose or a signal has asked.

        The first SIGTERM or SIGINT is passed on as SIGTERM; a second one ends everything at once.

        Returns:
            The exit status: the essential process's own, 128 + n where signal n has ended it; 0 where a signal came
            before it was ready; 2 where it did not start for an error of configuration.
        """
        with stopping(self.stop):
            try:
                status = self._run()
                self._end_others()
            finally:
                for charge in self._charges:
                    charge.kill()
        return status

    def _run(self) -> int:
        if self._stop:
            return 0
        for charge in self._charges:
            charge.start()
        while True:
            self._turn()
            status = self._core.outcome(stopping=self._stopping)
            if status is not None:
                return status
            if self._stop and not self._stopping:
                self._stopping = True
                self._notify.stopping()
                self._core.stop()
            self._notify.about(self._core, self._charges)

    def _turn(self) -> None:
        self._listen()
        now_s = self._clock()
        if now_s - self._looked_s > _PAUSE_S:
            for charge in self._charges:
                charge.excuse(now_s - self._looked_s)
        self._looked_s = now_s
        for charge in self._charges:
            # While the station stops nothing is started again; only what does not end in its time is ended.
            if charge.see_to(restart=not self._stopping) and charge is self._core:
                for alarm in self._alarms.values():
                    charge.tell(alarm)
        if now_s - self._told_s >= _SIBLINGS_S:
            self._told_s = now_s
            others = {charge.child.name: charge.report() for charge in self._charges if charge is not self._core}
            if others:
                self._core.tell(Siblings(processes=others))

    def _listen(self) -> None:
        """Wait for a word of anybody, for a tick at most, and take all that is there."""
        ears = select.poll()
        for charge in self._charges:
            if charge.process is not None and charge.process.is_open:
                ears.register(charge.process.link, select.POLLIN)
        ears.poll(TICK_S * 1000)
        for charge in self._charges:
            if charge.process is not None:
                charge.process.hear()

    def _raise(self, alarm: Alarm) -> None:
        known = self._alarms.get(alarm.code)
        if known == alarm or (known is None and not alarm.active):
            return
        # Taken out first, so that an alarm that comes again is the latest.
        self._alarms.pop(alarm.code, None)
        if alarm.active:
            self._alarms[alarm.code] = alarm
        self._core.tell(alarm)

    def _end_others(self) -> None:
        """They still have what the essential process gave them last: each has its time to write it down."""
        self._stopping = True
        self._notify.stopping()
        others = [charge for charge in self._charges if charge is not self._core]
        for charge in others:
            charge.stop()
        while any(charge.process is not None for charge in others):
            self._listen()
            self._looked_s = self._clock()
            for charge in others:
                charge.see_to(restart=False)


class _Notices:
    """What the service manager is told, and when."""

    def __init__(self, notify: Notifier, clock: Callable[[], float]) -> None:
        self._notify = notify
        self._clock = clock
        self._ready = self._reloading = self._stopping = False
        self._status = ""
        self._status_s = self._fed_s = -float("inf")

    def stopping(self) -> None:
        """The station ends."""
        if not self._stopping:
            self._notify.tell(STOPPING=1)
        self._stopping = True

    def about(self, core: Charge, charges: Sequence[Charge]) -> None:
        """Tell what is new, and feed the watchdog if the core deserves it."""
        if not self._notify.is_there:
            return
        now_s = self._clock()
        beat = core.process.beat if core.process is not None else None
        if beat is not None and beat.ready and not self._ready:
            self._ready = True
            self._notify.tell(READY=1)
        if beat is not None and beat.reloading != self._reloading and self._ready:
            self._reloading = beat.reloading
            if beat.reloading:
                self._notify.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            else:
                self._notify.tell(READY=1)
        if now_s - self._status_s >= 1.0:
            self._status_s = now_s
            status = "; ".join(_status(core, charges))
            if status != self._status:
                self._status = status
                self._notify.tell(STATUS=status)
            if not self._ready and core.is_fresh:
                # To build an engine takes minutes; how long is too long, the beats of the core tell.
                self._notify.tell(EXTEND_TIMEOUT_USEC=_START_EXTENSION_S * 1_000_000)
        period_s = self._notify.watchdog_s
        if period_s and core.is_fresh and now_s - self._fed_s >= min(1.0, period_s / 4):
            self._fed_s = now_s
            self._notify.tell(WATCHDOG=1)


def _status(core: Charge, charges: Sequence[Charge]) -> Iterator[str]:
    """In one line, what goes on."""
    told = core.report()
    if told.pid is None:
        yield f"core {told.last_end}"
    elif told.beat is not None and told.beat_age_s is not None:
        yield told.beat.status or told.beat.state
    else:
        yield "starting"
    yield from (f"{charge.child.name} is failing" for charge in charges if charge.is_failing)
