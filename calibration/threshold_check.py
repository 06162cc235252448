"""The rule that was chosen, run as the line runs it: what it rejects of the good parts, and which defects it finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import Scale
from inspectd.calibrated.threshold import Found
from inspectd.dataset import Sample, read_image, read_labels
from inspectd.errors import InferenceError
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask

from .bounds import interval
from .threshold_levels import counting
from .threshold_settings import Pictures, unit

__all__ = ["SIZES_PX", "Judge", "Outcome", "run_rule", "size_of"]

Judge = Callable[[NDArray[np.uint8]], Inspection]
"""What the line makes of pixels uint8 [h, w, 1 or 3]; raises nothing (`inspectd.runtime.inspector.Inspector`)."""
SIZES_PX = (1, 16, 64, 256, 1024)
"""Lower limits of the size classes of labelled regions, as in docs/evaluation.md."""
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule did.

    Attributes:
        rejected: numbers of the good parts with a photograph that it rejects.
        types: photographs with defects, by type.
        sizes: labelled regions, by size.
    """

    rejected: frozenset[int]
    types: tuple[Found, ...]
    sizes: tuple[Found, ...]


class _Tally:
    """Trials by name: found or not, and the part that each was on."""

    def __init__(self) -> None:
        self._trials: dict[str, list[tuple[tuple[bool, str], bool]]] = defaultdict(list)

    def add(self, name: str, sample: Sample, found: bool) -> None:
        self._trials[name].append((unit(sample), found))

    def found(self, names: Sequence[str]) -> tuple[Found, ...]:
        return tuple(self._one(name) for name in names if name in self._trials)

    @property
    def names(self) -> list[str]:
        return sorted(self._trials)

    def _one(self, name: str) -> Found:
        trials = self._trials[name]
        parts, total, found = len({part for part, _ in trials}), len(trials), sum(hit for _, hit in trials)
        # Photographs of one part say little more than one of them: parts are what the interval counts.
        low, high = interval(found / total, parts, _CONFIDENCE)
        return Found(name=name, parts=parts, total=total, found=found, low=low, high=high)


def run_rule(
    judge: Judge,
    pictures: Pictures,
    *,
    classes: ClassMap,
    areas: Sequence[float],
    scale: Scale | None,
    expected: NDArray[np.bool_],
    progress: Callable[[str, int, int], None],
) -> Outcome:
    """Judge every picture by the rule.

    Args:
        judge: the line's inspector for the rule.
        pictures: all of them.
        classes: of the network.
        areas: the rule's minimum area of each class, px, or mm2 with a scale.
        scale: what measures in mm2; None where areas are in px.
        expected: for each good picture, whether its scores say that the rule may reject it.
        progress: called with (what is done, pictures done, pictures in all).

    Raises:
        InferenceError: a picture was not inspected, or a good one was rejected that should not have been: then the
            engine does not give the same twice, and no promise can be made.
        DatasetError: a picture or mask that cannot be read.
    """
    rejected, total = set(), len(pictures.good) + len(pictures.defects)
    for index, (sample, part) in enumerate(zip(pictures.good, pictures.parts, strict=True)):
        if _inspected(judge, sample, pictures.bits).verdict is not Verdict.OK:
            rejected.add(part)
            if not expected[index]:
                raise InferenceError(
                    f"{sample.name}: is rejected by the rule that was chosen to let it pass: the engine does not give "
                    "the same twice; run it on another (--backend onnxruntime), or export the bundle again"
                )
        progress("checking", index + 1, total)
    types, sizes = _Tally(), _Tally()
    for index, sample in enumerate(pictures.defects, len(pictures.good) + 1):
        inspection = _inspected(judge, sample, pictures.bits)
        types.add(sample.defect, sample, inspection.verdict is not Verdict.OK)
        _regions(sample, inspection, classes, sizes, lambda mask: counting(mask, areas, scale))
        progress("checking", index, total)
    names = [size_of(lower) for lower in SIZES_PX]
    return Outcome(frozenset(rejected), types.found(types.names), sizes.found(names))


def _inspected(judge: Judge, sample: Sample, bits: int) -> Inspection:
    inspection = judge(read_image(sample.image, bits=bits))
    if inspection.verdict is Verdict.NOT_INSPECTED:
        raise InferenceError(f"{sample.name}: could not be inspected: {inspection.reason}")
    return inspection


def _regions(
    sample: Sample,
    inspection: Inspection,
    classes: ClassMap,
    sizes: _Tally,
    counting_in: Callable[[Mask], NDArray[np.bool_]],
) -> None:
    """Count the labelled regions, and those that a region which counts touches."""
    if inspection.mask is None:
        raise InferenceError(f"{sample.name}: has no mask")
    labels = read_labels(sample, classes if len(classes) > 1 else None, inspection.mask.labels.shape)
    hit = counting_in(inspection.mask)
    components, stats = cv2.connectedComponentsWithStats((labels > 0).astype(np.uint8), connectivity=8)[1:3]
    touched = np.bincount(components[hit], minlength=len(stats)) > 0
    for area, found in zip(stats[1:, cv2.CC_STAT_AREA], touched[1:], strict=True):
        sizes.add(size_of(int(area)), sample, bool(found))


def size_of(area_px: int) -> str:
    """The name of the size class of a region, of 1 px at least."""
    lower = max(size for size in SIZES_PX if size <= area_px)
    index = SIZES_PX.index(lower) + 1
    return f"{lower}-{SIZES_PX[index] - 1} px" if index < len(SIZES_PX) else f"{lower} px or more"
