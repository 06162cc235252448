"""`inspectd-calibrate flat-field`, on files and on a camera."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from inspectd.calibrated import load_flat_field
from inspectd.calibration.cli import app
from inspectd.errors import InspectdError

from .test_flat import HEIGHT, WIDTH, Camera


def run(*arguments, fails=None, command="flat-field"):
    done = CliRunner().invoke(app, [command, *(str(argument) for argument in arguments)])
    if fails is None:
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output
    assert isinstance(done.exception, InspectdError), (done.output, done.exception)
    assert fails in str(done.exception)
    return str(done.exception)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root, camera, rng = tmp_path_factory.mktemp("site"), Camera(0), np.random.default_rng(1)
    for name, count, light in (("flat", 12, 180.0), ("dark", 6, 0.0)):
        (root / name).mkdir()
        for number in range(count):
            frame = camera.frame(rng, np.ones((HEIGHT, WIDTH)), light)
            cv2.imwrite(str(root / name / f"{number:02d}.png"), frame)
    return root


def test_from_pictures_to_a_file_that_a_line_can_use(site, tmp_path):
    out = tmp_path / "new" / "flat.npz"
    said = run("--flat", site / "flat", "--dark", site / "dark", "--out", out, "--serial", "22894911")
    assert "5 hot and 5 dead pixels" in said
    field = load_flat_field(out)
    assert field.record.check(serial="22894911", width_px=WIDTH, height_px=HEIGHT) == ()
    assert len(field.record.inputs) == 18
    frame = cv2.imread(str(site / "flat" / "00.png"), cv2.IMREAD_UNCHANGED)[..., None]
    assert field.apply(frame).std() < 0.4 * frame.std()
    page = out.with_suffix(".html").read_text()
    assert "before (left) and after (right)" in page
    assert field.record.sha256 in page


def test_without_dark_frames_it_says_what_is_missing(site, tmp_path):
    said = run("--flat", site / "flat", "--out", tmp_path / "flat.npz")
    assert "offsets are taken for 0" in said
    assert "serial number was not given" in said
    assert not load_flat_field(tmp_path / "flat.npz").offset.any()


def test_what_cannot_be_used_is_said(site, tmp_path):
    out = ("--out", tmp_path / "flat.npz")
    run("--flat", tmp_path / "nowhere", *out, fails="no such folder or picture")
    (tmp_path / "empty").mkdir()
    run("--flat", tmp_path / "empty", *out, fails="holds no pictures")
    run("--flat", site / "dark", *out, fails="6 frames of the target, at least 8")
    run("--flat", site / "flat", "--dark", site / "flat", *out, fails="dark frames have a grey value")
    run("--flat", site / "flat", "--out", tmp_path / "flat.json", fails="expected a name ending in .npz")
    run("--flat", site / "flat", "--set", "Gain=1", *out, fails="name the --camera")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "a.png").write_bytes((site / "flat" / "00.png").read_bytes()[:-30])
    run("--flat", tmp_path / "cut", *out, fails="a.png: ")
    (tmp_path / "file").write_text("")
    run("--flat", site / "flat", "--out", tmp_path / "file" / "flat.npz", fails="cannot be written")
    assert not (tmp_path / "flat.npz").exists()


def test_pictures_are_corrected_as_the_line_corrects_them(site, tmp_path):
    file, out = tmp_path / "flat.npz", tmp_path / "out"
    run("--flat", site / "flat", "--dark", site / "dark", "--out", file)
    said = run(file, site / "flat", "--out", out, command="correct")
    assert said.startswith(f"12 pictures corrected by {file}")
    taken, corrected = (
        cv2.imread(str(folder / "03.png"), cv2.IMREAD_UNCHANGED)[..., None] for folder in (site / "flat", out)
    )
    assert np.array_equal(corrected, load_flat_field(file).apply(taken))
    run(file, out, "--out", out, command="correct", fails="corrected twice they would be wrong")
    cv2.imwrite(str(tmp_path / "small.png"), taken[:50])
    run(file, tmp_path / "small.png", "--out", tmp_path / "more", command="correct", fails="small.png: this flat field")


def test_two_pictures_that_would_be_one_are_refused(site, tmp_path):
    run("--flat", site / "flat", "--out", tmp_path / "flat.npz")
    (tmp_path / "taken").mkdir()
    for name in ("a.png", "a.bmp"):
        cv2.imwrite(str(tmp_path / "taken" / name), cv2.imread(str(site / "flat" / "00.png")))
    out = ("--out", tmp_path / "out")
    run(tmp_path / "flat.npz", tmp_path / "taken", *out, command="correct", fails="several pictures are called a but")
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "flat").mkdir()
    os.mkfifo(tmp_path / "flat" / "a.png")
    run("--flat", tmp_path / "flat", "--out", tmp_path / "flat.npz", fails="a.png: is no file; take it out")


def test_pictures_in_colour_keep_their_colours(tmp_path):
    camera, rng = Camera(2, channels=3), np.random.default_rng(1)
    (tmp_path / "flat").mkdir()
    for number in range(9):
        frame = camera.frame(rng, np.ones((HEIGHT, WIDTH)))
        cv2.imwrite(str(tmp_path / "flat" / f"{number}.png"), frame)
    red = (0.5 * frame).astype(np.uint8)
    red[..., :2] = 10  # BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    run("--flat", tmp_path / "flat", "--out", tmp_path / "flat.npz")
    run(tmp_path / "flat.npz", tmp_path / "red.png", "--out", tmp_path / "out", command="correct")
    blue, green, strong = cv2.imread(str(tmp_path / "out" / "red.png")).reshape(-1, 3).mean(axis=0)
    assert strong > 60
    assert max(blue, green) < 15


def test_pictures_are_taken_by_a_camera_and_kept(tmp_path):
    """The test camera shows a pattern, which is no even target; it gets as far as that."""
    taken = tmp_path / "taken"
    options = ("--camera", "1", "--producer", "viky", "--frames", "8", "--out", tmp_path / "flat.npz")
    told = run("--flat", taken, *options, fails="; ")
    assert "target" in told or "gradient" in told or "frames" in told
    assert len(list(taken.glob("*.png"))) == 8
    run("--flat", taken, *options, fails="holds files already")
