"""The part in a picture, and where new defects go: regions, invariants of placements, reproducibility, errors."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inspectd.buttons import DEFECTS, LINES, render
from inspectd.buttons.shading import make_scene
from inspectd.buttons.surface import PRODUCTS, hole_distance
from inspectd.errors import DatasetError
from inspectd.simulation.placement import (
    PlacementSettings,
    in_place,
    place_mask,
    read_placements,
    warp,
    write_placements,
)
from inspectd.simulation.planning import plan
from inspectd.simulation.region import (
    depth_map,
    filled,
    find_region,
    outline,
    read_region,
    reference_region,
    uneven_regions,
)
from inspectd.simulation.site import Background, Reference

SIZE = 96
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def disc(radius, x=47.5, y=47.5):
    return np.hypot(COLUMNS - x, ROWS - y) <= radius


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def pieces(mask):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def near(mask, pixels):
    """The mask grown by `pixels` rows and columns."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


PART = disc(42)
HOLED = PART & ~disc(6, 34, 47.5) & ~disc(6, 61, 47.5)
ELLIPSE = np.hypot((COLUMNS - 47.5) / 44, (ROWS - 47.5) / 30) <= 1
FULL = np.ones((SIZE, SIZE), bool)

SPOT = disc(7, 40, 25) | ((np.abs(ROWS - 25) < 2) & (COLUMNS > 40) & (COLUMNS < 60))
BUBBLES = disc(3, 30, 30) | disc(4, 40, 33) | disc(2, 33, 40)
CHIP = disc(8, 47.5, 6) & PART
BURR = disc(6, 90, 47.5) & disc(47) & ~disc(38)
FACE = [Reference("spot", "stain", SPOT, PART), Reference("bubbles", "bubble", BUBBLES, PART)]
RIM = [Reference("chip", "chip", CHIP, PART), Reference("burr", "burr", BURR, PART)]
REFERENCES = {reference.name: reference for reference in (*FACE, *RIM)}


def backgrounds(count=3, region=HOLED, forbidden=None):
    return [Background(f"good-{number}", region, forbidden) for number in range(count)]


def labels(found, references=REFERENCES, shape=(SIZE, SIZE)):
    return [place_mask(placement, references[placement.reference].mask, shape) for placement in found.placements]


def placement(**changes):
    return dataclasses.replace(in_place("spot", "stain", "good"), **changes)


# What `plan` drew when it was written.
GOLDEN_TURNS = [
    ("spot", "good-2", 396611801),
    ("bubbles", "good-1", 2272025199),
    ("burr", "good-0", 911373325),
    ("chip", "good-2", 2467414958),
]
GOLDEN_AFFINES = [
    (1.142592, -0.030145, 14.078726, -0.030145, -1.142592, 62.180824),
    (-0.944595, -0.280465, 91.065659, 0.280465, -0.944595, 98.275828),
    (0.867767, -0.66553, 34.312287, 0.66553, 0.867767, -27.201805),
    (1.133167, -0.183366, 0.766908, 0.183366, 1.133167, -8.935191),
]
GOLDEN_AREAS = [244, 88, 115, 134]


# The part in a picture.


def truth(line, seed, size=256):
    """What the renderer drew: the part and its sewing holes."""
    scene = make_scene(PRODUCTS[line], (seed, LINES.index(line)), 2 * size)
    at = scene.plane
    body = (np.hypot(at.x, at.y) <= 1.0).astype(np.float32)
    hole = (hole_distance(PRODUCTS[line], at.p, at.q) <= 0.0).astype(np.float32)
    return tuple(cv2.resize(share, (size, size), interpolation=cv2.INTER_AREA) >= 0.5 for share in (body, hole))


@pytest.mark.parametrize("line", LINES)
def test_a_rendered_button_is_found_with_its_holes(line):
    for seed in (3000, 3001):
        body, hole = truth(line, seed)
        region = find_region(render(line, None, seed).image)
        assert iou(filled(region), body) > 0.97
        assert iou(region, body & ~hole) > 0.95
        count, numbered = cv2.connectedComponents(hole.astype(np.uint8))
        left_out = [(~region[numbered == number]).mean() for number in range(1, count)]
        assert len(left_out) == PRODUCTS[line].holes
        assert min(left_out) > 0.8


def test_holes_are_kept_on_request():
    image = render("wood", None, 3000).image
    whole = find_region(image, holes=False)
    assert np.array_equal(whole, filled(find_region(image)))
    assert iou(whole, truth("wood", 3000)[0]) > 0.97


@pytest.mark.parametrize("line", ["shell", "wood"])
@pytest.mark.parametrize("size", [128, 512])
def test_other_sizes_are_found_as_well(line, size):
    body, _ = truth(line, 3000, size)
    assert iou(filled(find_region(render(line, None, 3000, size).image)), body) > 0.97


def test_a_grey_part_is_found_by_its_brightness():
    rng = np.random.default_rng(0)
    grey = np.where(HOLED, 60, 170) + rng.normal(0, 2, (SIZE, SIZE))
    region = find_region(grey.clip(0, 255).astype(np.uint8)[..., None])
    assert iou(region, PART) > 0.97


@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_without_backdrop_fills_the_frame(channels):
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(0, 60, (120, 200)), (0, 0), 3) + np.linspace(60, 160, 200)
    image = np.repeat(noise.clip(0, 255).astype(np.uint8)[..., None], channels, axis=2)
    assert find_region(image).all()
    assert reference_region(image, np.zeros((120, 200), bool)).all()
    assert find_region(np.full((40, 40, channels), 7, np.uint8)).all()
    assert find_region(np.zeros((4, 5, channels), np.uint8)).all()


def test_a_small_spot_is_no_part():
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    image[disc(12)] = (200, 40, 40)
    assert find_region(image).all()
    image[disc(30)] = (200, 40, 40)
    assert iou(find_region(image), disc(30)) > 0.95


@pytest.mark.parametrize("defect", ["chip", "burr"])
def test_the_outline_of_a_reference_is_that_before_its_defect(defect):
    part, (body, _) = render("shell", defect, 52), truth("shell", 52)
    mask = part.mask > 0
    around = near(mask, 4)
    bridged, as_it_is = reference_region(part.image, mask), find_region(part.image, holes=False)
    assert ((bridged ^ body) & around).sum() < 0.35 * ((as_it_is ^ body) & around).sum()
    assert iou(bridged, body) > 0.98


def test_the_outline_is_bridged_on_parts_of_any_shape():
    image = np.full((SIZE, SIZE, 3), 150, np.uint8)
    image[ELLIPSE] = (180, 60, 40)
    bite = disc(9, 47.5, 15)
    image[bite] = 150
    region = reference_region(image, bite & ELLIPSE)
    assert iou(region, ELLIPSE) > 0.95
    assert region[bite & ELLIPSE].mean() > 0.8
    assert not region[bite & ~near(ELLIPSE, 1)].any()


def test_normals_of_a_disc_point_away_from_its_centre():
    edge = outline(disc(40, 45.0, 50.0) & ~disc(5, 45.0, 50.0))
    rays = edge.points - (45.0, 50.0)
    radii = np.hypot(*rays.T)
    assert np.ptp(radii) < 0.6
    assert radii.mean() == pytest.approx(40.0, abs=0.8)
    assert ((rays / radii[:, None]) * edge.normals).sum(axis=1).min() > math.cos(math.radians(2.5))
    assert np.allclose(np.hypot(*edge.normals.T), 1.0)


def test_the_frame_is_no_outline():
    assert not len(outline(FULL).points)
    assert not len(outline(~FULL).points)
    half = outline(COLUMNS < 50)
    assert half.points[:, 0].min() > 45
    assert half.points[:, 1].min() >= 1
    assert np.allclose(half.normals, (1.0, 0.0), atol=1e-6)
    assert np.isinf(depth_map(FULL)).all()


def test_depth_counts_from_the_edge():
    depth = depth_map(COLUMNS < 50)
    assert depth[10, 47:53].tolist() == [3.0, 2.0, 1.0, -1.0, -2.0, -3.0]


def test_only_the_largest_piece_is_filled():
    assert np.array_equal(filled(HOLED | disc(2, 3, 3)), PART)
    assert not filled(~FULL).any()


def test_regions_that_are_unlike_the_others_are_named():
    regions = {"a": PART, "b": disc(41), "c": disc(30), "d": FULL}
    assert uneven_regions(regions) == ("c", "d")
    assert uneven_regions({}) == ()


def test_regions_come_from_files(tmp_path):
    cv2.imwrite(str(tmp_path / "part.png"), HOLED * np.uint8(255))
    cv2.imwrite(str(tmp_path / "none.png"), np.zeros((SIZE, SIZE), np.uint8))
    assert np.array_equal(read_region(tmp_path / "part.png", (SIZE, SIZE)), HOLED)
    with pytest.raises(DatasetError, match="96 x 96 px, but the picture is 64 x 32"):
        read_region(tmp_path / "part.png", (32, 64))
    with pytest.raises(DatasetError, match="the region is empty"):
        read_region(tmp_path / "none.png", (SIZE, SIZE))


# A placement's mask and map.


def test_the_identity_changes_nothing():
    picture = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32)
    assert np.array_equal(place_mask(placement(), SPOT, (SIZE, SIZE)), SPOT)
    assert np.array_equal(warp(placement(), picture, (SIZE, SIZE)), picture)


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        ((0.0, -1.0, SIZE - 1.0, 1.0, 0.0, 0.0), lambda pixels: np.rot90(pixels, -1)),
        ((-1.0, 0.0, SIZE - 1.0, 0.0, 1.0, 0.0), np.fliplr),
        ((1.0, 0.0, 12.0, 0.0, 1.0, -5.0), lambda pixels: np.roll(pixels, (-5, 12), (0, 1))),
    ],
)
def test_quarter_turns_mirrors_and_shifts_are_exact(affine, expected):
    moved = placement(affine=affine)
    assert np.array_equal(place_mask(moved, SPOT, (SIZE, SIZE)), expected(SPOT))
    marked = warp(moved, SPOT.astype(np.float64)[..., None], (SIZE, SIZE))[..., 0]
    inside = np.zeros((SIZE, SIZE), bool)
    inside[:-5, 12:] = True
    assert np.array_equal(marked[inside], expected(SPOT)[inside].astype(np.float32))


def test_pixels_between_others_are_interpolated_and_the_outermost_go_on():
    ramp = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] * 10, 4, axis=0)
    half = warp(placement(affine=(1.0, 0.0, 0.5, 0.0, 1.0, 0.0)), ramp, (4, 12))
    assert half.dtype == np.float32
    assert half[0, 2:7, 0].tolist() == [15, 25, 35, 45, 55]
    assert half[0, :, 0] == pytest.approx([0, 5, 15, 25, 35, 45, 55, 65, 70, 70, 70, 70], abs=1)


def test_a_line_between_pixels_is_hardly_fainter():
    line = np.zeros((16, 16, 1), np.uint8)
    line[:, 7:9] = 200
    for shift in (0.25, 0.5):
        moved = warp(placement(affine=(1.0, 0.0, shift, 0.0, 1.0, 0.0)), line, (16, 16))
        assert moved.max() > 190
        assert moved[8].sum() == pytest.approx(400, abs=1)
    line[:, 8] = 0
    half = warp(placement(affine=(1.0, 0.0, 0.5, 0.0, 1.0, 0.0)), line, (16, 16))
    assert half.max() == pytest.approx(0.59 * 200, abs=2), "where bilinear leaves a half"


@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(0, 6.3), scale=st.floats(0.6, 1.6), elastic=st.floats(0, 4))
@settings(max_examples=30, deadline=None)
def test_mask_and_pixels_are_carried_by_one_map(seed, angle, scale, elastic):
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    moved = placement(
        affine=(cos, -sin, 60 - cos * 45 + sin * 25, sin, cos, 70 - sin * 45 - cos * 25),
        elastic_px=elastic,
        elastic_seed=seed,
    )
    label = place_mask(moved, SPOT, (128, 128))
    cover = warp(moved, SPOT.astype(np.float32)[..., None], (128, 128))[..., 0]
    # The label holds the pixels that are covered most; pixels are interpolated more sharply than it is.
    assert cover[label].min() >= cover[~label].max() - 0.2
    assert pieces(label) == 1
    assert label.sum() == pytest.approx(SPOT.sum() * moved.scale**2, rel=0.2)
    rows, columns = slice(20, 90), slice(33, 128)
    picture = np.random.default_rng(seed).random((SIZE, SIZE, 2))
    whole = warp(moved, picture, (128, 128))
    assert np.array_equal(warp(moved, picture, (128, 128), (rows, columns)), whole[rows, columns])


def test_the_elastic_map_moves_by_no_more_than_it_says_and_does_not_fold():
    field = np.stack((COLUMNS, ROWS), axis=2).astype(np.float64)
    bent = warp(placement(elastic_px=4.0, elastic_spacing_px=16.0, elastic_seed=3), field, (SIZE, SIZE))
    inner = slice(8, -8)
    moved = (bent - field)[inner, inner]
    assert 1.0 < np.abs(moved).max() <= 4.0
    right, down = np.diff(bent, axis=1)[inner, inner], np.diff(bent, axis=0)[inner, inner]
    right, down = right[:79], down[:, :79]
    assert (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).min() > 0.2
    other = warp(placement(elastic_px=4.0, elastic_spacing_px=16.0, elastic_seed=4), field, (SIZE, SIZE))
    assert np.abs(other - bent).max() > 1.0


@pytest.mark.parametrize(("elastic", "left"), [(0.0, 47), (2.0, 25)])
def test_a_hairline_stays_in_one_piece(elastic, left):
    line = np.zeros((SIZE, SIZE), bool)
    line[40, 20:70] = True
    for degrees in range(0, 180, 7):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        moved = placement(
            affine=(cos, -sin, 48 - cos * 45 + sin * 40, sin, cos, 48 - sin * 45 - cos * 40),
            elastic_px=elastic,
            elastic_seed=degrees,
        )
        label = place_mask(moved, line, (SIZE, SIZE))
        assert pieces(label) == 1
        assert label.sum() >= left


def test_plans_do_not_lose_parts_of_a_hairline():
    line = (ROWS == 40) & (COLUMNS > 20) & (COLUMNS < 60)
    hairline = {"hairline": Reference("hairline", "crack", line, PART)}
    found = plan(list(hairline.values()), backgrounds(2, PART), 20, PlacementSettings(), 0)
    for spot, label in zip(found.placements, labels(found, hairline), strict=True):
        assert pieces(label) == 1
        assert label.sum() >= 0.8 * line.sum() * spot.scale**2


def test_pieces_are_never_more_than_the_references():
    for seed in range(20):
        moved = placement(affine=(0.7, 0.3, 10.0, -0.3, 0.7, 30.0), elastic_px=4.0, elastic_seed=seed)
        assert 1 <= pieces(place_mask(moved, BUBBLES, (SIZE, SIZE))) <= 3


def test_masks_off_the_frame_are_cut():
    away = placement(affine=(1.0, 0.0, 500.0, 0.0, 1.0, 0.0))
    assert not place_mask(away, SPOT, (SIZE, SIZE)).any()
    partly = placement(affine=(1.0, 0.0, -40.0, 0.0, 1.0, 0.0))
    assert np.array_equal(place_mask(partly, SPOT, (SIZE, 50)), SPOT[:, 40:90])
    assert not place_mask(placement(), np.zeros((SIZE, SIZE), bool), (SIZE, SIZE)).any()


def test_a_map_without_inverse_is_refused():
    with pytest.raises(ValueError, match="cannot be inverted"):
        placement(affine=(1.0, 2.0, 0.0, 2.0, 4.0, 0.0))
    with pytest.raises(ValueError, match=r"\[h, w, C\]"):
        warp(placement(), np.zeros((4, 4), np.float32), (4, 4))


# Plans.


@given(
    seed=st.integers(0, 2**40),
    scale=st.tuples(st.floats(0.6, 1.0), st.floats(1.0, 1.5)),
    elastic=st.floats(0, 3),
    forbidden=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_face_defects_lie_inside_the_part_and_off_what_is_forbidden(seed, scale, elastic, forbidden):
    rng = np.random.default_rng(forbidden)
    no_go = disc(10, *rng.uniform(20, 76, 2))
    options = PlacementSettings(scale=scale, elastic_px=elastic)
    found = plan(FACE, backgrounds(2, HOLED, no_go), 4, options, seed)
    assert len(found.placements) == 4
    for spot, label in zip(found.placements, labels(found), strict=True):
        mask = REFERENCES[spot.reference].mask
        assert spot.kind == "face"
        assert label.sum() >= options.min_px
        assert not (label & ~HOLED).any()
        assert not (label & no_go).any()
        assert depth_map(PART)[label].min() > options.rim_px
        assert pieces(label) <= pieces(mask)
        assert scale[0] - 1e-5 <= spot.scale <= scale[1] + 1e-5
        assert 0.8 * spot.scale**2 <= label.sum() / mask.sum() <= 1.25 * spot.scale**2


@given(seed=st.integers(0, 2**40), region=st.sampled_from([HOLED, ELLIPSE, disc(38, 44, 50)]), flips=st.booleans())
@settings(max_examples=25, deadline=None)
def test_rim_defects_stay_on_the_rim(seed, region, flips):
    no_go = disc(20, 80, 20)
    options = PlacementSettings(flips=flips, outside_tolerance=0.12)
    found = plan(RIM, backgrounds(2, region, no_go), 4, options, seed)
    depth = depth_map(filled(region))
    for spot, label in zip(found.placements, labels(found), strict=True):
        mask = REFERENCES[spot.reference].mask
        assert spot.kind == "rim"
        assert not (label & no_go).any()
        assert not (label & filled(region) & ~region).any()
        assert abs((~filled(region))[label].mean() - (~PART)[mask].mean()) <= 0.12
        reach, before = depth[label].min(), depth_map(PART)[mask].min()
        assert reach <= options.rim_px
        assert abs(reach - min(before, before * spot.scale)) <= options.rim_px
        assert depth[label].max() > 0


def test_a_rim_defect_of_a_round_part_is_turned_about_the_centre():
    options = PlacementSettings(scale=(1.0, 1.0), elastic_px=0.0, flips=False)
    found = plan(RIM, backgrounds(1, PART), 12, options, 5)
    angles = []
    for spot in found.placements:
        a, b, c, d, e, f = spot.affine
        assert a * e - b * d == pytest.approx(1.0, abs=1e-5)
        centre = np.array([a * 47.5 + b * 47.5 + c, d * 47.5 + e * 47.5 + f])
        assert np.hypot(*(centre - 47.5)) < 1.5
        angles.append(math.degrees(math.atan2(d, a)))
    assert max(angles) - min(angles) > 180


@given(seed=st.integers(0, 2**40))
@settings(max_examples=20, deadline=None)
def test_defects_of_one_image_keep_their_distance(seed):
    options = PlacementSettings(per_image=(2, 3), margin_px=5)
    references = list(REFERENCES.values())
    found = plan(references, backgrounds(2), 3, options, seed)
    for sample in range(3):
        together = [
            (spot, label) for spot, label in zip(found.placements, labels(found), strict=True) if spot.sample == sample
        ]
        assert len({spot.background for spot, _ in together}) == 1
        assert len(together) + found.dropped >= 2
        for number, (_, label) in enumerate(together):
            others = [other for _, other in together[:number]]
            assert not any((near(label, 5) & other).any() for other in others)


def test_defects_without_room_beside_others_are_dropped_and_counted():
    large = [Reference("large", "stain", disc(20), PART)]
    found = plan(large, backgrounds(1, PART), 3, PlacementSettings(per_image=(4, 4), scale=(1.0, 1.0)), 0)
    assert {spot.sample for spot in found.placements} == {0, 1, 2}
    assert 3 <= len(found.placements) < 12
    assert len(found.placements) + found.dropped == 12


def edge_reference(name, sides):
    mask = np.zeros((60, 80), bool)
    rows = slice(0 if "t" in sides else 25, 60 if "b" in sides else 35)
    columns = slice(0 if "l" in sides else 35, 80 if "r" in sides else 45)
    mask[rows, columns] = True
    return Reference(name, "fray", mask, np.ones((60, 80), bool))


@given(seed=st.integers(0, 2**40), sides=st.sampled_from(["l", "b", "tl", "br", "lr", "tb", "ltb"]))
@settings(max_examples=30, deadline=None)
def test_what_touched_the_frame_touches_it_again(seed, sides):
    reference = edge_reference("cut", sides)
    found = plan([reference], backgrounds(2, np.ones((70, 64), bool)), 2, PlacementSettings(), seed)
    for spot, label in zip(found.placements, labels(found, {"cut": reference}, (70, 64)), strict=True):
        assert spot.kind == "frame"
        touched = [label[:, 0].any(), label[:, -1].any(), label[0].any(), label[-1].any()]
        assert sum(touched) == len(sides)
        if "l" in sides and "r" in sides:
            assert touched[:2] == [True, True] or touched[2:] == [True, True]


@pytest.mark.parametrize("sides", ["l", "r", "t", "b", "tr"])
def test_without_turns_and_mirrors_the_same_edges_are_touched(sides):
    reference = edge_reference("cut", sides)
    options = PlacementSettings(rotation_deg=0.0, flips=False)
    forbidden = np.zeros((70, 90), bool)
    forbidden[30:40, :20] = forbidden[30:40, -20:] = forbidden[:20, 40:50] = forbidden[-20:, 40:50] = True
    found = plan([reference], [Background("good", np.ones((70, 90), bool), forbidden)], 6, options, 3)
    for label in labels(found, {"cut": reference}, (70, 90)):
        touched = zip("lrtb", (label[:, 0], label[:, -1], label[0], label[-1]), strict=True)
        assert {side for side, edge in touched if edge.any()} == set(sides)
        assert not (label & forbidden).any()


def test_a_defect_inside_a_full_frame_stays_off_its_edge():
    reference = Reference("spot", "hole", SPOT, FULL)
    found = plan([reference], backgrounds(1, np.ones((40, 200), bool)), 20, PlacementSettings(), 0)
    for label in labels(found, {"spot": reference}, (40, 200)):
        edges = (label[0], label[-1], label[:, 0], label[:, -1])
        assert not any(edge.any() for edge in edges)
    assert {spot.kind for spot in found.placements} == {"face"}


def test_every_place_is_as_likely():
    """Uniform over a part of two chambers, one three times the other."""
    region = np.zeros((SIZE, SIZE), bool)
    region[10:86, 10:80] = True
    region[:, 30:34] = False
    region[40:44, 30:34] = True
    dot = Reference("dot", "hole", disc(3), PART)
    options = PlacementSettings(elastic_px=0.0, rim_px=1.0)
    found = plan([dot], backgrounds(1, region), 200, options, 1)
    left = sum(label[:, :30].any() for label in labels(found, {"dot": dot}))
    # Free columns: about 11 of 48.
    assert 28 < left < 66


def test_the_same_seed_gives_the_same_list_whatever_was_drawn_before():
    references, options = list(REFERENCES.values()), PlacementSettings(per_image=(1, 3), gain=(0.5, 1.5))
    np.random.seed(1)  # noqa: NPY002 - the state that must not matter
    first = plan(references, backgrounds(), 6, options, 7)
    np.random.random(5)  # noqa: NPY002
    assert plan(references, backgrounds(), 6, options, 7) == first
    assert plan(references, backgrounds(), 6, options, 8).placements != first.placements
    longer = plan(references, backgrounds(), 9, options, 7)
    assert longer.placements[: len(first.placements)] == first.placements
    gains = {spot.gain for spot in first.placements}
    assert all(0.5 <= gain <= 1.5 for gain in gains)
    assert len(gains) > 4
    turned = plan(references, backgrounds(), 6, options.model_copy(update={"hue_deg": 90.0}), 7).placements
    hues = [spot.hue_deg for spot in turned]
    assert -90 <= min(hues) < -20 < 20 < max(hues) <= 90
    assert tuple(dataclasses.replace(spot, hue_deg=0.0) for spot in turned) == first.placements
    assert {spot.seed for spot in first.placements} == {7}


def test_the_list_is_the_same_on_every_machine():
    """Golden values: a change here changes every list that was drawn before."""
    found = plan(list(REFERENCES.values()), backgrounds(), 4, PlacementSettings(), 2024)
    assert [(spot.reference, spot.background, spot.elastic_seed) for spot in found.placements] == GOLDEN_TURNS
    assert [spot.affine for spot in found.placements] == GOLDEN_AFFINES
    assert [int(label.sum()) for label in labels(found)] == GOLDEN_AREAS


def test_references_and_backgrounds_are_used_evenly():
    found = plan(list(REFERENCES.values()), backgrounds(5), 18, PlacementSettings(), 0)
    by_reference = [sum(spot.reference == name for spot in found.placements) for name in REFERENCES]
    by_background = [sum(spot.background == f"good-{number}" for spot in found.placements) for number in range(5)]
    assert sorted(by_reference) == [4, 4, 5, 5]
    assert sorted(by_background) == [3, 3, 4, 4, 4]
    assert [spot.sample for spot in found.placements] == list(range(18))


def test_backgrounds_without_room_are_passed_over_and_named():
    small = Background("small", disc(12))
    found = plan(FACE, [small, *backgrounds(2)], 6, PlacementSettings(scale=(1.0, 1.0)), 0)
    assert len(found.placements) == 6
    assert set(found.skipped) <= {("spot", "small"), ("bubbles", "small")}
    assert ("spot", "small") in found.skipped
    assert len(set(found.skipped)) == len(found.skipped)
    blocked = Background("blocked", PART, FULL)
    found = plan(FACE, [blocked, *backgrounds(1)], 4, PlacementSettings(), 0)
    assert {spot.background for spot in found.placements} == {"good-0"}


def test_sizes_may_be_mixed():
    wide = np.zeros((64, 160), bool)
    wide[4:60, 4:156] = True
    found = plan(FACE, [Background("wide", wide)], 6, PlacementSettings(scale=(1.0, 1.0), elastic_px=0.0), 0)
    for spot, label in zip(found.placements, labels(found, shape=wide.shape), strict=True):
        assert label.sum() == pytest.approx(REFERENCES[spot.reference].mask.sum(), rel=0.05)
        assert not (label & ~wide).any()


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_rotation_and_mirrors_keep_to_their_limits(degrees):
    options = PlacementSettings(rotation_deg=degrees, flips=False)
    for spot in plan(list(REFERENCES.values()), backgrounds(3, PART), 12, options, 3).placements:
        a, b, _, d, e, _ = spot.affine
        assert a * e - b * d > 0
        assert abs(math.degrees(math.atan2(d, a))) <= degrees + 0.01
    mirrored = plan(FACE, backgrounds(1), 16, PlacementSettings(), 0).placements
    assert {np.sign(spot.affine[0] * spot.affine[4] - spot.affine[1] * spot.affine[3]) for spot in mirrored} == {-1, 1}


@pytest.mark.parametrize("line", ["horn", "woven"])
def test_every_rendered_defect_finds_its_place(line):
    references, parts = {}, {}
    for number, defect in enumerate(DEFECTS):
        part = render(line, defect, 50 + number)
        mask = part.mask > 0
        references[defect] = Reference(defect, defect, mask, reference_region(part.image, mask))
    for seed in (700, 701, 702):
        parts[str(seed)] = find_region(render(line, None, seed).image)
    good = [Background(name, region) for name, region in parts.items()]
    found = plan(list(references.values()), good, 18, PlacementSettings(), 1)
    assert not found.skipped
    kinds = {spot.defect: spot.kind for spot in found.placements}
    assert set(kinds) == set(DEFECTS)
    assert kinds["burr"] == kinds["chip"] == "rim"
    assert kinds["hole"] == kinds["bubble"] == "face"
    for spot, label in zip(found.placements, labels(found, references, (256, 256)), strict=True):
        region = parts[spot.background]
        outside = (label & ~region).sum() / label.sum()
        if spot.kind == "face":
            assert outside == 0.0
        else:
            assert depth_map(filled(region))[label].min() <= 3.0
        if spot.defect == "burr":
            assert outside > 0.3


# Errors.


def broken(**changes):
    return dataclasses.replace(FACE[0], **changes)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([broken(mask=np.zeros((SIZE, SIZE), bool))], "'spot' .stain.: its mask is empty"),
        ([broken(mask=disc(4, 5, 5))], "wholly outside the part"),
        ([broken(mask=disc(1.5, 47, 20))], "fewer than min_px 12"),
        ([broken(region=np.ones((8, 9), bool))], "96 x 96 px and its region 9 x 8 px"),
        ([broken(mask=disc(41))], "larger than the part"),
        ([broken(mask=disc(28))], "no place on any of 2 backgrounds for 56 x 56 px"),
        ([FACE[0], FACE[0]], "two references are named 'spot'"),
        ([], "0 references and 2 backgrounds"),
    ],
)
def test_unusable_references_are_refused(references, message):
    with pytest.raises(DatasetError, match=message):
        plan(references, backgrounds(2, disc(30) & ~disc(4)), 1, PlacementSettings(scale=(1.0, 1.0), rim_px=1.0), 0)


@pytest.mark.parametrize(
    ("background", "message"),
    [
        (Background("dark", ~FULL), "'dark': its region has no pixel"),
        (Background("odd", PART, np.zeros((3, 4), bool)), "96 x 96 px and its forbidden mask 4 x 3 px"),
    ],
)
def test_unusable_backgrounds_are_refused(background, message):
    with pytest.raises(DatasetError, match=message):
        plan(FACE, [background], 1, PlacementSettings(), 0)


def test_backgrounds_of_one_name_are_refused():
    with pytest.raises(DatasetError, match="two backgrounds are named 'good-0'"):
        plan(FACE, [*backgrounds(1), *backgrounds(1)], 2, PlacementSettings(), 0)


def test_rim_defects_need_an_edge():
    with pytest.raises(DatasetError, match="none of the 2 backgrounds shows an edge"):
        plan(RIM, backgrounds(2, FULL), 2, PlacementSettings(), 0)


def test_counts_and_seeds_below_zero_are_refused():
    for count, seed in ((-1, 0), (1, -1)):
        with pytest.raises(DatasetError, match="from 0 on"):
            plan(FACE, backgrounds(), count, PlacementSettings(), seed)
    assert plan(FACE, backgrounds(), 0, PlacementSettings(), 0).placements == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (1.2, 0.8)}, "lowest first"),
        ({"scale": (0.1, 0.8)}, "0.25 to 4"),
        ({"gain": (-1.0, 1.0)}, "from 0 on"),
        ({"per_image": (0, 1)}, "at least 1 defect"),
        ({"elastic_px": 5.0}, "highest that does not: 4.0"),
        ({"elastic": 1.0}, "Extra inputs"),
        ({"rotation_deg": 181.0}, "180"),
        ({"rim_px": float("nan")}, "finite"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PlacementSettings(**options)


# Lists on disk.

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
sound = st.builds(
    placement,
    sample=st.integers(0, 10**6),
    background=st.text(),
    reference=st.text(),
    defect=st.text(),
    kind=st.sampled_from(["face", "rim", "frame"]),
    seed=st.integers(0, 2**63 - 1),
    affine=st.tuples(
        st.floats(0.1, 4), st.floats(-0.01, 0.01), numbers, st.floats(-0.01, 0.01), st.floats(0.1, 4), numbers
    ),
    elastic_px=st.floats(0, 8),
    elastic_spacing_px=st.floats(1, 64),
    elastic_seed=st.integers(0, 2**32 - 1),
    gain=st.floats(0, 4),
)


@given(st.lists(sound, max_size=4))
@settings(max_examples=60, deadline=None)
def test_lists_come_back_exactly(tmp_path_factory, placements):
    path = tmp_path_factory.mktemp("list") / "placements.jsonl"
    write_placements(path, placements)
    assert read_placements(path) == tuple(placements)
    assert [entry.name for entry in path.parent.iterdir()] == ["placements.jsonl"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda line: line[:-5], "line 2: no placement"),
        (lambda line: line.replace('"gain"', '"force"'), "line 2: no placement: gain"),
        (lambda line: line.replace('"kind": "face"', '"kind": "back"'), "line 2: no placement: kind"),
        (lambda line: line.replace('"affine": [1.0,', '"affine": [0.0,'), "cannot be inverted"),
        (lambda line: line.replace('"gain": 1.0', '"gain": "1"'), "line 2: no placement: gain"),
        (lambda line: line.replace('"gain": 1.0', '"gain": 1.0, "note": 1'), "line 2: no placement: note"),
    ],
)
def test_other_lines_are_refused_by_number(tmp_path, edit, message):
    path = tmp_path / "placements.jsonl"
    write_placements(path, [placement(), placement()])
    first, second, _ = path.read_text().split("\n")
    assert edit(second) != second
    path.write_text(f"{first}\n{edit(second)}\n")
    with pytest.raises(DatasetError, match=message):
        read_placements(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none.jsonl: cannot be read"):
        read_placements(tmp_path / "none.jsonl")
