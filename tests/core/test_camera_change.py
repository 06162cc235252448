"""What a camera has lost, and a defect that is painted as it would show it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from inspectd.buttons import render
from inspectd.simulation.camera_change import UNCHANGED, CameraChange, measure_change, paint_as_seen, restored
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import located
from inspectd.simulation.placement import in_place
from inspectd.simulation.region import find_region

pytest.importorskip("scipy", reason="defects are painted with SciPy: pip install 'inspectd[augment]'")


def marble(first: int, count: int) -> list[np.ndarray]:
    return [render("marble", None, first + number, 256).image for number in range(count)]


@pytest.fixture(scope="module")
def before() -> list[np.ndarray]:
    return marble(7_000_000_000, 8)


@pytest.fixture(scope="module")
def now() -> list[np.ndarray]:
    return marble(7_000_001_000, 4)


@pytest.fixture(scope="module")
def hole() -> Exemplar:
    part = render("marble", "hole", 7_000_002_000, 256)
    return located(Exemplar("hole", "hole", part.image, part.mask > 0))


def exposed(pixels: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=factor)


def blurred(pixels: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(pixels, (0, 0), sigma_px)


def test_other_parts_of_the_same_product_are_no_change(before, now):
    assert replace(measure_change(before, now), saturated=255.0) == UNCHANGED
    assert str(UNCHANGED) == ""


@pytest.mark.parametrize("factor", [0.05, 0.3, 1.6, 3.0])
def test_exposure_is_found_also_where_it_saturates(before, now, factor):
    change = measure_change(before, [exposed(pixels, factor) for pixels in now])
    assert change.exposure == pytest.approx(factor, rel=0.15)
    assert f"have {change.exposure:.2g} times the light" in str(change)


@pytest.mark.parametrize("sigma_px", [2.0, 3.0, 5.0])
def test_blur_is_found(before, now, sigma_px):
    change = measure_change(before, [blurred(pixels, sigma_px) for pixels in now])
    assert change.exposure == 1.0
    # What is left of it after the blur that the noise is told from sharpness by.
    assert change.blur_px == pytest.approx(sigma_px, rel=0.3)


@pytest.mark.parametrize("level", [0, 3, 128])
def test_where_nothing_is_to_be_seen_everything_is_lost(before, now, level):
    change = measure_change(before, [np.full_like(pixels, level) for pixels in now])
    assert change.blur_px == 8.0


def test_grey_pictures_are_measured_too(before, now):
    grey = [[pixels[..., 1:2].copy() for pixels in some] for some in (before, now)]
    change = measure_change(grey[0], [exposed(pixels, 0.4)[..., None] for pixels in grey[1]])
    assert change.exposure == pytest.approx(0.4, rel=0.15)


def test_a_picture_is_restored_to_the_exposure_of_the_set(before):
    change = CameraChange(exposure=0.5)
    error = np.abs(restored(exposed(before[0], 0.5), change).astype(int) - before[0])
    assert error.max() <= 1
    saturated = restored(np.full((2, 2, 1), 255, np.uint8), CameraChange(exposure=4.0, saturated=150.0))
    assert (saturated == 150).all()


def painted(picture: np.ndarray, hole: Exemplar, change: CameraChange) -> tuple[float, np.ndarray]:
    """How much darker the defect's pixels are than without it, and what it changes."""
    placement = in_place(hole.name, hole.defect, "now")
    image, label = paint_as_seen(picture, hole, placement, change, find_region(picture))
    assert label.sum() == hole.mask.sum()
    difference = picture.astype(float) - image
    return float(difference[label].mean()), difference


def test_a_defect_is_as_faint_as_the_camera_would_show_it(now, hole):
    whole, _ = painted(now[0], hole, UNCHANGED)
    assert whole > 20
    dark, _ = painted(exposed(now[0], 0.25), hole, CameraChange(exposure=0.25))
    assert dark == pytest.approx(whole / 4, rel=0.25)
    soft, difference = painted(blurred(now[0], 4.0), hole, CameraChange(blur_px=4.0))
    assert soft < 0.8 * whole
    # It is spread, and not lost.
    assert difference.sum() == pytest.approx(painted(blurred(now[0], 4.0), hole, UNCHANGED)[1].sum(), rel=0.1)
    gone, _ = painted(np.full_like(now[0], 3), hole, CameraChange(exposure=0.02, blur_px=8.0))
    assert abs(gone) < 2


def test_behind_the_end_of_the_scale_a_defect_is_seen_only_where_it_is_dark_enough(now, hole):
    change = measure_change(now, [exposed(pixels, 4.0) for pixels in now])
    white = exposed(now[0], 4.0)
    faint = Exemplar("faint", "stain", np.where(hole.mask[..., None], hole.image, 200), hole.mask, region=hole.region)
    image = faint.image.copy()
    image[hole.mask] = 170
    faint = Exemplar("faint", "stain", image, hole.mask, region=hole.region)
    seen, _ = painted(white, faint, change)
    assert abs(seen) < 1


def test_away_from_the_defect_nothing_is_changed(now, hole):
    _, difference = painted(exposed(now[0], 0.25), hole, CameraChange(exposure=0.25, blur_px=2.0))
    far = cv2.dilate(hole.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
    assert not difference[far].any()
