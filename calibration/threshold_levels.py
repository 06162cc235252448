"""How far a picture's regions reach: what a station's engine says at every threshold, from few runs of it.

The graph takes thresholds and gives class masks, so each threshold could be a run of its own. One run is enough for
most: a pixel's confidence is the probability of its likeliest class, times 255 and rounded up. Where classes compete
for a pixel, nobody can take it from the likeliest one above a probability of 1/2, and there the map says for each class
and each of 255 thresholds where it is reached. Above the highest of them, where sure networks crowd, thresholds are run
one by one.

What a rule marks as a class lies inside what the map says for its threshold, as a set of pixels: the same regions
where the thresholds are those of `Levels`, or smaller ones where another class took pixels. Regions of a subset are no
larger. So a good part whose regions stay below the minimum area here is let pass by the rule itself: what is counted
here is at least what the line rejects. Lower thresholds grow and merge regions, areas and scores only rise: that is why
parts have scores at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import Scale
from inspectd.errors import ConfigError
from inspectd.mask import Mask
from inspectd.preprocess import Preprocess

__all__ = ["Levels", "Prober", "Probing", "counting", "labelled_areas", "largest_region", "reached", "region_areas"]

_FINE = (0.998, 0.999, 0.9995, 0.9999, 1.0)
"""Thresholds above what a confidence in 255 steps can tell."""
_LOWEST_ALONE, _LOWEST_OF_SEVERAL = 0.03, 0.5
_DEFAULT_LOWEST = 0.1
_DECIMALS = 10_000
_ROUNDING = 1e-9
"""Sums of pixels' sizes in another order differ by less: what is that near to a minimum area reaches it here."""


class Probing(Protocol):
    """What an engine gives: labels uint8 [N, H, W], confidence uint8 [N, H, W] (docs/decisions/0002)."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """See above."""

    @property
    def confidence(self) -> NDArray[np.uint8]:
        """See above."""


class Prober(Protocol):
    """An engine of the line (`inspectd.runtime.engine.Engine`)."""

    def infer(self, images: NDArray[np.uint8], thresholds: NDArray[np.float32]) -> Probing:
        """Segment pictures; raises InferenceError."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The thresholds that a rule can be given.

    Attributes:
        thresholds: rising, of four decimals as a configuration has them.
        first: the first one lies in the step first / 255 to (first + 1) / 255 of the confidence; the others follow.
    """

    thresholds: tuple[float, ...]
    first: int

    @classmethod
    def of(cls, classes: int, lowest: float | None = None) -> Levels:
        """From a lowest threshold up; None takes 0.1, or 1/2 where classes compete.

        Raises:
            ConfigError: a lowest threshold that cannot be had.
        """
        limit = _LOWEST_ALONE if classes == 1 else _LOWEST_OF_SEVERAL
        lowest = max(limit, _DEFAULT_LOWEST) if lowest is None else lowest
        if not limit <= lowest <= 0.99:
            why = "" if classes == 1 else ": below 1/2 the classes of a network take pixels from each other"
            raise ConfigError(f"lowest score {lowest:g}: expected {limit:g} to 0.99{why}")
        first = math.floor(lowest * 255 - 1e-9) + 1
        # A little above each step, so that a float's last digit does not put a pixel on its other side.
        coarse = tuple(math.ceil((step / 255 + 1e-5) * _DECIMALS) / _DECIMALS for step in range(first, 255))
        return cls(coarse + _FINE, first)

    def __len__(self) -> int:
        return len(self.thresholds)

    def map(self, engine: Prober, preprocess: Preprocess, pixels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
        """How many levels each pixel of a picture reaches in each class.

        Args:
            engine: what runs the network.
            preprocess: of the bundle.
            pixels: uint8 [h, w, 1 or 3].
            classes: C.

        Returns:
            uint8 [C, h, w], in the camera's pixels.

        Raises:
            InferenceError: as the engine.
        """
        picture = preprocess.image(pixels)[None]
        coarse = len(self) - len(_FINE)
        result = engine.infer(picture, np.full(classes, self.thresholds[0], np.float32))
        labels, confidence = result.labels[0], result.confidence[0]
        counts = np.clip(confidence.astype(np.int16) - self.first, 0, coarse).astype(np.uint8)
        reached = np.stack([np.where(labels == label, counts, 0) for label in range(1, classes + 1)]).astype(np.uint8)
        for index in range(coarse, len(self)):
            if not (reached == index).any():
                break
            labels = engine.infer(picture, np.full(classes, self.thresholds[index], np.float32)).labels[0]
            for label, own in enumerate(reached, 1):
                own[(labels == label) & (own == index)] += 1
        letterbox = preprocess.letterbox((pixels.shape[0], pixels.shape[1]))
        return np.stack([letterbox.restore(own) for own in reached])


def reached(levels: NDArray[np.uint8], areas: Sequence[float], scale: Scale | None = None) -> tuple[int, ...]:
    """The score for each minimum area: how many levels a region (8 neighbours) of at least that area reaches.

    Args:
        levels: uint8 [h, w] of one class, as `Levels.map` gives them.
        areas: px, or mm2 with a scale.
        scale: of pictures [h, w].
    """
    values = np.unique(levels)
    values = values[values > 0]
    largest = _remembered(lambda index: largest_region(levels >= values[index], scale))
    scores = []
    for area in areas:
        low, high = -1, len(values)  # reached at `low`, not at `high`
        while high - low > 1:
            middle = (low + high) // 2
            if largest(middle) >= area * (1 - _ROUNDING):
                low = middle
            else:
                high = middle
        scores.append(0 if low < 0 else int(values[low]))
    return tuple(scores)


def _remembered(function: Callable[[int], float]) -> Callable[[int], float]:
    known: dict[int, float] = {}

    def ask(index: int) -> float:
        if index not in known:
            known[index] = function(index)
        return known[index]

    return ask


def region_areas(mask: NDArray[np.bool_], scale: Scale | None = None) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Connected regions (8 neighbours), as `find_defects` forms them, and how large they are.

    Args:
        mask: bool [h, w].
        scale: of pictures [h, w]; None counts pixels.

    Returns:
        The number of each pixel's region, int32 [h, w], 0 for none, and the areas float64 [regions + 1], px or mm2;
        the first one, of what belongs to no region, is 0.
    """
    regions, stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[1:3]
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    if scale is not None:
        pixel = scale.pixel_area_mm2
        if isinstance(pixel, float):
            areas *= pixel
        else:
            areas = np.bincount(regions[mask], weights=pixel[mask], minlength=len(areas)).astype(np.float64)
    areas[0] = 0
    return np.asarray(regions, np.int32), areas


def largest_region(mask: NDArray[np.bool_], scale: Scale | None = None) -> float:
    """Area of the largest region, px or mm2 as `region_areas` says; 0 for an empty mask."""
    return float(region_areas(mask, scale)[1].max()) if mask.any() else 0.0


def labelled_areas(labels: NDArray[np.uint8]) -> list[int]:
    """Pixels of each connected region (8 neighbours) of a label's pixels."""
    return [int(area) for area in region_areas(labels > 0)[1][1:]]


def counting(mask: Mask, minimum_areas: Sequence[float], scale: Scale | None = None) -> NDArray[np.bool_]:
    """Pixels of the regions that count, [h, w]; a minimum area for each class, px, or mm2 with a scale."""
    kept = np.zeros(mask.labels.shape, np.bool_)
    for label, minimum in enumerate(minimum_areas, 1):
        if not (own := mask.labels == label).any():
            continue
        regions, areas = region_areas(own, scale)
        large = areas >= minimum
        large[0] = False
        kept |= large[regions]
    return kept
