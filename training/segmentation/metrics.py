"""Figures of a segmentation, and what they rest on: counts, histograms of scores, resamples.

Nothing here keeps a probability map. A figure whose denominator is zero is None: it is not defined, and
neither 0 nor 1 would be true. `docs/evaluation.md` defines every figure in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GRID",
    "SIZE_BINS_PX",
    "Interval",
    "OperatingPoint",
    "PixelScores",
    "ScoreHistogram",
    "ThresholdCurve",
    "auroc",
    "bootstrap",
    "confusion",
    "count_pixels",
    "decide",
    "operating_point",
    "ratio",
    "size_bin",
    "threshold_at",
]

GRID = 1000
"""Steps of the score histogram between 0 and 1; thresholds that are whole steps are met exactly."""

# float32, like the scores: a score of float32(0.29) must not fall below the threshold 0.29.
_EDGES = (np.arange(GRID + 1) / GRID).astype(np.float32)

SIZE_BINS_PX = (1, 16, 64, 256, 1024)
"""Lower limits of the size classes of labelled defects, px; the last one has no upper limit."""


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`, or None where the whole is zero."""
    return float(part / whole) if whole else None


def size_bin(lower_px: int) -> str:
    """The name of the size class that starts at `lower_px`: "16-63", or "1024-" for the last."""
    index = SIZE_BINS_PX.index(lower_px) + 1
    return f"{lower_px}-{SIZE_BINS_PX[index] - 1}" if index < len(SIZE_BINS_PX) else f"{lower_px}-"


@dataclass(frozen=True, slots=True)
class PixelScores:
    """Pixels of a pool of images, defect (positive) against good (negative), and the figures from them.

    Attributes:
        tp: labelled and predicted.
        fp: predicted alone.
        fn: labelled alone.
        tn: neither.
        precision: tp / (tp + fp).
        recall: tp / (tp + fn).
        f1: 2 tp / (2 tp + fp + fn).
        iou: tp / (tp + fp + fn).

    Raises:
        ValueError: a count below zero.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    precision: float | None = field(init=False)
    recall: float | None = field(init=False)
    f1: float | None = field(init=False)
    iou: float | None = field(init=False)

    def __post_init__(self) -> None:
        tp, fp, fn = self.tp, self.fp, self.fn
        if min(tp, fp, fn, self.tn) < 0:
            raise ValueError(f"pixel counts must not be negative: tp {tp}, fp {fp}, fn {fn}, tn {self.tn}")
        object.__setattr__(self, "precision", ratio(tp, tp + fp))
        object.__setattr__(self, "recall", ratio(tp, tp + fn))
        object.__setattr__(self, "f1", ratio(2 * tp, 2 * tp + fp + fn))
        object.__setattr__(self, "iou", ratio(tp, tp + fp + fn))

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> PixelScores:
        """From counts int64 [4]: tp, fp, fn, tn."""
        tp, fp, fn, tn = (int(count) for count in counts)
        return cls(tp, fp, fn, tn)


def count_pixels(label: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> NDArray[np.int64]:
    """tp, fp, fn, tn as int64 [4], from two masks bool [H, W]."""
    tp = int(np.count_nonzero(label & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(label)) - tp
    return np.array([tp, fp, fn, label.size - tp - fp - fn], np.int64)


def confusion(label: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels by label (row) and prediction (column), int64 [classes + 1, classes + 1]; index 0 is good."""
    side = classes + 1
    pairs = label.astype(np.int64).reshape(-1) * side + prediction.reshape(-1)
    return np.bincount(pairs, minlength=side * side).reshape(side, side).astype(np.int64)


def decide(probabilities: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The class mask uint8 [H, W] of defect probabilities [C, H, W] under thresholds [C].

    A pixel takes the class with the largest margin `p_c - threshold_c` where that is at least 0 (the first
    of several equal ones), else it is good (0).
    """
    margins = probabilities - thresholds[:, None, None]
    best = margins.argmax(axis=0)
    found = margins.max(axis=0) >= 0
    return np.where(found, best + 1, 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Pixel precision, recall and F1 at the thresholds 0, 0.01 .. 1 (a pixel is a defect from the threshold on)."""

    thresholds: tuple[float, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]

    def best_f1(self) -> tuple[float, float] | None:
        """(threshold, F1) of the highest F1, the lowest threshold of several; None where F1 is nowhere defined.

        It is chosen with the labels in hand: a figure for diagnosis, not one to report as reached.
        """
        defined = [(f1, -threshold) for threshold, f1 in zip(self.thresholds, self.f1, strict=True) if f1 is not None]
        if not defined:
            return None
        f1, negated = max(defined)
        return -negated, f1


class ScoreHistogram:
    """Counts of pixel scores of defect and good pixels, from which every threshold's figures follow.

    Bin k holds the scores from k / GRID to below (k + 1) / GRID, and bin GRID the scores of exactly 1.
    Average precision and AUROC treat the scores of one bin as tied.
    """

    def __init__(self) -> None:
        self.positive: NDArray[np.int64] = np.zeros(GRID + 1, np.int64)
        self.negative: NDArray[np.int64] = np.zeros(GRID + 1, np.int64)

    def add(self, score: NDArray[np.float32], label: NDArray[np.bool_]) -> None:
        """Count one image: scores float32 [H, W] in 0..1 and its labelled pixels bool [H, W]."""
        bins = (score * np.float32(GRID)).astype(np.intp)
        # The product is rounded: put right what it moved across an edge.
        bins -= score < _EDGES[bins]
        bins += score >= _EDGES[np.minimum(bins + 1, GRID)]
        bins = np.minimum(bins, GRID)
        self.positive += np.bincount(bins[label], minlength=GRID + 1)
        self.negative += np.bincount(bins[~label], minlength=GRID + 1)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """The counts of both."""
        both = ScoreHistogram()
        both.positive = self.positive + other.positive
        both.negative = self.negative + other.negative
        return both

    def at(self, step: int) -> PixelScores:
        """The figures at the threshold `step / GRID`, step 0..GRID."""
        if not 0 <= step <= GRID:
            raise ValueError(f"expected a step of 0..{GRID}, got {step}")
        tp, fp = int(self.positive[step:].sum()), int(self.negative[step:].sum())
        return PixelScores(tp, fp, int(self.positive.sum()) - tp, int(self.negative.sum()) - fp)

    def curve(self) -> ThresholdCurve:
        """The figures at 0, 0.01 .. 1."""
        steps = range(0, GRID + 1, GRID // 100)
        points = [self.at(step) for step in steps]
        return ThresholdCurve(
            thresholds=tuple(step / GRID for step in steps),
            precision=tuple(point.precision for point in points),
            recall=tuple(point.recall for point in points),
            f1=tuple(point.f1 for point in points),
        )

    def average_precision(self) -> float | None:
        """Sum over falling thresholds of precision times the gain in recall; None without defect pixels."""
        if not self.positive.any():
            return None
        gained = self.positive[::-1]
        tp, fp = np.cumsum(gained), np.cumsum(self.negative[::-1])
        precision = tp / np.maximum(tp + fp, 1)
        return float((precision * gained).sum() / tp[-1])

    def auroc(self) -> float | None:
        """Share of (defect, good) pixel pairs in the right order, ties one half; None without one of the two."""
        positives, negatives = int(self.positive.sum()), int(self.negative.sum())
        if not positives or not negatives:
            return None
        below = np.cumsum(self.negative) - self.negative
        ordered = (self.positive.astype(np.float64) * (below + 0.5 * self.negative)).sum()
        return float(ordered / (float(positives) * negatives))


def auroc(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float | None:
    """Share of (defective, good) image pairs whose scores are in the right order, ties one half.

    Args:
        good: scores [n] of good images.
        defective: scores [m] of defective ones.
    """
    if not good.size or not defective.size:
        return None
    ranked = np.sort(good)
    below = np.searchsorted(ranked, defective, side="left")
    up_to = np.searchsorted(ranked, defective, side="right")
    return float((below + up_to).sum() / (2 * good.size * defective.size))


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrapped interval: 2.5 % of the resamples lie below `low`, 2.5 % above `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What an image threshold finds and what it costs; an image is rejected where its score reaches the threshold.

    Attributes:
        false_reject_rate: the rate asked for, or None where the threshold was given.
        threshold: the score from which on an image is rejected; above 1 where a good image scores 1.
        good: good images.
        false_rejects: those of them that are rejected.
        defective: defective images.
        found: those of them that are rejected.
        recall: found / defective.
        recall_interval: bootstrapped over the units.
    """

    false_reject_rate: float | None
    threshold: float | None
    good: int
    false_rejects: int | None
    defective: int
    found: int | None
    recall: float | None
    recall_interval: Interval | None = None


def threshold_at(good: NDArray[np.float64], rate: float) -> float | None:
    """The smallest float32 threshold that rejects at most floor(rate n) of n good images; None for n = 0.

    Tied good images are rejected together or not at all, so fewer than allowed may be rejected.
    """
    if not good.size:
        return None
    # 0.29 * 100 is 28.999999999999996; the rate as a person reads it is meant.
    allowed = math.floor(rate * good.size + 1e-9)
    if allowed >= good.size:
        return 0.0
    highest_kept = np.sort(good)[good.size - 1 - allowed]
    return float(np.nextafter(np.float32(highest_kept), np.float32(2)))


def operating_point(
    good: NDArray[np.float64], defective: NDArray[np.float64], rate: float, interval: Interval | None = None
) -> OperatingPoint:
    """The highest image recall at no more than `rate` false rejects; scores [n] and [m], values of float32."""
    threshold = threshold_at(good, rate)
    found = None if threshold is None else int((defective >= threshold).sum())
    return OperatingPoint(
        false_reject_rate=rate,
        threshold=threshold,
        good=good.size,
        false_rejects=None if threshold is None else int((good >= threshold).sum()),
        defective=defective.size,
        found=found,
        recall=None if found is None else ratio(found, defective.size),
        recall_interval=interval,
    )


Unit = TypeVar("Unit")


class _Members(Generic[Unit]):
    """Which items belong to each unit of a stratum."""

    def __init__(self, units: Sequence[Unit]) -> None:
        members: dict[Unit, list[int]] = {}
        for index, unit in enumerate(units):
            members.setdefault(unit, []).append(index)
        self.groups = [np.array(group, np.intp) for group in members.values()]

    def draw(self, rng: np.random.Generator) -> NDArray[np.intp]:
        count = len(self.groups)
        return np.concatenate([self.groups[index] for index in rng.integers(0, count, count)])


def bootstrap(
    statistic: Callable[..., float | None],
    strata: Sequence[Sequence[Unit]],
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
) -> Interval | None:
    """The 95 % percentile interval of a statistic when whole units are drawn anew, with replacement.

    Photographs of one part resemble each other, so they form one unit and are drawn together; each stratum
    (good images, defective images) keeps its number of units. Resamples where the statistic is not defined
    are left out.

    Args:
        statistic: takes one index array intp [n] per stratum; returns a figure, or None.
        strata: for each stratum, the unit of each of its items.
        rng: source of the draws.
        resamples: number of draws.

    Returns:
        None with fewer than two units in a stratum, or where no resample defines the statistic.
    """
    members = [_Members(units) for units in strata]
    if any(len(stratum.groups) < 2 for stratum in members):
        return None
    drawn = (statistic(*(stratum.draw(rng) for stratum in members)) for _ in range(resamples))
    values = [value for value in drawn if value is not None]
    if not values:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))
