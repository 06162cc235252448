"""Scenes at the size that the transfer network is trained on, and its paintings back in the picture.

A network takes windows of one size. A scene that is larger is brought down to it, and what the network changed
is brought up again and added to the coarse defect, whose detail is therefore never lost; one that is smaller,
since its picture is, goes on by reflection.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .coarse import Scene
from .region import BoolMask

__all__ = ["Fitted", "coloured", "fit", "put_back"]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A scene at the network's size: `good` and `coarse` uint8 [side, side, 3], `label` bool [side, side].

    `size` is (height, width) of the scene within it, px of the network.
    """

    good: NDArray[np.uint8]
    coarse: NDArray[np.uint8]
    label: BoolMask
    size: tuple[int, int]


def fit(scene: Scene, coarse: NDArray[np.uint8], side: int) -> Fitted:
    """A scene and its coarse defect, uint8 [h, w, C], at the network's size; grey becomes three equal channels."""
    height, width = scene.label.shape
    factor = min(1.0, side / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    good, painted, label = scene.good, coarse, scene.label
    if size != (height, width):
        target = size[1], size[0]
        good, painted = (
            np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA), np.uint8) for image in (good, painted)
        )
        share = cv2.resize(label.astype(np.float32), target, interpolation=cv2.INTER_AREA)
        # A thin defect would be lost below one half.
        label = np.asarray(share >= min(0.5, 0.5 * float(share.max())))
    good, painted = (coloured(np.atleast_3d(image)) for image in (good, painted))
    beyond = ((0, side - size[0]), (0, side - size[1]))
    if beyond != ((0, 0), (0, 0)):
        good, painted = (np.pad(image, (*beyond, (0, 0)), mode="symmetric") for image in (good, painted))
        label = np.pad(label, beyond)
    return Fitted(good, painted, label, size)


def put_back(
    base: NDArray[np.uint8],
    coarse: NDArray[np.uint8],
    fitted: Fitted,
    painted: NDArray[np.float32] | NDArray[np.uint8],
    share: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """The scene with the network's defect: ŷ = g T(y) + (1 - g) base, uint8 [h, w, C].

    Args:
        base: S, or y again where it has an edge of its own, uint8 [h, w, C], at the picture's size.
        coarse: y there, uint8 [h, w, C].
        fitted: what the network was given.
        painted: T(y), grey levels [side, side, 3].
        share: g, float32 [h, w]; `soft` of the label.
    """
    rows, columns = fitted.size
    change = np.asarray(painted.astype(np.float32) - fitted.coarse, np.float32)[:rows, :columns]
    height, width = share.shape
    if (rows, columns) != (height, width):
        change = np.asarray(cv2.resize(change, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    if coarse.shape[2] == 1:
        change = change.mean(axis=2, keepdims=True)
    result = base + share[..., None] * (coarse + change - base)
    return np.asarray(np.clip(np.rint(result), 0, 255), np.uint8)


def coloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture [h, w, 3 or 1] with three channels."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
