"""How long something took, counted in fixed bins."""

from __future__ import annotations

from bisect import bisect_left

from inspectd.wire import HistogramBody

__all__ = ["UPPER_MS", "Histogram"]

UPPER_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10_000)


class Histogram:
    """Counts by the bins of `UPPER_MS`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(UPPER_MS) + 1)
        self._sum_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one."""
        self._counts[bisect_left(UPPER_MS, ms)] += 1
        self._sum_ms += max(0.0, ms)

    @property
    def sum_ms(self) -> float:
        """Of all that were counted."""
        return self._sum_ms

    def body(self) -> HistogramBody:
        """As it is published."""
        return HistogramBody(
            upper_ms=tuple(map(float, UPPER_MS)), counts=tuple(self._counts), sum_ms=round(self._sum_ms, 3)
        )
