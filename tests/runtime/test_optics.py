"""Calibrations at the line: a picture that shows nothing passes no part."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.calibrated import (
    FlatField,
    FlatFieldRecord,
    ImageCheck,
    ImageRecord,
    Lens,
    ScaleBudget,
    ScaleRecord,
    Software,
    encode_reference,
)
from inspectd.calibrated.flat import GAIN_UNIT, arrays_sha256
from inspectd.calibration.image import learn_image
from inspectd.calibration.record import save_record
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import ImageHealth, Verdict
from inspectd.runtime.engine import open_engine
from inspectd.runtime.line import Line
from inspectd.runtime.models import LoadedBundle, Model, Models
from inspectd.runtime.optics import IN_A_ROW, ImageWatch, load_optics
from inspectd.runtime.replay import Selection, run_replay
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


HEAD = {
    "made": datetime(2026, 11, 26, tzinfo=timezone.utc),
    "software": Software(name="inspectd", version="1"),
    "inputs": (),
    "width_px": SIDE,
    "height_px": SIDE,
}


def record(**changes: object) -> ImageRecord:
    fit = learn_image([surface(seed) for seed in range(40)])
    return ImageRecord(
        **HEAD,
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


def flat_field(times: float = 2.0, *, channels: int = 3, **changes: object) -> FlatField:
    """Makes every pixel so many times brighter."""
    gain = np.full((SIDE, SIDE, channels), round(times / GAIN_UNIT), np.uint16)
    offset, defects = np.zeros_like(gain), np.zeros((0, 2), np.int32)
    made = FlatFieldRecord(
        **HEAD,
        channels=channels,
        flat_frames=32,
        dark_frames=0,
        mean_grey=180,
        noise_grey=1,
        shading_before=0.3,
        shading_after=0.01,
        pattern_before=0.01,
        pattern_kept=1,
        gain_min=times,
        gain_max=times,
        hot_pixels=0,
        dead_pixels=0,
        arrays_sha256=arrays_sha256(gain, offset, defects),
    )
    return FlatField(made.model_copy(update=changes), gain, offset, defects)


def scale(**changes: object) -> ScaleRecord:
    """A plane that is seen obliquely: a pixel on the right is far larger than one on the left."""
    made = ScaleRecord(
        **HEAD,
        homography=(0.1, 0, 0, 0, 0.1, 0, -0.006, 0, 1),
        scale_mm_per_px=0.15,
        scale_std_mm_per_px=0.001,
        scale_min_mm_per_px=0.1,
        scale_max_mm_per_px=0.4,
        budget=ScaleBudget(corners=0, target=0, plane=0, lens=0),
        rms_px=0.1,
        corners=88,
        target={},
    )
    return made.model_copy(update=changes)


@pytest.fixture
def calibrated(tmp_path):
    """The settings of a camera with a flat field and a scale."""
    (tmp_path / "flat.npz").write_bytes(flat_field().save())
    save_record(tmp_path / "scale.json", scale())
    return f'flat_field = "{tmp_path}/flat.npz"\nscale = "{tmp_path}/scale.json"\n'


def dim(*at: tuple[int, int]) -> np.ndarray:
    """Squares of 8 px at (x, y) that only the flat field makes bright enough for a defect."""
    pixels = np.full((SIDE, SIDE, 3), 45, np.uint8)
    for x, y in at:
        pixels[y : y + 8, x : x + 8] = 110
    return pixels


def told_of(setup: Setup, number: int = 0) -> VerdictBody:  # noqa: F811
    return read_body(setup.of(MessageType.VERDICT)[number], VerdictBody)


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
        ({"channels": 1}, "A1", "it is for grey pictures, and the camera's frames are in colour"),
        ({"channels": 3}, "A1", ""),
        ({"serial": "A1"}, "A1", ""),
        ({"serial": "A1"}, "", ""),  # a folder has no serial number; that is logged
    ],
)
def test_a_calibration_of_another_camera_judges_nothing(setup: Setup, tmp_path, changes, serial, reason):  # noqa: F811
    save_record(tmp_path / "image.json", record().model_copy(update=changes))
    source = Script(*(replace(frame, serial=serial) for frame in frames(surface(100))))
    setup.run(source, camera=camera(tmp_path / "image.json"), frames=1)
    assert setup.verdicts == [Verdict.NOT_INSPECTED if reason else Verdict.OK]
    assert reason in setup.reasons[0]


def test_every_calibration_that_cannot_be_used_is_told(setup: Setup, tmp_path):  # noqa: F811
    (tmp_path / "image.json").write_text("{}")
    save_record(tmp_path / "flat.npz", record())
    save_record(tmp_path / "scale.json", record())
    named = f'flat_field = "{tmp_path}/flat.npz"\nscale = "{tmp_path}/scale.json"'
    with pytest.raises(ConfigError) as caught:
        load_optics(setup.config(camera(tmp_path / "image.json", named)).cameras)
    flat, plane, image = str(caught.value).splitlines()
    assert flat.startswith("cameras.cam1.flat_field: ")
    assert "damaged, or no flat field" in flat
    assert plane.startswith("cameras.cam1.scale: ")
    assert "is a calibration of kind 'image', expected 'scale'" in plane
    assert image.startswith("cameras.cam1.image_health: ")
    assert "is no calibration" in image


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"homography": (0.1, 0, 0, 0, 0.1, 0, -0.02, 0, 1)}, "horizon lies inside the picture"),
        ({"lens": Lens(fx_px=40, fy_px=40, cx_px=48, cy_px=48, k1=-0.6)}, "gives some pixel no size"),
    ],
)
def test_a_scale_that_cannot_measure_is_told_at_the_start(setup: Setup, tmp_path, changes, why):  # noqa: F811
    save_record(tmp_path / "scale.json", scale(**changes))
    config = setup.config(f'source = "buttons"\nscale = "{tmp_path}/scale.json"')
    with pytest.raises(ConfigError, match=rf"cameras\.cam1\.scale: .*scale\.json: .*{why}"):
        load_optics(config.cameras)


def test_the_flat_field_comes_before_the_network_and_areas_are_those_on_the_part(setup: Setup, calibrated):  # noqa: F811
    pictures = frames(dim(), dim((8, 40), (80, 40)))
    line = setup.run(Script(*pictures), camera=f'source = "buttons"\n{calibrated}', frames=2)
    assert setup.verdicts == [Verdict.OK, Verdict.NG]
    assert line.calibrated["cam1"].startswith(f"flat_field of 2026-11-26 ({flat_field().record.sha256[:12]}), scale of")
    left, right = sorted(told_of(setup, 1).defects, key=lambda each: each.bbox_px)
    plane = scale().plane()
    for found, x in ((left, 8), (right, 80)):
        region = np.zeros((SIDE, SIDE), bool)
        region[40:48, x : x + 8] = True
        # The network sees a third of the pixels, so a side may be a pixel off.
        assert found.area_px == pytest.approx(64, abs=20)
        per_px = plane.area_mm2(region) / 64
        assert found.area_mm2 / found.area_px == pytest.approx(per_px, rel=0.05)
        assert found.length_mm == pytest.approx(plane.feret_mm(region), rel=0.2)
    assert right.area_mm2 > 3 * left.area_mm2
    assert told_of(setup, 1).calibration == {"flat_field": flat_field().record.sha256, "scale": scale().sha256}


def test_without_the_flat_field_the_defect_is_not_seen(setup: Setup):  # noqa: F811
    setup.run(Script(*frames(dim((8, 40)))), frames=1)
    assert setup.verdicts == [Verdict.OK]
    assert told_of(setup).calibration is None


def test_a_rule_in_mm2_lets_pass_what_is_small_on_the_part(setup: Setup, calibrated):  # noqa: F811
    """Squares of the same number of pixels: 1 mm2 on the left, 8 mm2 on the right."""
    rule = "[acceptance.default]\nminimum_area_mm2 = 3\n"
    pictures = frames(dim((8, 40)), dim((80, 40)))
    setup.run(Script(*pictures), camera=f'source = "buttons"\n{calibrated}{rule}', frames=2)
    assert setup.verdicts == [Verdict.OK, Verdict.NG]


def test_good_pictures_are_corrected_ones(setup: Setup, tmp_path, calibration):  # noqa: F811
    (tmp_path / "flat.npz").write_bytes(flat_field().save())
    half = (surface(100) // 2).astype(np.uint8)
    check = ImageCheck.of(record())
    assert check.faults(check.measure(half))
    setup.run(Script(*frames(half)), camera=camera(calibration, f'flat_field = "{tmp_path}/flat.npz"'), frames=1)
    assert setup.verdicts == [Verdict.OK]
    assert set(told_of(setup).calibration) == {"flat_field", "image"}


@pytest.mark.parametrize(
    ("flat", "plane", "serial", "reason"),
    [
        ({"serial": "B2"}, {}, "A1", "the flat_field calibration of 2026-11-26 does not fit: it is of camera B2"),
        ({}, {"serial": "B2"}, "A1", "the scale calibration of 2026-11-26 does not fit: it is of camera B2"),
        ({}, {"height_px": 64}, "A1", "it is for a height of 64 px, and the camera's frames have 96 px"),
        ({"channels": 1}, {}, "A1", "it is for grey pictures, and the camera's frames are in colour"),
        ({"serial": "A1"}, {"serial": "A1"}, "A1", ""),
    ],
)
def test_by_a_foreign_calibration_no_part_passes(setup: Setup, tmp_path, flat, plane, *, serial, reason):  # noqa: F811
    (tmp_path / "flat.npz").write_bytes(flat_field(**flat).save())
    save_record(tmp_path / "scale.json", scale(**plane))
    named = f'source = "buttons"\nflat_field = "{tmp_path}/flat.npz"\nscale = "{tmp_path}/scale.json"'
    source = Script(*(replace(frame, serial=serial) for frame in frames(dim(), dim((8, 40)))))
    line = setup.run(source, camera=named, frames=2)
    assert setup.verdicts == [Verdict.NOT_INSPECTED] * 2 if reason else [Verdict.OK, Verdict.NG]
    assert reason in setup.reasons[0]
    assert reason in line.misfits.get("cam1", "")
    # Nothing was used, so nothing is told.
    assert (told_of(setup).calibration is None) == bool(reason)


def test_doubts_are_told_once_and_not_with_each_frame(setup: Setup, tmp_path, caplog):  # noqa: F811
    (tmp_path / "flat.npz").write_bytes(flat_field().save())
    save_record(tmp_path / "scale.json", scale(serial="B2"))
    named = f'source = "buttons"\nflat_field = "{tmp_path}/flat.npz"\nscale = "{tmp_path}/scale.json"'
    serials = ("A1", "A1", "A1", "B2", "B2")
    pictures = frames(*[dim()] * len(serials))
    source = Script(*(replace(each, serial=serial) for each, serial in zip(pictures, serials, strict=True)))
    setup.run(source, camera=named, frames=len(serials))
    assert setup.verdicts == [Verdict.NOT_INSPECTED] * 3 + [Verdict.OK] * 2
    told = [each.message for each in caplog.records if "does not say which camera" in each.message]
    assert told == ["camera 'cam1': the flat_field calibration does not say which camera it is of"]


def test_a_camera_that_was_exchanged_is_found_at_its_first_frame(setup: Setup, tmp_path):  # noqa: F811
    (tmp_path / "flat.npz").write_bytes(flat_field(serial="A1").save())
    named = f'source = "buttons"\nflat_field = "{tmp_path}/flat.npz"'
    serials = ("A1", "B2", "A1")
    source = Script(*(replace(each, serial=serials[each.frame_id - 1]) for each in frames(dim(), dim(), dim())))
    line = setup.run(source, camera=named, frames=3)
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.OK]
    assert not line.misfits


def test_colour_that_goes_while_the_line_runs_is_found_at_the_first_frame(setup: Setup, tmp_path):  # noqa: F811
    """Its numbers are those of good pictures: grey values, and no other size."""
    save_record(tmp_path / "image.json", record(channels=3))
    grey = surface(101)[..., :1].copy()
    line = setup.run(
        Script(*frames(surface(100), grey, surface(102))), camera=camera(tmp_path / "image.json"), frames=3
    )
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.OK]
    assert "it is for pictures in colour, and the camera's frames are grey" in setup.reasons[1]
    assert not line.misfits


def test_the_archive_holds_corrected_pictures_and_replay_does_not_correct_them_again(
    station,  # noqa: F811
    tmp_path,
    calibrated,
):
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate((dim(), dim((8, 40)), dim((40, 8)))):
        save_picture(tmp_path / "pictures" / f"{number}.png", pixels)
    camera, keeps = f'source = "folder"\npath = "pictures"\n{calibrated}', '[archive]\npath = "archive"\nok_every = 1'
    with station(camera, keeps) as running:
        assert running.process.wait(60) == 0
    config, archive = running.folder / "line.toml", tmp_path / "archive"
    pictures = sorted(archive.glob("*/cam1/1-?.png"))
    assert [cv2.imread(str(path)).max() for path in pictures] == [90, 220, 220]
    replayed = run_replay(archive, Selection(), config=config)
    assert replayed.same
    # Corrected twice the good one would be a defect all over: 180, and from 153 on it is one.
    assert replayed.verdicts == {(Verdict.OK, Verdict.OK): 1, (Verdict.NG, Verdict.NG): 2}
    # What nothing looked at was archived as it came.
    sidecar = next(archive.glob("*/cam1/1-2.json"))
    told = json.loads(sidecar.read_text())
    assert set(told["body"].pop("calibration")) == {"flat_field", "scale"}
    sidecar.write_text(json.dumps(told))
    picture = sidecar.with_suffix(".png")
    save_picture(picture, dim((8, 40)))
    told["picture"] |= {"bytes": picture.stat().st_size, "sha256": hashlib.sha256(picture.read_bytes()).hexdigest()}
    sidecar.write_text(json.dumps(told))
    assert run_replay(archive, Selection(), config=config).same


def test_a_foreign_calibration_raises_an_alarm(station, tmp_path):  # noqa: F811
    save_record(tmp_path / "scale.json", scale(width_px=64))
    (tmp_path / "pictures").mkdir()
    save_picture(tmp_path / "pictures" / "0.png", dim())
    with station('source = "folder"\npath = "pictures"\nloop = true\nfps = 20\nscale = "scale.json"') as running:
        alarm = running.alarm("camera.calibration.cam1")
        assert "parts are NOT_INSPECTED: the scale calibration of 2026-11-26 does not fit" in alarm.message
        told = running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        assert told.header.verdict == Verdict.NOT_INSPECTED


@pytest.mark.parametrize(("channels", "is_told"), [(1, True), (3, False)])
def test_grey_pictures_for_a_bundle_that_was_trained_in_colour_raise_an_alarm(
    station,  # noqa: F811
    tmp_path,
    channels,
    is_told,
):
    (tmp_path / "pictures").mkdir()
    save_picture(tmp_path / "pictures" / "0.png", surface(1)[..., :channels])
    with station('source = "folder"\npath = "pictures"\nloop = true\nfps = 5', "", "--bundle", "demo") as running:
        told = running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        assert told.header.verdict != Verdict.NOT_INSPECTED
        if is_told:
            alarm = running.open_alarm("camera.grey.cam1")
            assert alarm["severity"] == "error"
            assert "was trained on pictures in colour, and those of camera 'cam1' are grey" in alarm["message"]
        else:
            for _ in range(5):
                running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
            assert not running.ask("snapshot")["alarms"]


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
