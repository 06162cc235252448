"""A child in its supervisor's care: with its present process, if it has one, and what became of those before."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from inspectd.wire import Severity

from .beats import Alarm, ProcessState, ProcessStatus, Siblings
from .child import Child, ChildProcess, in_words
from .restarts import BackOff, History

__all__ = ["Charge"]

_log = logging.getLogger("inspectd.supervisor")


class Charge:
    """A child with its present process, if it has one, and its past."""

    def __init__(
        self, child: Child, back_off: BackOff, clock: Callable[[], float], alarm: Callable[[Alarm], None]
    ) -> None:
        self.child = child
        self.process: ChildProcess | None = None
        self._back_off = back_off
        self._clock = clock
        self._alarm = alarm
        self._history = History()
        self._restarts = 0
        self._next_s = 0.0
        self._kill_s: float | None = None
        self._last_end = ""
        self._was_ready = False
        self._ended: int | None = None
        self._last: ChildProcess | None = None

    def start(self) -> None:
        """Start a process for it."""
        try:
            self.process = ChildProcess(self.child, self._clock)
        except OSError as error:
            self._fail(f"could not be started: {error.strerror}: {self.child.command[0]}")
            return
        _log.debug("%s started as process %d", self.child.name, self.process.number)

    def stop(self) -> None:
        """Ask its process to end, within its time."""
        if self.process is not None and self._kill_s is None:
            self.process.terminate()
            self._kill_s = self._clock() + self.child.drain_s

    def kill(self) -> None:
        """End its process at once."""
        process, self.process = self.process, None
        if process is not None:
            process.close()

    def excuse(self, seconds: float) -> None:
        """See `ChildProcess.excuse`."""
        if self.process is not None:
            self.process.excuse(seconds)

    def tell(self, packet: Alarm | Siblings) -> None:
        """Send to its process, if it has one."""
        if self.process is not None:
            self.process.tell(packet)

    def see_to(self, *, restart: bool) -> bool:
        """Look at the process and do what has to be done; whether a new one was started."""
        process = self.process
        if process is None:
            if not restart or self._ended is not None or self._clock() < self._next_s:
                return False
            self._restarts += 1
            self.start()
            return self.process is not None
        process.tell_again()
        self._was_ready = self._was_ready or process.ready_s is not None
        status = process.status()
        if status is not None:
            process.hear_out()
            self._was_ready = self._was_ready or process.ready_s is not None
            self._end(process, status, restart=restart)
        elif self._kill_s is not None:
            if self._clock() > self._kill_s:
                _log.error("%s has not ended in %g s; killed", self.child.name, self.child.drain_s)
                process.kill()
                self._kill_s = float("inf")
        elif why := process.hangs():
            _log.error("%s hangs: %s; killed", self.child.name, why)
            self.kill()
            self._last = process
            self._fail(f"was killed because it hung: {why}", restart=restart)
        elif process.ready_s is not None:
            self._recover(self._clock() - process.ready_s)
        return False

    def _end(self, process: ChildProcess, status: int, *, restart: bool) -> None:
        self.kill()
        self._last = process
        said = f": {process.bye.reason}" if process.bye is not None and process.bye.reason else ""
        meant = status == 0 or (process.bye is not None and process.bye.exit == status)
        wrong = status == 2 and not self._was_ready
        if self._kill_s is not None or (self.child.essential and (meant or wrong)):
            self._last_end = in_words(status) + said
            self._ended = status
            _log.debug("%s %s", self.child.name, self._last_end)
        else:
            self._fail(in_words(status) + said, restart=restart)

    def _fail(self, how: str, *, restart: bool = True) -> None:
        was_failing = self._history.failing
        self._history, delay_s = self._back_off.after_failure(self._history, self._clock())
        self._next_s = self._clock() + delay_s
        self._last_end = how
        name = self.child.name
        if not restart:
            _log.error("%s %s", name, how)
            return
        _log.error("%s %s; it is started again in %g s", name, how, delay_s)
        self._alarm(
            Alarm(
                code=f"process.restarted.{name}",
                severity=Severity.WARNING,
                message=f"the process {name} {how}, and is started again. If that goes on, see the log for why",
                active=True,
            )
        )
        if self._history.failing and not was_failing:
            many, window_s, patient_s = self._back_off.many, self._back_off.window_s, self._back_off.patient_s
            text = f"the process {name} failed {many} times within {window_s:g} s, last: {how}"
            _log.error("%s; from now on it is tried every %g s", text, patient_s)
            remedy = f"It is tried every {patient_s:g} s; the log says why it fails"
            self._alarm(
                Alarm(
                    code=f"process.failing.{name}",
                    severity=Severity.ERROR,
                    message=f"{text}. {remedy}",
                    active=True,
                )
            )

    def _recover(self, healthy_s: float) -> None:
        history = self._back_off.after_health(self._history, healthy_s)
        if history == self._history:
            return
        self._history = history
        name = self.child.name
        _log.info("%s has been well for %.0f s", name, healthy_s)
        for kind, severity in (("restarted", Severity.WARNING), ("failing", Severity.ERROR)):
            text = f"the process {name} has been well for {healthy_s:.0f} s"
            self._alarm(Alarm(code=f"process.{kind}.{name}", severity=severity, message=text, active=False))

    def outcome(self, *, stopping: bool) -> int | None:
        """The supervisor's exit status, if this is its essential child and has ended for good."""
        if self.process is not None:
            return None
        status = self._ended
        nobody_was_there = self._last is None or self._last.ready_s is None
        if status is None or (status == -signal.SIGTERM and nobody_was_there):
            # Between two tries, and before it listens to signals, nobody drains; what was in hand before is lost.
            return int(self._was_ready) if stopping else None
        return status if status >= 0 else 128 - status

    @property
    def is_fresh(self) -> bool:
        """Whether its process does what it should, or still may take its time to start."""
        return self.process is not None and self.process.is_fresh

    @property
    def is_failing(self) -> bool:
        """Whether it is tried at long intervals only."""
        return self._history.failing

    def report(self) -> ProcessStatus:
        """How it is; may be asked from any thread."""
        process = self.process
        last = process or self._last
        # A process that has said nothing yet does not take away what the one before said.
        told = last if last is None or last.beat is not None else self._last
        return ProcessStatus(
            state=self._state(process),
            essential=self.child.essential,
            pid=None if process is None else process.number,
            restarts=self._restarts,
            failing=self._history.failing,
            running_s=0.0 if process is None else max(0.0, self._clock() - process.began_s),
            beat_age_s=None if process is None else process.beat_age_s,
            last_end=self._last_end,
            beat=None if told is None or told.beat is None else told.beat.model_copy(update={"stats": None}),
            stats=None if told is None else told.stats,
        )

    def _state(self, process: ChildProcess | None) -> ProcessState:
        if process is None:
            if self._ended is not None:
                return "ended"
            return "waiting" if self._last_end else "starting"
        if self._kill_s is not None:
            return "stopping"
        return "starting" if process.ready_s is None else "running"
