"""The page about good pictures: their limits, what they find, and how the simulated faults look."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import NUMBERS, ImageRecord

from .image import FAULTS, ImageFit
from .page import Page, Picture, Plot, Section, Table, Text, Verdict
from .pictures import Photograph
from .plots import Axis, histogram

__all__ = ["image_page"]

_SIDE = 220
"""Height of a picture on the sheet, px."""
_WORDS = {
    "focus": "focus (differences over variance)",
    "brightness": "brightness (mean grey value)",
    "contrast": "contrast (deviation of grey values)",
    "saturated": "saturated (share of values)",
    "black": "black (share of grey values)",
    "unevenness": "unevenness of the light (share)",
    "shift": "displacement (share of the side)",
    "likeness": "likeness (correlation)",
}
_GOOD_ENOUGH = 0.9


def image_page(record: ImageRecord, fit: ImageFit, photographs: Sequence[Photograph]) -> Page:
    """The page.

    Args:
        record: what was found.
        fit: how.
        photographs: that it was learned from, in the order of the fit.
    """
    missed = [fault for fault in FAULTS if record.found[fault.name] < _GOOD_ENOUGH]
    if missed:
        told = "; ".join(f"{fault.words}: {_percent(record.found[fault.name])}" for fault in missed)
        verdict = Verdict(
            "doubtful", f"Some faults are found in less than {_percent(_GOOD_ENOUGH)} of the pictures: {told}."
        )
    else:
        verdict = Verdict(
            "good", f"Every simulated fault is found in {_percent(_GOOD_ENOUGH)} of the pictures or more."
        )
    if fit.odd:
        names = sorted({photographs[index].entry.name for index, _ in fit.odd})
        verdict = Verdict("doubtful", f"{verdict.text} Pictures that may be no good ones: {', '.join(names)}.")
    limits = Table(
        ("number", "from", "up to", "median", "lowest", "highest"),
        [_row(name, record, fit) for name in NUMBERS],
        f"Limits, and where the {record.frames} good pictures lie",
    )
    found = Table(
        ("fault", "found in"),
        [(fault.words, _percent(record.found[fault.name])) for fault in FAULTS],
        "Simulated faults of the picture, made of the good ones",
    )
    plots = [
        Plot(
            histogram(name, Axis(_WORDS[name]), [getattr(each, name) for each in fit.numbers]),
            f"{_WORDS[name]} of the good pictures; good is {_limits(name, record)}.",
        )
        for name in NUMBERS
    ]
    rest = 0.05 ** (1 / record.frames)
    return Page(
        "Good pictures",
        verdict,
        record,
        (
            Section(
                "Limits",
                (
                    Text(
                        f"A limit lies beyond every good picture, by {record.margin:g} of the distance that the "
                        f"farthest of them has from the median. Within the extremes alone lie, at 95 % confidence, at "
                        f"least {_percent(rest)} of all good pictures, for each number."
                    ),
                    limits,
                ),
            ),
            Section("What they find", (found, Picture(_sheet(photographs[0].pixels), _CAPTION))),
            Section("The good pictures", plots),
        ),
    )


_CAPTION = "The first good picture, and the same with each simulated fault, in the order of the table."


def _row(name: str, record: ImageRecord, fit: ImageFit) -> tuple[str, ...]:
    limit = record.limits[name]
    values = [getattr(each, name) for each in fit.numbers]
    figures = (limit.low, limit.high, float(np.median(values)), min(values), max(values))
    return (_WORDS[name], *("" if each is None else f"{each:.4g}" for each in figures))


def _limits(name: str, record: ImageRecord) -> str:
    limit = record.limits[name]
    low = "" if limit.low is None else f"from {limit.low:.4g}"
    high = "" if limit.high is None else f"up to {limit.high:.4g}"
    return " ".join(filter(None, (low, high)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def _sheet(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    shown = [pixels, *(fault.apply(pixels, rng) for fault in FAULTS)]
    tiles = [_tile(each) for each in shown]
    while len(tiles) % 4:
        tiles.append(np.full_like(tiles[0], 255))
    return np.vstack([np.hstack(tiles[row : row + 4]) for row in range(0, len(tiles), 4)])


def _tile(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    width = max(1, round(_SIDE * colour.shape[1] / colour.shape[0]))
    small = np.asarray(cv2.resize(colour, (width, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    return np.pad(small, ((4, 4), (4, 4), (0, 0)), constant_values=255)
