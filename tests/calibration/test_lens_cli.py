"""The commands of geometry, on files."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from inspectd.calibrated import Lens, LensRecord, Plane, ScaleRecord, load_record
from inspectd.calibration.cli import app
from inspectd.calibration.simulate import Pose, Station, spread_poses
from inspectd.calibration.target import Target
from inspectd.errors import InspectdError

LENS = Lens(fx_px=800, fy_px=800, cx_px=322, cy_px=238, k1=-0.12, k2=0.04)
STATION = Station(LENS, (480, 640))
PLANE = Pose((4, -3, 420), 6, 40, 5)


def run(*arguments, fails=None):
    """A command in this process; what it printed, or the error that it ended in."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if fails is None:
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output
    assert isinstance(done.exception, InspectdError), (done.output, done.exception)
    told = str(done.exception)
    assert "\n" not in told
    assert fails in told
    return told


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A target, ten views of it, and one of it lying in the plane."""
    root = tmp_path_factory.mktemp("site")
    run("target", "--out", root / "target", "--dpi", 100)
    rng = np.random.default_rng(0)
    (root / "views").mkdir()
    for number, pose in enumerate(spread_poses(STATION, Target(), rng, 10)):
        cv2.imwrite(str(root / "views" / f"{number}.png"), STATION.picture(Target(), pose, rng))
    cv2.imwrite(str(root / "plane.png"), STATION.picture(Target(), PLANE, rng))
    return root


def target_of(site):
    return ("--target", site / "target" / "target.json")


def test_from_views_to_millimetres(site):
    said = run("lens", site / "views", *target_of(site), "--out", site / "lens", "--serial", "22894911")
    assert "From 10 of 10 views" in said
    record = load_record(site / "lens" / "lens.json", LensRecord)
    assert record.lens.fx_px == pytest.approx(800, rel=0.01)
    assert record.std()["fx_px"] < 8
    assert [entry.name for entry in record.inputs] == [f"{number}.png" for number in range(10)]
    assert record.check(serial="22894911", width_px=640, height_px=480) == ()
    page = (site / "lens" / "lens.html").read_text()
    assert "22894911" in page
    assert record.sha256 in page

    lens = ("--lens", site / "lens" / "lens.json")
    said = run("scale", site / "plane.png", *target_of(site), *lens, "--out", site / "scale")
    assert "mm per px, expanded uncertainty" in said
    scale = load_record(site / "scale" / "scale.json", ScaleRecord)
    truth = Plane((480, 640), STATION.homography(Target(), PLANE), LENS).pixel_area_mm2
    assert scale.scale_mm_per_px == pytest.approx(np.sqrt(truth.mean(dtype=float)), rel=0.005)
    assert scale.lens_sha256 == record.sha256
    assert scale.serial == "22894911"
    assert scale.plane().pixel_area_mm2.mean() == pytest.approx(scale.scale_mm_per_px**2, rel=1e-4)
    assert scale.tilt_deg == pytest.approx(6, abs=0.5)
    assert "The budget" in (site / "scale" / "scale.html").read_text()

    run(
        "scale",
        site / "plane.png",
        *target_of(site),
        *lens,
        "--serial",
        "7",
        "--out",
        site / "no",
        fails="--serial says 7",
    )
    wider = run("scale", site / "plane.png", *target_of(site), "--square-mm", 20.2, *lens, "--out", site / "wider")
    assert "mm per px" in wider
    stretched = load_record(site / "wider" / "scale.json", ScaleRecord)
    assert stretched.scale_mm_per_px == pytest.approx(scale.scale_mm_per_px * 1.01, rel=1e-3)


def test_what_is_not_there_or_damaged_is_said(site, tmp_path):
    out = ("--out", tmp_path / "out")
    run("lens", tmp_path / "nowhere", *target_of(site), *out, fails="no such folder or picture")
    (tmp_path / "empty").mkdir()
    run("lens", tmp_path / "empty", *target_of(site), *out, fails="holds no pictures")
    (tmp_path / "cut").mkdir()
    whole = (site / "views" / "0.png").read_bytes()
    (tmp_path / "cut" / "a.png").write_bytes(whole[: len(whole) // 2])
    run("lens", tmp_path / "cut", *target_of(site), *out, fails="a.png: truncated")
    run("lens", site / "views", "--target", tmp_path / "no.json", *out, fails="no such target")
    run("scale", site / "plane.png", *target_of(site), "--lens", tmp_path / "no", *out, fails="no such calibration")
    assert not (tmp_path / "out").exists()


def test_pictures_of_two_sizes_are_refused_and_named(site, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((480, 640), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((480, 320), np.uint8))
    run(
        *("lens", tmp_path, *target_of(site), "--out", tmp_path / "out"),
        fails="b.png has 320 by 480 px, and a.png has 640 by 480",
    )


def test_a_target_that_no_picture_shows_is_said(site, tmp_path):
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((480, 640), 128, np.uint8))
    run("lens", tmp_path, *target_of(site), "--out", tmp_path / "out", fails="not found in any of 2 pictures")
    run(
        "scale",
        tmp_path / "a.png",
        *target_of(site),
        "--out",
        tmp_path / "out",
        fails="a.png: the target was not found",
    )


def test_a_place_that_cannot_be_written_is_said(site, tmp_path):
    (tmp_path / "file").write_text("")
    run("scale", site / "plane.png", *target_of(site), "--out", tmp_path / "file", fails="cannot be written")
    run("target", "--out", tmp_path / "file", "--dpi", 60, fails="cannot be written")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--squares", "12"), "expected COLUMNSxROWS"),
        (("--squares", "40x40"), "has 100 markers"),
        (("--paper", "a5"), "needs 256 by 208 mm"),
        (("--kind", "chessboard", "--squares", "9x7"), "looks the same from both sides"),
    ],
)
def test_targets_that_cannot_work_are_refused(tmp_path, options, said):
    run("target", "--out", tmp_path, *options, fails=said)


def test_an_error_is_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "inspectd.calibration.cli", "lens", "no", "--target", "no.json", "--out", "out"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "inspectd-calibrate: error: no.json: no such target; inspectd-calibrate target writes its description\n"
    )
