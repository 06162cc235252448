"""Millimetres per pixel from views of a target that lies in the plane of the parts.

The plane's homography is fitted to all corners by least squares in the picture, where the noise is. Several pictures of
the target at different places are fitted together: each has its own place and turn in the plane, and all one plane.
The uncertainty follows the GUM (JCGM 100:2008), 5.1.2: the parts of the budget add as squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import Lens, LensRecord, Plane, ScaleBudget
from inspectd.errors import ConfigError

from .corners import View
from .target import Target
from .views import tilt_of

__all__ = ["ScaleFit", "Tolerances", "fit_scale"]

WORST_RMS_PX = 2.0
"""Above this error the target is not flat, or not the one that was described."""
_ROOT_3 = float(np.sqrt(3))

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What cannot be seen in the pictures; both are limits, +/-, within which every value is as likely (GUM, 4.3.7).

    Attributes:
        target: of the printed lengths, as a share: 0.002 for 0.2 %.
        plane_mm: how far the target's face may be above or below the face of the parts.
        distance_mm: from the camera to the plane; None to take it from the lens.
    """

    target: float = 0.002
    plane_mm: float = 0.0
    distance_mm: float | None = None


@dataclass(frozen=True, slots=True)
class ScaleFit:
    """What was found.

    Attributes:
        plane: what calculates with it.
        scale_mm_per_px: side of a square with the mean area of the picture's pixels.
        budget: its standard uncertainties, as shares.
        rms_px: root mean square distance of corners found and expected.
        noise_px: standard deviation of one coordinate of a corner.
        corners: how many were used.
        errors_px: of each view float64 [N, 2], found minus expected.
        distance_mm: from the camera to the middle of the target; None without a lens.
        tilt_deg: of the plane; None without a lens.
        covered: share of the picture inside the outlines of the corners, 0..1.
    """

    plane: Plane
    scale_mm_per_px: float
    budget: ScaleBudget
    rms_px: float
    noise_px: float
    corners: int
    errors_px: tuple[_Values, ...]
    distance_mm: float | None
    tilt_deg: float | None
    covered: float

    @property
    def std_mm_per_px(self) -> float:
        """Standard uncertainty of the scale."""
        return self.scale_mm_per_px * self.budget.combined


def fit_scale(
    views: Sequence[View],
    target: Target,
    shape: tuple[int, int],
    *,
    lens: LensRecord | None = None,
    tolerances: Tolerances = Tolerances(),
) -> ScaleFit:
    """Calculate the plane and its scale.

    Args:
        views: of the target lying in the plane of the parts, by the camera as it stands.
        target: what they show.
        shape: (height, width) of the pictures, px.
        lens: the calibrated lens; None for pictures whose distortion may be neglected.
        tolerances: what the pictures cannot tell.

    Raises:
        ConfigError: the target is not found in a picture, the corners fit no plane, the lens is for another
            resolution, or a tolerance asks for a distance that is not known.
    """
    for view in views:
        if why := view.unusable(target):
            raise ConfigError(
                f"{view.name}: {why}; expected {target.name}: compare it with what is printed on the target, and see "
                "that it is sharp, evenly lit and not cut off"
            )
    if lens is not None:
        lens.check(serial=lens.serial, width_px=shape[1], height_px=shape[0])
    fit = _fit(views, target, shape, None if lens is None else lens.lens)
    errors = fit.errors
    rms = float(np.sqrt((np.concatenate(errors) ** 2).sum(axis=1).mean()))
    if rms > WORST_RMS_PX:
        raise ConfigError(
            f"the corners are {rms:.1f} px off a plane on average, at most {WORST_RMS_PX:g} px are taken; the target "
            "does not lie flat, is not the one described, or the lens distorts (calibrate it first, and give --lens)"
        )
    scale = _mean_scale(fit.plane)
    scale_std = _scale_std(fit)
    distance, tilt = _pose(views[0], target, lens)
    if distance is None:
        distance = tolerances.distance_mm
    if tolerances.plane_mm and distance is None:
        raise ConfigError("--plane-tolerance-mm needs the distance to the plane; give --lens or --distance-mm")
    budget = ScaleBudget(
        corners=scale_std / scale,
        target=tolerances.target / _ROOT_3,
        plane=tolerances.plane_mm / distance / _ROOT_3 if distance else 0.0,
        lens=0.0 if lens is None else _from_lens(views, target, shape, lens) / scale,
    )
    return ScaleFit(
        plane=fit.plane,
        scale_mm_per_px=scale,
        budget=budget,
        rms_px=rms,
        noise_px=float(np.sqrt(fit.variance)) / fit.unit_px,
        corners=sum(len(view.ids) for view in views),
        errors_px=errors,
        distance_mm=distance if lens is not None else None,
        tilt_deg=tilt,
        covered=_covered(views, shape),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """The unknowns as they came out, their covariance, and what the plane is for any such unknowns."""

    values: _Values
    jacobian: _Values
    variance: float
    unit_px: float
    plane_of: Callable[[_Values], Plane]
    errors: tuple[_Values, ...]

    @property
    def plane(self) -> Plane:
        return self.plane_of(self.values)


def _scale_std(fit: _Fit) -> float:
    covariance = fit.variance * np.linalg.pinv(fit.jacobian.T @ fit.jacobian)
    slope = _slope(lambda trial: np.array([_mean_scale(fit.plane_of(trial))]), fit.values[:8])[0]
    return float(np.sqrt(slope @ covariance[:8, :8] @ slope))


def _fit(views: Sequence[View], target: Target, shape: tuple[int, int], lens: Lens | None) -> _Fit:
    """Least squares in the picture; the unknowns are 8 of the plane, and 3 of the place of each further view."""
    flat = [view.points_mm(target) for view in views]
    seen = [view.points_px if lens is None else lens.undistorted(view.points_px) for view in views]
    # Both sides in numbers about 1, or the normal equations lose half of their digits.
    to_unit_px, to_unit_mm = _unit(seen[0]), _unit(flat[0])
    first, _ = cv2.findHomography(_apply(to_unit_mm, flat[0]), _apply(to_unit_px, seen[0]))
    if first is None:
        raise ConfigError(f"{views[0].name}: the corners fit no plane; take the picture anew")
    units = [_apply(to_unit_mm, points) for points in flat]
    start = [*np.ravel(first / first[2, 2])[:8]]
    for own, points in zip(units[1:], seen[1:], strict=True):
        start += _rigid(own, _apply(np.asarray(np.linalg.inv(first), np.float64), _apply(to_unit_px, points)))

    def expected(values: _Values) -> _Values:
        homography = np.append(values[:8], 1.0).reshape(3, 3)
        placed = [units[0]]
        for at, own in enumerate(units[1:]):
            turn, x, y = values[8 + 3 * at : 11 + 3 * at]
            cos, sin = np.cos(turn), np.sin(turn)
            placed.append(own @ np.array([[cos, sin], [-sin, cos]]) + (x, y))
        return _apply(homography, np.concatenate(placed))

    found = _apply(to_unit_px, np.concatenate(seen))
    values, jacobian = _least_squares(lambda trial: (found - expected(trial)).ravel(), np.array(start))
    residual = (found - expected(values)).ravel()
    errors = residual.reshape(-1, 2) / to_unit_px[0, 0]
    free = max(1, residual.size - values.size)
    variance = float(residual @ residual) / free

    def plane(trial: _Values) -> Plane:
        homography = np.append(trial[:8], 1.0).reshape(3, 3)
        back = np.linalg.inv(to_unit_mm) @ np.linalg.inv(homography) @ to_unit_px
        return Plane(shape, back / back[2, 2], lens)

    bounds = np.cumsum([len(points) for points in flat])[:-1]
    return _Fit(values, jacobian, variance, float(to_unit_px[0, 0]), plane, tuple(np.split(errors, bounds)))


def _from_lens(views: Sequence[View], target: Target, shape: tuple[int, int], lens: LensRecord) -> float:
    """Standard uncertainty of the scale that the lens's brings, mm per px: each of its independent parts in turn."""
    covariance = np.array(lens.covariance)
    size = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    weights, axes = np.linalg.eigh(covariance / np.outer(size, size))
    middle, total = lens.lens.parameters(), 0.0
    for weight, axis in zip(weights, axes.T, strict=True):
        if weight <= 1e-9:
            continue
        step = size * axis * np.sqrt(weight)
        both = [_mean_scale(_fit(views, target, shape, Lens.of(middle + sign * step)).plane) for sign in (-1, 1)]
        total += ((both[1] - both[0]) / 2) ** 2
    return float(np.sqrt(total))


def _mean_scale(plane: Plane) -> float:
    """As `ScaleFit.scale_mm_per_px`, from 32 by 32 pixels: the same to a part in a million, and quick."""
    height, width = plane.shape
    x, y = ((np.arange(32) + 0.5) / 32 * side - 0.5 for side in (width, height))
    middles = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 1, 2)
    quads = plane.to_mm((middles + np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])).reshape(-1, 2))
    corner = quads.reshape(-1, 4, 2)
    one, other = corner[:, 2] - corner[:, 0], corner[:, 3] - corner[:, 1]
    return float(np.sqrt((np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]) / 2).mean()))


def _pose(view: View, target: Target, lens: LensRecord | None) -> tuple[float | None, float | None]:
    if lens is None:
        return None, None
    flat = view.points_mm(target)
    solid = np.column_stack([flat, np.zeros(len(flat))])
    _, turn, shift = cv2.solvePnP(solid, view.points_px, lens.lens.matrix, lens.lens.distortion)
    rotation = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    middle = rotation @ np.array([target.width_mm / 2, target.height_mm / 2, 0.0]) + np.ravel(shift)
    return float(np.linalg.norm(middle)), tilt_of(rotation)[0]


def _covered(views: Sequence[View], shape: tuple[int, int]) -> float:
    inside = np.zeros(shape, np.uint8)
    for view in views:
        cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(view.points_px).astype(np.int32)), 1)
    return float(inside.mean())


def _least_squares(residual: Callable[[_Values], _Values], start: _Values) -> tuple[_Values, _Values]:
    """Gauss-Newton with numeric derivatives: the values, and the derivatives of the residual there."""
    values = start
    for _ in range(20):
        jacobian = _slope(residual, values)
        step = np.linalg.lstsq(jacobian, residual(values), rcond=None)[0]
        values = values - step
        if np.abs(step).max() < 1e-11:
            break
    return values, _slope(residual, values)


def _slope(function: Callable[[_Values], _Values], at: _Values) -> _Values:
    """Derivatives [outputs, inputs] by central differences; the inputs are numbers about 1."""
    columns = []
    for index in range(at.size):
        step = np.zeros(at.size)
        step[index] = 1e-6
        columns.append((function(at + step) - function(at - step)) / 2e-6)
    return np.stack(columns, axis=1)


def _unit(points: _Values) -> _Values:
    """[3, 3] that brings points to their middle and to a size of 1, alike along both axes."""
    middle = points.mean(axis=0)
    factor = 1 / np.sqrt(((points - middle) ** 2).sum(axis=1).mean())
    return np.array([[factor, 0, -factor * middle[0]], [0, factor, -factor * middle[1]], [0, 0, 1]])


def _apply(homography: _Values, points: _Values) -> _Values:
    """A homography of points [N, 2]."""
    mapped = points @ homography[:2, :2].T + homography[:2, 2]
    return np.asarray(mapped / (points @ homography[2, :2] + homography[2, 2])[:, None], np.float64)


def _rigid(own: _Values, placed: _Values) -> list[float]:
    """Turn and shift that bring points to others (Kabsch, 1976)."""
    a, b = own - own.mean(axis=0), placed - placed.mean(axis=0)
    turn = float(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))
    cos, sin = np.cos(turn), np.sin(turn)
    shift = placed.mean(axis=0) - own.mean(axis=0) @ np.array([[cos, sin], [-sin, cos]])
    return [turn, float(shift[0]), float(shift[1])]
