"""Pictures of an evaluation: overlays in the manner of the paper's Figure 7, curves, and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import decode_png, encode_png
from inspectd.errors import ConfigError
from inspectd.optional import require

from .metrics import threshold_at
from .results import Evaluation, ImageResult, PixelPool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = [
    "AGREEMENT_RGB",
    "LABEL_RGB",
    "PREDICTION_RGB",
    "legend_patches",
    "new_figure",
    "overlay",
    "overlay_panel",
    "write_contact_sheet",
    "write_curves",
    "write_png",
]

LABEL_RGB = (225, 30, 30)
PREDICTION_RGB = (20, 175, 45)
AGREEMENT_RGB = (250, 215, 0)
"""Colours of labelled pixels that are missed, of predicted ones that are not labelled, and of both."""

_LEGEND = (("label", LABEL_RGB), ("prediction", PREDICTION_RGB), ("both", AGREEMENT_RGB))
_LEGEND_PX = 18
_LEGEND_WIDTH_PX = 260
_PANEL_PX = 256
_COLUMNS = 6

_GOOD, _DEFECTIVE, _GREY = "#2f7f4f", "#c0392b", "#555555"


def overlay(pixels: NDArray[np.uint8], label: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with its pixels marked: label red, prediction green, agreement yellow.

    Args:
        pixels: uint8 [H, W, 1 or 3].
        label: bool [H, W].
        prediction: bool [H, W].

    Returns:
        uint8 [H, W, 3]; pixels that are neither labelled nor predicted are the picture's.
    """
    out = _colour(pixels)
    out[label] = LABEL_RGB
    out[prediction] = PREDICTION_RGB
    out[label & prediction] = AGREEMENT_RGB
    return out


def _colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy with three channels."""
    return pixels.copy() if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def overlay_panel(
    pixels: NDArray[np.uint8], label: NDArray[np.bool_], prediction: NDArray[np.bool_], f1: float | None
) -> NDArray[np.uint8]:
    """Photograph and overlay side by side over a legend: uint8 [H', W', 3]; small pictures are enlarged."""
    gap = np.full((pixels.shape[0], 2, 3), 255, np.uint8)
    pair = np.hstack([_colour(pixels), gap, overlay(pixels, label, prediction)])
    factor = max(1, -(-_PANEL_PX // max(pixels.shape[0], pixels.shape[1])))
    pair = pair.repeat(factor, axis=0).repeat(factor, axis=1)
    if (missing := _LEGEND_WIDTH_PX - pair.shape[1]) > 0:
        pair = np.pad(pair, ((0, 0), (0, missing), (0, 0)), constant_values=255)
    return np.vstack([pair, _legend(pair.shape[1], f1)])


def _legend(width: int, f1: float | None) -> NDArray[np.uint8]:
    strip = np.full((_LEGEND_PX, width, 3), 255, np.uint8)
    at = 4
    for name, colour in _LEGEND:
        strip[5:13, at : at + 8] = colour
        at = _write(strip, name, at + 12) + 10
    if f1 is not None:
        text = f"F1 {f1:.3f}"
        _write(strip, text, max(at, width - _text_width(text) - 4))
    return strip


def _write(strip: NDArray[np.uint8], text: str, left: int) -> int:
    """Write on a strip; returns where the text ends."""
    cv2.putText(strip, text, (left, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
    return left + _text_width(text)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)[0][0])


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB uint8 [H, W, 3].

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_bytes(encode_png(np.ascontiguousarray(pixels[..., ::-1])))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def write_curves(evaluation: Evaluation, path: Path) -> None:
    """Precision against recall, F1 against threshold, image scores, and image recall against false rejects.

    Raises:
        MissingDependencyError: matplotlib is absent.
        OSError: the file cannot be written.
    """
    figure = new_figure(10, 8)
    axes = figure.subplots(2, 2)
    _draw_precision_recall(axes[0, 0], evaluation.pooled)
    _draw_thresholds(axes[0, 1], evaluation)
    good = [result.score for result in evaluation.images if not result.defective]
    defective = [result.score for result in evaluation.images if result.defective]
    _draw_scores(axes[1, 0], evaluation, good, defective)
    _draw_false_rejects(axes[1, 1], evaluation, good, defective)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure without pyplot: it draws to files alone (Agg), whatever the screen."""
    figure: Figure = require("matplotlib.figure", extra="train").Figure(
        figsize=(width_in, height_in), layout="constrained"
    )
    return figure


def _draw_precision_recall(axis: Axes, pool: PixelPool) -> None:
    points = [
        (recall, precision)
        for recall, precision in zip(pool.curve.recall, pool.curve.precision, strict=True)
        if recall is not None and precision is not None
    ]
    axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="pixel recall", ylabel="pixel precision")
    if not points:
        _say(axis, "no labelled pixels")
        return
    axis.plot(*zip(*points, strict=True), color=_DEFECTIVE, linewidth=1.6)
    if pool.pixels.precision is not None and pool.pixels.recall is not None:
        axis.plot(pool.pixels.recall, pool.pixels.precision, "o", color="black", markersize=6, label="at the threshold")
    _head(axis, f"pixels of {' + '.join(pool.roles)}: average precision {_number(pool.average_precision)}")


def _draw_thresholds(axis: Axes, evaluation: Evaluation) -> None:
    pool = evaluation.pooled
    curve = pool.curve
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold", ylabel="pixel F1, precision, recall")
    if not pool.images or pool.average_precision is None:
        _say(axis, "no labelled pixels")
        return
    for values, name, colour, width in (
        (curve.precision, "precision", "#2471a3", 1.0),
        (curve.recall, "recall", "#b9770e", 1.0),
        (curve.f1, "F1", "black", 1.8),
    ):
        # matplotlib leaves a gap at NaN: the figure is not defined there.
        axis.plot(
            curve.thresholds,
            [np.nan if value is None else value for value in values],
            color=colour,
            linewidth=width,
            label=name,
        )
    if evaluation.common_threshold is not None:
        axis.axvline(evaluation.common_threshold, color=_GREY, linestyle="--", linewidth=1)
    _head(axis, f"F1 {_number(pool.pixels.f1)} as set; {_number(pool.best_f1)} at best, {pool.best_threshold:.2f}")


def _draw_scores(axis: Axes, evaluation: Evaluation, good: Sequence[float], defective: Sequence[float]) -> None:
    bins = [step / 40 for step in range(41)]
    for scores, name, colour in ((good, "good", _GOOD), (defective, "defective", _DEFECTIVE)):
        if scores:
            axis.hist(scores, bins, color=colour, alpha=0.55, label=f"{name} ({len(scores)})")
    axis.set(xlim=(0, 1), xlabel="image score", ylabel="images")
    if not good and not defective:
        _say(axis, "no images")
        return
    # Most scores lie at the two ends; the few between them are those that matter.
    axis.set_yscale("symlog", linthresh=1, linscale=0.5)
    highest = axis.get_ylim()[1]
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000) if tick <= highest]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.set_ylim(bottom=0)
    if evaluation.common_threshold is not None:
        axis.axvline(evaluation.common_threshold, color=_GREY, linestyle="--", linewidth=1)
    _head(axis, f"image scores: AUROC {_number(evaluation.image_level.auroc)}")


def _draw_false_rejects(axis: Axes, evaluation: Evaluation, good: Sequence[float], defective: Sequence[float]) -> None:
    axis.set(xlim=(0, 100), ylim=(0, 102), xlabel="false rejects, % of good images", ylabel="image recall, %")
    if not good or not defective:
        _say(axis, "no good images" if not good else "no defective images")
        return
    good_scores, defective_scores = np.array(good), np.array(defective)
    rates = [count / len(good) for count in range(len(good) + 1)]
    limits = [threshold_at(good_scores, rate) for rate in rates]
    rejected = [100 * float((good_scores >= limit).mean()) for limit in limits]
    recalls = [100 * float((defective_scores >= limit).mean()) for limit in limits]
    axis.plot(rejected, recalls, color=_DEFECTIVE, linewidth=1.6, drawstyle="steps-post")
    axis.set_xscale("symlog", linthresh=1, linscale=1)
    axis.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    for point in evaluation.image_level.at_false_rejects:
        if point.recall is not None and point.false_rejects is not None and point.false_reject_rate is not None:
            axis.plot(
                100 * point.false_rejects / point.good,
                100 * point.recall,
                "o",
                markersize=6,
                clip_on=False,
                label=f"at most {point.false_reject_rate * 100:g} %: {point.recall * 100:.1f} %",
            )
    _head(axis, f"{len(defective)} defective and {len(good)} good images")


def _head(axis: Axes, title: str) -> None:
    """Title, and below it the legend: inside the axes it would lie on what is drawn, sooner or later."""
    handles, _ = axis.get_legend_handles_labels()
    if handles:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles), frameon=False, borderaxespad=0.2)
    axis.set_title(title, pad=24 if handles else None)


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=_GREY)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def write_contact_sheet(evaluation: Evaluation, folder: Path, path: Path) -> None:
    """The overlays of the worst and the best labelled images, and of the good ones with the most false pixels.

    Args:
        evaluation: one whose overlays were written.
        folder: what its overlay paths are relative to.
        path: the PNG to write.

    Raises:
        MissingDependencyError: matplotlib is absent.
        OSError: the file cannot be written.
    """
    shown = [result for result in evaluation.images if result.overlay is not None]
    ranked = sorted(
        (result for result in shown if result.defective), key=lambda result: (result.pixels.f1 or 0.0, result.score)
    )
    worst = ranked[: 2 * _COLUMNS]
    # Few images are shown once, among the worst; and where nothing is found, none is the best.
    best = [result for result in ranked[len(worst) :][::-1][:_COLUMNS] if result.pixels.f1]
    false = sorted((result for result in shown if not result.defective), key=lambda result: -result.pixels.fp)
    rows = [
        *_rows("lowest F1", worst),
        *_rows("highest F1", best),
        *_rows("good images with the most false pixels", false[:_COLUMNS]),
    ]
    figure = new_figure(2.9 * _COLUMNS, 2.0 * max(1, len(rows)) + 0.3)
    if not rows:
        _say(figure.add_subplot(xticks=[], yticks=[]), "nothing labelled and nothing predicted")
    for index, (title, results) in enumerate(rows):
        for column, result in enumerate(results):
            axis = figure.add_subplot(len(rows), _COLUMNS, index * _COLUMNS + column + 1)
            axis.imshow(_read(folder / str(result.overlay))[:-_LEGEND_PX])
            axis.set_axis_off()
            axis.set_anchor("NW")
            heading = title if column == 0 else ""
            axis.set_title(f"{heading}\n{_caption(result)}", fontsize=7.5, loc="left")
    figure.legend(handles=legend_patches(), loc="outside lower left", ncols=len(_LEGEND), frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def legend_patches() -> list[Patch]:
    """What the colours of overlays mean, for a figure's legend."""
    patches = require("matplotlib.patches", extra="train")
    return [patches.Patch(color=[value / 255 for value in colour], label=name) for name, colour in _LEGEND]


def _rows(title: str, results: Sequence[ImageResult]) -> list[tuple[str, Sequence[ImageResult]]]:
    starts = range(0, len(results), _COLUMNS)
    return [(title if start == 0 else "", results[start : start + _COLUMNS]) for start in starts]


def _caption(result: ImageResult) -> str:
    # With its folders: in an MVTec-style tree, every one of them has a 000.
    name = Path(result.image).with_suffix("").as_posix()
    short = name if len(name) <= 34 else f"{name[:14]}…{name[-19:]}"
    figure = f"F1 {_number(result.pixels.f1)}" if result.defective else f"{result.pixels.fp} px"
    return f"{short}\n{result.defect or 'good'}, {figure}, score {result.score:.2f}"


def _read(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(decode_png(path.read_bytes(), path.name)[..., ::-1])
