"""Calibrations at the line: a picture that shows nothing passes no part."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.calibrated import ImageRecord, Software, encode_reference
from inspectd.calibration.image import learn_image
from inspectd.calibration.record import save_record
from inspectd.errors import ConfigError
from inspectd.frame import STREAMING, Frame
from inspectd.inspection import ImageHealth, Verdict
from inspectd.runtime.engine import open_engine
from inspectd.runtime.line import Line
from inspectd.runtime.models import LoadedBundle, Model, Models
from inspectd.runtime.optics import IN_A_ROW, ImageWatch, load_optics
from inspectd.wire import MessageType, VerdictBody, read_body

from .conftest import save_picture
from .test_line import Script, Setup, setup  # noqa: F401 - a fixture
from .test_station import start, station  # noqa: F401 - fixtures

SIDE = 96


def surface(seed: int, *, defect: bool = False) -> np.ndarray:
    """A good surface: a bright field with a dark frame, and some grain; a white square where it has a defect."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE), 30.0)
    pixels[12:-12, 16:-16] = 110
    pixels += cv2.GaussianBlur(rng.normal(0, 12, pixels.shape), (0, 0), 0.8)
    picture = np.repeat(np.clip(pixels, 0, 200).astype(np.uint8)[..., None], 3, axis=2)
    if defect:
        picture[40:48, 40:48] = 255
    return picture


DARK = np.full((SIDE, SIDE, 3), 2, np.uint8)


def record(**changes: object) -> ImageRecord:
    fit = learn_image([surface(seed) for seed in range(40)])
    return ImageRecord(
        made=datetime(2026, 11, 26, tzinfo=timezone.utc),
        software=Software(name="inspectd", version="1"),
        inputs=(),
        width_px=SIDE,
        height_px=SIDE,
        frames=40,
        margin=0.5,
        limits=dict(fit.limits),
        reference=encode_reference(fit.reference),
        found=dict(fit.found),
        **changes,
    )


@pytest.fixture
def calibration(tmp_path) -> Path:
    save_record(tmp_path / "image.json", record())
    return tmp_path / "image.json"


def frames(*pictures: np.ndarray) -> list[Frame]:
    return [Frame("cam1", number, pixels, acquired_ns=0) for number, pixels in enumerate(pictures, 1)]


def camera(calibration: Path, more: str = "") -> str:
    return f'source = "buttons"\nimage_health = "{calibration}"\n{more}'


def test_a_covered_lens_passes_no_part(setup: Setup, calibration):  # noqa: F811
    pictures = frames(surface(100), DARK, surface(101, defect=True), surface(102))
    setup.run(Script(*pictures), camera=camera(calibration), frames=4)
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.NG, Verdict.OK]
    assert setup.reasons[1].startswith("the picture is ")
    assert "too dark (brightness 2, good from" in setup.reasons[1]
    numbers = [read_body(message, VerdictBody).image for message in setup.of(MessageType.VERDICT)]
    assert numbers[1]["brightness"] == 2.0
    assert 60 < numbers[0]["brightness"] < 110


def test_without_a_calibration_it_would(setup: Setup):  # noqa: F811
    setup.run(Script(*frames(DARK)), frames=1)
    assert setup.verdicts == [Verdict.OK]
    assert read_body(setup.of(MessageType.VERDICT)[0], VerdictBody).image is None


def test_a_defect_on_a_bad_picture_stays_one(setup: Setup, calibration):  # noqa: F811
    bad = DARK.copy()
    bad[40:48, 40:48] = 255
    setup.run(Script(*frames(bad)), camera=camera(calibration), frames=1)
    assert setup.verdicts == [Verdict.NG]


def test_where_it_only_tells_the_verdict_stands(setup: Setup, calibration):  # noqa: F811
    setup.run(Script(*frames(DARK)), camera=camera(calibration, 'image_fault = "alarm"'), frames=1)
    assert setup.verdicts == [Verdict.OK]


def test_a_bad_picture_is_no_fault_of_a_model_on_trial(setup: Setup, calibration):  # noqa: F811
    config, failed = setup.config(camera(calibration)), []
    loaded = [LoadedBundle(setup.bundle, engine) for engine in (setup.engine, open_engine(setup.bundle, threads=1))]
    rule, scales = config.acceptance, {"cam1": None}
    before, after = (Model.make(each, rule, scales=scales, clock=time.monotonic_ns) for each in loaded)
    models = Models(before, watch_frames=50)
    models.load(after)
    models.activate()
    source = Script(*frames(DARK, DARK))
    line = Line(config, None, None, [source], setup.publisher, models=models, frames=2)
    line.swap_failed = failed.append
    with setup.publisher:
        line.run()
    assert line.summary().not_inspected == 2
    assert models.current is after
    assert not failed
    models.close()


@pytest.mark.parametrize(
    ("changes", "serial", "reason"),
    [
        ({"width_px": 64}, "A1", "it is for a width of 64 px, and the camera's frames have 96 px"),
        ({"serial": "B2"}, "A1", "it is of camera B2, and this is camera A1"),
        ({"serial": "A1"}, "A1", ""),
        ({"serial": "A1"}, "", ""),  # a folder has no serial number; that is logged
    ],
)
def test_a_calibration_of_another_camera_judges_nothing(setup: Setup, tmp_path, changes, serial, reason):  # noqa: F811
    save_record(tmp_path / "image.json", record().model_copy(update=changes))
    source = Script(*frames(surface(100)))
    source.status = replace(STREAMING, serial=serial)
    setup.run(source, camera=camera(tmp_path / "image.json"), frames=1)
    assert setup.verdicts == [Verdict.NOT_INSPECTED if reason else Verdict.OK]
    assert reason in setup.reasons[0]


def test_every_calibration_that_cannot_be_used_is_told(setup: Setup, tmp_path):  # noqa: F811
    (tmp_path / "image.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cameras\.cam1: .*image\.json: is no calibration"):
        load_optics(setup.config(camera(tmp_path / "image.json")).cameras)


def test_so_many_in_a_row_make_an_alarm_and_end_it():
    watch = ImageWatch()
    numbers = learn_image([surface(seed) for seed in range(20)]).numbers[0]
    bad, good = ImageHealth(numbers, ("too dark",)), ImageHealth(numbers)
    for _ in range(5):
        watch.note("cam1", bad)
        watch.note("cam1", good)
    assert not watch.bad
    for _ in range(IN_A_ROW):
        assert not watch.bad
        watch.note("cam1", bad)
    assert watch.bad == {"cam1": "camera 'cam1': pictures are too dark"}
    for _ in range(IN_A_ROW):
        assert watch.bad
        watch.note("cam1", good)
    assert not watch.bad


def test_the_station_raises_an_alarm_and_clears_it(station, tmp_path, calibration):  # noqa: F811
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        save_picture(folder / f"part{number:02}.png", DARK if 15 <= number < 25 else surface(200 + number))
    source = f'source = "folder"\npath = "pictures"\nloop = true\nfps = 20\nimage_health = "{calibration}"'
    with station(source) as running:
        assert "too dark" in running.alarm("camera.image.cam1").message
        assert running.alarm("camera.image.cam1", active=False).code == "camera.image.cam1"


def test_a_station_with_a_calibration_that_is_none_does_not_start(station, pictures, tmp_path):  # noqa: F811
    (tmp_path / "image.json").write_text("no JSON")
    with station('source = "folder"\npath = "pictures"\nimage_health = "image.json"') as running:
        _out, err = running.process.communicate(timeout=60)
        assert running.process.returncode == 2
        assert "image.json: damaged: not JSON" in err
