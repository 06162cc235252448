"""Which views of a target there are, and which ones are missing, in words that one can follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .corners import View

__all__ = ["LEAST_TILT_DEG", "PLACES", "advice", "cells", "tilt_of"]

PLACES = (
    ("upper left corner", "upper edge", "upper right corner"),
    ("left edge", "middle", "right edge"),
    ("lower left corner", "lower edge", "lower right corner"),
)
"""Names of the ninths of a picture, row by row."""
SIDES = ("right", "lower", "left", "upper")
"""Which edge of a tilted target is nearer, at 0, 90, 180 and 270 degrees."""
FEWEST_IN_CELL = 8
"""Corners that a ninth of the picture needs."""
LEAST_TILT_DEG, MOST_TILT_DEG = 12.0, 50.0
"""Tilts that count: below, perspective drowns in noise; above, the corners blur."""


def cells(views: Sequence[View], shape: tuple[int, int], rows: int = 3, columns: int = 3) -> NDArray[np.int64]:
    """How many corners lie in each cell of a grid over the picture: int [rows, columns]."""
    height, width = shape
    counts = np.zeros((rows, columns), np.int64)
    for view in views:
        across = np.clip((view.points_px[:, 0] + 0.5) / width * columns, 0, columns - 1).astype(int)
        down = np.clip((view.points_px[:, 1] + 0.5) / height * rows, 0, rows - 1).astype(int)
        np.add.at(counts, (down, across), 1)
    return counts


def tilt_of(rotation: NDArray[np.float64]) -> tuple[float, float]:
    """How a target is tilted: the angle of its normal to the optical axis, and the direction of its nearer edge.

    Args:
        rotation: [3, 3], from the target to the camera.

    Returns:
        (degrees, degrees): the direction is 0 for the right edge of the picture, 90 for the lower one.
    """
    normal = rotation[:, 2] * np.sign(rotation[2, 2] or 1.0)
    tilt = float(np.degrees(np.arctan2(np.hypot(normal[0], normal[1]), normal[2])))
    return tilt, float(np.degrees(np.arctan2(normal[1], normal[0])) % 360)


def advice(views: Sequence[View], rotations: NDArray[np.float64] | None, shape: tuple[int, int]) -> list[str]:
    """The views to add, each in words; empty where nothing is missing.

    Args:
        views: those that can be used.
        rotations: [V, 3, 3] of their targets; None where they are not known.
        shape: (height, width) of the pictures, px.
    """
    counts = cells(views, shape)
    bare = [PLACES[row][column] for row, column in zip(*np.nonzero(counts < FEWEST_IN_CELL), strict=True)]
    tilted = [tilt_of(rotation) for rotation in ([] if rotations is None else rotations)]
    seen = {SIDES[round(towards / 90) % 4] for tilt, towards in tilted if LEAST_TILT_DEG <= tilt <= MOST_TILT_DEG}
    flat = [side for side in SIDES if side not in seen]
    wishes = []
    for at in range(max(len(bare), len(flat))):
        place = bare[at] if at < len(bare) else "middle"
        how = f"its {flat[at]} edge nearer" if at < len(flat) else "to any side"
        wishes.append(f"a view with the target in the {place} of the picture, tilted by 20 to 40 degrees, {how}")
    return wishes
