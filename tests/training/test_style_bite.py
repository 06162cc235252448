"""Bites: which labels are one, and that they are open to the outside wherever they are put."""

from __future__ import annotations

import numpy as np
import pytest

from inspectd.simulation.bite import is_bite, opened
from inspectd.simulation.coarse import COARSE, Exemplar, paint, scene_of
from inspectd.simulation.placement import PlacementSettings
from inspectd.simulation.planning import plan
from inspectd.simulation.region import depth_map
from inspectd.simulation.site import Background, Reference

SIDE, RADIUS = 160, 55
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
PART = np.hypot(ROWS - 80, COLUMNS - 80) <= RADIUS
SQUARE = (np.abs(ROWS - 80) <= 55) & (np.abs(COLUMNS - 80) <= 55)
BACKDROP, SURFACE = (70, 72, 74), (190, 160, 150)


def good(part=PART, seed=0):
    image = np.where(part[..., None], SURFACE, BACKDROP) + np.random.default_rng(seed).normal(0, 3, (SIDE, SIDE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def bitten(depth_px=12):
    """A part with a bite at its left, and the label: what is missing, as far as the outline."""
    mask = PART & (np.hypot((ROWS - 80) / 1.6, COLUMNS - 25) <= depth_px)
    image = good()
    image[mask] = BACKDROP
    return image, mask


def test_what_is_missing_along_the_outline_is_a_bite():
    image, mask = bitten()
    assert is_bite(image, mask, PART)
    assert is_bite(image[..., :1], mask, PART)


def test_a_label_a_pixel_within_the_outline_still_is_one():
    image, mask = bitten()
    assert is_bite(image, mask & (depth_map(PART) > 1), PART)


@pytest.mark.parametrize("case", ["stain", "inside", "parallel", "burr", "no outline", "nothing of the part"])
def test_other_labels_are_none(case):
    image, mask = bitten()
    region = PART
    if case == "stain":
        image = good()
        image[mask] = (200, 140, 90)
    elif case == "inside":
        mask = np.hypot(ROWS - 80, COLUMNS - 80) <= 8
    elif case == "parallel":
        image, mask = good(), PART & (depth_map(PART) > 3) & (depth_map(PART) < 6) & (COLUMNS < 40)
        image[mask] = BACKDROP
    elif case == "burr":
        mask = ~PART & (np.hypot(ROWS - 80, COLUMNS - 25) <= 8)
        image[mask] = SURFACE
    elif case == "no outline":
        region = np.ones_like(PART)
    else:
        mask = ~PART & (COLUMNS < 10)
    assert not is_bite(image, mask, region)


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_the_strip_along_the_outline_belongs_to_the_opened_label(gap):
    _, mask = bitten()
    depth = depth_map(PART)
    inner = mask & (depth > gap)
    found = opened(inner, PART)
    assert not (inner & ~found).any()
    assert (found & mask).sum() >= (0.95 - 0.04 * gap) * mask.sum()
    beyond = found & ~mask
    # A pixel beyond the outline, and next to nothing beside the bite.
    assert depth[beyond & ~PART].min() >= -1.0
    assert (beyond & PART).sum() <= 0.05 * mask.sum()


def test_a_bite_is_opened_at_the_outline_alone():
    """Its inner edge stays as it is, and so does a label that lies deep in the part."""
    _, mask = bitten()
    inner = mask & (depth_map(PART) > 2)
    inner[78:82, 30:] = False
    assert not opened(inner, PART)[78:82, 33:].any()
    deep = np.hypot(ROWS - 80, COLUMNS - 80) <= 8
    assert np.array_equal(opened(deep, PART), deep)
    assert np.array_equal(opened(deep, np.ones_like(PART)), deep)


def test_holes_of_the_part_stay_out():
    _, mask = bitten()
    hole = np.hypot(ROWS - 80, COLUMNS - 27) <= 1
    assert not (opened(mask & (depth_map(PART) > 4), PART & ~hole) & hole).any()


@pytest.mark.parametrize("way", COARSE)
def test_every_way_paints_bites_that_are_open(way):
    image, mask = bitten()
    exemplar = Exemplar("r", "chip", image, mask, region=PART)
    assert exemplar.bite
    settings = PlacementSettings(scale=(0.8, 1.25))
    placements = plan([Reference("r", "chip", mask, PART)], [Background("b", SQUARE)], 6, settings, seed=3).placements
    background, closed, left = good(SQUARE, 1), [], []
    for placement in placements:
        scene = scene_of(background, exemplar, placement, margin_px=8, region=SQUARE)
        left.append(_enclosed(scene, SQUARE))
        before = scene_of(background, exemplar, placement, margin_px=8)
        assert scene.label.sum() >= before.label.sum()
        closed.append(_enclosed(before, SQUARE))
        if way in {"relit", "cutpaste"}:
            painted = paint(way, scene, exemplar)
            missing = scene.label & SQUARE[scene.rows, scene.columns]
            assert np.median(np.abs(painted[missing].astype(int) - BACKDROP)) <= 8
    # The bite of a round part leaves strips along a straight edge; at its ends, deep in the part, some may stay.
    assert min(closed) > 15
    assert sum(left) <= 0.1 * sum(closed)
    assert left.count(0) >= 4


def _enclosed(scene, part):
    """How many pixels of the part, at most 3 px deep, have the label within 4 px straight inwards."""
    label = np.zeros_like(part)
    label[scene.rows, scene.columns] = scene.label
    depth = depth_map(part)
    y, x = np.nonzero(part & ~label & (depth <= 3))
    down, across = np.gradient(depth)
    inwards = np.stack((down[y, x], across[y, x])) / np.hypot(down[y, x], across[y, x])
    steps = [np.rint((y, x) + inwards * step).astype(int) for step in range(1, 5)]
    return int(np.logical_or.reduce([label[tuple(step)] for step in steps]).sum())
