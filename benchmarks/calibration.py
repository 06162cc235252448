"""What a calibration costs each frame: flat field, look at the picture, defects in mm; 1 megapixel, 1 thread.

Processor time, not the clock's: it is what one core has to do, whatever else runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import (
    EvenScale,
    FlatField,
    FlatFieldRecord,
    ImageCheck,
    Lens,
    Plane,
    Scale,
    Software,
    thumbnail,
)
from inspectd.calibrated.flat import GAIN_UNIT, OFFSET_UNIT, arrays_sha256
from inspectd.defect import find_defects
from inspectd.mask import ClassMap, Mask

from .measure import Report, table

__all__ = ["BOUND_MS", "run"]

SIDE = 1000
FRAMES = 20
DEFECTS = 10
BOUND_MS = 2.0
"""Of the look at a grey picture."""


def run(*, rounds: int) -> Report:
    """Measure each in turns.

    Args:
        rounds: how often each is measured, after one that does not count.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 256, (SIDE, SIDE, channels), np.uint8) for channels in (1, 3))
    ways = {
        "flat field, grey": _correction(grey, rng, offset=0.0),
        "flat field with offsets, grey": _correction(grey, rng, offset=2.0),
        "flat field, colour": _correction(colour, rng, offset=0.0),
        "flat field with offsets, colour": _correction(colour, rng, offset=2.0),
        "look at the picture, grey": _look(grey),
        "look at the picture, colour": _look(colour),
        f"{DEFECTS} defects, in px": _measuring(None),
        f"{DEFECTS} defects, by one figure": _measuring(EvenScale(0.05)),
        f"{DEFECTS} defects, by the scale's plane": _measuring(_plane()),
    }
    once = "sizes of the pixels, once at the start"
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, act in ways.items():
            taken[name].append(_ms(act))
        taken.setdefault(once, []).append(_ms(lambda: _plane().pixel_area_mm2, times=1))
    taken = {name: its[1:] for name, its in taken.items()}
    rows = [(name, f"{median(its):.2f}", f"{min(its):.2f} to {max(its):.2f}") for name, its in taken.items()]
    passed = median(taken["look at the picture, grey"]) <= BOUND_MS
    lines = [
        table((f"{SIDE} x {SIDE} px", "ms", "rounds"), rows),
        f"look at a grey picture at most {BOUND_MS:g} ms: {'pass' if passed else 'FAIL'}",
    ]
    return Report("\n".join(lines), {"ms": taken, "bound_ms": BOUND_MS, "passed": passed}, passed)


def _correction(
    pixels: NDArray[np.uint8], rng: np.random.Generator, *, offset: float
) -> Callable[[], NDArray[np.uint8]]:
    gain = np.rint(rng.uniform(0.9, 1.3, pixels.shape) / GAIN_UNIT).astype(np.uint16)
    offsets = np.full(pixels.shape, round(offset / OFFSET_UNIT), np.uint16)
    defects = rng.integers(0, SIDE, (50, 2)).astype(np.int32)
    record = FlatFieldRecord(
        made=datetime(2026, 1, 1, tzinfo=timezone.utc),
        software=Software(name="benchmark", version="1"),
        inputs=(),
        width_px=SIDE,
        height_px=SIDE,
        channels=1 if pixels.shape[2] == 1 else 3,
        flat_frames=1,
        dark_frames=0,
        mean_grey=128,
        noise_grey=1,
        shading_before=0.2,
        shading_after=0.0,
        pattern_before=0.01,
        pattern_kept=1.0,
        gain_min=0.9,
        gain_max=1.3,
        hot_pixels=0,
        dead_pixels=len(defects),
        arrays_sha256=arrays_sha256(gain, offsets, defects),
    )
    field = FlatField(record, gain, offsets, defects)
    return lambda: field.apply(pixels)


def _look(pixels: NDArray[np.uint8]) -> Callable[[], object]:
    check = ImageCheck(thumbnail(pixels), {})
    return lambda: check.measure(pixels)


def _plane() -> Plane:
    """Seen obliquely, through a lens that distorts."""
    lens = Lens(fx_px=1.5 * SIDE, fy_px=1.5 * SIDE, cx_px=SIDE / 2, cy_px=SIDE / 2, k1=-0.2, k2=0.05)
    return Plane((SIDE, SIDE), np.array([[0.05, 0, 0], [0, 0.05, 0], [1e-5, 0, 1]]), lens)


def _measuring(scale: Scale | None) -> Callable[[], object]:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for at in range(DEFECTS):
        cv2.ellipse(labels, (90 * at + 60, 90 * at + 60), (20, 8), 30, 0, 360, 1, -1)
    mask, confidence = Mask(labels, ClassMap(("defect",))), labels * np.uint8(200)
    return lambda: find_defects(mask, confidence, scale=scale)


def _ms(act: Callable[[], object], times: int = FRAMES) -> float:
    started = time.process_time()
    for _ in range(times):
        act()
    return 1e3 * (time.process_time() - started) / times
