"""How a camera's pictures differ now from those that a set was made of, and defects painted as that camera shows them.

A defect that is pasted onto a dark or blurred picture as it was once photographed stands out there, bright and sharp,
and is found: that would say that the line sees what it does not. So what the pictures have lost is measured first, as
the exposure and the blur that would make those of the set look like the ones of now, and the painted defect loses the
same.

Both are asked of whole pictures, and parts differ among each other. What lies within the spread of the set counts as no
change; and what good pictures do not show in the first place, such as the focus on a surface without any texture,
cannot be measured by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.picture import grey

from .coarse import Exemplar, paint, scene_of
from .placement import Placement
from .region import BoolMask, Floats

__all__ = ["UNCHANGED", "CameraChange", "measure_change", "paint_as_seen", "restored"]

_MARGIN = 0.5
"""So much further from the set's median than its farthest picture a change begins (as in `ImageLimit`)."""
_CLIPPED = 250
"""Levels from this on may be those of anything brighter."""
_FLAT = 2.0
"""Deviation of the levels of a picture in which nothing is to be seen."""
_NOISE_PX = 1.0
"""By this blur a camera's noise is no sharpness."""
_MOST_BLUR = 1 / 32
"""The largest blur that is looked for, as a share of the shorter side: with it hardly anything is left of a defect."""
_DARKEST, _BRIGHTEST = 1 / 256, 64.0
_STEPS = 12
_COMPARED = 12
"""So many pictures of a set are blurred in search for the one that looks like those of now."""
_AROUND_PX = 16


@dataclass(frozen=True, slots=True)
class CameraChange:
    """What has become of a camera's pictures; as a string in words, empty where nothing has.

    Attributes:
        exposure: how much more light they have had; 1 where no difference is to be seen.
        blur_px: standard deviation of the Gaussian blur that they have lost sharpness by, px; 0 for none.
        saturated: what levels of the set's pictures are saturated now, on an average.
    """

    exposure: float = 1.0
    blur_px: float = 0.0
    saturated: float = 255.0

    def __str__(self) -> str:
        changes = []
        if self.exposure != 1.0:
            changes.append(f"have {self.exposure:.2g} times the light")
        if self.blur_px:
            changes.append(f"are blurred by {self.blur_px:.1f} px")
        return " and ".join(changes)


UNCHANGED = CameraChange()


def measure_change(before: Iterable[NDArray[np.uint8]], now: Sequence[NDArray[np.uint8]]) -> CameraChange:
    """What makes pictures of the set look like those of now.

    Args:
        before: pictures of a set, uint8 [H, W, 1 or 3]; gone through once.
        now: pictures of the camera as it is, of the same size; some of both.
    """
    levels, greys = [], []
    for picture in before:
        levels.append(np.bincount(picture.ravel(), minlength=256) / picture.size)
        greys.append(grey(picture))
    means = [_mean_at(each, 1.0) for each in levels]
    pooled = np.mean(levels, axis=0)
    wanted = float(np.median([picture.mean() for picture in now]))
    exposure = 1.0
    if not _within(wanted, means, both=True):
        exposure = _root(lambda factor: _mean_at(pooled, factor), wanted, _DARKEST, _BRIGHTEST)
    clipped = np.arange(256) * exposure >= _CLIPPED
    share = float(pooled[clipped].sum())
    saturated = float((pooled * np.arange(256))[clipped].sum() / share) if share else 255.0 / max(exposure, 1.0)
    return CameraChange(exposure, _blur(greys, now, exposure), saturated)


def _mean_at(levels: Floats, factor: float) -> float:
    return float((levels * np.minimum(np.arange(256) * factor, 255.0)).sum())


def _within(value: float, known: Sequence[float], *, both: bool) -> bool:
    """Whether it is as near as that to what is known of the set; a value above all of them too, unless `both`."""
    middle = float(np.median(known))
    low, high = (middle + (1.0 + _MARGIN) * (end - middle) for end in (min(known), max(known)))
    return low <= value and (not both or value <= high)


def _root(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a function that rises along positive numbers has a value, to a few per cent."""
    for _ in range(2 * _STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if function(middle) < wanted else (low, middle)
    return math.sqrt(low * high)


def _blur(before: Sequence[NDArray[np.uint8]], now: Sequence[NDArray[np.uint8]], exposure: float) -> float:
    largest_px = float(_MOST_BLUR * min(now[0].shape[:2]))
    found = [_sharpness(picture) for picture in now]
    seen = [each for each in found if each is not None]
    if 2 * len(seen) <= len(found):
        return largest_px  # nothing is to be seen
    exposed = [np.asarray(cv2.convertScaleAbs(picture, alpha=exposure), np.uint8) for picture in before]
    known = [sharp for picture in exposed if (sharp := _sharpness(picture)) is not None]
    wanted = float(np.median(seen))
    if not known or _within(wanted, known, both=False):
        return 0.0
    compared = exposed[:: -(-len(exposed) // _COMPARED)]

    def softness(sigma_px: float) -> float:
        blurred = (np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.uint8) for picture in compared)
        left = [_sharpness(picture) or 0.0 for picture in blurred]
        return -float(np.median(left))

    return _root(softness, -wanted, 0.2, largest_px)


def _sharpness(picture: NDArray[np.uint8]) -> float | None:
    """Brenner's focus (see `inspectd.calibrated.image`) of a picture without its noise; None of an empty one."""
    smooth = cv2.GaussianBlur(grey(picture) if picture.ndim == 3 else picture, (0, 0), _NOISE_PX).astype(np.float32)
    if float(smooth.std()) < _FLAT:
        return None
    across, down = smooth[:, 2:] - smooth[:, :-2], smooth[2:] - smooth[:-2]
    return float((np.square(across).mean() + np.square(down).mean()) / smooth.var())


def restored(picture: NDArray[np.uint8], change: CameraChange) -> NDArray[np.uint8]:
    """A picture of now at the exposure of the set; what is saturated gets the level that such pixels have had there."""
    if change.exposure == 1.0:
        return picture
    levels = np.arange(256) / change.exposure
    levels[_CLIPPED:] = np.where(change.exposure > 1.0, change.saturated, levels[_CLIPPED:])
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)[picture]


def paint_as_seen(
    picture: NDArray[np.uint8], exemplar: Exemplar, placement: Placement, change: CameraChange, region: BoolMask
) -> tuple[NDArray[np.uint8], BoolMask]:
    """A defect of a set on a picture of now, as that camera would show it.

    Args:
        picture: uint8 [H, W, C].
        exemplar: the defect, as the set shows it.
        placement: where it goes.
        change: what the camera makes of it.
        region: the part in the picture, bool [H, W].

    Returns:
        The picture with the defect, uint8 [H, W, C], and its label, bool [H, W].

    Raises:
        DatasetError: the placement lies outside the picture, or one of both is grey and one in colour.
    """
    margin_px = _AROUND_PX + math.ceil(3 * change.blur_px)
    like_before = restored(picture, change)
    scene = scene_of(like_before, exemplar, placement, margin_px=margin_px, region=region)
    added = np.asarray(paint("relit", scene, exemplar).astype(np.float32) - scene.good, np.float32)
    if change.blur_px:
        blurred = cv2.GaussianBlur(added, (0, 0), change.blur_px)
        added = np.asarray(blurred, np.float32).reshape(added.shape)
    here = picture[scene.rows, scene.columns].astype(np.float32)
    if change.exposure > 1.0:
        # Behind the end of the scale there is more light than it says.
        here = np.where(here >= _CLIPPED, np.maximum(here, change.exposure * scene.good), here)
    painted, label = picture.copy(), np.zeros(picture.shape[:2], np.bool_)
    painted[scene.rows, scene.columns] = np.clip(np.rint(here + change.exposure * added), 0, 255).astype(np.uint8)
    # What is not painted stays as it is, to the last level.
    untouched = np.abs(added).max(axis=2) * change.exposure < 0.5
    painted[scene.rows, scene.columns][untouched] = picture[scene.rows, scene.columns][untouched]
    label[scene.rows, scene.columns] = scene.label
    return painted, label
