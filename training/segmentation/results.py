"""What an evaluation found: the figures of `metrics.json` and their summary (docs/evaluation.md defines them)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from inspectd.errors import DatasetError

from .metrics import SIZE_BINS_PX, Interval, OperatingPoint, PixelScores, ThresholdCurve, ratio, size_bin

__all__ = [
    "FORMAT",
    "Evaluation",
    "Found",
    "GoodSet",
    "ImageLevel",
    "ImageResult",
    "PixelPool",
    "SizeResult",
    "Spread",
    "TypeResult",
    "read_evaluation",
]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Found:
    """How many of some things were found; `recall` is None where there were none."""

    total: int
    found: int
    recall: float | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recall", ratio(self.found, self.total))


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and median of a figure over the `images` where it is defined."""

    images: int
    mean: float | None
    median: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of figures that are all defined."""
        if not values:
            return cls(0, None, None)
        return cls(len(values), float(np.mean(values)), float(np.median(values)))


@dataclass(frozen=True, slots=True)
class PixelPool:
    """Every pixel of a set of images, counted together; `units` is what the interval draws (parts, or images)."""

    roles: tuple[str, ...]
    images: int
    units: int
    pixels: PixelScores
    f1_interval: Interval | None
    average_precision: float | None
    auroc: float | None
    best_threshold: float | None
    best_f1: float | None
    curve: ThresholdCurve


@dataclass(frozen=True, slots=True)
class TypeResult:
    """The images of one defect type."""

    images: Found
    pixels: PixelScores
    image_f1: Spread
    regions: Found


@dataclass(frozen=True, slots=True)
class ImageLevel:
    """Images as a whole: defective against good."""

    auroc: float | None
    auroc_interval: Interval | None
    at_threshold: OperatingPoint
    at_false_rejects: tuple[OperatingPoint, ...]


@dataclass(frozen=True, slots=True)
class GoodSet:
    """What the network finds on good images, where all that it finds is wrong."""

    images: int
    images_marked: int
    images_rejected: int
    pixels: int
    false_pixels: int
    false_pixels_per_image: float | None
    false_pixels_per_megapixel: float | None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image; `overlay` is relative to the output folder."""

    image: str
    role: str
    defect: str
    tile: str
    height_px: int
    width_px: int
    pixels: PixelScores
    score: float
    rejected: bool
    regions: Found
    overlay: str | None

    @property
    def defective(self) -> bool:
        """Whether a pixel of it is labelled."""
        return self.pixels.tp + self.pixels.fn > 0

    @property
    def unit(self) -> str:
        """What the bootstrap draws: the part where it is known, else the image."""
        return self.tile or self.image


@dataclass(frozen=True, slots=True)
class SizeResult:
    """The images whose labelled pixels, all together, are of one size class."""

    images: int
    pixels: PixelScores
    image_f1: Spread


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one evaluation; `docs/evaluation.md` defines them."""

    format: int
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    minimum_area_px: int
    seed: int
    provenance: dict[str, Any]
    pooled: PixelPool
    pooled_all: PixelPool
    types: dict[str, TypeResult]
    class_pixels: dict[str, PixelScores]
    confusion: tuple[tuple[int, ...], ...]
    image_f1: Spread
    image_level: ImageLevel
    regions: Found
    regions_by_size_px: dict[str, Found]
    good_sets: dict[str, GoodSet]
    images: tuple[ImageResult, ...]

    @property
    def f1_by_size_px(self) -> dict[str, SizeResult]:
        """F1 of the defective images by their labelled pixels, by the size classes of `regions_by_size_px`."""
        uppers = (*SIZE_BINS_PX[1:], math.inf)
        found = {}
        for lower, upper in zip(SIZE_BINS_PX, uppers, strict=True):
            of = [image.pixels for image in self.images if lower <= image.pixels.tp + image.pixels.fn < upper]
            counts = [sum(getattr(pixels, name) for pixels in of) for name in ("tp", "fp", "fn", "tn")]
            spread = Spread.of([pixels.f1 for pixels in of if pixels.f1 is not None])
            found[size_bin(lower)] = SizeResult(len(of), PixelScores(*counts), spread)
        return found

    @property
    def common_threshold(self) -> float | None:
        """The threshold, where all classes have the same one."""
        return self.thresholds[0] if len(set(self.thresholds)) == 1 else None

    def to_json(self) -> str:
        """The figures as JSON; what is not defined is null."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    def text(self) -> str:
        """A summary for the terminal, in aligned columns; `-` is what is not defined."""
        threshold = ", ".join(f"{name} {value:g}" for name, value in zip(self.classes, self.thresholds, strict=True))
        area = f", regions of at least {self.minimum_area_px} px" if self.minimum_area_px > 1 else ""
        return "\n\n".join(
            (
                f"{len(self.images)} images; threshold: {threshold}{area}",
                self._pixel_table(),
                self._type_table(),
                self._image_table(),
                self._region_table(),
                self._good_table(),
            )
        )

    def _pixel_table(self) -> str:
        pools = [self.pooled] if self.pooled.images == self.pooled_all.images else [self.pooled, self.pooled_all]
        rows = [
            (
                " + ".join(pool.roles) or "none",
                str(pool.images),
                *map(_share, (pool.pixels.f1,)),
                _interval(pool.f1_interval),
                *map(_share, (pool.pixels.precision, pool.pixels.recall, pool.pixels.iou, pool.average_precision)),
            )
            for pool in pools
        ]
        if len(self.classes) > 1:
            for name, scores in self.class_pixels.items():
                figures = (scores.precision, scores.recall, scores.iou)
                rows.append((f"  class {name}", "", _share(scores.f1), "", *map(_share, figures), ""))
        return _table(("pixels, pooled", "images", "F1", "95 %", "precision", "recall", "IoU", "AP"), rows)

    def _type_table(self) -> str:
        rows = [
            (
                name,
                str(result.images.total),
                *map(_share, (result.images.recall, result.regions.recall, result.pixels.f1)),
                *map(_share, (result.pixels.precision, result.pixels.recall)),
                *map(_share, (result.image_f1.mean, result.image_f1.median)),
            )
            for name, result in self.types.items()
        ]
        every = self.image_level.at_threshold
        rows.append(
            (
                "all",
                str(every.defective),
                *map(_share, (every.recall, self.regions.recall, self.pooled.pixels.f1)),
                *map(_share, (self.pooled.pixels.precision, self.pooled.pixels.recall)),
                *map(_share, (self.image_f1.mean, self.image_f1.median)),
            )
        )
        header = ("defect types", "images", "image recall", "region recall", "pixel F1", "precision", "recall")
        return _table((*header, "mean image F1", "median"), rows)

    def _image_table(self) -> str:
        level = self.image_level
        rows = [
            (
                "at the threshold"
                if point.false_reject_rate is None
                else f"{point.false_reject_rate * 100:g} % false rejects",
                "-" if point.threshold is None else f"{point.threshold:.6f}",
                _share(point.recall),
                _interval(point.recall_interval),
                _of(point.found, point.defective),
                _of(point.false_rejects, point.good),
            )
            for point in (level.at_threshold, *level.at_false_rejects)
        ]
        table = _table(("images", "threshold", "recall", "95 %", "found", "false rejects"), rows)
        return f"{table}\nAUROC {_share(level.auroc)} ({_interval(level.auroc_interval)})"

    def _region_table(self) -> str:
        rows = [
            (f"{name} px", str(part.total), str(part.found), _share(part.recall))
            for name, part in self.regions_by_size_px.items()
        ]
        rows.append(("all", str(self.regions.total), str(self.regions.found), _share(self.regions.recall)))
        regions = _table(("labelled regions", "labelled", "found", "recall"), rows)
        sizes = [
            (
                f"{name} px",
                str(part.images),
                *map(_share, (part.pixels.f1, part.pixels.precision, part.pixels.recall)),
                *map(_share, (part.image_f1.mean, part.image_f1.median)),
            )
            for name, part in self.f1_by_size_px.items()
        ]
        header = ("defective images", "images", "pixel F1", "precision", "recall", "mean image F1", "median")
        return f"{regions}\n\n{_table(header, sizes)}"

    def _good_table(self) -> str:
        rows = [
            (
                role,
                *map(str, (good.images, good.images_marked, good.images_rejected, good.false_pixels)),
                "-" if good.false_pixels_per_image is None else f"{good.false_pixels_per_image:.2f}",
                "-" if good.false_pixels_per_megapixel is None else f"{good.false_pixels_per_megapixel:.1f}",
            )
            for role, good in self.good_sets.items()
        ]
        header = ("good images", "images", "marked", "rejected", "false px", "per image", "per megapixel")
        return _table(header, rows or [("none", *["-"] * 6)])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.3f}-{interval.high:.3f}"


def _of(part: int | None, whole: int) -> str:
    return "-" if part is None else f"{part} of {whole}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def read_evaluation(path: Path) -> Evaluation:
    """Read a `metrics.json`.

    Raises:
        DatasetError: it is missing, or was not written by this version's format.
    """
    try:
        evaluation = TypeAdapter(Evaluation).validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DatasetError(f"{path}: not a metrics.json of inspectd-train evaluate: {where}: {first['msg']}") from None
    if evaluation.format != FORMAT:
        raise DatasetError(f"{path}: format {evaluation.format}, expected {FORMAT}; run the evaluation again")
    return evaluation
