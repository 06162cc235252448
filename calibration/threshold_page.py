"""The page about a calibration of thresholds, and the sheet of good parts on it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated.threshold import Found, ThresholdRecord

from .page import Page, Picture, Plot, Section, Table, Text, Verdict
from .plots import Axis, Series, lines

__all__ = ["contact_sheet", "percent", "promise", "threshold_page"]

_CELL_PX, _ACROSS = 176, 4
_PAPER, _REJECTED, _PASSED = (255, 255, 255), (179, 38, 30), (120, 120, 120)


def percent(share: float) -> str:
    """A share in per cent, with three digits."""
    return f"{100 * share:.3g} %"


def promise(record: ThresholdRecord) -> str:
    """What the calibration comes to, in a sentence."""
    return (
        f"With {percent(record.confidence)} confidence, at most {percent(record.max_false_reject)} of the good parts "
        f"are rejected (bound {percent(record.false_reject_bound)}), by {record.good_parts} good parts, of which the "
        f"rule rejects {record.good_parts_rejected}."
    )


def contact_sheet(pictures: Sequence[tuple[NDArray[np.uint8], NDArray[np.floating], bool]]) -> NDArray[np.uint8]:
    """Good parts side by side, with what the network suspects in red.

    Args:
        pictures: pixels uint8 [h, w, 1 or 3], suspicion [h, w] 0..1, and whether the part is rejected, for a red frame.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    rows = -(-len(pictures) // _ACROSS)
    sheet = np.full((rows * _CELL_PX, min(_ACROSS, len(pictures)) * _CELL_PX, 3), _PAPER, np.uint8)
    for index, (pixels, suspicion, rejected) in enumerate(pictures):
        colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        share = (0.75 * suspicion[..., None]).astype(np.float32)
        tinted = colour * (1 - share) + np.array([255, 0, 0], np.float32) * share
        room = _CELL_PX - 12
        scale = room / max(pixels.shape[:2])
        size = tuple(max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0]))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(np.asarray(tinted, np.uint8), size, interpolation=method)
        row, column = divmod(index, _ACROSS)
        top = row * _CELL_PX + (_CELL_PX - small.shape[0]) // 2
        left = column * _CELL_PX + (_CELL_PX - small.shape[1]) // 2
        frame = slice(top - 3, top + small.shape[0] + 3), slice(left - 3, left + small.shape[1] + 3)
        sheet[frame] = _REJECTED if rejected else _PASSED
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def threshold_page(record: ThresholdRecord, sheet: NDArray[np.uint8]) -> Page:
    """The page.

    Args:
        record: what was found.
        sheet: of `contact_sheet`, with the parts of `record.nearest` in their order.
    """
    sections = [
        _rule(record),
        Section("What is promised", [Text(text) for text in _meaning(record)]),
        _found(record),
        _trade(record),
        _nearest(record, sheet),
    ]
    if record.remarks:
        sections.insert(1, Section("Remarks", [Text(text) for text in record.remarks]))
    verdict = Verdict("doubtful" if record.remarks else "good", promise(record))
    return Page("Thresholds", verdict, record, sections)


def _rule(record: ThresholdRecord) -> Section:
    rows = [
        (each.name, f"{each.score:.4f}", f"{card:.4f}", each.minimum_area)
        for each, card in zip(record.classes, record.card_scores, strict=True)
    ]
    table = Table(
        ("class", "score from which on a pixel belongs to it", "the bundle's own", "minimum area"),
        rows,
        "The rule, as the .toml beside this page has it for [acceptance] of the line's configuration",
    )
    scale = "" if record.scale is None else f" Areas in mm2 are by the scale {record.scale}."
    text = f"For bundle {record.bundle_sha256[:12]} on {record.engine}; no other was looked at.{scale}"
    return Section("The rule", [table, Text(text)])


def _meaning(record: ThresholdRecord) -> tuple[str, ...]:
    photographs = ""
    if record.good_pictures > record.good_parts:
        photographs = (
            f" They were photographed {record.good_pictures} times; a part counts as rejected where any of its "
            "photographs is, so the bound holds for parts that are photographed as often, and for single photographs "
            "all the more."
        )
    side_by_side = ""
    if len(record.candidates) > 1:
        side_by_side = (
            f" {len(record.candidates)} sets of minimum areas were tried side by side, each with an equal share of "
            "that risk."
        )
    return (
        f"The bound holds for parts that are like the {record.good_parts} good parts of this calibration: of the same "
        "making, under the same light and camera. It says nothing of a day on which the line is set up differently."
        + photographs,
        f"The rule was lowered until {record.cuts} of the good parts, those nearest to being rejected, were cut off; "
        f"at most {record.cuts - 1} of them are rejected. By Tukey's tolerance regions the share of all good parts "
        "beyond it is then below the bound, however the network's scores are distributed. If the calibration were "
        f"repeated with other good parts, more than {percent(record.max_false_reject)} would be rejected in at most "
        f"{percent(1 - record.confidence)} of the repetitions.{side_by_side}",
    )


def _found(record: ThresholdRecord) -> Section:
    if not record.types:
        text = (
            "No labelled defects were given: the rule is as sensitive as the good parts allow, evenly in its classes."
        )
        return Section("What it finds", [Text(text)])
    head = ("", "found", "of", "parts", "recall", "95 % interval")
    tables = [
        Table(("type", *head[1:]), _rows(record.types), "Photographs that the rule rejects, by the type of defect"),
        Table(("size", *head[1:]), _rows(record.sizes), "Labelled regions that a region which counts touches, by size"),
    ]
    text = (
        f"Measured on the labelled pictures of {', '.join(record.defect_roles)}, judged as the line judges. The rule "
        "was chosen with the help of these very defects: of new ones expect a little less. Intervals go by parts, not "
        "by photographs."
    )
    return Section("What it finds", [Text(text), *tables])


def _rows(found: Sequence[Found]) -> list[tuple[str, ...]]:
    return [
        (
            each.name,
            str(each.found),
            str(each.total),
            str(each.parts),
            f"{each.recall:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
        )
        for each in found
    ]


def _trade(record: ThresholdRecord) -> Section:
    bounds = [100 * point.false_reject_bound for point in record.curve]
    x = Axis("bound on the good parts rejected (%)", 0)
    asked = [(100 * record.max_false_reject, "asked for")]
    said = (
        "Each point holds for itself. Who picks one by looking at the curve has no bound: ask for another share, and "
        "calibrate on new good parts."
    )
    if record.types:
        recall = [point.recall or 0.0 for point in record.curve]
        y = Axis("recall (mean over types)", 0, 1.02)
        svg = lines("Recall against false rejects", x, y, [Series("", bounds, recall)], marks=asked)
        return Section("What other shares would give", [Plot(svg, said)])
    series = [
        Series(each.name, bounds, [point.scores[index] for point in record.curve])
        for index, each in enumerate(record.classes)
    ]
    svg = lines("Scores against false rejects", x, Axis("score", 0, 1.02), series, marks=asked)
    return Section("What other shares would give", [Plot(svg, said)])


def _nearest(record: ThresholdRecord, sheet: NDArray[np.uint8]) -> Section:
    rows = [
        (
            part.name,
            part.picture,
            part.class_name,
            f"{part.reaches:.4f}" if part.reaches else "below all",
            "rejected" if part.rejected else "let pass",
        )
        for part in record.nearest
    ]
    return Section(
        "The good parts nearest to being rejected",
        [
            Picture(
                sheet,
                "Row by row in the order of the table; red is what the network suspects, a red frame a rejected part. "
                "A defect among them was labelled good: take it out and calibrate anew.",
            ),
            Table(("part", "photograph", "class", "reaches the score", ""), rows),
        ],
    )
