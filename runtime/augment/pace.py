"""How much of its time the process of an augmentation may work, and how it keeps to that."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace", "Slack"]

AFTER_OVERDUE_S = 10.0
"""Nothing is painted for so long after a part missed its deadline."""
_ONE_PIECE_S = 0.5
"""At least once in so long it is asked whether to go on."""


class Slack:
    """The share of time that the line leaves: in which the thread that judges had nothing to do.

    Args:
        clock: s, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at_s, self._busy_ms, self._overdue = clock(), 0.0, 0
        self._until_s = float("-inf")

    def share(self, busy_ms: float, overdue: int) -> float:
        """What is left, 0..1.

        Args:
            busy_ms: how long parts were judged in all, since the start.
            overdue: parts that missed their deadline, since the start.
        """
        now_s = self._clock()
        passed_ms = max(1.0, (now_s - self._at_s) * 1000)
        busy = (busy_ms - self._busy_ms) / passed_ms
        if overdue > self._overdue:
            self._until_s = now_s + AFTER_OVERDUE_S
        self._at_s, self._busy_ms, self._overdue = now_s, busy_ms, overdue
        return 0.0 if now_s < self._until_s else min(1.0, max(0.0, 1.0 - busy))


class Pace:
    """Keeps work in small steps to its share; used between the steps.

    Args:
        ask: waits up to so many s, and gives the share as it is then, 0..1.
        used: s of processor time that the work has had.
        clock: s, monotonic.
    """

    def __init__(
        self,
        ask: Callable[[float], float],
        *,
        used: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._used, self._clock = ask, used, clock
        self._used_s = used()

    def step(self) -> None:
        """Wait until the work of before is no more than the share of the time since then."""
        since_s, worked_s = self._clock(), self._used() - self._used_s
        share = self._ask(0.0)
        while share <= 0.0 or (left_s := worked_s * (1.0 / share - 1.0) - (self._clock() - since_s)) > 0.0:
            share = self._ask(_ONE_PIECE_S if share <= 0.0 else min(left_s, _ONE_PIECE_S))
        self._used_s = self._used()
