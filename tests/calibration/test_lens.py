"""Lenses from rendered views and from simulated corners, against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from inspectd.calibrated import LENS_PARAMETERS, Lens
from inspectd.calibration.corners import View, find_view
from inspectd.calibration.lens import fit_lens, focal_without
from inspectd.calibration.simulate import Pose, Station, spread_poses
from inspectd.calibration.target import Target
from inspectd.calibration.views import advice, cells, tilt_of
from inspectd.errors import ConfigError

SHAPE = (600, 800)
LENS = Lens(fx_px=1100, fy_px=1102, cx_px=405, cy_px=297, k1=-0.18, k2=0.07, p1=0.0006, p2=-0.0004)
TARGET = Target()
STATION = Station(LENS, SHAPE)


def seen(pose, rng, *, name="view", noise=0.05, target=TARGET):
    """The corners inside the picture, with noise; no picture is rendered."""
    corners = STATION.corners(target, pose)
    inside = ((corners > 5) & (corners < np.array(SHAPE[::-1]) - 6)).all(axis=1)
    return View(name, np.flatnonzero(inside), corners[inside] + rng.normal(0, noise, corners[inside].shape))


def spread(seed, count=14, noise=0.05):
    rng = np.random.default_rng(seed)
    poses = spread_poses(STATION, TARGET, rng, count)
    return [seen(pose, rng, name=f"{number:02d}.png", noise=noise) for number, pose in enumerate(poses)]


def test_the_model_is_opencv_s_and_its_inverse_is_exact():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 600, (500, 2))
    assert np.abs(LENS.distorted(LENS.undistorted(points)) - points).max() < 1e-9
    pose = Pose((10, 5, 400), 20, 30, 10)
    rotation, translation = pose.transform(TARGET)
    solid = np.column_stack([TARGET.corners_mm(), np.zeros(len(TARGET.corners_mm()))]) @ rotation.T + translation
    flat = solid[:, :2] / solid[:, 2:] * (LENS.fx_px, LENS.fy_px) + (LENS.cx_px, LENS.cy_px)
    assert np.abs(LENS.distorted(flat) - STATION.corners(TARGET, pose)).max() < 1e-9


def test_a_place_that_the_model_cannot_invert_is_refused():
    with pytest.raises(ValueError, match="no inverse"):
        Lens(fx_px=500, fy_px=500, cx_px=400, cy_px=300, k1=-1.5).undistorted(np.array([[0.0, 0.0]]))


@pytest.mark.parametrize("kind", ["charuco", "chessboard"])
@pytest.mark.parametrize("seed", [1, 2])
def test_rendered_views_give_the_true_lens(kind, seed):
    target = Target(kind=kind)
    rng = np.random.default_rng(seed)
    views = []
    for number, pose in enumerate(spread_poses(STATION, target, rng, 12, filled=0.6 if kind == "charuco" else 0.42)):
        views.append(find_view(f"{number:02d}.png", STATION.picture(target, pose, rng), target))
    fit = fit_lens(views, target, SHAPE)
    assert fit.lens.fx_px == pytest.approx(LENS.fx_px, rel=0.003)
    assert fit.lens.fy_px == pytest.approx(LENS.fy_px, rel=0.003)
    assert (fit.lens.cx_px, fit.lens.cy_px) == pytest.approx((LENS.cx_px, LENS.cy_px), abs=4)
    assert fit.rms_px < 0.08
    # Where a pixel of the rim is seen, compared with where it is: what the parameters are for.
    rim = np.array([(x, y) for x in (0, 400, 799) for y in (0, 300, 599)], float)
    directions = [(lens.undistorted(rim) - (lens.cx_px, lens.cy_px)) / lens.fx_px for lens in (fit.lens, LENS)]
    apart = directions[0] - directions[1]
    assert np.abs(apart - apart.mean(axis=0)).max() * LENS.fx_px < 2.0


def test_the_stated_uncertainty_covers_the_truth_as_often_as_it_says():
    off = []
    for seed in range(40):
        fit = fit_lens(spread(seed), TARGET, SHAPE)
        off.append((fit.lens.parameters() - LENS.parameters())[:8] / np.sqrt(np.diag(fit.covariance)[:8]))
    off = np.array(off)
    # 320 values that are correlated in groups of eight; 95 % of them within 1.96.
    assert 0.90 < (np.abs(off) < 1.96).mean() < 0.99
    assert 0.8 < off.std() < 1.2


def test_views_that_do_not_agree_are_left_out_and_named():
    views = spread(3)
    rng = np.random.default_rng(7)
    views[5] = View("05.png", views[5].ids, views[5].points_px + rng.normal(0, 1.5, views[5].points_px.shape))
    views.append(View("14.png", np.zeros(0, np.intp), np.zeros((0, 2))))
    fit = fit_lens(views, TARGET, SHAPE)
    out = {view.name: view.reason for view in fit.views if not view.used}
    assert out.keys() == {"05.png", "14.png"}
    assert "far above the others'" in out["05.png"]
    assert out["14.png"] == "the target was not found"
    assert fit.lens.fx_px == pytest.approx(LENS.fx_px, rel=0.002)
    assert len(fit.used) == 13
    assert focal_without(fit, TARGET, SHAPE) == pytest.approx([LENS.fx_px] * 13, rel=0.003)


def test_views_that_contradict_each_other_are_refused():
    views = spread(4, count=12)
    rng = np.random.default_rng(7)
    for at in range(5):
        noise = rng.normal(0, 0.6 * (at + 2), views[at].points_px.shape)
        views[at] = View(views[at].name, views[at].ids, views[at].points_px + noise)
    with pytest.raises(ConfigError, match=r"contradict each other|px off on average"):
        fit_lens(views, TARGET, SHAPE)


def test_a_print_that_was_stretched_shows_in_the_focal_lengths():
    """It fits all the same, but with pixels that are not square."""
    fit = fit_lens(spread(5), Target(), SHAPE)
    assert not fit.remarks
    rng = np.random.default_rng(5)
    views = []
    for number, pose in enumerate(spread_poses(STATION, TARGET, rng, 12)):
        rotation, translation = pose.transform(TARGET)
        solid = np.column_stack([TARGET.corners_mm() * (1, 1.03), np.zeros(88)]) @ rotation.T + translation
        flat = solid[:, :2] / solid[:, 2:] * (LENS.fx_px, LENS.fy_px) + (LENS.cx_px, LENS.cy_px)
        points = LENS.distorted(flat)
        inside = ((points > 5) & (points < np.array(SHAPE[::-1]) - 6)).all(axis=1)
        views.append(View(f"{number:02d}", np.flatnonzero(inside), points[inside]))
    assert "the print is stretched" in fit_lens(views, TARGET, SHAPE).remarks[0]


@pytest.mark.parametrize("tilt", [0.0, 4.0])
def test_views_without_tilt_are_refused_with_what_to_add(tilt):
    rng = np.random.default_rng(5)
    views = []
    for number in range(10):
        middle = (rng.uniform(-60, 60), rng.uniform(-40, 40), rng.uniform(500, 560))
        pose = Pose(middle, tilt * rng.uniform(), rng.uniform(0, 360), rng.uniform(-10, 10))
        views.append(seen(pose, rng, name=f"{number}.png"))
    with pytest.raises(ConfigError, match=r"leave the lens open.*add a view .* tilted by 20 to 40 degrees, its right"):
        fit_lens(views, TARGET, SHAPE)


def test_too_few_views_are_refused_with_what_to_add():
    with pytest.raises(ConfigError, match=r"3 of 3 pictures can be used, at least 6 are needed; add a view"):
        fit_lens(spread(0, count=3), TARGET, SHAPE)
    with pytest.raises(ConfigError, match="not found in any of 2 pictures; expected ChArUco, 12 by 9 squares"):
        fit_lens([View(str(at), np.zeros(0, np.intp), np.zeros((0, 2))) for at in range(2)], TARGET, SHAPE)


def test_corners_on_one_line_are_no_view():
    line = np.arange(11)
    view = View("line", np.concatenate([line, line[:1]]), np.zeros((12, 2)))
    assert view.unusable(TARGET) == "the corners that were found lie on one line"
    assert "only 3 corners" in View("few", line[:3], np.zeros((3, 2))).unusable(TARGET)


def test_advice_names_the_bare_places_and_the_missing_sides():
    rng = np.random.default_rng(0)
    # Nothing in the upper left, and no lower edge nearer.
    poses = [
        Pose((0, 0, 600), 25, 0),
        Pose((0, 0, 600), 25, 180),
        Pose((0, 0, 600), 25, 270),
        Pose((90, 60, 420), 25, 0),
    ]
    views = [seen(pose, rng) for pose in poses]
    rotations = np.array([pose.transform(TARGET)[0] for pose in poses])
    counts = cells(views, SHAPE)
    assert counts[0, 0] < 8 <= counts[1, 1]
    wishes = advice(views, rotations, SHAPE)
    assert wishes[0] == (
        "a view with the target in the upper left corner of the picture, tilted by 20 to 40 degrees, "
        "its lower edge nearer"
    )


@pytest.mark.parametrize("towards", [0, 90, 180, 270])
def test_the_nearer_edge_is_told_rightly(towards):
    pose = Pose((0, 0, 500), 30, towards)
    rotation, translation = pose.transform(TARGET)
    assert tilt_of(rotation) == pytest.approx((30, towards))
    edges = {0: (240, 90), 90: (120, 180), 180: (0, 90), 270: (120, 0)}
    depth = {at: (rotation @ (*place, 0) + translation)[2] for at, place in edges.items()}
    assert min(depth, key=depth.get) == towards


def test_parameters_keep_their_order():
    assert Lens.of(LENS.parameters()) == LENS
    assert len(LENS_PARAMETERS) == 9
