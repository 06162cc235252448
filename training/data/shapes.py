"""Outlines and run lengths of annotation tools, turned into masks.

Coordinates are continuous, in px: the upper left pixel covers 0 to 1 in both directions, its centre is
(0.5, 0.5). A pixel belongs to an outline if its centre lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["circle", "decode_counts", "from_counts", "polygon", "rectangle"]


def polygon(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The inside of an outline, even-odd rule: points float [N, 2] as (x, y) -> bool [H, W].

    Raises:
        ValueError: fewer than 3 points, or values that are not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"an outline needs 3 points or more, got {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError("an outline has a coordinate that is not finite")
    height, width = shape
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    mask = np.zeros(shape, np.bool_)
    top, bottom = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (y0.min(), y0.max()))
    for row in range(top, bottom):
        centre = row + 0.5
        crossed = (y0 <= centre) != (y1 <= centre)
        slope = (x1[crossed] - x0[crossed]) / (y1[crossed] - y0[crossed])
        crossings = np.sort(x0[crossed] + (centre - y0[crossed]) * slope)
        columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            mask[row, left:right] = True
    return mask


def rectangle(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The inside of a rectangle: two opposite corners float [2, 2] as (x, y) -> bool [H, W].

    Raises:
        ValueError: another number of points.
    """
    if corners.shape != (2, 2):
        raise ValueError(f"a rectangle needs 2 points, got {len(corners)}")
    (x0, y0), (x1, y1) = corners
    return polygon(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), shape)


def circle(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The inside of a circle: its centre and a point on it, float [2, 2] as (x, y) -> bool [H, W].

    Raises:
        ValueError: another number of points.
    """
    if points.shape != (2, 2):
        raise ValueError(f"a circle needs 2 points, got {len(points)}")
    (x, y), rim = points
    radius = np.hypot(*(rim - points[0]))
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2, np.bool_)


def from_counts(counts: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of COCO's uncompressed run lengths: down the columns, background first -> bool [H, W].

    Raises:
        ValueError: the runs do not sum to the picture, or one is negative.
    """
    runs = np.asarray(counts, np.int64)
    if runs.size and runs.min() < 0:
        raise ValueError("a run length is negative")
    if (total := int(runs.sum())) != shape[0] * shape[1]:
        raise ValueError(f"the run lengths sum to {total}, expected {shape[0]} x {shape[1]}")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(shape[1], shape[0]).T


def decode_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed string.

    Each number is written in groups of 5 bits from the lowest, one character (from "0") a group, bit 5 telling
    that more follow and bit 4 of the last being the sign; from the fourth on, a number is the difference to
    the one two before (`rleToString` of pycocotools' maskApi.c).

    Raises:
        ValueError: a character outside the code, or a number without an end.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {character!r} does not occur in run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths break off inside a number")
    return counts
