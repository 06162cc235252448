"""The page about a scale."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from inspectd.calibrated import ScaleRecord

from .corners import View
from .drawing import errors_drawn, marked
from .page import Page, Picture, Plot, Section, Table, Text, Verdict
from .pictures import Photograph
from .plots import Axis, heat_map
from .scale import ScaleFit

__all__ = ["scale_page", "scale_verdict"]

VISIBLE_DISTORTION_PX = 0.3
"""Errors above this without a lens are no noise."""
SMALL_TARGET = 0.15
"""A target that covers less of the picture says little of the rest."""


def scale_verdict(record: ScaleRecord, fit: ScaleFit) -> Verdict:
    """What the calibration comes to, in a few sentences."""
    remarks = []
    if record.lens is None and record.rms_px > VISIBLE_DISTORTION_PX:
        remarks.append(
            f"The corners are {record.rms_px:.2f} px off a plane: the lens distorts; calibrate it, and give --lens."
        )
    if fit.covered < SMALL_TARGET:
        remarks.append(f"The target covers {fit.covered:.0%} of the picture only; the rest is extrapolated.")
    said = (
        f"{record.scale_mm_per_px:.5f} mm per px, expanded uncertainty {2 * record.scale_std_mm_per_px:.5f} mm per px "
        f"(coverage factor 2, {2 * record.budget.combined:.2%}). Over the picture it goes from "
        f"{record.scale_min_mm_per_px:.5f} to {record.scale_max_mm_per_px:.5f}."
    )
    return Verdict("doubtful" if remarks else "good", " ".join([said, *remarks]))


def scale_page(record: ScaleRecord, fit: ScaleFit, views: Sequence[View], first: Photograph) -> Page:
    """Build the page, with the first view as its picture."""
    return Page(
        title="Scale of the inspection plane",
        verdict=scale_verdict(record, fit),
        record=record,
        sections=[
            Section("Uncertainty", _budget(record)),
            Section("Over the picture", _map(record, fit)),
            Section("The target", _target(record, fit, views, first)),
        ],
    )


def _budget(record: ScaleRecord) -> list[Table | Text]:
    parts = [
        ("noise of the corners", record.budget.corners, "residuals of the fit, normal"),
        ("print of the target", record.budget.target, "stated tolerance, even spread"),
        ("height of the plane", record.budget.plane, "stated tolerance by the distance, even spread"),
        ("lens", record.budget.lens, "covariance of its calibration, normal"),
        ("combined standard uncertainty", record.budget.combined, "root of the sum of squares"),
    ]
    rows = [
        (name, f"{share:.4%}", f"{share * record.scale_mm_per_px:.6f}", how)
        if share
        else (name, "-", "-", "not stated, so not counted")
        for name, share, how in parts
    ]
    return [
        Table(("from", "share of the scale", "mm per px", "how it is found"), rows, "The budget (GUM, JCGM 100:2008)"),
        Text(
            "The expanded uncertainty is twice the combined one: the true scale lies within it in some 95 of 100 cases."
        ),
    ]


def _map(record: ScaleRecord, fit: ScaleFit) -> list[Plot | Table]:
    small = cv2.resize(fit.plane.pixel_area_mm2, (8, 6), interpolation=cv2.INTER_AREA)
    grid = heat_map(
        "Local scale over the picture",
        np.sqrt(small.astype(np.float64)),
        x=Axis("column (px)", 0.0, float(record.width_px)),
        y=Axis("row (px)", 0.0, float(record.height_px)),
        unit="mm/px",
        show=lambda value: f"{value:.4g}",
    )
    lowest, highest = record.scale_min_mm_per_px, record.scale_max_mm_per_px
    middle = record.scale_mm_per_px
    worst = max(abs(lowest / middle - 1), abs(highest / middle - 1))
    area = max(abs((lowest / middle) ** 2 - 1), abs((highest / middle) ** 2 - 1))
    rows = [
        ("a length", f"{worst:.2%}"),
        ("an area", f"{area:.2%}"),
    ]
    if record.tilt_deg is not None and record.distance_mm is not None:
        rows += [("tilt of the plane", f"{record.tilt_deg:.2f} degrees"), ("distance", f"{record.distance_mm:.1f} mm")]
    return [
        Plot(grid, "Side of a pixel in the plane, mm. It changes by perspective and by the lens's distortion."),
        Table(
            ("what", "value"),
            rows,
            "What one figure for the whole picture would cost at worst, and where the plane lies",
        ),
    ]


def _target(record: ScaleRecord, fit: ScaleFit, views: Sequence[View], first: Photograph) -> list[Picture | Text]:
    times = min(200.0, 0.03 * record.width_px / max(record.rms_px, 1e-3))
    return [
        Text(
            f"{record.corners} corners in {len(views)} picture(s), {record.rms_px:.3f} px off on average; the corners' "
            f"noise is {fit.noise_px:.3f} px. The target's corners cover {fit.covered:.0%} of the picture."
        ),
        Picture(marked(first.pixels, views[0]), f"{first.entry.name}, with the corners that were found"),
        Picture(
            errors_drawn(first.pixels, views[0], fit.errors_px[0], times=times),
            f"Errors of the corners, {times:.0f} times as long. Mixed directions are noise; a pattern is distortion "
            "or a target that does not lie flat.",
        ),
    ]
