"""The smoothest surface through what is known: what may be under a defect, and what a seam has to make up for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inspectd.optional import require

from .region import BoolMask, Floats

__all__ = ["membrane"]

_HOLD = 1e-12


def membrane(values: Floats, unknown: BoolMask, absent: BoolMask | None = None) -> Floats:
    """Values with the unknown pixels replaced by the smoothest surface through those around them.

    The discrete Laplace equation with the known neighbours as its boundary; the picture's edge bounds nothing, nor do
    pixels that are absent.

    Args:
        values: [H, W, C].
        unknown: bool [H, W]; not all pixels.
        absent: pixels that are no part of the surface, bool [H, W]; they keep their values.

    Returns:
        float64 [H, W, C].

    Raises:
        ValueError: no pixel is known.
        MissingDependencyError: scipy is not installed.
    """
    sparse, linalg = (require(name, extra="augment") for name in ("scipy.sparse", "scipy.sparse.linalg"))
    if unknown.all():
        raise ValueError("no pixel is known: expected at least one outside of the mask")
    filled = np.array(values, np.float64)
    count = int(unknown.sum())
    if not count:
        return filled
    height, width = unknown.shape
    there = np.ones_like(unknown) if absent is None else unknown | ~absent
    number = np.full((height, width), -1, np.int64)
    number[unknown] = np.arange(count)
    rows, columns = np.nonzero(unknown)
    neighbours, right = np.zeros(count), np.zeros((count, values.shape[2]))
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = rows + down, columns + across
        inside = np.flatnonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))
        inside = inside[there[y[inside], x[inside]]]
        y, x = y[inside], x[inside]
        neighbours[inside] += 1
        free = number[y, x] >= 0
        entries.append((inside[free], number[y[free], x[free]]))
        right[inside[~free]] += filled[y[~free], x[~free]]
    # What is enclosed by absent pixels keeps about what it was; else its equations would have no solution.
    neighbours, right = neighbours + _HOLD, right + _HOLD * filled[unknown]
    at = np.concatenate([first for first, _ in entries])
    other = np.concatenate([second for _, second in entries])
    system = sparse.diags(neighbours) - sparse.csr_matrix((np.ones(at.size), (at, other)), (count, count))
    filled[unknown] = linalg.splu(system.tocsc()).solve(right)
    return filled
