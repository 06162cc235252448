"""The archive as the line has it: parts are offered, and a process that ends is replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ProtocolError
from inspectd.inspection import Inspection
from inspectd.runtime.restarts import BackOff, History
from inspectd.wire import Message

from .beat import BEAT_S, Beat
from .child import ArchiveProcess
from .handover import DRAIN_S, ArchiveSender

__all__ = ["ArchiveKeeper"]

SILENT_S = 10.0
"""A process that has told nothing for so long hangs: its beats come from a thread of their own."""
_LOOK_S = BEAT_S / 2
_log = logging.getLogger("inspectd.archive")


class ArchiveKeeper:
    """Sender and process of an archive; used from one thread. Whatever becomes of the process, it raises nothing.

    Args:
        settings: the section `archive`, with a path.
        endpoint: `ipc://PATH` between the two.
        clock: s, monotonic.

    Raises:
        ConfigError: the address cannot be connected to.

    Attributes:
        restarts: how often the process was started again.
        failing: whether it ended so often that it is tried at long intervals only.
        last_end: how it last ended, for people; empty if it has not.
    """

    def __init__(
        self,
        settings: ArchiveSettings,
        endpoint: str,
        *,
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._clock = clock
        self._back_off = back_off or BackOff()
        self._history = History()
        self._sender = ArchiveSender(endpoint, settings, clock=clock)
        self._process: ArchiveProcess | None = None
        self._beat = Beat()
        self._started_s = self._heard_s = self._next_s = self._look_s = 0.0
        self.restarts = 0
        self.last_end = ""
        self._start()

    @property
    def failing(self) -> bool:
        """Whether its process ends too often."""
        return self._history.failing

    @property
    def number(self) -> int | None:
        """Of its process, None while there is none."""
        return None if self._process is None else self._process.number

    @property
    def written(self) -> int:
        """Parts that lie on the disk."""
        return self._sender.written

    @property
    def refused(self) -> int:
        """Parts that were to be archived and are not."""
        return self._sender.refused

    @property
    def size_bytes(self) -> int:
        """Of the archive."""
        return self._beat.size_bytes

    @property
    def fault(self) -> str:
        """Why nothing is archived now, for people; empty while all is well."""
        if self._process is None:
            return f"the process of the archive is not running: {self.last_end}"
        return self._beat.fault

    def offer(self, inspection: Inspection, verdict: Message) -> None:
        """Hand a part over if it is to be archived."""
        self._sender.offer(inspection, verdict)

    def look_after(self) -> None:
        """See to the process; to be called several times a second, and does little most times."""
        now_s = self._clock()
        if now_s < self._look_s:
            return
        self._look_s = now_s + _LOOK_S
        self._sender.hear()
        process = self._process
        if process is None:
            if now_s >= self._next_s:
                self.restarts += 1
                self._start()
            return
        try:
            beat = process.hear(0)
        except ProtocolError as error:
            self._end(process, f"tells what is no beat ({error})")
            return
        if beat is not None:
            self._beat, self._heard_s = beat, now_s
        status = process.status
        if status is not None:
            self._end(process, f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}")
        elif now_s - self._heard_s > SILENT_S:
            self._end(process, f"has told nothing for {now_s - self._heard_s:.0f} s, and was ended")
        else:
            self._history = self._back_off.after_health(self._history, now_s - self._started_s)

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Have what waits written, and end the process."""
        self._sender.close(drain_s if self._process is not None else 0.0)
        if self._process is not None:
            self._process.end()
            self._process = None

    def _start(self) -> None:
        self._started_s = self._heard_s = self._clock()
        try:
            self._process = ArchiveProcess(self._settings, self._endpoint)
        except OSError as error:
            self._fail(f"cannot be started: {error.strerror}")

    def _end(self, process: ArchiveProcess, why: str) -> None:
        # It is dead, or to be killed: neither is waited for.
        process.end(0.0)
        self._process = None
        self._fail(why)

    def _fail(self, why: str) -> None:
        self.last_end = why
        self._history, delay_s = self._back_off.after_failure(self._history, self._clock())
        self._next_s = self._clock() + delay_s
        _log.error("the process of the archive %s; it is started again in %g s", why, delay_s)
