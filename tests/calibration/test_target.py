"""The target as it is printed."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np
import pytest

from inspectd.calibration.corners import find_view
from inspectd.calibration.target import Target, load_target, raster, write_target
from inspectd.errors import ConfigError


@pytest.mark.parametrize(
    "target",
    [
        Target(),
        Target(columns=9, rows=6, dictionary="4x4_50"),
        Target(columns=8, rows=10, square_mm=14, marker_mm=11.2, dictionary="6x6_250"),
    ],
    ids=["5x5", "4x4", "6x6, even rows"],
)
def test_it_is_the_board_that_opencv_draws(target):
    modules = int(target.dictionary[0]) + 2
    own = raster(target, modules * 10 / target.marker_mm)
    theirs = target.board().generateImage(own.shape[::-1], marginSize=0)
    # Edges between two pixels are rounded in two ways.
    assert (own != theirs).mean() < 0.006


def test_the_pdf_has_squares_of_exact_size(tmp_path):
    target = Target(columns=9, rows=6, square_mm=12.5, marker_mm=9, dictionary="4x4_50")
    pdf = write_target(tmp_path, target, dpi=150)[0].read_bytes()
    width, height = (float(value) for value in re.search(rb"MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups())
    assert (width * 25.4 / 72, height * 25.4 / 72) == pytest.approx((210, 148), abs=1e-4)
    shapes = np.array(re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) re", pdf), float) * 25.4 / 72
    squares = shapes[np.isclose(shapes[:, 2], 12.5, atol=1e-4) & np.isclose(shapes[:, 3], 12.5, atol=1e-4)]
    assert len(squares) == 27
    assert np.ptp(squares[:, 0]) == pytest.approx(8 * 12.5, abs=1e-4)
    assert np.ptp(squares[:, 1]) == pytest.approx(5 * 12.5, abs=1e-4)
    # What a reader finds objects by.
    for number, place in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), 1):
        assert pdf[int(place) :].startswith(b"%d 0 obj" % number)
    assert pdf[int(re.search(rb"startxref\n(\d+)", pdf)[1]) :].startswith(b"xref")
    assert b"100 mm between the outer edges" in pdf
    assert b"squares of 12.5 mm" in pdf


def test_the_ruler_is_as_long_as_it_says(tmp_path):
    pdf = write_target(tmp_path, Target(), dpi=100)[0].read_bytes()
    marks = [
        np.array(row, float) * 25.4 / 72 for row in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) re", pdf)[-2:]
    ]
    assert marks[1][0] + marks[1][2] - marks[0][0] == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("kind", ["charuco", "chessboard"])
def test_the_png_is_found_and_says_its_size(tmp_path, kind):
    target = Target(kind=kind)
    _, png, described = write_target(tmp_path, target, dpi=150)
    data = png.read_bytes()
    assert struct.unpack(">II", data[data.index(b"pHYs") + 4 :][:8]) == (5906, 5906)
    view = find_view("png", cv2.imread(str(png))[..., ::-1], target)
    assert len(view.ids) == 11 * 8
    corners = target.corners_mm()[view.ids] * 150 / 25.4
    # The same steps from corner to corner as on the target; a pixel's rounding apart.
    assert np.abs(np.diff(view.points_px, axis=0) - np.diff(corners, axis=0)).max() < 1.2
    assert load_target(described) == target


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"columns": 20, "rows": 20}, "has 100 markers, and this target needs 200"),
        ({"kind": "chessboard", "columns": 9, "rows": 7}, "looks the same from both sides"),
        ({"marker_mm": 19}, "expected 0.4 to 0.8 of a square"),
        ({"square_mm": -1}, "greater than 0"),
    ],
)
def test_targets_that_cannot_work_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Target(**values)


def test_a_sheet_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs 256 by 208 mm, and a5 has 210 by 148"):
        write_target(tmp_path, Target(), paper="a5")
    with pytest.raises(ConfigError, match="expected one of a5, a4"):
        write_target(tmp_path, Target(), paper="letter")
    with pytest.raises(ConfigError, match="megapixels; lower --dpi"):
        write_target(tmp_path, Target(), dpi=5000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such target"),
        ("{", "damaged: not JSON"),
        ('{"rows": 2}', r"describes no target: rows.*; name the target\.json that inspectd-calibrate target wrote"),
        (b"\x89PNG", r"cannot be read as a target: it is no text; name the target\.json"),
        ((), r"cannot be read as a target: Is a directory; name the target\.json"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path, text, said):
    if text == ():
        (tmp_path / "target.json").mkdir()
    elif isinstance(text, bytes):
        (tmp_path / "target.json").write_bytes(text)
    elif text is not None:
        (tmp_path / "target.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_target(tmp_path / "target.json")
