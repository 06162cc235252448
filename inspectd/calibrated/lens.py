"""A lens as it was calibrated: a pinhole with the distortion of Brown and Conrady, as OpenCV has it.

Source: Z. Zhang, "A flexible new technique for camera calibration", IEEE PAMI 22 (2000), 1330-1334; the model is
equation (1) there with the radial and tangential terms of D. C. Brown, "Close-range camera calibration" (1971).
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .record import Part, Record

_Values: TypeAlias = NDArray[np.float64]

__all__ = ["LENS_PARAMETERS", "Lens", "LensRecord", "LensView"]

LENS_PARAMETERS = ("fx_px", "fy_px", "cx_px", "cy_px", "k1", "k2", "p1", "p2", "k3")
"""The order of a lens's parameters in its covariance."""


class Lens(Part):
    """Focal lengths and principal point in px, and five terms of distortion, which have no unit."""

    fx_px: float = Field(gt=0)
    """Focal length along the rows."""
    fy_px: float = Field(gt=0)
    """Focal length along the columns."""
    cx_px: float
    """Column of the principal point; the centre of the upper left pixel is 0."""
    cy_px: float
    """Row of the principal point."""
    k1: float = 0.0
    """Radial, r^2."""
    k2: float = 0.0
    """Radial, r^4."""
    p1: float = 0.0
    """Tangential, the first term."""
    p2: float = 0.0
    """Tangential, the second term."""
    k3: float = 0.0
    """Radial, r^6; 0 where it was not asked for."""

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[3, 3]: from directions to px without distortion."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1]])

    @property
    def distortion(self) -> NDArray[np.float64]:
        """[5]: k1, k2, p1, p2, k3, as OpenCV takes them."""
        return np.array([self.k1, self.k2, self.p1, self.p2, self.k3])

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Lens:
        """From its parameters [9], in the order of `LENS_PARAMETERS`."""
        return cls(**dict(zip(LENS_PARAMETERS, map(float, values), strict=True)))

    def parameters(self) -> NDArray[np.float64]:
        """[9], in the order of `LENS_PARAMETERS`."""
        return np.array([getattr(self, name) for name in LENS_PARAMETERS])

    def undistorted(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Where points of a picture would lie if the lens did not distort.

        Args:
            points_px: [N, 2], (x, y).

        Returns:
            [N, 2] in px of the same focal length and principal point.

        Raises:
            ValueError: the distortion cannot be inverted there, far outside of what was calibrated.
        """
        centre, focal = np.array([self.cx_px, self.cy_px]), np.array([self.fx_px, self.fy_px])
        seen = (np.asarray(points_px, np.float64).reshape(-1, 2) - centre) / focal
        x, y = seen.T.copy()
        # Newton's method: OpenCV's own stops after five fixed-point steps, 0.01 px off in the corners of a wide lens.
        for _ in range(8):
            (u, v), (ux, uy, vy) = self._distorted(x, y)
            off_u, off_v, determinant = u - seen[:, 0], v - seen[:, 1], ux * vy - uy**2
            step_x, step_y = (vy * off_u - uy * off_v) / determinant, (ux * off_v - uy * off_u) / determinant
            x, y = x - step_x, y - step_y
            if max(np.abs(step_x).max(initial=0.0), np.abs(step_y).max(initial=0.0)) < 1e-10:
                # Beyond the fold of its polynomial a lens has a second place for every point, on the other side.
                if np.any(determinant <= 0) or np.any(x * seen[:, 0] + y * seen[:, 1] < 0):
                    break
                return np.asarray(np.stack([x, y], axis=1) * focal + centre)
        raise ValueError("a point lies where this lens's distortion has no inverse; the lens was calibrated without it")

    def distorted(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Where points [N, 2] of an undistorted picture appear in a real one; the inverse of `undistorted`."""
        centre, focal = np.array([self.cx_px, self.cy_px]), np.array([self.fx_px, self.fy_px])
        x, y = ((np.asarray(points_px, np.float64).reshape(-1, 2) - centre) / focal).T
        return np.asarray(np.stack(self._distorted(x, y)[0], axis=1) * focal + centre)

    def _distorted(self, x: _Values, y: _Values) -> tuple[tuple[_Values, _Values], tuple[_Values, _Values, _Values]]:
        """Distorted directions, and their derivatives du/dx, du/dy = dv/dx, dv/dy."""
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        slope = 2 * (self.k1 + r2 * (2 * self.k2 + r2 * 3 * self.k3))
        u = x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x)
        v = y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y
        ux = radial + slope * x * x + 2 * self.p1 * y + 6 * self.p2 * x
        vy = radial + slope * y * y + 6 * self.p1 * y + 2 * self.p2 * x
        return (u, v), (ux, slope * x * y + 2 * self.p1 * x + 2 * self.p2 * y, vy)


class LensView(Part):
    """One picture of the target."""

    name: str
    """Its file."""
    corners: int = Field(ge=0)
    """Corners that were found in it."""
    rms_px: float | None = None
    """Root mean square of its reprojection errors; None where it could not be calculated."""
    tilt_deg: float | None = None
    """Angle between the target's normal and the optical axis."""
    used: bool = True
    """Whether the lens was calculated from it."""
    reason: str = ""
    """Why it was not."""


class LensRecord(Record):
    """The result of `inspectd-calibrate lens`."""

    made_by: ClassVar[str] = "inspectd-calibrate lens"

    kind: Literal["lens"] = "lens"
    width_px: int = Field(ge=1)
    """Width of the camera's pictures."""
    height_px: int = Field(ge=1)
    """Height of the camera's pictures."""
    lens: Lens
    """What was found."""
    covariance: tuple[tuple[float, ...], ...]
    """[9, 9] of the parameters in the order of `LENS_PARAMETERS`; rows of terms that were held at 0 are 0."""
    rms_px: float = Field(ge=0)
    """Root mean square of all reprojection errors of the views that were used."""
    corner_noise_px: float = Field(ge=0)
    """Standard deviation of a corner's coordinate that these errors come to."""
    views: tuple[LensView, ...]
    """All pictures, in the order of their names."""
    target: dict[str, str | int | float]
    """What was looked for in them."""

    @model_validator(mode="after")
    def _covariance_fits(self) -> LensRecord:
        count = len(LENS_PARAMETERS)
        if len(self.covariance) != count or any(len(row) != count for row in self.covariance):
            raise ValueError(f"covariance: expected {count} rows of {count}")
        return self

    def std(self) -> dict[str, float]:
        """Standard uncertainty of each parameter, by its name."""
        return {name: float(self.covariance[at][at]) ** 0.5 for at, name in enumerate(LENS_PARAMETERS)}
