"""Pictures that are taken for a calibration, by a GenICam camera and by a line's camera as it is set."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from inspectd.calibrated import ImageRecord, load_flat_field, load_record
from inspectd.calibration.cli import app
from inspectd.errors import InspectdError
from inspectd.runtime.simcam import FEED_VARIABLE
from inspectd.runtime.simcam.feed import FrameFeed
from tests.runtime.test_optics import SIDE, flat_field, surface

SERIAL, COUNT = "press4", 24
LINE = '[cameras.{name}]\nsource = "genicam"\nproducer = "simulator"\n{more}\n[model]\nbundle = "demo"\n'
FAST = "features = {AcquisitionFrameRate = 50.0}"
SIMULATED = ("--camera", SERIAL, "--producer", "simulator", "--set", "AcquisitionFrameRate=50")


def run(*arguments, fails=None):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if fails is None:
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output
    assert isinstance(done.exception, InspectdError), (done.output, done.exception)
    assert fails in str(done.exception)
    assert "\n" not in str(done.exception)
    return str(done.exception)


@pytest.fixture
def feed(tmp_path, monkeypatch):
    """A camera that good parts pass."""
    path = tmp_path / f"{SERIAL}.feed"
    monkeypatch.setenv(FEED_VARIABLE, str(path))
    with FrameFeed(path, SIDE, SIDE, slots=COUNT + 4) as opened:
        for seed in range(COUNT):
            assert opened.put(surface(seed), 1.0)
        yield opened


@pytest.fixture
def line(tmp_path):
    """The configuration of a line."""

    def write(more=FAST, *, name="cam1"):
        path = tmp_path / "line.toml"
        path.write_text(LINE.format(name=name, more=more))
        return path

    return write


def pictures(folder):
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1] for path in sorted(folder.iterdir())]


def taken():
    return [surface(seed) for seed in range(COUNT)]


def test_good_pictures_are_taken_by_a_camera_and_kept(feed, tmp_path):
    out, folder = tmp_path / "image.json", tmp_path / "new" / "good"
    run("image", folder, *SIMULATED, "--frames", COUNT, "--out", out)
    record = load_record(out, ImageRecord)
    assert (record.serial, record.frames, record.width_px) == (SERIAL, COUNT, SIDE)
    assert record.model
    assert [path.name for path in sorted(folder.iterdir())] == [f"{number:02}.png" for number in range(1, COUNT + 1)]
    np.testing.assert_array_equal(pictures(folder), taken())
    # From what was kept the same is learned again.
    run("image", folder, "--serial", SERIAL, "--out", tmp_path / "again.json")
    assert load_record(tmp_path / "again.json", ImageRecord).limits == record.limits


def test_a_line_s_good_pictures_are_corrected_as_the_line_corrects_them(feed, line, tmp_path):
    field = flat_field(1.5, serial=SERIAL)
    (tmp_path / "flat.npz").write_bytes(field.save())
    # What is to be made now, and a scale that is not made yet, hold nothing up.
    config = line(f'{FAST}\nflat_field = "flat.npz"\nimage_health = "image.json"\nscale = "to-come.json"')
    out, folder = tmp_path / "image.json", tmp_path / "good"
    run("image", folder, "--config", config, "--frames", COUNT, "--out", out)
    np.testing.assert_array_equal(pictures(folder), [field.apply(pixels) for pixels in taken()])
    assert load_record(out, ImageRecord).serial == SERIAL


def test_a_target_is_taken_as_it_comes_whatever_field_the_line_has(feed, line, tmp_path):
    (tmp_path / "old.npz").write_bytes(flat_field(1.5, serial="another").save())
    config = line(f'{FAST}\nflat_field = "old.npz"')
    arguments = ("--config", config, "--camera", "cam1", "--frames", COUNT, "--out", tmp_path / "flat.npz")
    # A part is no even target: it gets as far as that.
    run("flat-field", "--flat", tmp_path / "taken", *arguments, fails="; ")
    np.testing.assert_array_equal(pictures(tmp_path / "taken"), taken())


def test_the_flat_field_of_a_line_is_of_the_camera_that_took_it(line, tmp_path, monkeypatch):
    path, rng = tmp_path / f"{SERIAL}.feed", np.random.default_rng(0)
    monkeypatch.setenv(FEED_VARIABLE, str(path))
    with FrameFeed(path, SIDE, SIDE, slots=12) as camera:
        for _ in range(8):
            assert camera.put(np.clip(rng.normal(190, 1.5, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8), 1.0)
        options = ("--config", line(), "--frames", 8, "--out", tmp_path / "flat.npz")
        run("flat-field", "--flat", tmp_path / "taken", *options)
    assert load_flat_field(tmp_path / "flat.npz").record.serial == SERIAL


def test_a_camera_that_waits_for_software_has_a_trigger_for_each(feed, line, tmp_path):
    run(
        "image",
        tmp_path / "good",
        "--config",
        line('trigger = "Software"'),
        "--frames",
        20,
        "--out",
        tmp_path / "i.json",
    )
    assert load_record(tmp_path / "i.json", ImageRecord).frames == 20


@pytest.mark.parametrize(
    ("more", "options", "told"),
    [
        (None, ("--set", "Gain=1"), "name the --camera"),
        (FAST, ("--set", "Gain=1"), "leave them out with --config"),
        (FAST, ("--camera", "cam2"), "none of that name, only cam1"),
        (f'{FAST}\n[cameras.cam2]\nsource = "buttons"', (), "the line has the cameras cam1, cam2; say by --camera"),
        ('trigger = "Line1"', ("--timeout", "0.7"), "no picture within 0.7 s; where something triggers it"),
        (f'{FAST}\nflat_field = "flat.npz"', (), "it is of camera another, and this is camera press4"),
        (f'{FAST}\nflat_field = "grey.npz"', (), "it is for grey pictures, and the camera's frames are in colour"),
        (f'{FAST}\nflat_field = "none.npz"', (), "none.npz: no such"),
        ("features = {Gian = 1.0}", (), "Gian"),
        ('device = "press5"', (), "press5"),
    ],
)
def test_pictures_that_cannot_be_taken(feed, line, tmp_path, *, more, options, told):
    (tmp_path / "flat.npz").write_bytes(flat_field(1.5, serial="another").save())
    (tmp_path / "grey.npz").write_bytes(flat_field(1.5, channels=1).save())
    config = () if more is None else ("--config", line(more))
    arguments = ("image", tmp_path / "good", *config, *options, "--frames", 20, "--out", tmp_path / "image.json")
    run(*arguments, fails=told)
    assert not (tmp_path / "image.json").exists()


def test_a_folder_of_the_line_has_an_end(tmp_path):
    (tmp_path / "parts").mkdir()
    for seed in range(5):
        cv2.imwrite(str(tmp_path / "parts" / f"{seed}.png"), surface(seed))
    config = tmp_path / "line.toml"
    config.write_text('[cameras.cam1]\nsource = "folder"\npath = "parts"\nfps = 100\n[model]\nbundle = "demo"\n')
    told = run("image", tmp_path / "good", "--config", config, "--out", tmp_path / "image.json", fails="all 5 pictures")
    assert "and 200 pictures are asked for by --frames" in told
    run("image", tmp_path / "good", "--config", config, "--out", tmp_path / "image.json", fails="holds files already")
    (tmp_path / "file").touch()
    run("image", tmp_path / "file", "--config", config, "--out", tmp_path / "image.json", fails="holds files already")
    run("image", tmp_path / "file" / "x", "--config", config, "--out", tmp_path / "i.json", fails="cannot be written")
