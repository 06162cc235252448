"""Evaluation of a segmentation network on labelled photographs (docs/evaluation.md defines every figure).

The network is a function that is passed in, so whatever can predict is measured alike: a checkpoint in
torch, an exported bundle, a baseline. Images go through one at a time and only counts are kept.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import DEFECT_FREE_ROLES, ROLES, Sample, read_image, read_labels
from inspectd.errors import ConfigError, InferenceError
from inspectd.mask import ClassMap
from inspectd.optional import require

from . import figures
from .metrics import (
    GRID,
    SIZE_BINS_PX,
    OperatingPoint,
    PixelScores,
    ScoreHistogram,
    auroc,
    bootstrap,
    confusion,
    count_pixels,
    decide,
    operating_point,
    ratio,
    size_bin,
)
from .results import FORMAT, Evaluation, Found, GoodSet, ImageLevel, ImageResult, PixelPool, Spread, TypeResult

__all__ = ["FALSE_REJECT_RATES", "Evaluation", "Predictor", "evaluate"]

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 [H, W, 1 or 3] RGB or grey -> float32 [C, H, W]: probability of each defect class, 0..1."""

FALSE_REJECT_RATES = (0.0, 0.01)

_METRICS, _TABLE, _CURVES, _SHEET, _OVERLAYS = (
    "metrics.json",
    "per-image.csv",
    "curves.png",
    "contact-sheet.png",
    "overlays",
)


@dataclass(frozen=True, slots=True)
class _Settings:
    classes: ClassMap
    thresholds: tuple[float, ...]
    minimum_area_px: int
    bits: int
    together: bool


@dataclass(slots=True)
class _Tally:
    """What is kept of all images."""

    labelled: ScoreHistogram
    defect_free: ScoreHistogram
    confusion: NDArray[np.int64]
    results: list[ImageResult]
    regions: list[tuple[int, bool]]


def evaluate(
    samples: Sequence[Sample],
    predictor: Predictor,
    classes: ClassMap,
    *,
    thresholds: float | Sequence[float] = 0.5,
    minimum_area_px: int = 1,
    bits: int = 16,
    together: bool = False,
    out: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a network on samples, and write tables and figures.

    Args:
        samples: the images to measure on: labelled ones (any role that is not defect-free) and good ones.
        predictor: the network.
        classes: the classes of its maps; with one class, every labelled defect counts as that class.
        thresholds: the probability from which on a pixel is a defect, above 0 and at most 1; one for all classes
            or one for each.
        minimum_area_px: an image is rejected for a connected region of at least so many predicted pixels.
        bits: significant bits of 16-bit image files.
        together: take all classes for one, so that types can be measured that the network has no class for; nothing is
            said then of classes that are taken for each other.
        out: folder for metrics.json, per-image.csv, curves.png, contact-sheet.png and overlays/; None writes nothing.
        provenance: what was measured and how, as JSON values: checkpoint digest, dataset, command, versions.
        seed: of the resamples.
        resamples: draws of each interval; 0 leaves the intervals out.
        progress: called with (images done, all images) after each image.

    Raises:
        ConfigError: a threshold, area or output folder that cannot be used.
        DatasetError: an unusable image or mask.
        InferenceError: the network's maps are not what `Predictor` says.
        MissingDependencyError: `out` is given and matplotlib is absent.
    """
    settings = _Settings(classes, _thresholds(thresholds, classes), minimum_area_px, bits, together)
    if minimum_area_px < 1:
        raise ConfigError(f"minimum area: expected at least 1 px, got {minimum_area_px}")
    if out is not None:
        _prepare(out)
    side = len(classes) + 1
    tally = _Tally(ScoreHistogram(), ScoreHistogram(), np.zeros((side, side), np.int64), [], [])
    for number, sample in enumerate(samples, 1):
        overlay = None if out is None else out / _OVERLAYS / f"{number:04d}-{_slug(sample)}.png"
        _measure(sample, predictor, settings, tally, overlay)
        if progress is not None:
            progress(number, len(samples))
    evaluation = _summarise(tally, settings, dict(provenance or {}), seed, resamples)
    if out is not None:
        _write(evaluation, out)
    return evaluation


def _thresholds(given: float | Sequence[float], classes: ClassMap) -> tuple[float, ...]:
    values = [float(given)] * len(classes) if isinstance(given, (int, float)) else [float(value) for value in given]
    if len(values) != len(classes):
        raise ConfigError(f"{len(values)} thresholds for {len(classes)} classes ({', '.join(classes.names)})")
    if not all(0 < value <= 1 for value in values):
        raise ConfigError(f"thresholds must be above 0 and at most 1, got {', '.join(map(str, values))}")
    return tuple(values)


def _prepare(out: Path) -> None:
    """Make the output folder, without what an earlier evaluation left there."""
    require("matplotlib", extra="train")
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted({path.name for path in out.iterdir()} - {_METRICS, _TABLE, _CURVES, _SHEET, _OVERLAYS})
        if foreign:
            raise ConfigError(
                f"{out}: holds {foreign[0]!r}, which is not of an evaluation; give a new or an empty folder"
            )
        (out / _OVERLAYS).mkdir(exist_ok=True)
        for path in (*(out / name for name in (_METRICS, _TABLE, _CURVES, _SHEET)), *(out / _OVERLAYS).glob("*.png")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be used as the output folder: {error.strerror}") from None


def _slug(sample: Sample) -> str:
    return "-".join(Path(sample.name).with_suffix("").parts)


def _measure(sample: Sample, predictor: Predictor, settings: _Settings, tally: _Tally, overlay: Path | None) -> None:
    """Predict one image and add it to the tally; its overlay is written where there is something to mark."""
    pixels = read_image(sample.image, bits=settings.bits)
    height, width = pixels.shape[:2]
    apart = len(settings.classes) > 1 and not settings.together
    labels = read_labels(sample, settings.classes if apart else None, (height, width))
    probabilities = _checked(predictor(pixels), (len(settings.classes), height, width), sample)
    predicted = decide(probabilities, np.array(settings.thresholds, np.float32))
    label, prediction, score = labels > 0, predicted > 0, probabilities.max(axis=0)

    (tally.defect_free if sample.role in DEFECT_FREE_ROLES else tally.labelled).add(score, label)
    if not settings.together:
        tally.confusion += confusion(labels, predicted, len(settings.classes))
    regions = _labelled_regions(label, prediction)
    tally.regions.extend(regions)
    scores = PixelScores.of(count_pixels(label, prediction))
    if not (label.any() or prediction.any()):
        overlay = None
    if overlay is not None:
        figures.write_png(overlay, figures.overlay_panel(pixels, label, prediction, scores.f1))
    tally.results.append(
        ImageResult(
            image=sample.name,
            role=sample.role,
            defect=sample.defect,
            tile=sample.tile,
            height_px=height,
            width_px=width,
            pixels=scores,
            score=_image_score(score, settings.minimum_area_px),
            rejected=_largest_region(prediction) >= settings.minimum_area_px,
            regions=Found(len(regions), sum(found for _, found in regions)),
            overlay=None if overlay is None else f"{_OVERLAYS}/{overlay.name}",
        )
    )


def _checked(probabilities: NDArray[np.float32], shape: tuple[int, ...], sample: Sample) -> NDArray[np.float32]:
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise InferenceError(
            f"{sample.name}: the network gave {probabilities.dtype} {list(probabilities.shape)}, "
            f"expected float32 {list(shape)} (classes, height, width)"
        )
    # Written so that NaN fails it.
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InferenceError(
            f"{sample.name}: the network gave probabilities from {probabilities.min()} to {probabilities.max()}, "
            "expected 0..1; its weights may be damaged"
        )
    return probabilities


def _labelled_regions(label: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> list[tuple[int, bool]]:
    """(area px, found) of each connected labelled region (8 neighbours); found if any predicted pixel lies in it."""
    if not label.any():
        return []
    count, components, stats, _ = cv2.connectedComponentsWithStats(label.astype(np.uint8), connectivity=8)
    hits = np.bincount(components[prediction], minlength=count)
    return [(int(stats[index][cv2.CC_STAT_AREA]), bool(hits[index])) for index in range(1, count)]


def _largest_region(mask: NDArray[np.bool_]) -> int:
    """Pixels of the largest connected region (8 neighbours); 0 for an empty mask."""
    if not mask.any():
        return 0
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return int(stats[1:, cv2.CC_STAT_AREA].max())


def _image_score(score: NDArray[np.float32], minimum_area_px: int) -> float:
    """The highest threshold that leaves a region of `minimum_area_px`, in steps of 1 / GRID; for 1 px the maximum."""
    if minimum_area_px == 1:
        return float(score.max())
    low, high = 0, GRID + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _largest_region(score >= np.float32(middle / GRID)) >= minimum_area_px:
            low = middle
        else:
            high = middle
    return float(np.float32(low / GRID))


def _summarise(tally: _Tally, settings: _Settings, provenance: dict[str, Any], seed: int, resamples: int) -> Evaluation:
    results = tally.results
    rng = np.random.default_rng(seed)
    labelled = [result for result in results if result.role not in DEFECT_FREE_ROLES]
    defective = [result for result in results if result.defective]
    names = settings.classes.names
    common = settings.thresholds[0] if len(set(settings.thresholds)) == 1 else None
    return Evaluation(
        format=FORMAT,
        classes=names,
        thresholds=settings.thresholds,
        minimum_area_px=settings.minimum_area_px,
        seed=seed,
        # As it will be read back: tuples become lists, and what is not JSON fails here.
        provenance=json.loads(json.dumps(provenance, allow_nan=False)),
        pooled=_pool(labelled, tally.labelled, rng, resamples),
        pooled_all=_pool(results, tally.labelled + tally.defect_free, rng, resamples),
        types={name: _type_result(list(group)) for name, group in _by(defective, lambda result: result.defect)},
        class_pixels={name: _class_pixels(tally.confusion, index) for index, name in enumerate(names, 1)},
        confusion=tuple(tuple(int(count) for count in row) for row in tally.confusion),
        image_f1=Spread.of([result.pixels.f1 for result in defective if result.pixels.f1 is not None]),
        image_level=_image_level(results, common, rng, resamples),
        regions=Found(len(tally.regions), sum(found for _, found in tally.regions)),
        regions_by_size_px=_by_size(tally.regions),
        good_sets={
            role: _good_set(list(group))
            for role, group in _by([result for result in results if not result.defective], lambda result: result.role)
        },
        images=tuple(results),
    )


def _by(results: Sequence[ImageResult], key: Callable[[ImageResult], str]) -> groupby[str, ImageResult]:
    return groupby(sorted(results, key=key), key)


def _total(results: Sequence[ImageResult]) -> PixelScores:
    counts = _counts(results)
    return PixelScores.of(counts.sum(axis=0))


def _counts(results: Sequence[ImageResult]) -> NDArray[np.int64]:
    """tp, fp, fn, tn of each image, int64 [n, 4]."""
    rows = [(result.pixels.tp, result.pixels.fp, result.pixels.fn, result.pixels.tn) for result in results]
    return np.array(rows, np.int64).reshape(-1, 4)


def _pool(
    results: Sequence[ImageResult], histogram: ScoreHistogram, rng: np.random.Generator, resamples: int
) -> PixelPool:
    counts = _counts(results)
    units = [result.unit for result in results]
    curve = histogram.curve()
    best = curve.best_f1()
    return PixelPool(
        roles=tuple(sorted({result.role for result in results}, key=ROLES.index)),
        images=len(results),
        units=len(set(units)),
        pixels=_total(results),
        f1_interval=bootstrap(
            lambda drawn: PixelScores.of(counts[drawn].sum(axis=0)).f1, [units], rng, resamples=resamples
        ),
        average_precision=histogram.average_precision(),
        auroc=histogram.auroc(),
        best_threshold=None if best is None else best[0],
        best_f1=None if best is None else best[1],
        curve=curve,
    )


def _type_result(results: Sequence[ImageResult]) -> TypeResult:
    return TypeResult(
        images=Found(len(results), sum(result.rejected for result in results)),
        pixels=_total(results),
        image_f1=Spread.of([result.pixels.f1 for result in results if result.pixels.f1 is not None]),
        regions=Found(sum(result.regions.total for result in results), sum(result.regions.found for result in results)),
    )


def _class_pixels(counts: NDArray[np.int64], label: int) -> PixelScores:
    tp = int(counts[label, label])
    fp, fn = int(counts[:, label].sum()) - tp, int(counts[label].sum()) - tp
    return PixelScores(tp, fp, fn, int(counts.sum()) - tp - fp - fn)


def _image_level(
    results: Sequence[ImageResult], threshold: float | None, rng: np.random.Generator, resamples: int
) -> ImageLevel:
    good = [result for result in results if not result.defective]
    bad = [result for result in results if result.defective]
    good_scores = np.array([result.score for result in good], np.float64)
    bad_scores = np.array([result.score for result in bad], np.float64)
    bad_rejected = np.array([result.rejected for result in bad], np.bool_)
    good_units, bad_units = [result.unit for result in good], [result.unit for result in bad]
    both = (good_units, bad_units)

    def at(rate: float) -> OperatingPoint:
        interval = bootstrap(
            lambda g, b: operating_point(good_scores[g], bad_scores[b], rate).recall, both, rng, resamples=resamples
        )
        return operating_point(good_scores, bad_scores, rate, interval)

    found = int(bad_rejected.sum())
    return ImageLevel(
        auroc=auroc(good_scores, bad_scores),
        auroc_interval=bootstrap(lambda g, b: auroc(good_scores[g], bad_scores[b]), both, rng, resamples=resamples),
        at_threshold=OperatingPoint(
            false_reject_rate=None,
            threshold=threshold,
            good=len(good),
            false_rejects=sum(result.rejected for result in good),
            defective=len(bad),
            found=found,
            recall=ratio(found, len(bad)),
            recall_interval=bootstrap(lambda b: float(bad_rejected[b].mean()), [bad_units], rng, resamples=resamples),
        ),
        at_false_rejects=tuple(at(rate) for rate in FALSE_REJECT_RATES),
    )


def _by_size(regions: Sequence[tuple[int, bool]]) -> dict[str, Found]:
    uppers = (*SIZE_BINS_PX[1:], np.inf)
    inside = {
        size_bin(lower): [found for area, found in regions if lower <= area < upper]
        for lower, upper in zip(SIZE_BINS_PX, uppers, strict=True)
    }
    return {name: Found(len(found), sum(found)) for name, found in inside.items()}


def _good_set(results: Sequence[ImageResult]) -> GoodSet:
    false_pixels = sum(result.pixels.fp for result in results)
    pixels = sum(result.height_px * result.width_px for result in results)
    return GoodSet(
        images=len(results),
        images_marked=sum(result.pixels.fp > 0 for result in results),
        images_rejected=sum(result.rejected for result in results),
        pixels=pixels,
        false_pixels=false_pixels,
        false_pixels_per_image=ratio(false_pixels, len(results)),
        false_pixels_per_megapixel=ratio(false_pixels * 1_000_000, pixels),
    )


def _write(evaluation: Evaluation, out: Path) -> None:
    try:
        _write_table(evaluation, out / _TABLE)
        figures.write_curves(evaluation, out / _CURVES)
        figures.write_contact_sheet(evaluation, out, out / _SHEET)
        # Last: where it stands, the rest does.
        (out / _METRICS).write_text(evaluation.to_json(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None


def _write_table(evaluation: Evaluation, path: Path) -> None:
    figures_of_pixels = ("tp", "fp", "fn", "tn", "precision", "recall", "f1", "iou")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        before = ("image", "role", "defect", "tile", "height_px", "width_px")
        after = ("score", "rejected", "labelled_regions", "found_regions", "overlay")
        writer.writerow((*before, *figures_of_pixels, *after))
        for result in evaluation.images:
            writer.writerow(
                (
                    *(getattr(result, name) for name in before),
                    *(getattr(result.pixels, name) for name in figures_of_pixels),
                    *(result.score, int(result.rejected), result.regions.total, result.regions.found, result.overlay),
                )
            )
