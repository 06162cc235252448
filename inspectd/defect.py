"""From a class mask to the defects that it shows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import Scale
from inspectd.mask import Mask

__all__ = ["Defect", "find_defects"]


@dataclass(frozen=True, slots=True)
class Defect:
    """One connected region of one class, in the camera's pixels.

    Attributes:
        class_name: the defect class.
        area_px: pixels of the region.
        bbox_px: (x, y, width, height) of the smallest box around it.
        centroid_px: (x, y); the centre of the upper left pixel is (0, 0).
        score: highest probability of a defect inside the region, 0..1.
        area_mm2: the area in the part's plane, or None where the scale is not known.
        length_mm: its greatest length there (Feret diameter, ISO 9276-6), or None where the scale is not known.

    Raises:
        ValueError: an area below 1 px, one in mm2 or a length that is not above 0, a score outside 0..1, an empty box
            or a centroid outside it.
    """

    class_name: str
    area_px: int
    bbox_px: tuple[int, int, int, int]
    centroid_px: tuple[float, float]
    score: float
    area_mm2: float | None = None
    length_mm: float | None = None

    def __post_init__(self) -> None:
        x, y, width, height = self.bbox_px
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score of {self.class_name!r}: expected 0..1, got {self.score}")
        if not 1 <= self.area_px <= width * height:
            raise ValueError(f"area {self.area_px} px of {self.class_name!r} does not fit its box {self.bbox_px}")
        if not (x <= self.centroid_px[0] <= x + width - 1 and y <= self.centroid_px[1] <= y + height - 1):
            raise ValueError(f"centroid {self.centroid_px} of {self.class_name!r} is outside its box {self.bbox_px}")
        for name, value, unit in (("area", self.area_mm2, "mm2"), ("length", self.length_mm, "mm")):
            if value is not None and not value > 0:
                raise ValueError(f"{name} of {self.class_name!r}: expected more than 0 {unit}, got {value}")


def find_defects(mask: Mask, confidence: NDArray[np.uint8], *, scale: Scale | None = None) -> tuple[Defect, ...]:
    """The connected regions (8 neighbours) of each class, in the order of their classes, then rows.

    Args:
        mask: classes in the camera's pixels [H, W].
        confidence: uint8 [H, W], probability of a defect times 255.
        scale: measures in the part's plane; None where it is not known.

    Raises:
        ValueError: the confidence map is not of the mask's size, or the scale is for smaller pictures.
    """
    labels = mask.labels
    if confidence.shape != labels.shape or confidence.dtype != np.uint8:
        raise ValueError(
            f"expected a confidence map of uint8 {list(labels.shape)}, got {confidence.dtype} {list(confidence.shape)}"
        )
    if not labels.any():
        return ()
    defects = []
    for label in np.unique(labels[labels > 0]):
        region = (labels == label).astype(np.uint8)
        count, components, stats, centroids = cv2.connectedComponentsWithStats(region, connectivity=8)
        for index in range(1, count):
            x, y, width, height, area = (int(value) for value in stats[index])
            window = (slice(y, y + height), slice(x, x + width))
            inside = components[window] == index
            score = int(confidence[window][inside].max()) / 255
            defects.append(
                Defect(
                    class_name=mask.classes.name(int(label)),
                    area_px=area,
                    bbox_px=(x, y, width, height),
                    centroid_px=(float(centroids[index][0]), float(centroids[index][1])),
                    score=score,
                    area_mm2=None if scale is None else scale.area_mm2(inside, (x, y)),
                    length_mm=None if scale is None else scale.feret_mm(inside, (x, y)),
                )
            )
    return tuple(defects)
