"""How long a rendered button takes on one thread."""

from __future__ import annotations

import time
from statistics import median

import cv2

from inspectd.buttons import DEFECTS, LINES, render

from .measure import Report, table

__all__ = ["BOUND_MS", "run"]

BOUND_MS = 150.0
"""Median of a button at 256 px, on one core."""


def run(*, repeats: int, size: int) -> Report:
    """Render a good and a defective button of each product line, `repeats` times.

    The time is that of the processor, of all threads of the process together: it is what one core has to do,
    whatever else the machine does meanwhile.

    Args:
        repeats: buttons of each line without a defect, and as many with one; the types come in turn.
        size: side of the picture, px.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        render(LINES[0], DEFECTS[0], 0, size)
        good = {line: [_time_ms(line, None, seed, size) for seed in range(repeats)] for line in LINES}
        defective = {
            line: [_time_ms(line, DEFECTS[(place + seed) % len(DEFECTS)], seed, size) for seed in range(repeats)]
            for place, line in enumerate(LINES)
        }
    finally:
        cv2.setNumThreads(threads)
    every = sorted(value for group in (good, defective) for times in group.values() for value in times)
    passed = median(every) <= BOUND_MS
    rows = [(line, f"{median(good[line]):.1f}", f"{median(defective[line]):.1f}") for line in LINES]
    text = (
        f"{len(every)} buttons at {size} px: median {median(every):.1f} ms "
        f"({every[0]:.1f} to {every[-1]:.1f}), bound {BOUND_MS:g} ms: {'pass' if passed else 'FAIL'}\n"
        + table(("product line", "good, ms", "defective, ms"), rows)
    )
    values = {
        "size_px": size,
        "median_ms": median(every),
        "spread_ms": [every[0], every[-1]],
        "bound_ms": BOUND_MS,
        "passed": passed,
        "good_ms": good,
        "defective_ms": defective,
    }
    return Report(text, values, passed)


def _time_ms(line: str, defect: str | None, seed: int, size: int) -> float:
    started = time.process_time_ns()
    render(line, defect, seed, size)
    return (time.process_time_ns() - started) / 1e6
