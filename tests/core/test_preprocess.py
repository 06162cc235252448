"""The one preprocessing specification and its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inspectd.preprocess import Letterbox, Preprocess, nearest_size

sides = st.integers(1, 200)
sizes = st.tuples(sides, sides)
targets = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda size: (size[0] * 16, size[1] * 16))


@given(source=sizes, target=targets, x=st.floats(-5, 300), y=st.floats(-5, 300))
def test_points_return(source, target, x, y):
    box = Letterbox(source, target)
    back = box.to_source(*box.to_target(x, y))
    assert back == pytest.approx((x, y), abs=1e-6)


@given(source=sizes, target=targets)
def test_the_picture_lies_inside_and_touches_two_sides(source, target):
    box = Letterbox(source, target)
    (top, left), (height, width) = box.offset, box.resized
    assert 0 <= top <= target[0] - height
    assert 0 <= left <= target[1] - width
    assert height == target[0] or width == target[1]


@given(source=sizes, target=targets, data=st.data())
def test_boxes_return_to_what_covers_them(source, target, data):
    box = Letterbox(source, target)
    x = data.draw(st.integers(0, source[1] - 1))
    y = data.draw(st.integers(0, source[0] - 1))
    width = data.draw(st.integers(1, source[1] - x))
    height = data.draw(st.integers(1, source[0] - y))
    # All target pixels that the source box touches, as a box of whole pixels.
    left, top = box.to_target(x - 0.5, y - 0.5)
    right, bottom = box.to_target(x + width - 0.5, y + height - 0.5)
    x0, y0 = int(np.floor(left + 0.5)), int(np.floor(top + 0.5))
    x1, y1 = int(np.ceil(right + 0.5)), int(np.ceil(bottom + 0.5))
    bx, by, bw, bh = box.box_to_source((x0, y0, x1 - x0, y1 - y0))
    assert bx <= x
    assert by <= y
    assert bx + bw >= x + width
    assert by + bh >= y + height
    assert bx >= 0
    assert by >= 0
    assert bx + bw <= source[1]
    assert by + bh <= source[0]


@given(source=sizes, factor=st.integers(1, 4), seed=st.integers(0, 1000))
def test_masks_return_exactly_from_whole_magnifications(source, factor, seed):
    labels = np.random.default_rng(seed).integers(0, 4, source, dtype=np.uint8)
    box = Letterbox(source, (source[0] * factor, source[1] * factor))
    assert np.array_equal(box.restore(box.apply_mask(labels)), labels)


@given(source=sizes, target=targets)
def test_a_full_mask_fills_the_picture_and_nothing_else(source, target):
    box = Letterbox(source, target)
    fitted = box.apply_mask(np.full(source, 3, np.uint8))
    assert int((fitted == 3).sum()) == box.resized[0] * box.resized[1]
    assert fitted.shape == target
    assert (box.restore(fitted) == 3).all()


@given(source=sizes, target=targets, data=st.data())
def test_no_defect_vanishes_on_its_way_back(source, target, data):
    box = Letterbox(source, target)
    (top, left), (height, width) = box.offset, box.resized
    row = data.draw(st.integers(0, height - 1))
    column = data.draw(st.integers(0, width - 1))
    found = np.zeros(target, np.uint8)
    found[top + row, left + column] = 2
    back = box.restore(found)
    assert back.shape == source
    if height > source[0] and width > source[1]:
        assert (back == 2).sum() == 1
    # Where it went is where the pixel's centre lies.
    for y, x in np.argwhere(back):
        tx, ty = box.to_target(x, y)
        reach = max(1.0, width / source[1]), max(1.0, height / source[0])
        assert abs(tx - left - column) <= reach[0]
        assert abs(ty - top - row) <= reach[1]


def test_a_hairline_survives_shrinking():
    labels = np.zeros((512, 512), np.uint8)
    labels[:, 255] = 1
    assert Letterbox((512, 512), (256, 256)).apply_mask(labels).any(axis=1).all()


def test_equal_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    assert Preprocess(height=64, width=96).image(pixels) is pixels


def test_colour_orders():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 0] = 200
    assert Preprocess(height=16, width=16, colour="bgr").image(pixels)[0, 0].tolist() == [0, 0, 200]
    grey = Preprocess(height=16, width=16, colour="grey", mean=(0.5,), std=(0.5,)).image(pixels)
    assert grey.shape == (16, 16, 1)
    assert grey[0, 0, 0] == 60
    assert Preprocess(height=16, width=16).image(grey)[0, 0].tolist() == [60, 60, 60]


def test_fill_surrounds_the_picture():
    out = Preprocess(height=32, width=32, fill=7).image(np.full((10, 20, 3), 99, np.uint8))
    assert (out[8:24] == 99).all()
    assert (out[:8] == 7).all()
    assert (out[24:] == 7).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 250}, "nearest that is: 256"),
        ({"mean": (0.5,)}, "3 values of mean and std"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be above 0"),
        ({"colour": "yuv"}, "rgb"),
        ({"sizes": 3}, "Extra inputs"),
    ],
)
def test_faults_are_named(change, message):
    with pytest.raises(ValidationError, match=message):
        Preprocess(**change)


def test_nearest_size():
    assert [nearest_size(side) for side in (1, 23, 25, 250, 256)] == [16, 16, 32, 256, 256]


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="this letterbox is for"):
        Letterbox((10, 10), (16, 16)).apply(np.zeros((11, 10, 3), np.uint8), 0)
