"""From pixels to millimetres in the plane that the parts lie in: points, areas and lengths.

One figure of mm per px is right only in the middle of a picture: a camera that is not quite square to its plane sees
the near side larger, and a lens that distorts sees the corners smaller. Here every pixel has its own size.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inspectd.errors import ConfigError

from .lens import Lens
from .record import Part, Record

__all__ = ["EvenScale", "Plane", "Scale", "ScaleBudget", "ScaleRecord"]


class Scale(Protocol):
    """What measures a region of a camera's pictures in mm: a calibrated `Plane`, or one figure for all pixels."""

    @property
    def name(self) -> str:
        """What it is known by: two of one name measure alike."""

    @property
    def pixel_area_mm2(self) -> float | NDArray[np.float32]:
        """Area of a pixel, or of each, float32 [H, W], mm2."""

    def area_mm2(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:
        """Area of a region bool [h, w], a window of the picture whose upper left pixel is at (x, y)."""

    def feret_mm(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:
        """Its greatest length (ISO 9276-6), mm."""


class EvenScale:
    """One figure for all pixels; right where the camera is square to its plane and its lens does not distort.

    Args:
        mm_per_px: side of a pixel in the parts' plane.
    """

    def __init__(self, mm_per_px: float) -> None:
        self._mm_per_px = mm_per_px

    @property
    def name(self) -> str:
        """The figure."""
        return f"{self._mm_per_px!r} mm per px"

    @property
    def pixel_area_mm2(self) -> float:
        """Area of a pixel."""
        return float(self._mm_per_px) ** 2

    def area_mm2(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:  # noqa: ARG002 - as `Scale`
        """Area of a region bool [h, w], wherever it lies."""
        return int(np.count_nonzero(region)) * self.pixel_area_mm2

    def feret_mm(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:
        """As `Plane.feret_mm`."""
        return _longest(_outline_px(region, at_px)) * self._mm_per_px


class ScaleBudget(Part):
    """Standard uncertainties of the scale, each as a share of it; they add as squares (GUM, JCGM 100:2008, 5.1.2)."""

    corners: float = Field(ge=0)
    """From the noise of the corners in the picture."""
    target: float = Field(ge=0)
    """From the tolerance that the target's print is stated with."""
    plane: float = Field(ge=0)
    """From how far the target's face may have been off the plane of the parts."""
    lens: float = Field(ge=0)
    """From the uncertainty of the lens."""

    @property
    def combined(self) -> float:
        """All of them together."""
        return float(np.sqrt(self.corners**2 + self.target**2 + self.plane**2 + self.lens**2))


class ScaleRecord(Record):
    """The result of `inspectd-calibrate scale`."""

    made_by: ClassVar[str] = "inspectd-calibrate scale"

    kind: Literal["scale"] = "scale"
    width_px: int = Field(ge=1)
    """Width of the camera's pictures."""
    height_px: int = Field(ge=1)
    """Height of the camera's pictures."""
    lens: Lens | None = None
    """The lens whose distortion is taken out first; None where none was given."""
    lens_sha256: str | None = None
    """Digest of its record."""
    homography: tuple[float, ...]
    """[9], row by row: from undistorted px (x, y, 1) to mm in the plane; the origin is the target's."""
    scale_mm_per_px: float = Field(gt=0)
    """Side of a square with the mean area of the picture's pixels."""
    scale_std_mm_per_px: float = Field(ge=0)
    """Its standard uncertainty."""
    scale_min_mm_per_px: float = Field(gt=0)
    """That of the smallest pixel."""
    scale_max_mm_per_px: float = Field(gt=0)
    """That of the largest pixel."""
    budget: ScaleBudget
    """What the uncertainty is made of."""
    rms_px: float = Field(ge=0)
    """Root mean square of the distances between corners found and corners expected."""
    corners: int = Field(ge=4)
    """Corners that it was calculated from."""
    distance_mm: float | None = None
    """From the camera to the middle of the target; None without a lens."""
    tilt_deg: float | None = None
    """Angle between the plane's normal and the optical axis; None without a lens."""
    target: dict[str, str | int | float]
    """What was looked for."""

    @model_validator(mode="after")
    def _nine(self) -> ScaleRecord:
        if len(self.homography) != 9:
            raise ValueError(f"homography: expected 9 numbers, got {len(self.homography)}")
        return self

    def plane(self) -> Plane:
        """What calculates with it."""
        return Plane((self.height_px, self.width_px), np.reshape(self.homography, (3, 3)), self.lens, name=self.sha256)


class Plane:
    """The plane of the parts, seen by one camera.

    Attributes:
        shape: (height, width) of the camera's pictures, px.
        homography: float64 [3, 3], from undistorted px to mm.
        lens: the lens, None for one that does not distort.
        name: sha256 of the record that it comes from; empty where it comes from none.

    Raises:
        ConfigError: the plane's horizon lies inside the picture: pixels beyond it have no place in the plane.
    """

    def __init__(
        self, shape: tuple[int, int], homography: NDArray[np.float64], lens: Lens | None = None, *, name: str = ""
    ) -> None:
        self.shape, self.homography, self.lens, self.name = shape, np.asarray(homography, np.float64), lens, name
        height, width = shape
        corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]])
        depth = self._depth(self._undistorted(corners))
        if not (np.all(depth > 0) or np.all(depth < 0)):
            raise ConfigError("the plane's horizon lies inside the picture; calibrate the scale anew, less oblique")

    def to_mm(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the picture [N, 2] (x, y) px -> [N, 2] mm in the plane."""
        points = self._undistorted(points_px)
        return np.asarray((points @ self.homography[:2, :2].T + self.homography[:2, 2]) / self._depth(points)[:, None])

    @cached_property
    def pixel_area_mm2(self) -> NDArray[np.float32]:
        """Area of each pixel, float32 [H, W], mm2. Some 0.2 s for a megapixel when it is asked for first.

        A pixel is the quadrilateral of its four corners in the plane; its area is by Gauss's formula.
        """
        height, width = self.shape
        area = np.empty(self.shape, np.float32)
        columns = np.arange(width + 1) - 0.5
        # In bands, so that a picture of 20 megapixels does not need gigabytes.
        for top in range(0, height, 64):
            rows = np.arange(top, min(top + 64, height) + 1) - 0.5
            grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
            corner = self.to_mm(grid).reshape(len(rows), width + 1, 2)
            across, down = corner[1:, 1:] - corner[:-1, :-1], corner[1:, :-1] - corner[:-1, 1:]
            cross = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
            area[top : top + len(rows) - 1] = np.abs(cross) / 2
        return area

    def area_mm2(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:
        """Area of a region, each pixel with its own size.

        Args:
            region: bool [h, w], the whole picture or a window of it.
            at_px: (x, y) of the window's upper left pixel.

        Raises:
            ValueError: the window reaches beyond the picture.
        """
        return float(self.pixel_area_mm2[self._window(region, at_px)][region].sum(dtype=np.float64))

    def feret_mm(self, region: NDArray[np.bool_], at_px: tuple[int, int] = (0, 0)) -> float:
        """Greatest length of a region, the largest of its Feret diameters (ISO 9276-6), in mm; 0 for an empty one.

        Pixels count with their whole extent: a scratch one pixel wide and n long measures sqrt(n^2 + 1) pixels.

        Args:
            region: bool [h, w], the whole picture or a window of it.
            at_px: (x, y) of the window's upper left pixel.

        Raises:
            ValueError: the window reaches beyond the picture.
        """
        self._window(region, at_px)
        return _longest(self.to_mm(_outline_px(region, at_px)))

    def _undistorted(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        points = np.asarray(points_px, np.float64).reshape(-1, 2)
        return points if self.lens is None else self.lens.undistorted(points)

    def _depth(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(points @ self.homography[2, :2] + self.homography[2, 2])

    def _window(self, region: NDArray[np.bool_], at_px: tuple[int, int]) -> tuple[slice, slice]:
        (x, y), (height, width) = at_px, region.shape
        if region.dtype != np.bool_ or x < 0 or y < 0 or y + height > self.shape[0] or x + width > self.shape[1]:
            raise ValueError(
                f"expected a region of bool inside {list(self.shape)} px, got {region.dtype} {list(region.shape)} "
                f"at {at_px}"
            )
        return slice(y, y + height), slice(x, x + width)


def _outline_px(region: NDArray[np.bool_], at_px: tuple[int, int]) -> NDArray[np.float64]:
    """Corners of a region's convex hull, float64 [N, 2] (x, y) px; pixels with their whole extent."""
    rows, columns = np.nonzero(region)
    if not rows.size:
        return np.zeros((0, 2))
    # The outermost pixels of each row are all that can lie on the hull.
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    last = np.append(first[1:], rows.size) - 1
    x = np.concatenate([columns[first] - 0.5, columns[last] + 0.5]) + at_px[0]
    y = np.concatenate([rows[first], rows[last]]) + at_px[1]
    outline = np.stack([np.tile(x, 2), np.concatenate([y - 0.5, y + 0.5])], axis=1).astype(np.float32)
    return np.asarray(cv2.convexHull(outline), np.float64).reshape(-1, 2)


def _longest(points: NDArray[np.float64]) -> float:
    """Greatest distance between two of the points [N, 2]; 0 without any."""
    gaps = points[:, None] - points[None]
    return float(np.sqrt((gaps**2).sum(axis=2).max(initial=0.0)))
