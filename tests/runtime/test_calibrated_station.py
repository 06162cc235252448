"""A whole station, calibrated by the commands from pictures of a camera that is known exactly.

The shipped network judges parts that a simulated GenICam camera sees obliquely, through a lens that distorts; verdicts
come over real sockets. What they say in mm is held against the truth: the commands saw nothing of it but pictures.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from inspectd.calibrated import LensRecord, ScaleRecord, load_flat_field, load_record
from inspectd.calibration import example
from inspectd.calibration.cli import app
from inspectd.calibration.example import TARGET, ExampleStation, write_example
from inspectd.defect import find_defects
from inspectd.inspection import Verdict
from inspectd.runtime.messaging import Silence, Subscriber
from inspectd.runtime.simcam import FEED_VARIABLE
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.wire import AlarmBody, MessageType, VerdictBody, read_body, read_mask, read_preview

from .conftest import finish, inspectd, run_inspectd

SERIAL, PARTS = "press4", 24
FINE_MM = 0.01


def calibrate(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> Path:
    """The folder of a station with its pictures and its calibrations."""
    site = tmp_path_factory.mktemp("site")
    write_example(site, good=0, parts=PARTS)
    calibrate("target", "--squares", "8x6", "--square-mm", "3", "--out", site / "target")
    target = ("--target", site / "target" / "target.json")
    calibrate("lens", site / "views", *target, "--serial", SERIAL, "--out", site / "lens")
    calibrate("scale", site / "plane.png", *target, "--lens", site / "lens" / "lens.json", "--out", site / "scale")
    for serial in (SERIAL, "other"):
        flat = ("--flat", site / "flat", "--dark", site / "dark", "--serial", serial)
        calibrate("flat-field", *flat, "--out", site / f"{serial}.npz")
    return site


def line_file(site: Path, folder: Path, *, flat: str = SERIAL) -> Path:
    path = folder / "line.toml"
    path.write_text(
        '[cameras.cam1]\nsource = "genicam"\nproducer = "simulator"\nqueue_frames = 64\n'
        f'features = {{AcquisitionFrameRate = 20.0}}\nflat_field = "{site}/{flat}.npz"\n'
        f'scale = "{site}/scale/scale.json"\n[model]\nbundle = "demo"\nthreads = 1\n'
        f'[publish]\nendpoint = "ipc://{folder}/pub"\npreview = true\n'
    )
    return path


@contextlib.contextmanager
def feed(folder: Path, serial: str) -> Iterator[FrameFeed]:
    """A camera of this serial number; it is gone where it ends."""
    with FrameFeed(folder / f"{serial}.feed", example.SIDE, example.SIDE, slots=PARTS + 8) as opened:
        yield opened
    (folder / f"{serial}.feed").unlink(missing_ok=True)


def part(site: Path, number: int) -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(site / "parts" / f"{number:03d}.png"))[..., ::-1])


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder that the simulator looks for cameras in."""
    monkeypatch.setenv(FEED_VARIABLE, str(tmp_path))
    return tmp_path


def true_area_mm2(region: np.ndarray) -> float:
    """Area on the part, by OpenCV's own projection of a fine grid: neither our lens nor our plane has a hand in it."""
    station = ExampleStation()
    turn, shift = station.pose.transform(TARGET)
    rows, columns = np.nonzero(region)
    rough = station.plane.to_mm(np.stack([columns, rows], axis=1))
    low, high = rough.min(axis=0) - 0.3, rough.max(axis=0) + 0.3
    x, y = (np.arange(start, end, FINE_MM) for start, end in zip(low, high, strict=True))
    grid = np.stack([*np.meshgrid(x, y), np.zeros((len(y), len(x)))], axis=-1).reshape(-1, 3)
    lens = station.camera.lens
    seen, _ = cv2.projectPoints(grid, cv2.Rodrigues(turn)[0], shift, lens.matrix, lens.distortion)
    at = np.rint(seen.reshape(-1, 2)).astype(int)
    inside = np.all((at >= 0) & (at < example.SIDE), axis=1)
    return float(region[at[inside, 1], at[inside, 0]].sum()) * FINE_MM**2


def test_the_calibrations_are_those_of_the_camera(calibrated):
    station = ExampleStation()
    lens = load_record(calibrated / "lens" / "lens.json", LensRecord).lens
    assert lens.fx_px == pytest.approx(station.camera.lens.fx_px, rel=0.005)
    plane = load_record(calibrated / "scale" / "scale.json", ScaleRecord).plane()
    assert np.abs(plane.pixel_area_mm2 / station.plane.pixel_area_mm2 - 1).max() < 0.01
    field = load_flat_field(calibrated / f"{SERIAL}.npz")
    even = station.seen(150.0, np.random.default_rng(99))
    assert even.std() > 6
    assert field.apply(even).std() < 2


def test_verdicts_tell_the_true_areas_and_lengths(calibrated, place):
    config = line_file(calibrated, place)
    messages = []
    with feed(place, SERIAL) as camera, Subscriber(f"ipc://{place}/pub") as subscriber:
        for number in range(PARTS):
            assert camera.put(part(calibrated, number), 5.0)
        process = inspectd("run", config, "--frames", PARTS, "--wait", 20)
        while sum(message.header.msg_type == MessageType.PREVIEW for message in messages) < PARTS:
            message = subscriber.receive(20.0)
            assert not isinstance(message, Silence)
            messages.append(message)
        assert finish(process)[0] == 0
    bodies = [read_body(each, VerdictBody) for each in messages if each.header.msg_type == MessageType.VERDICT]
    masks = [read_mask(each) for each in messages if each.header.msg_type == MessageType.MASK]
    assert len(bodies) == len(masks) == PARTS
    previews = [read_preview(each) for each in messages if each.header.msg_type == MessageType.PREVIEW]
    field = load_flat_field(calibrated / f"{SERIAL}.npz")
    for number, preview in enumerate(previews):
        raw = part(calibrated, number)
        off, uncorrected = (np.abs(preview.astype(int) - each).mean() for each in (field.apply(raw), raw))
        assert off < 2 < uncorrected
    truth = list(json.loads((calibrated / "truth.json").read_text()).values())
    scale = load_record(calibrated / "scale" / "scale.json", ScaleRecord)
    used = {"flat_field": field.record.sha256, "scale": scale.sha256}
    measured = rendered = 0.0
    one_figure = []
    for body, mask, told in zip(bodies, masks, truth, strict=True):
        assert body.calibration == used
        if not body.defects:
            continue
        found = sum(defect.area_mm2 for defect in body.defects)
        # What the network marked, as large as it really is there.
        assert found == pytest.approx(true_area_mm2(mask.labels > 0), rel=0.01)
        one_figure.append(sum(defect.area_px for defect in body.defects) * scale.scale_mm_per_px**2 / found)
        true = find_defects(mask, mask.labels * 255, scale=ExampleStation().plane)
        lengths = {each.bbox_px: each.length_mm for each in true}
        for defect in body.defects:
            assert defect.length_mm == pytest.approx(lengths[defect.bbox_px], rel=0.005)
        measured, rendered = measured + found, rendered + told["area_mm2"]
    assert len(one_figure) >= 5
    # One figure for all pixels would be off where the plane is nearer or farther.
    assert max(abs(ratio - 1) for ratio in one_figure) > 0.08
    # And as large as the defects that were rendered, as far as this network marks all of them.
    assert measured == pytest.approx(rendered, rel=0.3)


def test_by_a_foreign_flat_field_nothing_is_ok(calibrated, place):
    with feed(place, SERIAL) as camera:
        for number in range(4):
            assert camera.put(part(calibrated, number), 5.0)
        status, out, err = run_inspectd("run", line_file(calibrated, place, flat="other"), "--frames", 4)
    assert status == 0
    told = json.loads(out)
    assert (told["not_inspected"], told["ok"], told["ng"], told["verdicts"]) == (4, 0, 0, 4)
    assert "it is of camera other, and this is camera press4" in err


def test_a_camera_that_is_exchanged_while_the_line_runs_passes_no_part(calibrated, place):
    process = inspectd("run", line_file(calibrated, place))
    seen: list[tuple[Verdict, str]] = []
    alarms: list[str] = []

    def receive(subscriber: Subscriber, holds, camera: FrameFeed) -> None:
        deadline, number = time.monotonic() + 60, 0
        while not holds():
            assert time.monotonic() < deadline, (seen, alarms)
            camera.put(part(calibrated, number % PARTS), 0.05)
            number += 1
            message = subscriber.receive(0.2)
            if isinstance(message, Silence):
                continue
            if message.header.msg_type == MessageType.VERDICT:
                seen.append((Verdict(message.header.verdict), read_body(message, VerdictBody).reason))
            elif message.header.msg_type == MessageType.ALARM:
                alarms.append(read_body(message, AlarmBody).code)

    try:
        with Subscriber(f"ipc://{place}/pub") as subscriber:
            with feed(place, SERIAL) as camera:
                receive(subscriber, lambda: len(seen) >= 3, camera)
            assert all(verdict in (Verdict.OK, Verdict.NG) for verdict, _ in seen), seen
            before = len(seen)
            with feed(place, "press5") as camera:
                receive(
                    subscriber,
                    lambda: (
                        sum("this is camera press5" in reason for _, reason in seen) >= 3
                        and "camera.calibration.cam1" in alarms
                    ),
                    camera,
                )
        # Frames of the first camera may have waited; of the second one none is inspected.
        foreign = next(at for at, (_, reason) in enumerate(seen) if "press5" in reason)
        assert foreign >= before
        assert {verdict for verdict, _ in seen[foreign:]} == {Verdict.NOT_INSPECTED}
        process.terminate()
        assert finish(process)[0] == 0
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.kill()
            process.wait(10)
