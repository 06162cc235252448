"""What is told of a defect without its surface, against pictures that were composed with known opacity."""

from __future__ import annotations

import dataclasses
import time

import cv2
import numpy as np
import pytest

from inspectd.buttons import render
from inspectd.simulation.coarse import Exemplar, paint, scene_of
from inspectd.simulation.matte import _lost, matte_of
from inspectd.simulation.placement import in_place, place_mask

ROWS, COLUMNS = np.mgrid[:96, :96]
DISC = np.hypot(ROWS - 46, COLUMNS - 50) <= 16
GRAIN = 40.0 * np.sin(COLUMNS / 2.0)


def surface(level=150.0, seed=0, grain=0.0):
    """A surface with a grain along the rows and some noise: float [96, 96, 3]."""
    noise = np.random.default_rng(seed).normal(0.0, 2.0, (96, 96, 3))
    return level + grain * GRAIN[..., None] + noise


def composed(base, opacity, colour):
    """H = a D + (1 - a) B, uint8."""
    a = opacity[..., None]
    return np.clip(np.rint(a * np.asarray(colour) + (1 - a) * base), 0, 255).astype(np.uint8)


def spot(**changes):
    return dataclasses.replace(in_place("r", "d", "b"), **changes)


def painted(exemplar, good, placement):
    scene = scene_of(good, exemplar, placement, margin_px=12)
    whole = good.copy()
    whole[scene.rows, scene.columns] = paint("relit", scene, exemplar)
    return whole


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_the_edge_is_as_soft_as_it_was_composed(sigma):
    blurred = cv2.GaussianBlur(DISC.astype(np.float64), (0, 0), sigma)
    found = matte_of(composed(surface(), blurred, (60, 60, 60)), DISC)
    inside = cv2.distanceTransform(DISC.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~DISC).astype(np.uint8), cv2.DIST_L2, 5)
    distance = np.where(DISC, inside - 0.5, 0.5 - outside).astype(np.float32)
    opacity = found.read(np.dstack((np.zeros((96, 96, 3), np.float32), distance)))[1][..., 0]
    error = np.abs(opacity - blurred)[np.abs(distance) < 4]
    assert error.max() < 0.2
    assert error.mean() < 0.04
    assert not found.veil


def test_nothing_of_the_reference_s_surface_comes_along():
    """Around a soft defect of a red part, painted on a blue one that is as bright."""
    blurred = cv2.GaussianBlur(DISC.astype(np.float64), (0, 0), 1.2)
    red, blue = np.array([190.0, 100.0, 100.0]), np.array([100.0, 100.0, 190.0])
    source = Exemplar("r", "d", composed(surface(0) + red, blurred, (60, 60, 60)), DISC)
    good = np.clip(surface(0, seed=1) + blue, 0, 255).astype(np.uint8)
    whole = painted(source, good, spot()).astype(float)
    beyond = (np.hypot(ROWS - 46, COLUMNS - 50) > 16.5) & (np.hypot(ROWS - 46, COLUMNS - 50) < 24)
    assert (whole[..., 0] - whole[..., 2])[beyond].max() < 0, "nowhere redder than blue"
    hard = good.copy()
    grown = cv2.dilate(DISC.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    hard[grown] = source.image[grown]
    assert (hard[..., 0].astype(float) - hard[..., 2])[beyond].max() > 0, "as a label grown by two would have it"


def test_only_near_the_label_is_painted_also_from_the_picture_s_edge():
    """What a reference shows at its frame does not go on as a streak, and crumbs of its mask are left out."""
    half = DISC & (ROWS < 40)
    image = composed(surface()[:41], half[:41].astype(float), (60, 60, 60))
    source = Exemplar("r", "break", image, half[:41])
    good = np.clip(surface(seed=1), 0, 255).astype(np.uint8)
    placement = spot(affine=(1.0, 0.0, 0.0, 0.0, 1.0, 20.0), kind="frame")
    label = place_mask(placement, source.mask, (96, 96))
    far = cv2.dilate(label.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
    assert label.sum() > 150
    assert np.array_equal(painted(source, good, placement)[far], good[far])


def test_a_thin_line_keeps_its_depth_when_it_is_turned():
    line = np.abs(ROWS - 48 + (COLUMNS - 48) * 0.2) <= 1.2
    line[:, :16] = line[:, 80:] = False
    opacity = cv2.GaussianBlur(line.astype(np.float64), (0, 0), 0.5)
    source = Exemplar("r", "crack", composed(surface(), opacity, (40, 40, 40)), line)
    cos, sin = np.cos(0.7), np.sin(0.7)
    turned = (cos, -sin, 48 - 48 * (cos - sin), sin, cos, 48 - 48 * (sin + cos))
    good = np.clip(surface(seed=1), 0, 255).astype(np.uint8)
    deepest = np.sort(painted(source, good, spot(affine=turned)).mean(axis=2).ravel())[:60].mean()
    assert deepest == pytest.approx(np.sort(source.image.mean(axis=2).ravel())[:60].mean(), abs=12)


def test_a_veil_shows_the_texture_under_it():
    opacity = 0.6 * cv2.GaussianBlur(DISC.astype(np.float64), (0, 0), 1.0)
    image = composed(surface(grain=1.0), opacity, (90, 40, 120))
    found = matte_of(image, DISC)
    assert found.veil
    assert found.profile[-1] == pytest.approx(0.6, abs=0.1)
    assert found.read(found.field)[0][0, 0] == pytest.approx([90, 40, 120], abs=15)
    # On a part whose grain lies the other way, it goes on under the stain.
    source = Exemplar("r", "stain", image, DISC)
    good = np.clip(150 + GRAIN.T[..., None] + surface(0, seed=2), 0, 255).astype(np.uint8)
    core = np.hypot(ROWS - 46, COLUMNS - 50) <= 10
    shown = painted(source, good, spot())[..., 1]
    along = np.corrcoef(shown[core], good[..., 1][core])[0, 1]
    assert along > 0.95


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_on_a_surface_without_a_grain_nothing_is_a_veil(noise):
    """Noise goes on in any direction also where the surface is hidden."""
    rng = np.random.default_rng(3)
    rough = 150 + cv2.GaussianBlur(rng.normal(0, 25, (96, 96, 3)), (0, 0), 1.5)
    inside = 70 + rng.normal(0, noise, (96, 96, 3))
    for base in (rough, 150 + rng.normal(0, 4, (96, 96, 3))):
        assert not matte_of(composed(base, DISC.astype(float), inside), DISC).veil


def test_what_hides_the_surface_is_no_veil():
    blurred = cv2.GaussianBlur(DISC.astype(np.float64), (0, 0), 1.0)
    across = 150 + GRAIN.T[..., None] * 0.5
    for inside in (np.full((96, 96, 3), 80.0), np.broadcast_to(across, (96, 96, 3))):
        assert not matte_of(composed(surface(grain=1.0), blurred, inside), DISC).veil
    veiled = composed(surface(grain=1.0), 0.6 * blurred, (90, 40, 120))
    assert matte_of(veiled, DISC, COLUMNS < 70).veil
    assert not matte_of(veiled[:, :66], DISC[:, :66]).veil, "a piece may be missing there"


def test_a_defect_at_the_edge_of_the_part_has_no_matte():
    image = composed(surface(), DISC.astype(float), (60, 60, 60))
    assert matte_of(image, DISC, COLUMNS < 78) is not None
    assert matte_of(image, DISC, COLUMNS < 60) is None
    crack = (np.abs(ROWS - 40) <= 1) & (COLUMNS > 30) & (COLUMNS < 90)
    found = matte_of(composed(surface(), crack.astype(float), (40, 40, 40)), crack, COLUMNS < 90)
    assert found is not None, "a crack ends there"


def test_a_bubble_keeps_its_dark_rim():
    rim = DISC & (np.hypot(ROWS - 46, COLUMNS - 50) > 13)
    image = composed(surface(), (DISC & ~rim).astype(float), (180, 180, 180))
    image[rim] = 60
    good = np.clip(surface(seed=1), 0, 255).astype(np.uint8)
    whole = painted(Exemplar("r", "bubble", image, DISC), good, spot())
    inner = rim & (np.hypot(ROWS - 46, COLUMNS - 50) < 15.5)
    assert whole[inner].mean() == pytest.approx(60, abs=12)
    assert whole[DISC & ~rim].mean() == pytest.approx(180, abs=6)


def test_a_veil_of_another_hue_is_as_bright():
    opacity = 0.6 * DISC
    source = Exemplar("r", "stain", composed(surface(grain=1.0), opacity, (90, 40, 120)), DISC)
    good = np.clip(surface(seed=1, grain=1.0), 0, 255).astype(np.uint8)
    core = np.hypot(ROWS - 46, COLUMNS - 50) <= 10
    plain, turned = (painted(source, good, spot(hue_deg=hue))[core].mean(axis=0) for hue in (0.0, 120.0))
    assert turned == pytest.approx(np.roll(plain, 1), abs=3), "a third of a turn: red becomes green, green blue"
    grey = Exemplar("r", "stain", source.image[..., :1], DISC)
    assert np.array_equal(painted(grey, good[..., :1], spot(hue_deg=120.0)), painted(grey, good[..., :1], spot())), (
        "grey pictures have no hue"
    )


def test_all_that_is_known_of_a_tiny_defect_is_enough():
    dot = np.zeros((96, 96), bool)
    dot[40:43, 40:44] = True
    image = np.clip(surface(), 0, 255).astype(np.uint8)
    image[dot] = 30
    good = np.clip(surface(seed=1), 0, 255).astype(np.uint8)
    whole = painted(Exemplar("r", "hole", image, dot), good, spot())
    assert whole[dot].mean() == pytest.approx(30, abs=10)
    assert np.array_equal(whole[:30], good[:30])


def test_a_large_defect_costs_no_more_than_its_edge():
    rows, columns = np.mgrid[:640, :640]
    disc = np.hypot(rows - 320, columns - 320) <= 280
    image = np.clip(150 + np.random.default_rng(0).normal(0, 4, (640, 640, 3)), 0, 255).astype(np.uint8)
    image[disc] = 60
    begun = time.process_time()
    found = matte_of(image, disc)
    assert time.process_time() - begun < 5.0, "the whole disc takes 14 s"
    assert found.profile[-1] == 1.0


@pytest.mark.parametrize("defect", ["crack", "scratch"])
def test_a_thin_defect_painted_where_it_was_is_as_strong_as_it_was(defect):
    """Of a line of two pixels hardly one shows the defect alone; what is carried has to make up for that."""
    strengths, shares = [], []
    for number in range(6):
        part = render("wood", defect, 5_000_000 + number, 256)
        source = Exemplar("r", defect, part.image, part.mask > 0)
        true = part.image.astype(float) - part.twin
        found = painted(source, part.twin, spot()).astype(float) - part.twin
        inside = part.mask > 0
        lengths = (np.linalg.norm(change[inside], axis=1).mean() for change in (found, true))
        strengths.append(next(lengths) / next(lengths))
        shares.append((found * true)[inside].sum() / (true**2)[inside].sum())
    assert np.median(strengths) == pytest.approx(1.0, abs=0.03)
    assert np.median(shares) > 0.95
    assert min(shares) > 0.9


def test_what_is_made_up_for_has_a_bound_and_never_makes_a_defect_weaker():
    seen = np.full((9, 3), -40.0)
    assert _lost(seen, seen) == pytest.approx(1.0)
    assert _lost(seen, seen / 1.1) == pytest.approx(1.1)
    assert _lost(seen, seen / 3.0) == pytest.approx(1.25)
    assert _lost(seen, seen * 2.0) == pytest.approx(1.0)
    assert _lost(seen, -seen) == pytest.approx(1.0), "what goes the other way is another fault"
    assert _lost(seen, 0.0 * seen) == pytest.approx(1.0)
