"""Drawings in the picture's own pixels, for pages: where a target was, and where it was off."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .corners import View

__all__ = ["PAGE_WIDTH_PX", "errors_drawn", "marked", "outlines"]

PAGE_WIDTH_PX = 720
"""Width of pictures on a page."""
_LINE = (0, 114, 178)
_ERROR = (213, 94, 0)


def outlines(views: Sequence[View], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The corners of all views and the outline of each, over an empty picture: uint8 [h, w, 3] RGB."""
    height, width = shape
    scale = PAGE_WIDTH_PX / width
    canvas = np.full((round(height * scale), PAGE_WIDTH_PX, 3), 255, np.uint8)
    seen = np.zeros(canvas.shape[:2], np.float32)
    hulls = [cv2.convexHull(_scaled(view.points_px, scale)) for view in views]
    for hull in hulls:
        layer = np.zeros(canvas.shape[:2], np.uint8)
        cv2.fillConvexPoly(layer, hull, 1)
        seen += layer
    # The more views, the darker; bare places stay white.
    shade = np.clip(seen / max(1.0, float(seen.max())), 0, 1)[..., None]
    canvas = np.asarray(255 - shade * (255 - np.array([150, 190, 225])), np.uint8)
    for hull in hulls:
        cv2.polylines(canvas, [hull], True, _LINE, 1, cv2.LINE_AA)
    for view in views:
        for x, y in _scaled(view.points_px, scale):
            cv2.circle(canvas, (int(x), int(y)), 1, _ERROR, -1, cv2.LINE_AA)
    for third in (1, 2):
        across, down = round(third * canvas.shape[1] / 3), round(third * canvas.shape[0] / 3)
        cv2.line(canvas, (across, 0), (across, canvas.shape[0]), (150, 150, 150), 1)
        cv2.line(canvas, (0, down), (canvas.shape[1], down), (150, 150, 150), 1)
    return canvas


def marked(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 1 or 3] with the corners that were found: uint8 [h, w, 3] RGB."""
    canvas, scale = _shrunk(pixels)
    for x, y in _scaled(view.points_px, scale):
        cv2.circle(canvas, (int(x), int(y)), 4, _ERROR, 1, cv2.LINE_AA)
    return canvas


def errors_drawn(
    pixels: NDArray[np.uint8], view: View, errors_px: NDArray[np.float64], *, times: float
) -> NDArray[np.uint8]:
    """A picture with an arrow at each corner: its error, so many times as long; uint8 [h, w, 3] RGB."""
    canvas, scale = _shrunk(pixels)
    canvas = np.asarray(canvas * 0.5 + 127, np.uint8)
    for at, error in zip(view.points_px, errors_px, strict=True):
        ends = _scaled(np.stack([at, at + error * times]), scale)
        cv2.arrowedLine(canvas, ends[0].tolist(), ends[1].tolist(), _ERROR, 1, cv2.LINE_AA, tipLength=0.2)
    return canvas


def _shrunk(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    scale = min(1.0, PAGE_WIDTH_PX / pixels.shape[1])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], pixels.shape[2])
    return np.ascontiguousarray(np.broadcast_to(small, (*small.shape[:2], 3)), np.uint8), scale


def _scaled(points: NDArray[np.float64], scale: float) -> NDArray[np.int32]:
    return np.rint((points + 0.5) * scale - 0.5).astype(np.int32)
