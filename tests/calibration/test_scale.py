"""Millimetres per pixel, against planes that are known exactly."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from inspectd.calibrated import EvenScale, Lens, LensRecord, Plane
from inspectd.calibration.corners import View, find_view
from inspectd.calibration.record import header
from inspectd.calibration.scale import Tolerances, fit_scale
from inspectd.calibration.simulate import Pose, Station
from inspectd.calibration.target import Target
from inspectd.errors import ConfigError

SHAPE = (480, 640)
LENS = Lens(fx_px=900, fy_px=900, cx_px=322, cy_px=238, k1=-0.12, k2=0.04)
TARGET = Target()
STATION = Station(LENS, SHAPE)
PINHOLE = Station(Lens(fx_px=900, fy_px=900, cx_px=322, cy_px=238), SHAPE)
POSE = Pose((4, -3, 420), 12, 40, 5)


def lens_record(lens=LENS, std=None, shape=SHAPE):
    covariance = np.diag(np.zeros(9) if std is None else np.asarray(std) ** 2)
    return LensRecord(
        **header([], made=datetime(2025, 1, 1, tzinfo=timezone.utc), width_px=shape[1], height_px=shape[0]),
        lens=lens,
        covariance=tuple(map(tuple, covariance.tolist())),
        rms_px=0.05,
        corner_noise_px=0.04,
        views=(),
        target={},
    )


def true_plane(station, pose):
    return Plane(SHAPE, station.homography(TARGET, pose), station.lens)


def true_scale(station, pose):
    return float(np.sqrt(true_plane(station, pose).pixel_area_mm2.mean(dtype=float)))


def seen(station, pose, rng, noise, stretch=1.0):
    """Corners inside the picture; `stretch` is how much larger the print is than it says."""
    target = Target(square_mm=20 * stretch, marker_mm=15 * stretch)
    corners = station.corners(target, pose)
    inside = ((corners > 4) & (corners < np.array(SHAPE[::-1]) - 5)).all(axis=1)
    return View("view", np.flatnonzero(inside), corners[inside] + rng.normal(0, noise, corners[inside].shape))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rendered_view_gives_the_true_scale(seed):
    rng = np.random.default_rng(seed)
    pose = Pose(
        (rng.uniform(-9, 9), rng.uniform(-9, 9), 420), rng.uniform(0, 20), rng.uniform(0, 360), rng.uniform(0, 9)
    )
    view = find_view("view", STATION.picture(TARGET, pose, rng), TARGET)
    fit = fit_scale([view], TARGET, SHAPE, lens=lens_record())
    assert fit.scale_mm_per_px == pytest.approx(true_scale(STATION, pose), rel=0.0005)
    area = true_plane(STATION, pose).pixel_area_mm2
    assert np.abs(fit.plane.pixel_area_mm2 / area - 1).max() < 0.004
    assert fit.tilt_deg == pytest.approx(pose.tilt_deg, abs=0.3)
    assert fit.distance_mm == pytest.approx(np.linalg.norm(pose.middle_mm), rel=0.002)


def test_the_scale_without_a_lens_is_right_for_one_that_does_not_distort():
    rng = np.random.default_rng(0)
    fit = fit_scale([seen(PINHOLE, POSE, rng, 0.05)], TARGET, SHAPE)
    assert fit.scale_mm_per_px == pytest.approx(true_scale(PINHOLE, POSE), rel=0.0005)
    assert fit.distance_mm is None


def test_the_stated_uncertainty_covers_the_truth_as_often_as_it_says():
    """Corners with noise, and prints that are off by anything within their tolerance: 95 of 100 within 1.96."""
    tolerance, inside, noise_inside, count = 0.002, 0, 0, 200
    truth = true_scale(PINHOLE, POSE)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        stretch = 1 + rng.uniform(-tolerance, tolerance)
        fit = fit_scale([seen(PINHOLE, POSE, rng, 0.3, stretch)], TARGET, SHAPE, tolerances=Tolerances(tolerance))
        found = fit.scale_mm_per_px
        inside += abs(found - truth) < 1.96 * fit.std_mm_per_px
        # A print that is larger by a share makes the scale smaller by it.
        noise_inside += abs(found * stretch - truth) < 1.96 * fit.budget.corners * found
    assert 0.91 < noise_inside / count < 0.985
    # An even spread has no tails: its 1.96 standard deviations hold all of it.
    assert inside / count > 0.91


def test_the_lens_s_uncertainty_is_part_of_the_budget_and_covers_it():
    std = np.array([2.0, 2.0, 2.0, 2.0, 0.01, 0.0, 0.0, 0.0, 0.0])
    truth, off = true_scale(STATION, POSE), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wrong = Lens.of(LENS.parameters() + rng.normal(0, 1, 9) * std)
        view = seen(STATION, POSE, rng, 0.02)
        fit = fit_scale([view], TARGET, SHAPE, lens=lens_record(wrong, std), tolerances=Tolerances(target=0.0))
        off.append((fit.scale_mm_per_px - truth) / fit.std_mm_per_px)
    assert fit.budget.lens > 3 * fit.budget.corners
    assert np.mean(np.abs(off) < 1.96) > 0.88
    assert 0.7 < np.std(off) < 1.25


def test_several_places_of_the_target_are_one_plane():
    rng = np.random.default_rng(0)
    rotation, translation = POSE.transform(TARGET)
    views = []
    for x, y, turn in [(0, 0, 0), (-60, 20, 30), (70, -30, -50)]:
        # Shifted and turned within the plane.
        placed = TARGET.corners_mm() @ np.array(
            [
                [np.cos(np.radians(turn)), np.sin(np.radians(turn))],
                [-np.sin(np.radians(turn)), np.cos(np.radians(turn))],
            ]
        ) + (x, y)
        solid = np.column_stack([placed, np.zeros(len(placed))]) @ rotation.T + translation
        points = solid[:, :2] / solid[:, 2:] * 900 + (322, 238)
        inside = ((points > 4) & (points < np.array(SHAPE[::-1]) - 5)).all(axis=1)
        points = points + rng.normal(0, 0.1, points.shape)
        views.append(View(f"{x}", np.flatnonzero(inside), points[inside]))
    one, all_ = (fit_scale(chosen, TARGET, SHAPE) for chosen in (views[:1], views))
    assert all_.budget.corners < one.budget.corners
    assert all_.scale_mm_per_px == pytest.approx(true_scale(PINHOLE, POSE), rel=0.0005)
    assert all_.covered > one.covered


def test_the_height_of_the_plane_is_part_of_the_budget():
    rng = np.random.default_rng(0)
    view = seen(STATION, POSE, rng, 0.05)
    fit = fit_scale([view], TARGET, SHAPE, lens=lens_record(), tolerances=Tolerances(plane_mm=2.0))
    # Two of some 420 mm, anywhere within.
    assert fit.budget.plane == pytest.approx(2 / 420 / np.sqrt(3), rel=0.02)
    with pytest.raises(ConfigError, match="give --lens or --distance-mm"):
        fit_scale([view], TARGET, SHAPE, tolerances=Tolerances(plane_mm=2.0))


def test_what_is_no_plane_and_no_target_is_refused():
    rng = np.random.default_rng(0)
    view = seen(STATION, POSE, rng, 0.05)
    torn = View("torn.png", view.ids, view.points_px + rng.normal(0, 4, view.points_px.shape))
    with pytest.raises(ConfigError, match="px off a plane on average"):
        fit_scale([torn], TARGET, SHAPE)
    with pytest.raises(ConfigError, match=r"empty\.png: the target was not found; expected ChArUco"):
        fit_scale([View("empty.png", np.zeros(0, np.intp), np.zeros((0, 2)))], TARGET, SHAPE)
    with pytest.raises(ConfigError, match="for a width of 800 px"):
        fit_scale([view], TARGET, SHAPE, lens=lens_record(shape=(600, 800)))


def test_areas_and_lengths_of_defects_are_those_on_the_part():
    """A disc and a line in mm, painted where the camera sees them, in a corner where one figure of mm/px is wrong."""
    plane = true_plane(STATION, Pose((0, 0, 420), 30, 20))
    height, width = SHAPE
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    places = plane.to_mm(grid.astype(float)).reshape(height, width, 2)
    middle = plane.to_mm(np.array([[90.0, 90.0]]))[0]
    disc = np.hypot(*(places - middle).transpose(2, 0, 1)) < 15
    assert plane.area_mm2(disc) == pytest.approx(np.pi * 15**2, rel=0.005)
    # Whole pixels are counted, so a length is up to one too long.
    pixel = float(np.sqrt(plane.pixel_area_mm2[90, 90]))
    assert 30 - 0.3 * pixel < plane.feret_mm(disc) < 30 + 1.6 * pixel
    one_figure = disc.sum() * plane.pixel_area_mm2.mean(dtype=float)
    assert abs(one_figure / (np.pi * 15**2) - 1) > 0.05
    window = (slice(40, 200), slice(30, 250))
    assert plane.area_mm2(disc[window], (30, 40)) == pytest.approx(plane.area_mm2(disc))
    assert plane.feret_mm(disc[window], (30, 40)) == pytest.approx(plane.feret_mm(disc))


def test_lengths_of_small_things_count_whole_pixels():
    plane = Plane((20, 30), np.diag([0.5, 0.5, 1.0]))
    region = np.zeros((20, 30), bool)
    assert (plane.feret_mm(region), plane.area_mm2(region)) == (0, 0)
    region[5, 5] = True
    assert plane.feret_mm(region) == pytest.approx(0.5 * np.sqrt(2))
    region[5, 5:15] = True
    assert plane.feret_mm(region) == pytest.approx(0.5 * np.sqrt(101))
    assert plane.area_mm2(region) == pytest.approx(10 * 0.25)
    even = EvenScale(0.5)
    assert even.area_mm2(region) == pytest.approx(plane.area_mm2(region))
    assert even.feret_mm(region, (3, 2)) == pytest.approx(plane.feret_mm(region))
    assert even.feret_mm(np.zeros((2, 2), bool)) == 0
    with pytest.raises(ValueError, match="inside"):
        plane.area_mm2(region, (1, 0))
    with pytest.raises(ValueError, match="bool"):
        plane.area_mm2(region.astype(np.uint8))


def test_a_plane_whose_horizon_is_in_the_picture_is_refused():
    with pytest.raises(ConfigError, match="horizon"):
        Plane((20, 30), np.array([[1.0, 0, 0], [0, 1, 0], [0.1, 0, -1]]))
