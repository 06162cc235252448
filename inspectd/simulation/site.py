"""Where on a part a defect lies, and where one may go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DatasetError

from .region import BoolMask, Floats, Outline, depth_map, filled, outline

__all__ = ["Background", "Kind", "Reference", "Site", "Subject", "site_of", "subject_of"]

Kind = Literal["face", "rim", "frame"]
"""face: inside the part; rim: at the part's edge; frame: at the picture's edge, where the part goes on beyond it."""

_PROBES = 400
"""Most pixels that stand for a mask where a place is looked at in haste."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A labelled defect: `mask` bool [h, w], and the `region` of the part before the defect (`reference_region`)."""

    name: str
    defect: str
    mask: BoolMask
    region: BoolMask


@dataclass(frozen=True, eq=False)
class Background:
    """A good picture: the part's `region` bool [H, W], and where nothing may be put, `forbidden` bool [H, W]."""

    name: str
    region: BoolMask
    forbidden: BoolMask | None = None

    @cached_property
    def sites(self) -> dict[float, Site]:
        """What `site_of` has worked out, by `rim_px`: every pass over the backgrounds asks for it again."""
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A reference and what its place depends on."""

    reference: Reference
    kind: Kind
    area: int
    outside: float
    """Share of the mask outside the part."""
    reach: float
    """Smallest signed depth of the mask's pixels (`depth_map`)."""
    contact: Floats
    """Point [2] of the outline that it lies at (rim)."""
    normal: Floats
    """The outline's normal [2] there (rim)."""
    sides: tuple[bool, bool, bool, bool]
    """Edges of the picture that it touches where the part goes on beyond them: left, right, top, bottom."""
    probes: Floats
    """Some of its pixels [n, 2] (x, y)."""


@dataclass(frozen=True, eq=False)
class Site:
    """A background and where defects may be put on it."""

    background: Background
    inside: BoolMask
    depth: NDArray[np.float32]
    face: BoolMask
    """Free for a face defect."""
    barred: BoolMask
    """Never to be touched: holes of the part and forbidden pixels."""

    @cached_property
    def edge(self) -> Outline:
        """The part's outline; only rim defects need it."""
        return outline(self.background.region)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the picture, px."""
        height, width = self.inside.shape
        return height, width


def subject_of(reference: Reference, rim_px: float, min_px: int) -> Subject:
    """Find where a reference's defect lies.

    Raises:
        DatasetError: no mask, one of another size than the region, one that is too small, or one beside the part.
    """
    mask, name = reference.mask, f"reference {reference.name!r} ({reference.defect})"
    if reference.region.shape != mask.shape:
        raise DatasetError(
            f"{name}: its mask is {mask.shape[1]} x {mask.shape[0]} px and its region "
            f"{reference.region.shape[1]} x {reference.region.shape[0]} px (width x height); expected the same size"
        )
    rows, columns = np.nonzero(mask)
    if not rows.size:
        raise DatasetError(f"{name}: its mask is empty; label the defect's pixels, or leave the reference out")
    inside = filled(reference.region)
    outside = 1.0 - float(inside[rows, columns].mean())
    if outside == 1.0:
        raise DatasetError(
            f"{name}: its mask lies wholly outside the part; look at the mask, or give the part's region as a mask"
        )
    if rows.size < min_px:
        raise DatasetError(
            f"{name}: its mask has {rows.size} px, fewer than min_px {min_px}; label it whole or lower min_px"
        )
    depth = depth_map(inside)
    on_part = mask & inside
    sides = (bool(on_part[:, 0].any()), bool(on_part[:, -1].any()), bool(on_part[0].any()), bool(on_part[-1].any()))
    reach = float(depth[rows, columns].min())
    contact, normal = np.zeros(2), np.zeros(2)
    kind: Kind = "frame" if any(sides) else "face"
    edge = outline(reference.region)
    if kind == "face" and reach <= rim_px and len(edge.points):
        kind = "rim"
        near = _largest_group(mask & (depth <= max(rim_px, reach)))
        middle = np.array([np.nonzero(near)[1].mean(), np.nonzero(near)[0].mean()])
        closest = int(np.square(edge.points - middle).sum(axis=1).argmin())
        contact, normal = edge.points[closest], edge.normals[closest]
    step = -(-rows.size // _PROBES)
    probes = np.stack((columns[::step], rows[::step]), axis=1).astype(np.float64)
    return Subject(reference, kind, int(rows.size), outside, reach, contact, normal, sides, probes)


def _largest_group(mask: BoolMask) -> BoolMask:
    """The largest connected piece; pieces a few pixels apart, as of a ragged edge, count as one."""
    joined = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8))
    _, pieces = cv2.connectedComponents(joined, connectivity=8)
    return np.asarray(mask & (pieces == int(np.bincount(pieces[mask]).argmax())))


def site_of(background: Background, rim_px: float) -> Site:
    """Work out where defects may go, once for each background.

    Raises:
        DatasetError: an empty region, or a forbidden mask of another size.
    """
    if rim_px in background.sites:
        return background.sites[rim_px]
    region, forbidden = background.region, background.forbidden
    if not region.any():
        raise DatasetError(f"background {background.name!r}: its region has no pixel; mark the part in it")
    if forbidden is None:
        forbidden = np.zeros(region.shape, np.bool_)
    elif forbidden.shape != region.shape:
        raise DatasetError(
            f"background {background.name!r}: its region is {region.shape[1]} x {region.shape[0]} px and its "
            f"forbidden mask {forbidden.shape[1]} x {forbidden.shape[0]} px (width x height); expected the same size"
        )
    inside = filled(region)
    depth = depth_map(inside)
    face = region & (depth > rim_px) & ~forbidden
    face[[0, -1]] = False
    face[:, [0, -1]] = False
    background.sites[rim_px] = Site(background, inside, depth, face, (inside & ~region) | forbidden)
    return background.sites[rim_px]
