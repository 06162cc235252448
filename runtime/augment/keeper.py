"""Augmentation as the line has it: one order at a time, in a process that is told how much of its time it may work."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from pydantic import ValidationError

from inspectd.config import Config
from inspectd.errors import RequestError
from inspectd.runtime.alarms import Alarms
from inspectd.runtime.ending import kill_and_reap
from inspectd.runtime.last import command
from inspectd.runtime.restarts import BackOff, History
from inspectd.runtime.signals import interrupts_held
from inspectd.wire import AugmentBody, Severity

from .order import CANCEL, Order, Report, Task
from .pace import Slack

__all__ = ["Augmenting", "Load"]

LOOK_S = 0.25
STOP_S = 1.0
"""So long may the process take to see that the line has ended; it can be killed at any time."""
STATE_FILE = "augment.json"
Load = Callable[[], tuple[float, int]]
"""How long parts were judged in all, ms, and how many missed their deadline; both since the start."""
Answering = Callable[[Any], None]
_log = logging.getLogger("inspectd.augment")


class Augmenting:
    """The order that is under way, if any; used from the line's thread, which it never holds up.

    Args:
        config: of the station.
        alarms: to raise.
        load: of the line.
        clock: s, monotonic.
        utc: s since the Unix epoch.
    """

    def __init__(
        self,
        config: Config,
        alarms: Alarms,
        load: Load,
        *,
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._settings = config, config.augment
        self._state_file = config.station.state_dir / STATE_FILE
        self._alarms, self._load = alarms, load
        self._clock, self._utc = clock, utc
        self._slack = Slack(clock)
        self._back_off = back_off or BackOff()
        self._history = History()
        self._order: Order | None = None
        self._report = Report(state="starting")
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._link: socket.socket | None = None
        self._was_begun = self._is_cancelled = False
        self._answer: Answering | None = None
        self._cancelling: list[Answering] = []
        self._next_s = self._look_s = self._started_s = 0.0

    @property
    def body(self) -> AugmentBody | None:
        """How far the latest order of this start is; None where there was none."""
        out = self._settings.out
        return None if self._order is None or out is None else self._report.body(self._order, out)

    @property
    def is_busy(self) -> bool:
        """Whether an order is under way."""
        return self._order is not None and not self._report.is_last

    @property
    def number(self) -> int | None:
        """Of its process; None while there is none."""
        return None if self._process is None else self._process.pid

    # What is asked for

    def take_up(self) -> None:
        """Go on with an order that the station was at when it ended; before the line runs, for it reads a file."""
        try:
            text = self._state_file.read_text(encoding="utf-8")
        except OSError:
            return
        try:
            order = Order.model_validate_json(text)
        except ValidationError as error:
            _log.error("%s: is no order of an augmentation, and is passed over: %s", self._state_file, error)
            return
        if self._settings.out is None or self._settings.bundles is None or self._config.archive.path is None:
            _log.error("augmentation %s is not gone on with: it is not configured any more", order.job)
            return
        _log.warning("augmentation %s is gone on with", order.job)
        self._begin(order, was_begun=True)

    def begin(self, args: dict[str, Any], answer: Answering) -> None:
        """Begin an order; answered once it is under way, or refused.

        Raises:
            RequestError: it is not possible at all, or another is under way.
        """
        settings = self._settings
        if settings.bundles is None or settings.out is None:
            name = "bundles" if settings.bundles is None else "out"
            raise RequestError(f"augment: augment.{name} is not set; without it nothing can be painted here")
        if self._config.archive.path is None:
            raise RequestError("augment: archive.path is not set; good parts of the archive are what is painted on")
        if args["camera"] and args["camera"] not in self._config.cameras:
            raise RequestError(f"augment: no camera {args['camera']!r}", code="not_found", field="camera")
        if self.is_busy and self._order is not None:
            raise RequestError(
                f"augment: {self._order.job} is under way ({self._report.done} of {self._order.count}); wait for it, "
                "or augment_cancel",
                code="busy",
            )
        now = datetime.fromtimestamp(self._utc(), timezone.utc)
        seed = args["seed"]
        order = Order(
            job=f"augmented-{now:%Y%m%dT%H%M%S}-{now.microsecond:06}Z",
            defects=tuple(dict.fromkeys(args["defects"])),
            count=args["count"],
            seed=int(now.timestamp()) if seed is None else seed,
            camera=args["camera"],
        )
        self._answer = answer
        self._begin(order, was_begun=False)

    def cancel(self, answer: Answering) -> None:
        """End the order that is under way, and take away what it has written; answered once that is done.

        Raises:
            RequestError: none is.
        """
        if not self.is_busy:
            raise RequestError("augment_cancel: nothing is under way", code="wrong_state")
        self._is_cancelled = True
        self._cancelling.append(answer)

    def _begin(self, order: Order, *, was_begun: bool) -> None:
        self._order, self._report = order, Report(state="starting", count=order.count)
        self._was_begun, self._is_cancelled = was_begun, False
        self._history, self._next_s = History(), 0.0
        self._alarms.clear("augment.failing")
        self._start()

    # The process

    def _start(self) -> None:
        order, archive = self._order, self._config.archive.path
        if order is None or archive is None:
            return
        task = Task(
            order=order,
            settings=self._settings,
            archive=archive,
            state_file=self._state_file,
            trusted_keys=self._config.model.trusted_keys,
            resumed=self._was_begun,
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with interrupts_held(signal.SIGINT, signal.SIGTERM):
                self._process = subprocess.Popen(
                    command("inspectd.runtime.augment.process", task.model_dump_json(), str(theirs.fileno())),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # Modules of the folder that the line was started in are not its own.
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                )
        except OSError as error:
            ours.close()
            self._failed(f"could not be started: {error.strerror}")
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._link, self._started_s = ours, self._clock()

    def look(self) -> None:
        """See to the process; to be called several times a second, and does little most times."""
        now_s = self._clock()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        self._leaving = [process for process in self._leaving if process.poll() is None]
        for each in self._leaving:
            # The thread that judges may have stopped it at the last moment.
            each.send_signal(signal.SIGCONT)
        if not self.is_busy:
            return
        process = self._process
        if process is None:
            if now_s >= self._next_s:
                self._start()
            return
        self._tell()
        status = process.poll()
        self._hear()
        if self._report.is_last:
            self._end()
        elif status is not None:
            self._let_go()
            self._failed(f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}")
        else:
            self._history = self._back_off.after_health(self._history, now_s - self._started_s)
            self._alarms.show("augment.failing", Severity.WARNING, self._report.fault)

    def hold(self, is_held: bool) -> None:
        """Stop the process while a part is judged; from the thread that judges.

        Whatever runs beside it slows it down, by the caches and the memory that they share, however low its priority.
        """
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGSTOP if is_held else signal.SIGCONT)

    def _tell(self) -> None:
        told = CANCEL if self._is_cancelled else f"{self._slack.share(*self._load()):.3f}"
        # One that is full has enough to read; one that is closed is seen by its end.
        with contextlib.suppress(OSError):
            if self._link is not None:
                self._link.send(told.encode())

    def _hear(self) -> None:
        while self._link is not None:
            try:
                told = self._link.recv(65_536)
            except OSError:
                return
            if not told:
                return
            try:
                self._report = Report.model_validate_json(told)
            except ValidationError as error:
                _log.error("the process of the augmentation told what is no report: %s", error)
            self._answer_begun()

    def _answer_begun(self) -> None:
        report, order, body = self._report, self._order, self.body
        if order is None or body is None or report.state not in ("gathering", "placing", "painting", "done"):
            return
        self._was_begun = True
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(
                {
                    "job": order.job,
                    "out": body.out,
                    "count": order.count,
                    "seed": order.seed,
                    "references": report.references,
                }
            )

    def _end(self) -> None:
        report, order = self._report, self._order
        self._let_go()
        answer, self._answer = self._answer, None
        waiting, self._cancelling = self._cancelling, []
        if order is None:
            return
        self._alarms.clear("augment.failing")
        if report.state == "failed":
            self._alarms.tell("augment.failed", Severity.WARNING, f"augmentation {order.job} failed: {report.reason}")
        if report.state == "refused":
            self._order = None
        _log.warning("augmentation %s: %s", order.job, report.reason or report.state)
        if answer is not None:
            reason = report.reason or "augment: was cancelled"
            answer(
                RequestError(reason, code=report.code if report.state == "refused" else "failed", field=report.field)
            )
        for each in waiting:
            each({"job": order.job, "state": report.state})

    def _failed(self, how: str) -> None:
        self._history, delay_s = self._back_off.after_failure(self._history, self._clock())
        self._next_s = self._clock() + delay_s
        _log.error("the process of the augmentation %s; it is started again in %g s", how, delay_s)
        told = f"the process of the augmentation {how}, and is started again; if that goes on, augment_cancel"
        self._alarms.tell("process.restarted.augment", Severity.WARNING, told)

    def _let_go(self) -> None:
        process, self._process = self._process, None
        if self._link is not None:
            self._link.close()
            self._link = None
        if process is not None:
            # It ends by itself, when it gets to it: the line does not wait for that.
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
            self._leaving.append(process)

    def close(self) -> None:
        """End the process; the order is gone on with at the next start. May be called twice."""
        self._let_go()
        for process in self._leaving:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            kill_and_reap(process, STOP_S)
        self._leaving.clear()
