"""Defects that are told from their surface and painted where they were: how much of each comes back.

Rendered buttons are there with their defect and without it, so that what a defect changes is known to the pixel. The
coarse step of DST (`relit`) sees the picture with the defect and its label alone, as it does of a photograph.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from inspectd.buttons import DEFECTS, LINES, render
from inspectd.simulation.coarse import Exemplar, paint, scene_of
from inspectd.simulation.parts import located
from inspectd.simulation.placement import in_place

from .measure import Report, table

__all__ = ["run"]

THIN = ("crack", "scratch")
BOUND = 0.05
"""A thin defect may be weaker or stronger than it was by so much."""
_SEED, _MARGIN_PX = 5_000_000, 24


def run(*, parts: int, size: int) -> Report:
    """Measure each defect of each line.

    Args:
        parts: of each.
        size: of the pictures, px.
    """
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    strengths: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in LINES:
        for defect in DEFECTS:
            for number in range(parts):
                part = render(line, defect, _SEED + number, size)
                label = part.mask > 0
                source = located(Exemplar("", defect, part.image, label))
                place = in_place("", defect, "")
                scene = scene_of(part.twin, source, place, margin_px=_MARGIN_PX, region=source.region)
                painted = part.twin.astype(np.float64)
                painted[scene.rows, scene.columns] = paint("relit", scene, source)
                true, found = part.image[label] - part.twin[label].astype(np.float64), (painted - part.twin)[label]
                shares[defect, line].append(float((true * found).sum() / (true**2).sum()))
                lengths = np.linalg.norm(found, axis=1).mean() / np.linalg.norm(true, axis=1).mean()
                strengths[defect, line].append(float(lengths))
    rows = [
        (
            defect,
            *(
                f"{np.median(strengths[defect, line]):.2f}, {np.median(shares[defect, line]):.2f} "
                f"({np.percentile(shares[defect, line], 25):.2f} to {np.percentile(shares[defect, line], 75):.2f})"
                for line in LINES
            ),
        )
        for defect in DEFECTS
    ]
    passed = all(abs(float(np.median(strengths[defect, line])) - 1.0) <= BOUND for line in LINES for defect in THIN)
    lines = [
        f"{parts} buttons of {size} px of each line and defect: median strength (mean change inside the label over the "
        "true one), and share of the true change that comes back (median, quartiles)",
        table(("", *LINES), rows),
        f"{' and '.join(THIN)} as strong as they were, to {BOUND:g}: {'pass' if passed else 'FAIL'}",
    ]
    values = {
        line: {defect: {"strength": strengths[defect, line], "share": shares[defect, line]} for defect in DEFECTS}
        for line in LINES
    }
    return Report("\n".join(lines), {"lines": values, "passed": passed}, passed)
