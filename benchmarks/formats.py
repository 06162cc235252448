"""What it costs to make a picture of a camera's buffer, for each pixel format: ms for 5 million pixels."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from inspectd.runtime.sources.pixel_formats import PIXEL_FORMATS, PixelFormat, to_pixels

from .measure import Report, table

__all__ = ["run"]

HEIGHT, WIDTH = 2048, 2448


def run(*, rounds: int) -> Report:
    """Convert a buffer of noise in every format, in turns.

    Args:
        rounds: how often each is converted, after a first time that does not count.
    """
    taken = {name: [_ms(pixel_format) for _ in range(rounds + 1)][1:] for name, pixel_format in PIXEL_FORMATS.items()}
    rows = [(name, f"{median(ms):.1f}", f"{min(ms):.1f} to {max(ms):.1f}") for name, ms in taken.items()]
    return Report(table((f"{WIDTH} x {HEIGHT} px", "ms", "rounds"), rows), {"ms": taken}, passed=True)


def _ms(pixel_format: PixelFormat) -> float:
    data = np.random.default_rng(0).integers(0, 256, HEIGHT * WIDTH * pixel_format.bits_per_pixel // 8, np.uint8)
    started = time.perf_counter()
    to_pixels(data, HEIGHT, WIDTH, 0, pixel_format)
    return 1e3 * (time.perf_counter() - started)
