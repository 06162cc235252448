"""When something is due again: at times of day, and so long after it was last done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, time, timedelta

__all__ = ["Schedule"]

_SET_BACK = timedelta(hours=2)
"""A clock that goes back by less ended its summer time; by more, somebody has set it."""


class Schedule:
    """Times of day by the clock on the wall, and a period by the monotonic clock.

    In the hour that summer time repeats a time is due once, and one in the hour that it leaves out is due right after
    it. A clock that is set forward brings what it passes over, once; set back, times are due again.

    Args:
        at: times of day, "06:00", local time.
        every_s: period, s; None for none.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.
    """

    def __init__(
        self, at: Sequence[str], every_s: float | None, *, clock: Callable[[], int], utc: Callable[[], int]
    ) -> None:
        self._at = sorted(time.fromisoformat(each) for each in at)
        self._every_s = every_s
        self._clock = clock
        self._utc = utc
        self._seen = self._wall()
        self._done_ns = clock()

    def due(self) -> str:
        """Why it is due, for people; empty where it is not. A time of day is told once."""
        now, before = self._wall(), self._seen
        if now < before - _SET_BACK:
            before = now
        self._seen = max(now, before)
        for each in self._at:
            latest = datetime.combine(now.date(), each)
            if latest > now:
                latest -= timedelta(days=1)
            if before < latest <= now:
                return f"at {each:%H:%M}"
        if self._every_s is not None and self._clock() - self._done_ns >= self._every_s * 1e9:
            return f"{self._every_s / 3600:g} h after the last time"
        return ""

    def done(self) -> None:
        """It was done: the period begins."""
        self._done_ns = self._clock()

    def _wall(self) -> datetime:
        """Local time, as a clock on the wall shows it: what a shift begins by."""
        return datetime.fromtimestamp(self._utc() / 1e9)
