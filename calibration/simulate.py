"""Pictures of a target through a lens that is known exactly, to hold the calibration against the truth.

Nothing of the line uses this; the tests and the pictures of the documentation do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import Lens

from .target import Target, raster

__all__ = ["Pose", "Station", "spread_poses"]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a target lies: its middle in front of the camera, and how it is turned.

    Attributes:
        middle_mm: (x, y, z) of the target's middle in the camera's axes: right, down, forward.
        tilt_deg: angle between its normal and the optical axis.
        towards_deg: in which direction it is tilted: 0 brings its right edge nearer, 90 its lower one.
        turn_deg: rotation in its own plane.
    """

    middle_mm: tuple[float, float, float]
    tilt_deg: float = 0.0
    towards_deg: float = 0.0
    turn_deg: float = 0.0

    def transform(self, target: Target) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation [3, 3] and translation [3]: from the target's mm to the camera's axes."""
        tilt, towards, turn = np.radians([self.tilt_deg, self.towards_deg, self.turn_deg])
        # The axis lies in the picture, square to the direction of the tilt.
        axis = tilt * np.array([-np.sin(towards), np.cos(towards), 0.0])
        rotation = cv2.Rodrigues(axis)[0] @ cv2.Rodrigues(np.array([0.0, 0.0, turn]))[0]
        half = np.array([target.width_mm / 2, target.height_mm / 2, 0.0])
        return rotation, np.array(self.middle_mm) - rotation @ half


@dataclass(frozen=True)
class Station:
    """A camera whose truth is known.

    Attributes:
        lens: its lens.
        shape: (height, width) of its pictures, px.
        noise: standard deviation of the grey values' noise.
        blur_px: standard deviation of the blur, px.
        fine: samples a side that a pixel is the mean of.
    """

    lens: Lens
    shape: tuple[int, int]
    noise: float = 2.0
    blur_px: float = 0.7
    fine: int = 2

    def corners(self, target: Target, pose: Pose) -> NDArray[np.float64]:
        """Where the target's corners truly appear: [N, 2] px; also those outside the picture."""
        rotation, translation = pose.transform(target)
        flat = np.column_stack([target.corners_mm(), np.zeros(len(target.corners_mm()))])
        found, _ = cv2.projectPoints(
            flat, cv2.Rodrigues(rotation)[0], translation, self.lens.matrix, self.lens.distortion
        )
        return np.asarray(found, np.float64).reshape(-1, 2)

    def homography(self, target: Target, pose: Pose) -> NDArray[np.float64]:
        """The true [3, 3] from undistorted px to the target's mm."""
        rotation, translation = pose.transform(target)
        return np.asarray(np.linalg.inv(self.lens.matrix @ np.column_stack([rotation[:, :2], translation])), np.float64)

    def picture(
        self, target: Target, pose: Pose, rng: np.random.Generator, *, bent_mm: float = 0.0
    ) -> NDArray[np.uint8]:
        """What the camera sees: uint8 [H, W, 1].

        Args:
            target: what lies before it.
            pose: where.
            rng: of the noise.
            bent_mm: how far the print is shifted at its middle by not lying flat; a fault to be found.
        """
        homography = self.homography(target, pose)
        rays = self._rays
        depth = rays @ homography[2, :2] + homography[2, 2]
        x = (rays @ homography[0, :2] + homography[0, 2]) / depth
        y = (rays @ homography[1, :2] + homography[1, 2]) / depth
        if bent_mm:
            x = x + bent_mm * np.sin(np.pi * np.clip(y / target.height_mm, 0, 1))
        # The drawing is as fine as the samples, so that neither staircases nor moire are seen.
        middle = self.shape[0] * self.fine // 2, self.shape[1] * self.fine // 2
        step = np.hypot(x[middle] - x[middle[0], middle[1] + 1], y[middle] - y[middle[0], middle[1] + 1])
        margin = target.square_mm
        px_per_mm = float(np.ceil(1.5 / step * target.square_mm) / target.square_mm)
        drawing = raster(target, px_per_mm, margin_mm=margin)
        soft = cv2.GaussianBlur(drawing, (0, 0), 0.6)
        u, v = ((value + margin) * px_per_mm - 0.5 for value in (x, y))
        seen = cv2.remap(
            soft,
            u.astype(np.float32),
            v.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=150,
        )
        small = cv2.resize(seen.astype(np.float32), self.shape[::-1], interpolation=cv2.INTER_AREA)
        # Ink is not black and paper not white.
        light = cv2.GaussianBlur(30 + small * (185 / 255), (0, 0), self.blur_px)
        noisy = light + rng.normal(0, self.noise, self.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None]

    @cached_property
    def _rays(self) -> NDArray[np.float64]:
        """Undistorted places [h, w, 2] of the samples, px."""
        height, width = self.shape
        rows, columns = ((np.arange(side * self.fine) + 0.5) / self.fine - 0.5 for side in (height, width))
        grid = np.stack(np.meshgrid(columns, rows), axis=-1)
        return self.lens.undistorted(grid.reshape(-1, 2)).reshape(grid.shape)


def spread_poses(
    station: Station, target: Target, rng: np.random.Generator, count: int, *, filled: float = 0.6
) -> list[Pose]:
    """Poses as a careful person takes them: over all of the picture, tilted to all sides.

    Args:
        station: whose picture is to be filled.
        target: what is moved about.
        rng: of the small differences.
        count: how many.
        filled: share of the picture's width that the target covers.
    """
    height, width = station.shape
    lens = station.lens
    away = lens.fx_px * target.width_mm / (filled * width)
    places = [(0.0, 0.0), (-1, -1), (1, -1), (1, 1), (-1, 1), (0, -1), (1, 0), (0, 1), (-1, 0)]
    poses = []
    for number in range(count):
        place = places[number % len(places)]
        z = away * rng.uniform(0.9, 1.25)
        reach = (1 - filled * away / z) / 2
        x, y = (
            (sign * reach * side + rng.normal(0, 0.02 * side)) * z / focal
            for sign, side, focal in zip(place, (width, height), (lens.fx_px, lens.fy_px), strict=True)
        )
        tilt = 0.0 if number % 5 == 4 else rng.uniform(15, 38)
        poses.append(Pose((x, y, z), tilt, number * 137.5 % 360, rng.uniform(-20, 20)))
    return poses
