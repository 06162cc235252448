"""What of a photograph is the defect, and what the good surface: along the edge of its label, and inside.

A label's edge is hard and a photograph's is not. Around it a picture H shows something of the defect D and something of
the good surface B: H = a D + (1 - a) B (Porter, Duff: "Compositing digital images", 1984). How the opacity a rises from
outside of the label to its inside is measured on the reference as a function of the distance to the edge, all along it:
the surface's texture averages out, and what is carried to another part leaves no rim of the reference's surface there.

A stain does not hide the surface: inside it, the surface's texture goes on, with less contrast. Such a defect is a
veil: one colour of an opacity below 1, and the texture under it is that of the part it is painted on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .membrane import membrane
from .region import BoolMask, Floats, depth_map

__all__ = ["EDGE_PX", "Matte", "matte_of"]

_SURE_PX = 2.5
"""So far inside a label the defect alone is seen, at 256 px."""
_MIDDLE, _NEAR_PX = 0.8, 4
"""In thin pieces it is seen along their middle: where the distance to the edge is so much of the largest nearby."""
_REACH_PX = 4.0
"""Farthest from the label's edge, either way, that the opacity is measured."""
_STEP_PX = 0.5
_CENTRES = np.arange(-_REACH_PX, _REACH_PX, _STEP_PX) + _STEP_PX / 2
_SMOOTH_PX = 0.7
"""By this blur the distances to a label's edge lose the steps of its pixels."""
_MIXED = 0.7
"""Cosine, in colour space, from which on the edge may be a mixture of the surface and what is further inside."""
_RIM_STEPS = 3
"""Steps within which a rim of a colour of its own is strongest."""
_RIM_PX, _RIM_SHARE = 3.0, 0.15
"""A defect of which more than this share is so near to the part's edge, or beyond, lies at it; a crack ends there."""
_SOLID = 0.9
"""From this opacity on a pixel shows the defect alone."""
EDGE_PX = 2
"""A label's edge is drawn to a pixel or two: so far around it nothing counts as the good surface, at 256 px."""
_DEEP_PX = 8.0
"""Deeper inside a label the surface is not guessed."""
_AROUND_PX = 24
"""So far around a label's box the surface under it is guessed from."""
_RING_PX = 16.0
"""So far around a defect the texture of its surface is looked at."""
_VEIL_PX = 100
"""A veil has at least so many pixels, and there are as many of the surface around it, ..."""
_VEIL_LIKENESS, _VEIL_ENERGY = 0.85, (0.04, 0.75)
"""... its gradients go in the directions of the surface's, and have this share of their squares: ..."""
_COHERENCE = 0.2
"""... and the surface has directions at all. One grain is like any other otherwise, that of what hides it too."""
_TEXTURE_PX = 1.5
"""By this blur a camera's noise is no texture."""
_MOST_LOST = 1.25
"""More than this of a defect's difference to its surface is never made up for: it is another fault then."""
_CLEAREST = 0.5
"""More of the surface's contrast is never taken to be seen through a veil: its own colour could hardly be told then."""


@dataclass(frozen=True, slots=True, eq=False)
class Matte:
    """A defect without its surface.

    Attributes:
        profile: opacity at the distances `_CENTRES` from the label's edge, float64, rising from 0; to 1, or to less
            where the defect is a veil.
        field: what the placement carries, float32 [h, w, C + 1]: D in levels, where it is not seen alone what is
            nearest of it, and of a veil one colour; so far from the surface that, painted where it was, a thin defect
            is as strong as it is seen, hence also beyond 0 and 255; then the distance to the edge, px, positive inside.
        veil: whether the surface is seen through the defect.
    """

    profile: Floats
    field: NDArray[np.float32]
    veil: bool

    def read(self, carried: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """D [..., C] and its opacity a [..., 1] from the field, as it is or carried somewhere."""
        opacity = np.interp(carried[..., -1:], _CENTRES, self.profile)
        return carried[..., :-1], np.asarray(opacity, np.float32)


def matte_of(image: NDArray[np.uint8], mask: BoolMask, region: BoolMask | None = None) -> Matte | None:
    """Tell a defect from its surface.

    Args:
        image: H, uint8 [h, w, C].
        mask: of the defect, bool [h, w]; neither empty nor full.
        region: the part in the picture, bool [h, w], where that is known.

    Returns:
        None where the defect is at the part's edge: around what is missing there, or sticks out, is not the surface
        alone. At the picture's edge there is a matte, but never a veil.
    """
    part = np.ones_like(mask) if region is None else region
    within = depth_map(part)
    if float((within[mask] <= _RIM_PX).mean()) > _RIM_SHARE:
        return None
    depth = depth_map(mask)
    distance = depth - np.copysign(np.float32(0.5), depth)
    rows, columns = (slice(max(at.min() - _AROUND_PX, 0), at.max() + 1 + _AROUND_PX) for at in np.nonzero(mask))
    near = rows, columns
    surface = image.astype(np.float64)
    # Of the surface under a defect only what lies near the edge is asked for: a large one costs no more.
    absent = ~part | (distance > _DEEP_PX)
    unknown = (distance > -EDGE_PX) & ~absent
    if (unknown | absent)[near].all():
        unknown, absent = mask, np.zeros_like(mask)
    surface[near] = membrane(surface[near], unknown[near], absent[near])
    smooth = np.asarray(cv2.GaussianBlur(distance, (0, 0), _SMOOTH_PX), np.float32)
    thickness = cv2.dilate(np.maximum(distance, 0.0), np.ones((2 * _NEAR_PX + 1, 2 * _NEAR_PX + 1), np.uint8))
    sure = mask & (distance >= np.minimum(_SURE_PX, _MIDDLE * thickness))
    away = image - surface
    profile = _profile(away[part], _nearest(away, sure)[part], smooth[part])
    # Not the part's outline, whose step is no texture.
    ring = (within > EDGE_PX) & (distance < -_REACH_PX) & (distance > -_RING_PX)
    enclosed = not (mask & ~np.pad(part[1:-1, 1:-1], 1)).any()
    if enclosed and (through := _seen_through(image, sure, ring)):
        here = sure & ~absent
        colour = np.median(image[here], axis=0) - through * np.median(surface[here], axis=0)
        veil = np.broadcast_to((colour / (1.0 - through)).astype(np.float32), image.shape)
        return Matte((1.0 - through) * profile, np.dstack((veil, smooth)), veil=True)
    solid = mask & (sure | (np.interp(smooth, _CENTRES, profile) >= _SOLID))
    pure = _nearest(image.astype(np.float32), solid)
    if not (mask & absent).any():
        here = distance > -_REACH_PX
        opacity = np.interp(smooth, _CENTRES, profile)[..., None]
        gain = _lost(away[mask], (opacity * (pure - surface))[mask])
        pure[here] = (surface + gain * (pure - surface))[here]
    return Matte(profile, np.dstack((pure, smooth)), veil=False)


def _profile(away: Floats, whole: NDArray[np.float32], distance: NDArray[np.float32]) -> Floats:
    """Opacity by the distance to the edge: how far H is from the surface there, of how far it gets further inside.

    A bubble has a dark rim around a middle that is as bright as the surface, or brighter. Such a rim is no mixture of
    the two: all within it is opaque.

    Args:
        away: H - B, [n, C].
        whole: the same at the nearest place where the defect alone is seen, [n, C].
        distance: to the edge, positive inside, [n].
    """
    length = np.linalg.norm(away, axis=1)
    along = (away * whole).sum(axis=1) / np.maximum(np.linalg.norm(whole, axis=1), 1e-6)
    numbers = np.floor((distance + _REACH_PX) / _STEP_PX).astype(np.int64)
    strength, own = np.zeros(len(_CENTRES)), np.zeros(len(_CENTRES), np.bool_)
    for number, centre in enumerate(_CENTRES):
        if (here := numbers == number).any():
            far, strength[number] = np.median(length[here]), np.median(along[here])
            if centre > 0.0 and strength[number] < _MIXED * far:
                strength[number], own[number] = far, True
    strongest = int(strength.argmax())
    if own.any() and (first := int(own.argmax())) < strongest:
        strongest = first + int(strength[first : first + _RIM_STEPS].argmax())
    if strength[strongest] <= 0.0:
        return np.asarray(_CENTRES > 0.0, np.float64)
    # Outermost there is nothing of the defect, and from where it is strongest on nothing else.
    rising = (strength - strength[0]) / max(strength[strongest] - strength[0], 1e-6)
    profile = np.maximum.accumulate(np.clip(rising, 0.0, 1.0))
    profile[strongest:] = 1.0
    return np.asarray(profile, np.float64)


def _lost(seen: Floats, painted: Floats) -> float:
    """The factor on a defect's difference to its surface by which, painted where it was, it is as strong as it is seen.

    Of a line of two or three pixels hardly one shows the defect alone, and what its middle looks like is all that is
    carried: painted so, it came out weaker by a tenth. Means are compared, in which the surface's grain averages out.

    Args:
        seen: H - B inside the label, [n, C].
        painted: a (D - B) there, [n, C].
    """
    mean = seen.mean(axis=0)
    along = float(mean @ painted.mean(axis=0))
    return min(max(float(mean @ mean) / along, 1.0), _MOST_LOST) if along > 0.0 else 1.0


def _seen_through(image: NDArray[np.uint8], inside: BoolMask, ring: BoolMask) -> float:
    """How much of the surface's contrast is seen through the defect; 0 for one that hides it.

    Compares the mean structure tensors (Förstner, Gülch, 1987) of the defect and of the surface around it.
    """
    if min(inside.sum(), ring.sum()) < _VEIL_PX:
        return 0.0
    grey = cv2.GaussianBlur(image.mean(axis=2), (0, 0), _TEXTURE_PX)
    slopes = np.stack([cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1)], axis=2)
    within, around = (slopes[part].T @ slopes[part] / part.sum() for part in (inside, ring))
    weaker, stronger = np.linalg.eigvalsh(around)
    if stronger - weaker < _COHERENCE * (stronger + weaker) or not stronger:
        return 0.0
    likeness = float((within * around).sum()) / max(float(np.linalg.norm(within) * np.linalg.norm(around)), 1e-9)
    energy = float(np.trace(within) / np.trace(around))
    if likeness < _VEIL_LIKENESS or not _VEIL_ENERGY[0] <= energy <= _VEIL_ENERGY[1]:
        return 0.0
    return min(math.sqrt(energy), _CLEAREST)


def _nearest(values: NDArray[np.float32] | Floats, known: BoolMask) -> NDArray[np.float32]:
    """Each pixel's value [h, w, C], or where it is not known that of the nearest pixel that is."""
    _, zones = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros((int(zones.max()) + 1, values.shape[2]), np.float32)
    owner[zones[known]] = values[known]
    return np.asarray(owner[zones], np.float32)
