"""The page about a lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inspectd.calibrated import LENS_PARAMETERS, LensRecord

from .drawing import outlines
from .lens import LensFit
from .page import Page, Picture, Plot, Section, Table, Text, Verdict
from .plots import Axis, Series, bars, heat_map, lines, points
from .views import SIDES, advice, cells, tilt_of

__all__ = ["lens_page", "lens_verdict"]

_MEANINGS = {
    "fx_px": "focal length along the rows (px)",
    "fy_px": "focal length along the columns (px)",
    "cx_px": "column of the principal point (px)",
    "cy_px": "row of the principal point (px)",
    "k1": "radial distortion, r^2",
    "k2": "radial distortion, r^4",
    "p1": "tangential distortion, first",
    "p2": "tangential distortion, second",
    "k3": "radial distortion, r^6",
}


def lens_verdict(record: LensRecord, fit: LensFit) -> Verdict:
    """What the calibration comes to, in a few sentences."""
    shape = (record.height_px, record.width_px)
    remarks = [*fit.remarks, *(f"Better with {wish}." for wish in advice(fit.used, fit.rotations, shape)[:3])]
    loose = record.std()["fx_px"] / record.lens.fx_px
    said = (
        f"From {len(fit.used)} of {len(record.views)} views: corners {record.rms_px:.2f} px off on average, "
        f"focal length {record.lens.fx_px:.1f} px, known to {loose:.2%}."
    )
    return Verdict("doubtful" if remarks else "good", " ".join([said, *remarks]))


def lens_page(record: LensRecord, fit: LensFit, without: Sequence[float]) -> Page:
    """Build the page.

    Args:
        record: the result.
        fit: what it was made of.
        without: fx without each view that was used, as of `focal_without`.
    """
    shape = (record.height_px, record.width_px)
    return Page(
        title="Lens calibration",
        verdict=lens_verdict(record, fit),
        record=record,
        sections=[
            Section("The lens", _figures(record)),
            Section("The views", _views(record, fit, without)),
            Section("Where the target was", _places(fit, shape)),
            Section("What is left", _errors(fit)),
        ],
    )


def _figures(record: LensRecord) -> list[Table | Plot]:
    std = record.std()
    values = record.lens.model_dump()
    rows = [
        (
            _MEANINGS[name],
            f"{values[name]:.2f}" if name.endswith("px") else f"{values[name]:.5f}",
            "held" if std[name] == 0 else f"{std[name]:.2f}" if name.endswith("px") else f"{std[name]:.5f}",
        )
        for name in LENS_PARAMETERS
    ]
    lens = record.lens
    reach = np.hypot(max(lens.cx_px, record.width_px - lens.cx_px), max(lens.cy_px, record.height_px - lens.cy_px))
    radius = np.linspace(0.0, float(reach), 60)
    # Along the longer half of the diagonal.
    towards = np.array([record.width_px, record.height_px]) / np.hypot(record.width_px, record.height_px)
    sign = np.where([lens.cx_px > record.width_px / 2, lens.cy_px > record.height_px / 2], -1, 1)
    seen = np.array([lens.cx_px, lens.cy_px]) + radius[:, None] * towards * sign
    shift = np.hypot(*(lens.undistorted(seen) - (lens.cx_px, lens.cy_px)).T) - radius
    size = np.array([std[name] or 1.0 for name in LENS_PARAMETERS])
    correlation = np.array(record.covariance) / np.outer(size, size)
    free = [at for at, name in enumerate(LENS_PARAMETERS) if std[name] > 0]
    return [
        Table(("parameter", "value", "standard uncertainty"), rows, "Parameters of the pinhole model with distortion"),
        Plot(
            lines(
                "Distortion along the radius",
                Axis("distance from the principal point in the picture (px)"),
                Axis("shift by undistortion (px)"),
                [Series("", radius, shift)],
            ),
            "By how much the lens shifts what it shows: positive where a straight pinhole would show it further out.",
        ),
        Table(
            ("", *(LENS_PARAMETERS[at] for at in free)),
            [(LENS_PARAMETERS[row], *(f"{correlation[row, at]:+.2f}" for at in free)) for row in free],
            "Correlations of the parameters; the covariance itself is in the record",
        ),
    ]


def _views(record: LensRecord, fit: LensFit, without: Sequence[float]) -> list[Plot | Table]:
    facing = {view.name: tilt_of(rotation)[1] for view, rotation in zip(fit.used, fit.rotations, strict=True)}
    focal = {view.name: value for view, value in zip(fit.used, without, strict=True)}
    rows = []
    for view in record.views:
        side = (
            f", {SIDES[round(facing[view.name] / 90) % 4]} edge nearer"
            if view.used and (view.tilt_deg or 0) >= 5
            else ""
        )
        rows.append(
            (
                view.name,
                str(view.corners),
                "" if view.rms_px is None else f"{view.rms_px:.3f}",
                "" if view.tilt_deg is None else f"{view.tilt_deg:.0f}{side}",
                f"{focal[view.name] - record.lens.fx_px:+.2f}" if view.used else "",
                "" if view.used else f"left out: {view.reason}",
            )
        )
    shown = [view for view in record.views if view.rms_px is not None]
    chart = bars(
        "Reprojection error of each view",
        Axis("reprojection error, RMS (px)"),
        [view.name for view in shown],
        [view.rms_px or 0.0 for view in shown],
    )
    head = ("view", "corners", "error (px)", "tilt (degrees)", "focal length without it (px)", "")
    return [
        Plot(chart, "Views that stand out were taken in motion, or show a target that is not flat."),
        Table(head, rows, "All pictures"),
    ]


def _places(fit: LensFit, shape: tuple[int, int]) -> list[Text | Picture | Plot]:
    wishes = advice(fit.used, fit.rotations, shape)
    said = "Add " + "; add ".join(wishes) + "." if wishes else "No place and no side of the tilt is missing."
    counts = cells(fit.used, shape, 6, 8).astype(float)
    grid = heat_map(
        "Corners in each cell of the picture",
        counts,
        x=Axis("column (px)", 0.0, float(shape[1])),
        y=Axis("row (px)", 0.0, float(shape[0])),
        unit="corners",
        low=0.0,
        show=lambda value: f"{value:.0f}",
    )
    caption = "The picture's area with the outline and the corners of each view; what is white was never seen."
    return [
        Text(said),
        Picture(outlines(fit.used, shape), caption),
        Plot(grid, "Corners in each cell. Distortion is only known where there are some, the rim above all."),
    ]


def _errors(fit: LensFit) -> list[Plot]:
    errors = np.concatenate(fit.errors_px)
    limit = float(np.abs(errors).max()) * 1.05
    cloud = points(
        "Reprojection errors of all corners",
        Axis("error along the rows (px)", -limit, limit),
        Axis("error along the columns (px)", -limit, limit),
        [Series("", errors[:, 0], errors[:, 1])],
        equal=True,
    )
    return [
        Plot(cloud, f"A round cloud is noise, {fit.noise_px:.3f} px of it; a shape is something that was not modelled.")
    ]
