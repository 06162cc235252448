"""Reading a disk beside a thread that may not wait for it: one thing after another, in a thread of its own.

A disk that hangs (a network's, or one that fails) gives whoever reads from it no error and no end. Here it holds up
this thread alone: whoever asked is given something else in time, and who asks while it hangs at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["DiskWorker"]

_Outcome = TypeVar("_Outcome")
_log = logging.getLogger("inspectd.disk")


class _Job(Generic[_Outcome]):
    """Something to read; whoever is first, the disk or its time, gives the one outcome."""

    def __init__(
        self, read: Callable[[], _Outcome], give: Callable[[_Outcome], None], late: _Outcome, until_s: float
    ) -> None:
        self.read = read
        self.late = late
        self.until_s = until_s
        self._give = give
        self._claim = threading.Lock()

    def give(self, outcome: _Outcome) -> None:
        if self._claim.acquire(blocking=False):
            self._give(outcome)

    @property
    def is_over(self) -> bool:
        return self._claim.locked()


class DiskWorker(Generic[_Outcome]):
    """Reads; used from one thread, which looks after it several times a second.

    Args:
        name: of its thread.
        limit_s: what takes longer hangs.
        most: so many may wait.
    """

    def __init__(self, name: str, *, limit_s: float, most: int = 1) -> None:
        self._limit_s = limit_s
        self._most = most
        self._queue: queue.SimpleQueue[_Job[_Outcome] | None] = queue.SimpleQueue()
        self._open: list[_Job[_Outcome]] = []
        self._since_s: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Begin with nothing more. What hangs is not waited for."""
        self._queue.put(None)

    @property
    def busy_s(self) -> float:
        """How long it has been reading what it reads now; 0 while it reads nothing."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def is_hanging(self) -> bool:
        """Whether the disk does not answer."""
        return self.busy_s > self._limit_s

    def do(
        self,
        read: Callable[[], _Outcome],
        give: Callable[[_Outcome], None],
        *,
        late: _Outcome,
        limit_s: float | None = None,
    ) -> bool:
        """Have something read.

        Args:
            read: from the disk; by the worker's thread.
            give: given the outcome, once; by either thread.
            late: the outcome where it takes too long, or goes wrong unexpectedly.
            limit_s: how long it may take, with the wait for its turn; the worker's own if None.

        Returns:
            False where too many wait: it will not be done.
        """
        job = _Job(read, give, late, time.monotonic() + (self._limit_s if limit_s is None else limit_s))
        if self.is_hanging:
            job.give(late)
            return True
        self.look()
        if len(self._open) >= self._most:
            return False
        self._open.append(job)
        self._queue.put(job)
        return True

    def look(self) -> None:
        """Give up what has taken too long."""
        now_s = time.monotonic()
        for job in self._open:
            if now_s >= job.until_s:
                job.give(job.late)
        self._open = [job for job in self._open if not job.is_over]

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.is_over:
                continue  # nobody waits for it any more
            self._since_s = time.monotonic()
            try:
                outcome = job.read()
            except Exception:  # noqa: BLE001 - whatever it is, the next one is read
                _log.exception("what was asked of the disk went wrong")
                outcome = job.late
            self._since_s = None
            job.give(outcome)
