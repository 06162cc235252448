"""The corners of a target in a picture.

Source: S. Garrido-Jurado et al., "Automatic generation and detection of highly reliable fiducial markers under
occlusion", Pattern Recognition 47 (2014); A. Duda and U. Frese, "Accurate detection and localization of checkerboard
corners for calibration", BMVC 2018 (chessboards). Both as OpenCV has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.picture import grey

from .target import Target

__all__ = ["FEWEST_CORNERS", "View", "find_view"]

FEWEST_CORNERS = 12
"""A view with fewer corners says little of its own pose, and nothing of the lens."""


@dataclass(frozen=True, slots=True)
class View:
    """The corners that were found in a picture.

    Attributes:
        name: of the picture.
        ids: int [N], numbers of the corners as in `Target.corners_mm`.
        points_px: float64 [N, 2], (x, y); the centre of the upper left pixel is (0, 0).
    """

    name: str
    ids: NDArray[np.intp]
    points_px: NDArray[np.float64]

    def points_mm(self, target: Target) -> NDArray[np.float64]:
        """The same corners on the target, [N, 2] mm."""
        return target.corners_mm()[self.ids]

    def unusable(self, target: Target) -> str:
        """Why nothing can be calculated from it; empty where something can."""
        if not len(self.ids):
            return "the target was not found"
        if len(self.ids) < FEWEST_CORNERS:
            return f"only {len(self.ids)} corners were found, {FEWEST_CORNERS} are needed"
        places = self.points_mm(target) / target.square_mm
        # Corners on one line leave the plane free to turn about it.
        spread = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(places))
        return "the corners that were found lie on one line" if spread < 0.4 else ""


def find_view(name: str, pixels: NDArray[np.uint8], target: Target) -> View:
    """Look for a target in a picture.

    Args:
        name: of the picture.
        pixels: uint8 [H, W, 1 or 3].
        target: what is looked for.

    Returns:
        The corners; none where it was not found. A chessboard is found whole or not at all.
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        ids, points = _charuco(grey(pixels), target) if target.kind == "charuco" else _chessboard(grey(pixels), target)
    finally:
        cv2.utils.logging.setLogLevel(level)
    return View(name, ids, points)


def _charuco(picture: NDArray[np.uint8], target: Target) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    points, ids, _, _ = cv2.aruco.CharucoDetector(target.board()).detectBoard(picture)
    if ids is None or points is None:
        return _none()
    return np.ravel(ids).astype(np.intp), np.asarray(points, np.float64).reshape(-1, 2)


def _chessboard(picture: NDArray[np.uint8], target: Target) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    size = (target.columns - 1, target.rows - 1)
    found, points = cv2.findChessboardCornersSB(picture, size, flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        return _none()
    # The detector's own places are off by 0.05 px on rendered boards, to one side; refined ones by 0.02 to 0.03 px.
    coarse = np.asarray(points, np.float32).reshape(size[1], size[0], 2)
    gap = min(np.linalg.norm(np.diff(coarse, axis=axis), axis=2).min() for axis in (0, 1))
    half = int(np.clip(gap / 3, 2, 5))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-3)
    if _turned(picture, coarse):
        coarse = np.ascontiguousarray(coarse[::-1, ::-1])
    fine = cv2.cornerSubPix(picture, coarse.reshape(-1, 1, 2), (half, half), (-1, -1), criteria)
    return np.arange(size[0] * size[1]), np.asarray(fine, np.float64).reshape(-1, 2)


def _turned(picture: NDArray[np.uint8], grid: NDArray[np.float32]) -> bool:
    """Whether a grid [rows, columns, 2] of corners begins at its other end; black lies on the first diagonal."""
    across, down = (grid[0, 1] - grid[0, 0]) / 2, (grid[1, 0] - grid[0, 0]) / 2
    places = np.rint([grid[0, 0] + across + down, grid[0, 0] + across - down]).astype(int)
    black, white = (
        picture[np.clip(y, 0, picture.shape[0] - 1), np.clip(x, 0, picture.shape[1] - 1)] for x, y in places
    )
    return bool(black > white)


def _none() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    return np.zeros(0, np.intp), np.zeros((0, 2))
