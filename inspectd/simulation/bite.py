"""Bites out of a part: chips and breaks, whose label is what is missing, from the part's outline inwards.

A bite is open to the outside wherever it is. Turned, scaled and bent, its label touches another outline in a point or
two and leaves a strip of the part between: a dark hole near the edge, which no line has. `opened` takes the strip away.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .region import BoolMask, depth_map, filled, grown

__all__ = ["is_bite", "opened"]

_AT_PX = 2.0
"""A label that reaches the outline has pixels so near to it, at 256 px, ..."""
_ALONG = 0.7
"""... at this share of the outline's pixels that it lies behind, ..."""
_BEYOND = 0.1
"""... and at most this share of its own beyond."""
_MISSING = 0.15
"""At least this share of a bite's pixels looks like what is outside of the part."""
_BACKDROP_PX, _SURFACE_PX = (2, 10), 10
"""So far around the label's box outside is looked at, and so far around the label the surface."""
_OPEN = 0.5
"""A strip is taken away up to this share of the bite's depth, ..."""
_OPEN_PX = 4.0
"""... or so many px."""


def is_bite(image: NDArray[np.uint8], mask: BoolMask, region: BoolMask) -> bool:
    """Whether a label marks what is missing at the part's edge.

    Args:
        image: the reference, uint8 [h, w, C].
        mask: its label, bool [h, w].
        region: the part before the defect, bool [h, w].
    """
    inside = filled(region)
    if inside.all() or not inside.any() or not (mask & inside).any() or 1.0 - inside[mask].mean() > _BEYOND:
        return False
    depth, behind = _behind(inside)
    on_part = mask & inside
    covered = np.unique(behind[on_part])
    if np.isin(covered, behind[on_part & (depth <= _AT_PX)]).mean() < _ALONG:
        return False
    near, far = _BACKDROP_PX
    backdrop = image[grown(mask, far) & (depth < -near)]
    surface = image[grown(mask, _SURFACE_PX) & ~grown(mask, near) & (depth > near)]
    if not len(backdrop) or not len(surface):
        return False
    to_backdrop, to_surface = (
        np.linalg.norm(image[mask] - np.median(look, axis=0), axis=1) for look in (backdrop, surface)
    )
    return bool((to_backdrop < to_surface).mean() >= _MISSING)


def opened(label: BoolMask, region: BoolMask) -> BoolMask:
    """The label of a bite with the strip between it and the part's outline, bool [H, W]; holes of the part stay out.

    It ends a pixel beyond the region, whose edge is somewhere in that pixel.

    Args:
        label: L, bool [H, W].
        region: the part before the defect, bool [H, W].
    """
    inside = filled(region)
    on_part = label & inside
    if inside.all() or not on_part.any():
        return label
    depth, behind = _behind(inside)
    shallowest = np.full(int(behind.max()) + 1, np.inf, np.float32)
    np.minimum.at(shallowest, behind[on_part], depth[on_part])
    limit = max(_OPEN_PX, _OPEN * float(depth[on_part].max()))
    shallowest[shallowest > limit] = 0.0
    strip = inside & (depth < shallowest[behind])
    # Pixels deep in the part have fewer nearest pixels outside of it than the strip has along the outline.
    whole = cv2.morphologyEx((label | strip | ~inside).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    strip |= (whole > 0) & inside & (depth <= limit) & grown(strip, 1)
    opening = label | (strip & region)
    # The outline passes through its pixels: those just outside of it show some of the part, too.
    return opening | (grown(opening & (depth <= _AT_PX), 1) & ~inside & (depth >= -1.0))


def _behind(inside: BoolMask) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The depth of each pixel, and the number of the nearest pixel outside of the part."""
    _, nearest = cv2.distanceTransformWithLabels(
        inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return depth_map(inside), np.asarray(nearest, np.int32)
