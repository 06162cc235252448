"""The part in a picture.

A region is a mask of the part, bool [H, W]: from a file (`read_region`), or found in the picture (`find_region`).
Points are (x, y) in px, the centre of the upper left pixel being (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DatasetError
from inspectd.picture import read_mask

__all__ = [
    "BoolMask",
    "Floats",
    "Outline",
    "depth_map",
    "filled",
    "find_region",
    "grown",
    "outline",
    "read_region",
    "reference_region",
    "uneven_regions",
]

BoolMask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

_BORDER_SHARE = 0.025
"""Width of the strip along the frame that the backdrop is learnt from, as a share of the shorter side."""
_APART = 6.0
"""Distance from the backdrop, in its own deviations, from which on a pixel is not of it."""
_SHADE = (0.35, 1.0)
"""Brightness of cast shadows, as a share of the backdrop's."""
_CORE = 0.3
"""Pixels deeper in the rough region than this share of its greatest depth are of the part, whatever their colour."""
_SMALLEST_SHARE = 0.1
"""A part covers at least this share of the frame, and ..."""
_MOST_BORDER = 0.5
"""... at most this share of the frame's edge; else the frame is taken for the part."""
_HOLE_TINT, _HOLE_SHADE = 2.0, 0.85
"""A hole has the backdrop's tint to this many deviations, and at most this share of its brightness."""
_HOLE_SHARE = (0.001, 0.05)
"""Area of one hole as a share of the part's."""
_HOLE_SOLIDITY = 0.85
"""Area of a hole as a share of its convex hull's."""
_SMALLEST_SIDE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The outer edge of a region: `points` [n, 2] (x, y), and `normals` [n, 2], unit vectors that point outwards.

    The points lie on the edge to a fraction of a pixel. Where the part leaves the frame there is no outline.
    """

    points: Floats
    normals: Floats


def read_region(path: Path, shape: tuple[int, int]) -> BoolMask:
    """The region in a mask file: bool [H, W].

    Args:
        path: the file, of 0 and one other value.
        shape: (height, width) of the picture it is for, px.

    Raises:
        DatasetError: an unusable file, one of another size, or one without a pixel of the part.
    """
    region = read_mask(path) > 0
    if region.shape != tuple(shape):
        raise DatasetError(
            f"{path}: the region is {region.shape[1]} x {region.shape[0]} px, but the picture is "
            f"{shape[1]} x {shape[0]} px (width x height); give a region for each size of picture"
        )
    if not region.any():
        raise DatasetError(f"{path}: the region is empty; mark the part with 255 (or 1)")
    return region


def find_region(image: NDArray[np.uint8], *, holes: bool = True, ignore: BoolMask | None = None) -> BoolMask:
    """The part in a picture, found by itself; the whole frame where no backdrop is seen.

    The backdrop is learnt from a strip along the frame: a plane in brightness and in two tints, fitted robustly, with
    the deviations left. What differs from it, closed, filled and opened, is the rough region; it holds the part's
    shadow too. What has another tint than the backdrop, is brighter, or darker than a shadow, is surely the part, and
    so is the core of the rough region; between that and the backdrop the edge is laid along the strongest
    step (watershed). Where the rough region covers less than a tenth of the frame or more than half of its
    edge, the part fills the frame, and everything is part.

    Holes are left out where they show the backdrop: compact patches, darker than it and of its tint. Grey pictures
    have no tint; their holes count as part. Give a mask for these, and for parts that this does not find.

    Args:
        image: uint8 [H, W, 3] RGB, or [H, W, 1] grey.
        holes: leave out holes.
        ignore: pixels that nothing is learnt from, bool [H, W] (the defect on a reference).

    Returns:
        bool [H, W], not empty.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    everything = np.ones((height, width), np.bool_)
    if side < _SMALLEST_SIDE:
        return everything
    smooth = np.atleast_3d(cv2.GaussianBlur(image, (0, 0), max(side / 256.0, 0.5))).astype(np.uint8)
    planes = _planes(smooth)
    backdrop, spread = _backdrop(planes, ignore)
    apart = _deviation(planes - backdrop, spread) > _APART
    rough = _solid(apart, side)
    edge = np.concatenate((rough[0], rough[-1], rough[1:-1, 0], rough[1:-1, -1]))
    if rough.mean() < _SMALLEST_SHARE or edge.mean() > _MOST_BORDER:
        return everything

    shade = planes[0] / np.maximum(backdrop[0], 1.0)
    tint = _deviation((planes - shade * backdrop)[1:], spread[1:])
    unlike = (tint > _APART) | (shade < _SHADE[0]) | ((shade > _SHADE[1]) & apart)
    region = _along_the_step(smooth, rough, unlike & rough)
    if holes and len(planes) > 1:
        region &= ~_holes((tint < _HOLE_TINT) & (shade < _HOLE_SHADE), region)
    return region


def reference_region(image: NDArray[np.uint8], mask: BoolMask) -> BoolMask:
    """The part of a picture as it was before its defect: bool [H, W], holes filled.

    A chip takes from the outline and a burr adds to it. Under the defect (and a little around it) the outline is
    therefore bridged: its distance from the part's middle goes on evenly from one end to the other. Where
    the defect covers more than two thirds of the outline there is nothing to go on from, and it stays as found.

    Args:
        image: uint8 [H, W, 3] RGB, or [H, W, 1] grey.
        mask: the defect, bool [H, W].
    """
    found = filled(find_region(image, holes=False, ignore=mask))
    if found.all():
        return found
    near = _dilate(mask, _odd(0.02 * min(mask.shape)))
    points = _contour(found)
    trusted = points[~near[points[:, 1], points[:, 0]]]
    if len(trusted) == len(points) or len(trusted) < len(points) / 3:
        return found
    moments = cv2.moments(cv2.convexHull(trusted.astype(np.int32)))
    if moments["m00"] <= 0.0:
        return found
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    angles, radii = _polar(trusted, x, y)
    order = np.argsort(angles, kind="stable")
    rows, columns = np.nonzero(near)
    at, reach = _polar(np.stack((columns, rows), axis=1), x, y)
    whole = found.copy()
    # Half a pixel: the contour runs through the centres of the outermost pixels.
    whole[rows, columns] = reach <= np.interp(at, angles[order], radii[order], period=2.0 * np.pi) + 0.5
    return whole


def uneven_regions(regions: Mapping[str, BoolMask], tolerance: float = 0.2) -> tuple[str, ...]:
    """The pictures of one product whose part has another size than in most: probably it was not found rightly.

    Args:
        regions: by the names of the pictures.
        tolerance: how far a region's share of its frame may be from the median, as a share of that.
    """
    shares = {name: float(region.mean()) for name, region in regions.items()}
    usual = float(np.median(list(shares.values()))) if shares else 0.0
    return tuple(name for name, share in shares.items() if abs(share - usual) > tolerance * usual)


def filled(region: BoolMask) -> BoolMask:
    """The largest piece of a region with its holes filled: what lies within the outer edge, bool [H, W]."""
    out = np.zeros(region.shape, np.uint8)
    if region.any():
        cv2.drawContours(out, [_contour(_largest(region))[:, None].astype(np.int32)], -1, 1, cv2.FILLED)
    return out > 0


def outline(region: BoolMask) -> Outline:
    """The outer edge of a region (its largest piece), without the places where the part leaves the frame."""
    inside = filled(region)
    height, width = inside.shape
    if not inside.any():
        return Outline(np.zeros((0, 2)), np.zeros((0, 2)))
    side = min(height, width)
    # The steps of the pixels must not turn the normals, nor a softened corner move the points: two filters.
    near, far = _softened(inside, round(max(0.012 * side, 2.0))), _softened(inside, round(max(0.025 * side, 3.0)))
    points = _contour(inside)
    # At the frame a slope would be one-sided.
    clear = ((points > 0) & (points < (width - 1, height - 1))).all(axis=1)
    x, y = points[clear].T
    right, down = _slopes(far, x, y)
    length, steep = np.sqrt(right**2 + down**2), np.sqrt(np.square(_slopes(near, x, y)).sum(axis=0))
    # A point without a slope, as on a line of one pixel, has no direction.
    sound = (length > 1e-3) & (steep > 1e-3)
    x, y, steep = x[sound], y[sound], steep[sound]
    normals = -np.stack((right[sound], down[sound]), axis=1) / length[sound, None]
    # From the pixel's centre to where the softened region passes one half.
    beyond = np.clip((near[y, x] - 0.5) / steep, -2.0, 2.0)
    return Outline(np.stack((x, y), axis=1) + normals * beyond[:, None], normals)


def depth_map(inside: BoolMask) -> NDArray[np.float32]:
    """Signed distance to a filled region's edge, px [H, W]: 1 on its outermost pixels, -1 on the next beyond.

    The frame is no edge: a region that fills it is infinitely deep.
    """
    if inside.all():
        return np.full(inside.shape, np.inf, np.float32)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beyond = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(depth - beyond, np.float32)


def _planes(image: NDArray[np.uint8]) -> Floats:
    """Brightness and two tints [3, H, W] of a colour picture, brightness [1, H, W] of a grey one; 8-bit levels.

    A backdrop varies much in brightness and little in tint, so the two are judged apart.
    """
    channels = np.moveaxis(image.astype(np.float64), 2, 0)
    if len(channels) == 1:
        return channels
    red, green, blue = channels
    return np.stack(((red + green + blue) / 3.0, red - green, (red + green) / 2.0 - blue))


def _backdrop(planes: Floats, ignore: BoolMask | None) -> tuple[Floats, Floats]:
    """A plane through each of `planes` [C, H, W] along the frame, [C, H, W], and the deviation from it [C, 1, 1]."""
    height, width = planes.shape[1:]
    strip = max(3, round(_BORDER_SHARE * min(height, width)))
    border = np.ones((height, width), np.bool_)
    border[strip:-strip, strip:-strip] = False
    if ignore is not None and (border & ~ignore).sum() > border.sum() / 4:
        border &= ~ignore
    rows, columns = np.mgrid[:height, :width]
    basis = np.stack((np.ones((height, width)), columns / width - 0.5, rows / height - 0.5), axis=2)
    backdrop, spread = np.empty_like(planes), np.empty((len(planes), 1, 1))
    for channel, values in enumerate(planes):
        samples, at = values[border], basis[border]
        kept = np.ones(len(samples), np.bool_)
        for _ in range(4):
            factors = np.linalg.lstsq(at[kept], samples[kept], rcond=None)[0]
            errors = np.abs(samples - at @ factors)
            # The median's deviation of a normal distribution; quantised pictures must not give zero.
            deviation = max(1.4826 * float(np.median(errors)), 1.0)
            kept = errors < 3.0 * deviation
        backdrop[channel], spread[channel] = basis @ factors, deviation
    return backdrop, spread


def _deviation(differences: Floats, spread: Floats) -> Floats:
    """Root mean square of differences [C, H, W] in units of their spread: [H, W]; 0 without channels."""
    if not len(differences):
        return np.zeros(differences.shape[1:])
    return np.asarray(np.sqrt(np.square(differences / spread).mean(axis=0)))


def _solid(mask: BoolMask, side: int) -> BoolMask:
    """The largest piece after closing, filling and opening."""
    brush = _brush(_odd(0.02 * side))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, brush)
    full = np.zeros(mask.shape, np.uint8)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(full, contours, -1, 1, cv2.FILLED)
    return _largest(cv2.morphologyEx(full, cv2.MORPH_OPEN, brush) > 0)


def _along_the_step(smooth: NDArray[np.uint8], rough: BoolMask, part: BoolMask) -> BoolMask:
    """The region between `rough` and what is surely `part`, its edge along the picture's strongest step."""
    side = min(rough.shape)
    sure = cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_OPEN, _brush(_odd(0.01 * side)))
    sure = cv2.erode(sure, _brush(_odd(0.02 * side)))
    depth = depth_map(rough)
    markers = np.zeros(rough.shape, np.int32)
    markers[~_dilate(rough, 3)] = 1
    markers[(sure > 0) | (depth > _CORE * depth.max())] = 2
    colour = smooth if smooth.shape[2] == 3 else np.repeat(smooth, 3, axis=2)
    markers = np.asarray(cv2.watershed(np.ascontiguousarray(colour), markers), np.int32)
    # The watershed leaves a line of one pixel between the two; half of it belongs to the part.
    region = filled(cv2.dilate((markers == 2).astype(np.uint8), np.ones((2, 2), np.uint8)) > 0)
    opened = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_OPEN, _brush(_odd(0.04 * side))) > 0
    return _largest(opened) if opened.any() else region


def _holes(shaded: BoolMask, region: BoolMask) -> BoolMask:
    """The compact patches of `shaded` well inside the region, with a margin for their soft edges."""
    side, area = min(region.shape), int(region.sum())
    inner = depth_map(region) > 0.015 * side
    patches = cv2.morphologyEx((shaded & inner).astype(np.uint8), cv2.MORPH_OPEN, _brush(_odd(0.02 * side)))
    contours, _ = cv2.findContours(patches, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    holes = np.zeros(region.shape, np.uint8)
    for contour in contours:
        hull, drawn = np.zeros_like(holes), np.zeros_like(holes)
        cv2.fillPoly(hull, [cv2.convexHull(contour)], 1)
        cv2.drawContours(drawn, [contour], -1, 1, cv2.FILLED)
        size = int(drawn.sum())
        if _HOLE_SHARE[0] * area <= size <= _HOLE_SHARE[1] * area and size >= _HOLE_SOLIDITY * int(hull.sum()):
            holes |= hull
    return _dilate(holes > 0, _odd(0.02 * side))


def _largest(mask: BoolMask) -> BoolMask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(mask.shape, np.bool_)
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def _contour(mask: BoolMask) -> NDArray[np.int64]:
    """The pixels of the longest outer contour: [n, 2] (x, y)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(contours, key=len)[:, 0], np.int64)


def _softened(mask: BoolMask, radius: int) -> Floats:
    """The mask after three box filters of 2 radius + 1 px, close to a Gaussian: [H, W], 0..1.

    Whole numbers are added up, so that no processor rounds them in another way.
    """
    width = 2 * radius + 1
    sums = np.pad(mask.astype(np.int64), 3 * radius, mode="edge")
    for axis in (0, 1):
        for _ in range(3):
            total = np.cumsum(np.insert(sums, 0, 0, axis=axis), axis=axis)
            ends, starts = np.split(total, [width], axis=axis)[1], np.split(total, [-width], axis=axis)[0]
            sums = ends - starts
    return sums / float(width**6)


def _slopes(values: Floats, x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Central differences to the right and down at pixels within the frame."""
    return (values[y, x + 1] - values[y, x - 1]) / 2.0, (values[y + 1, x] - values[y - 1, x]) / 2.0


def _polar(points: NDArray[np.int64], x: float, y: float) -> tuple[Floats, Floats]:
    right, down = points[:, 0] - x, points[:, 1] - y
    return np.arctan2(down, right), np.hypot(right, down)


def _odd(size: float) -> int:
    return max(3, round(size)) | 1


def _brush(size: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def grown(mask: BoolMask, by_px: int) -> BoolMask:
    """A mask and all that is within `by_px` rows and columns of it: bool [H, W]."""
    side = 2 * by_px + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _dilate(mask: BoolMask, size: int) -> BoolMask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _brush(size)) > 0)
