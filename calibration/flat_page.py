"""The page about a flat field."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import FlatFieldRecord

from .drawing import PAGE_WIDTH_PX
from .flat import FlatFit, Stack
from .page import Page, Picture, Plot, Section, Table, Text, Verdict
from .plots import Axis, Series, heat_map, histogram, lines

__all__ = ["flat_page", "flat_verdict"]


def flat_verdict(record: FlatFieldRecord) -> Verdict:
    """What the calibration comes to, in a few sentences."""
    remarks = []
    if record.dark_frames == 0:
        remarks.append("No dark frames were given: offsets are taken for 0, and hot pixels cannot be told.")
    if record.shading_after > 0.02:
        remarks.append("More than 2 % of shading is left: the light changes, or the target does not lie as it did.")
    if record.serial is None:
        remarks.append("The camera's serial number was not given: the line cannot tell it from another camera.")
    said = (
        f"Shading of {record.shading_before:.1%} before and {record.shading_after:.1%} after, on frames that it was "
        f"not made from. Gains from {record.gain_min:.2f} to {record.gain_max:.2f}; {record.hot_pixels} hot and "
        f"{record.dead_pixels} dead pixels."
    )
    return Verdict("doubtful" if remarks else "good", " ".join([said, *remarks]))


def flat_page(record: FlatFieldRecord, fit: FlatFit, flat: Stack, corrected: NDArray[np.uint8]) -> Page:
    """Build the page.

    Args:
        record: the result.
        fit: what it was made of.
        flat: the frames of the target.
        corrected: the rounded mean of those frames after the correction, uint8 [H, W, C].
    """
    before = np.rint(flat.mean).astype(np.uint8)
    return Page(
        title="Flat field",
        verdict=flat_verdict(record),
        record=record,
        sections=[
            Section("Figures", _figures(record)),
            Section("Before and after", _pictures(before, corrected)),
            Section("Shading", _shading(record, fit, before, corrected)),
            Section("Pixels", _pixels(record, fit)),
            Section("Steadiness", _steadiness(flat)),
        ],
    )


def _figures(record: FlatFieldRecord) -> list[Table]:
    rows = [
        ("frames of the target", str(record.flat_frames)),
        ("dark frames", str(record.dark_frames)),
        ("mean of the target (grey value)", f"{record.mean_grey:.1f}"),
        ("noise of a pixel (grey values)", f"{record.noise_grey:.2f}"),
        ("shading before", f"{record.shading_before:.2%}"),
        ("shading after", f"{record.shading_after:.2%}"),
        ("the pixels' own gains, standard deviation", f"{record.pattern_before:.3%}"),
        ("share of them that is corrected", f"{record.pattern_kept:.0%}"),
        ("smallest and largest gain", f"{record.gain_min:.3f} and {record.gain_max:.3f}"),
        ("hot and dead pixels", f"{record.hot_pixels} and {record.dead_pixels}"),
    ]
    return [Table(("what", "value"), rows)]


def _pictures(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> list[Picture | Text]:
    grey = [pixels.mean(axis=2) for pixels in (before, after)]
    low, high = float(np.percentile(grey[0], 0.5)), float(np.percentile(grey[0], 99.5))
    shown = [np.clip((one - low) / max(1.0, high - low) * 255, 0, 255).astype(np.uint8)[..., None] for one in grey]
    side = (PAGE_WIDTH_PX - 12) // 2
    small = [_shrunk(one, side) for one in shown]
    gap = np.full((small[0].shape[0], 12, 1), 255, np.uint8)
    return [
        Picture(
            np.hstack([small[0], gap, small[1]]),
            f"The target before (left) and after (right), both with the contrast raised alike: black is {low:.0f}, "
            f"white is {high:.0f}.",
        )
    ]


def _shading(record: FlatFieldRecord, fit: FlatFit, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> list[Plot]:
    middle = slice(record.height_px // 2 - 8, record.height_px // 2 + 8)
    columns = np.arange(record.width_px, dtype=float)
    step = max(1, record.width_px // 300)
    profiles = [
        Series(name, columns[::step], pixels[middle].mean(axis=(0, 2))[::step])
        for name, pixels in (("before", before), ("after", after))
    ]
    gains = cv2.resize(fit.smooth, (8, 6), interpolation=cv2.INTER_AREA)
    return [
        Plot(
            lines("Brightness along the middle", Axis("column (px)"), Axis("grey value"), profiles),
            "Brightness of the target along the rows in the middle of the picture.",
        ),
        Plot(
            heat_map(
                "Smooth part of the brightness",
                gains.astype(np.float64),
                x=Axis("column (px)", 0.0, float(record.width_px)),
                y=Axis("row (px)", 0.0, float(record.height_px)),
                unit="of the mean",
                show=lambda value: f"{value:.2f}",
            ),
            "Vignetting and light, as shares of their mean; what is corrected whole.",
        ),
    ]


def _pixels(record: FlatFieldRecord, fit: FlatFit) -> list[Plot | Text | Table]:
    own = fit.residual[fit.residual != 0] * 100
    limit = float(np.percentile(np.abs(own), 99.8)) if own.size else 1.0
    parts: list[Plot | Text | Table] = [
        Text(
            "Beside the smooth part every pixel has a gain of its own. What is measured of it holds the noise of the "
            f"frames; {record.pattern_kept:.0%} of each deviation is really the pixel's, and so much is corrected. "
            "All of it would print the noise onto every picture."
        ),
        Plot(
            histogram("Deviations of the pixels", Axis("deviation from the smooth part (%)", -limit, limit), own),
            "How often a pixel answers to light more or less than its surroundings, the noise of the frames included.",
        ),
    ]
    places = [*((row, column, "hot") for row, column in fit.hot), *((row, column, "dead") for row, column in fit.dead)]
    if places:
        rows = [(str(row), str(column), kind) for row, column, kind in places[:40]]
        more = f", the first 40 of {len(places)}" if len(places) > 40 else ""
        parts.append(
            Table(("row (px)", "column (px)", "kind"), rows, f"Pixels that take their neighbours' median{more}")
        )
    return parts


def _steadiness(flat: Stack) -> list[Plot]:
    numbers = np.arange(1, len(flat) + 1, dtype=float)
    plot = lines("Brightness of each frame", Axis("frame"), Axis("mean grey value"), [Series("", numbers, flat.means)])
    return [Plot(plot, "Frames that get brighter or darker show a light that warms up; jumps show one that flickers.")]


def _shrunk(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    size = (width, max(1, round(pixels.shape[0] * width / pixels.shape[1])))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8).reshape(size[1], size[0], 1)
