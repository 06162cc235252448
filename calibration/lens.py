"""A lens from views of a target: the fit, how far it can be trusted, and which views would make it better.

Source: Z. Zhang, "A flexible new technique for camera calibration", IEEE PAMI 22 (2000), 1330-1334. The covariance is
that of least squares with the poses of the views eliminated (Triggs et al., "Bundle adjustment - a modern synthesis",
2000, section 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import LENS_PARAMETERS, Lens, LensView
from inspectd.errors import ConfigError

from .corners import View
from .target import Target
from .views import LEAST_TILT_DEG, advice, tilt_of

__all__ = ["FEWEST_VIEWS", "LensFit", "fit_lens", "focal_without"]

FEWEST_VIEWS = 6
"""Fewer leave no error to be seen: each view has six unknowns of its own."""
OUTLIER_FACTOR, OUTLIER_PX = 2.5, 0.15
"""A view is left out whose error is so many times the views' median and above so many px."""
DOUBTFUL_RMS_PX, WORST_RMS_PX = 0.5, 1.0
"""Above the first error there is a remark; above the second the target or its description is wrong."""
LOOSEST_FOCAL = 0.01
"""The focal length has to be known better than to this share of it."""
_FREE = 8  # fx, fy, cx, cy, k1, k2, p1, p2; with k3 one more


@dataclass(frozen=True, slots=True)
class LensFit:
    """What was found.

    Attributes:
        lens: the lens.
        covariance: float64 [9, 9], in the order of `LENS_PARAMETERS`.
        rms_px: root mean square of the reprojection errors, over both coordinates as OpenCV has it.
        noise_px: standard deviation of one coordinate of a corner.
        views: what became of each view.
        used: the views that it was calculated from.
        rotations: float64 [V, 3, 3] of those, from the target to the camera.
        translations: float64 [V, 3] of those, mm.
        errors_px: for each of those float64 [N, 2], found minus expected.
    """

    lens: Lens
    covariance: NDArray[np.float64]
    rms_px: float
    noise_px: float
    views: tuple[LensView, ...]
    used: tuple[View, ...]
    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]
    errors_px: tuple[NDArray[np.float64], ...]

    @property
    def remarks(self) -> list[str]:
        """What is not right, in sentences, though the lens was found."""
        said = []
        ratio = self.lens.fy_px / self.lens.fx_px
        std = np.sqrt(self.covariance[0, 0] + self.covariance[1, 1] - 2 * self.covariance[0, 1]) / self.lens.fx_px
        if abs(ratio - 1) > max(0.005, 5 * float(std)):
            said.append(
                f"The focal lengths are as 1 to {ratio:.3f}: unless the sensor's pixels are not square, the print is "
                "stretched; measure it both ways."
            )
        if self.rms_px > DOUBTFUL_RMS_PX:
            said.append(f"The corners are {self.rms_px:.2f} px off on average; good views have less than 0.3 px.")
        return said

    @property
    def tilts_deg(self) -> list[float]:
        """Angle between the target's normal and the optical axis, of each view that was used."""
        return [tilt_of(rotation)[0] for rotation in self.rotations]


@dataclass(frozen=True, slots=True)
class _Solution:
    lens: Lens
    rotations: list[NDArray[np.float64]]
    translations: list[NDArray[np.float64]]
    errors: list[NDArray[np.float64]]

    @property
    def view_rms(self) -> NDArray[np.float64]:
        return np.array([_rms(errors) for errors in self.errors])


def fit_lens(views: Sequence[View], target: Target, shape: tuple[int, int], *, k3: bool = False) -> LensFit:
    """Calculate the lens.

    Views in which the target was not found are left out, and so are those that do not agree with the others.

    Args:
        views: of the target, of one camera.
        target: what they show.
        shape: (height, width) of the pictures, px.
        k3: calculate the third radial term too; for wide lenses with many views.

    Raises:
        ConfigError: too few views, views that leave the lens open, or views that contradict each other; with what to
            add or to check.
    """
    reasons = {view.name: view.unusable(target) for view in views}
    usable = [view for view in views if not reasons[view.name]]
    if not usable:
        raise ConfigError(
            f"the target was not found in any of {len(views)} pictures; expected {target.name}: compare it with what "
            "is printed on the target, and see that it is sharp, evenly lit and not cut off"
        )
    if len(usable) < FEWEST_VIEWS:
        raise ConfigError(
            f"{len(usable)} of {len(views)} pictures can be used, at least {FEWEST_VIEWS} are needed; "
            f"add {_listed(advice(usable, None, shape))}"
        )
    solution = _solve(usable, target, shape, k3=k3)
    dropped: list[LensView] = []
    while (worst := _outlier(solution.view_rms)) is not None:
        view, rms = usable[worst], float(solution.view_rms[worst])
        if len(dropped) + 1 > len(views) / 4 or len(usable) <= FEWEST_VIEWS:
            raise ConfigError(
                f"the views contradict each other ({view.name}: {rms:.2f} px where the median is "
                f"{np.median(solution.view_rms):.2f} px, after {len(dropped)} were left out); fix the target to a flat "
                "plate, hold camera and target still, and take the pictures anew"
            )
        reason = f"its error of {rms:.2f} px is far above the others' {np.median(solution.view_rms):.2f} px"
        tilt = tilt_of(solution.rotations[worst])[0]
        dropped.append(
            LensView(name=view.name, corners=len(view.ids), rms_px=rms, tilt_deg=tilt, used=False, reason=reason)
        )
        usable = usable[:worst] + usable[worst + 1 :]
        solution = _solve(usable, target, shape, k3=k3)
    rms = _rms(np.concatenate(solution.errors))
    covariance, noise = _covariance(solution, usable, target, k3=k3)
    _refuse_doubtful(solution, usable, shape, rms, covariance)
    used = [
        LensView(name=view.name, corners=len(view.ids), rms_px=float(own), tilt_deg=tilt_of(rotation)[0])
        for view, own, rotation in zip(usable, solution.view_rms, solution.rotations, strict=True)
    ]
    lost = [
        LensView(name=view.name, corners=len(view.ids), used=False, reason=reasons[view.name])
        for view in views
        if reasons[view.name]
    ]
    return LensFit(
        lens=solution.lens,
        covariance=covariance,
        rms_px=rms,
        noise_px=noise,
        views=tuple(sorted([*used, *dropped, *lost], key=lambda view: view.name)),
        used=tuple(usable),
        rotations=np.array(solution.rotations),
        translations=np.array(solution.translations),
        errors_px=tuple(solution.errors),
    )


def _solve(
    views: Sequence[View], target: Target, shape: tuple[int, int], *, k3: bool, start: Lens | None = None
) -> _Solution:
    solid = [_solid(view, target) for view in views]
    seen = [view.points_px.astype(np.float32).reshape(-1, 1, 2) for view in views]
    flags = 0 if k3 else cv2.CALIB_FIX_K3
    matrix, distortion = np.eye(3), np.zeros(5)
    if start is not None:
        flags |= cv2.CALIB_USE_INTRINSIC_GUESS
        matrix, distortion = start.matrix, start.distortion
    # OpenCV's default of 30 steps is not enough for views that say little; those are to be told by their covariance.
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    try:
        _, found, terms, turns, shifts = cv2.calibrateCamera(
            solid, seen, shape[::-1], matrix, distortion, flags=flags, criteria=criteria
        )
        values = np.array([found[0, 0], found[1, 1], found[0, 2], found[1, 2], *np.ravel(terms)[:5]])
        if not np.isfinite(values).all() or min(values[:2]) <= 0:
            raise ConfigError(_open(views, None, shape))
        lens = Lens.of(values)
    except cv2.error as error:
        raise ConfigError(_open(views, None, shape)) from error
    errors = []
    for view, points, turn, shift in zip(views, solid, turns, shifts, strict=True):
        expected, _ = cv2.projectPoints(points, turn, shift, lens.matrix, lens.distortion)
        errors.append(view.points_px - np.asarray(expected, np.float64).reshape(-1, 2))
    rotations = [np.asarray(cv2.Rodrigues(turn)[0], np.float64) for turn in turns]
    return _Solution(lens, rotations, [np.ravel(shift).astype(np.float64) for shift in shifts], errors)


def _covariance(
    solution: _Solution, views: Sequence[View], target: Target, *, k3: bool
) -> tuple[NDArray[np.float64], float]:
    """Covariance [9, 9] of the lens, and the noise of a coordinate."""
    free = _FREE + k3
    normal = np.zeros((free, free))
    for view, rotation, shift in zip(views, solution.rotations, solution.translations, strict=True):
        _, jacobian = cv2.projectPoints(
            _solid(view, target), cv2.Rodrigues(rotation)[0], shift, solution.lens.matrix, solution.lens.distortion
        )
        pose, own = np.asarray(jacobian)[:, :6], np.asarray(jacobian)[:, 6 : 6 + free]
        # What the pose of a view can explain says nothing of the lens (Schur's complement).
        normal += own.T @ own - own.T @ pose @ np.linalg.pinv(pose.T @ pose) @ pose.T @ own
    errors = np.concatenate(solution.errors).ravel()
    noise = float(np.sqrt(errors @ errors / max(1, errors.size - free - 6 * len(views))))
    # In units in which the terms are alike, or the inverse of their squares would lose all digits.
    unit = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    inverse = np.linalg.pinv(normal / np.outer(unit, unit), rcond=1e-14) / np.outer(unit, unit)
    covariance = np.zeros((len(LENS_PARAMETERS),) * 2)
    covariance[:free, :free] = noise**2 * inverse
    return (covariance + covariance.T) / 2, noise


def _refuse_doubtful(
    solution: _Solution,
    views: Sequence[View],
    shape: tuple[int, int],
    rms: float,
    covariance: NDArray[np.float64],
) -> None:
    rotations = np.array(solution.rotations)
    if rms > WORST_RMS_PX:
        raise ConfigError(
            f"the corners are {rms:.2f} px off on average, at most {WORST_RMS_PX:g} px are taken; the target is not "
            "flat or not the one that was described, or the pictures are not all of one lens at one focus"
        )
    loose = float(np.sqrt(max(covariance[0, 0], covariance[1, 1]))) / solution.lens.fx_px
    steepest = max(tilt_of(rotation)[0] for rotation in rotations)
    if steepest < LEAST_TILT_DEG:
        raise ConfigError(_open(views, rotations, shape, f" (none is tilted by more than {steepest:.0f} degrees)"))
    if loose > LOOSEST_FOCAL:
        raise ConfigError(_open(views, rotations, shape, f" (the focal length is known to {loose:.1%} only)"))
    height, width = shape
    rim = np.array([(x, y) for x in (-0.5, width / 2, width - 0.5) for y in (-0.5, height / 2, height - 0.5)])
    try:
        solution.lens.undistorted(rim)
    except ValueError:
        raise ConfigError(
            "the distortion that fits the views cannot be inverted at the picture's rim, where no view shows the "
            f"target; add {_listed(advice(views, rotations, shape))}"
            + (", or leave out --k3" if covariance[8, 8] else "")
        ) from None


def focal_without(fit: LensFit, target: Target, shape: tuple[int, int], *, k3: bool = False) -> list[float]:
    """What hangs on a single picture: fx in px as it would be without each of the views that were used, NaN if open.

    Args:
        fit: the result.
        target: as for `fit_lens`.
        shape: as for `fit_lens`.
        k3: as for `fit_lens`.
    """
    found = []
    for at in range(len(fit.used)):
        rest = [*fit.used[:at], *fit.used[at + 1 :]]
        try:
            found.append(_solve(rest, target, shape, k3=k3, start=fit.lens).lens.fx_px)
        except ConfigError:  # without it the lens is open
            found.append(float("nan"))
    return found


def _outlier(rms: NDArray[np.float64]) -> int | None:
    worst = int(rms.argmax())
    return worst if rms[worst] > max(OUTLIER_FACTOR * float(np.median(rms)), OUTLIER_PX) else None


def _open(views: Sequence[View], rotations: NDArray[np.float64] | None, shape: tuple[int, int], why: str = "") -> str:
    return (
        f"these {len(views)} views leave the lens open{why}: focal length and distance look alike where the target is "
        f"not tilted; add {_listed(advice(views, rotations, shape))}"
    )


def _solid(view: View, target: Target) -> NDArray[np.float32]:
    flat = view.points_mm(target)
    return np.column_stack([flat, np.zeros(len(flat))]).astype(np.float32)


def _rms(errors: NDArray[np.float64]) -> float:
    return float(np.sqrt((errors**2).sum(axis=1).mean()))


def _listed(wishes: Sequence[str]) -> str:
    return "; ".join(wishes[:4]) if wishes else "views from other sides"
