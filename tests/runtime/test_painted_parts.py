"""Known defects painted on what a camera shows: covered lens, defocus, wrong exposure; and a healthy line passes.

The stored master parts are found in all of it: it is the camera that has changed, not the network.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.bundle import load_bundle
from inspectd.buttons import DEFECTS, render
from inspectd.calibration.golden import GoldenSettings
from inspectd.errors import ConfigError, InferenceError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.masters import open_masters
from inspectd.runtime import painted_parts
from inspectd.runtime.engine import open_engine
from inspectd.runtime.models import LoadedBundle, Model
from inspectd.runtime.painted_parts import MOST_BAD, NextParts, paintable_parts, run_painted
from inspectd.runtime.station import demo_bundle
from inspectd.wire import MessageType

from .conftest import finish, inspectd, run_inspectd, save_picture
from .test_self_testing import kept_tests, make, write_data
from .test_station import FOLDER, Running, start  # noqa: F401 - a fixture

LINE = "marble"
PICTURES = 3
PAINTED = f"paint = {PICTURES}"
FAULTS = {
    "covered": lambda pixels: np.full_like(pixels, 3),
    "covered, in stray light": lambda pixels: np.full_like(pixels, 40),
    "defocused": lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 3.0),
    "overexposed": lambda pixels: cv2.convertScaleAbs(pixels, alpha=2.5),
    "underexposed": lambda pixels: cv2.convertScaleAbs(pixels, alpha=0.15),
}


def good_parts(first: int, count: int) -> list[np.ndarray]:
    return [render(LINE, None, first + number, 256).image for number in range(count)]


@pytest.fixture(scope="session")
def marble_set(tmp_path_factory) -> Path:
    """Defects of all types on marble buttons, and good ones."""
    defective = [render(LINE, defect, 5_000_000_100 + index, 256) for index, defect in enumerate(DEFECTS * 2)]
    rows = [(part.image, part.mask > 0, part.defect) for part in defective]
    rows += [(pixels, None, "") for pixels in good_parts(5_000_001_000, 3)]
    root = write_data(tmp_path_factory.mktemp("marble") / "data", rows)
    return make(demo_bundle(), root, root / "set.zip", GoldenSettings(per_class=1, leave_out=True))


@pytest.fixture(scope="session")
def parts_of_now() -> list[np.ndarray]:
    return good_parts(6_000_000_000, 6)


@pytest.fixture(scope="session")
def inspector():
    bundle = load_bundle(demo_bundle())
    with open_engine(bundle, threads=1) as engine:
        loaded = LoadedBundle(bundle, engine)
        yield Model.make(loaded, AcceptanceRule(), scales={"cam1": None}, clock=time.monotonic_ns).inspector


@pytest.fixture(scope="session")
def paintable(marble_set, inspector) -> list[int]:
    return paintable_parts(open_masters(marble_set), inspector.inspect, camera="cam1", count=PICTURES)


def judged(marble_set, paintable, inspector, pictures):
    return run_painted(open_masters(marble_set), paintable, pictures, inspector.inspect, camera="cam1")


def test_most_defects_of_a_set_can_be_painted(marble_set, paintable):
    record = open_masters(marble_set).record
    assert len(paintable) >= 6
    assert all(not record.parts[number].is_good for number in paintable)


def test_on_a_healthy_camera_all_are_found(marble_set, paintable, inspector, parts_of_now):
    result = judged(marble_set, paintable, inspector, parts_of_now[:PICTURES])
    assert (result.passed, result.missed, str(result.change)) == (True, (), "")
    body = result.body()
    assert (body["known"], body["found"], body["pictures"]) == (len(paintable), len(paintable), PICTURES)
    assert (
        sum(each["total"] for each in body["types"]) == len(paintable) == sum(each["total"] for each in body["sizes"])
    )
    names = {part.name for part in open_masters(marble_set).record.parts if not part.is_good}
    assert len(names) == len(paintable) + len(body["left_out"])
    assert set(body["left_out"]) < names
    assert result.told_missed() == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_camera_that_sees_no_more_misses_them(marble_set, paintable, inspector, parts_of_now, fault):
    pictures = [FAULTS[fault](pixels) for pixels in parts_of_now[:PICTURES]]
    result = judged(marble_set, paintable, inspector, pictures)
    assert not result.passed
    assert len(result.missed) >= 2
    assert result.told_missed().startswith(
        f"{len(result.missed)} of {len(paintable)} known defects are missed that were"
    )
    what = {"defocused": "are blurred by ", "overexposed": "have 2.", "underexposed": "have 0.1"}.get(fault, "have 0.")
    assert what in str(result.change)


def test_pictures_of_another_size_are_refused(marble_set, paintable, inspector, parts_of_now):
    small = [np.ascontiguousarray(pixels[::2, ::2]) for pixels in parts_of_now[:2]]
    with pytest.raises(ConfigError, match=r"is 256 x 256 px in colour, and the pictures .* are 128 x 128 px in colour"):
        judged(marble_set, paintable, inspector, small)


def test_a_process_that_ends_is_told(marble_set, paintable, inspector, parts_of_now, monkeypatch):
    monkeypatch.setattr(painted_parts, "command", lambda _module: [sys.executable, "-c", "pass"])
    with pytest.raises(InferenceError, match="the process that paints has ended"):
        judged(marble_set, paintable, inspector, parts_of_now[:1])


def test_a_process_that_hangs_is_killed_and_told(marble_set, paintable, inspector, parts_of_now, monkeypatch):
    monkeypatch.setattr(painted_parts, "command", lambda _module: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(painted_parts, "PAINT_S", 0.5)
    with pytest.raises(InferenceError, match=r"has not painted within 0\.5 s"):
        judged(marble_set, paintable, inspector, parts_of_now[:1])


def test_what_is_needed_to_paint_is_asked_for_at_the_start(write_config, pictures, marble_set, tmp_path, monkeypatch):
    # Whoever imports SciPy finds this, which cannot be.
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy" / "__init__.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    config = write_config(FOLDER, f'[golden]\nfile = "{marble_set}"\n{PAINTED}')
    for command in ("check", "run"):
        status, _, err = run_inspectd(command, config)
        assert (status, "golden.paint = 3: 'scipy" in err) == (2, True), err
        assert "install it with: pip install 'inspectd[augment]'; or leave it out" in err


# Which parts are painted on


def inspection(pixels: np.ndarray, verdict: Verdict, camera: str = "cam1") -> Inspection:
    is_seen = verdict is not Verdict.NOT_INSPECTED
    mask = Mask(np.zeros(pixels.shape[:2], np.uint8), ClassMap(("defect",))) if is_seen else None
    frame = Frame(camera, 1, pixels, acquired_ns=0)
    reason = "" if is_seen else "not seen"
    return Inspection(frame=frame, verdict=verdict, defects=(), mask=mask, bundle_digest="", reason=reason)


def picture(level: int) -> np.ndarray:
    return np.full((4, 4, 1), level, np.uint8)


def test_the_next_good_parts_are_taken_and_copied():
    parts = NextParts("cam1", 2)
    parts.note(inspection(picture(1), Verdict.OK))
    parts.want()
    pixels = picture(2)
    parts.note(inspection(pixels, Verdict.OK))
    parts.note(inspection(picture(3), Verdict.NG))
    parts.note(inspection(picture(4), Verdict.OK, camera="cam2"))
    parts.note(inspection(picture(5), Verdict.NOT_INSPECTED))
    assert not parts.are_there
    assert parts.take() == []
    parts.note(inspection(picture(6), Verdict.OK))
    pixels[:] = 0
    assert parts.are_there
    assert [int(each[0, 0, 0]) for each in parts.take()] == [2, 6]
    assert not parts.are_there


def test_where_no_part_is_good_bad_ones_are_taken():
    parts = NextParts("cam1", 2)
    parts.want()
    for number in range(MOST_BAD):
        assert not parts.are_there
        parts.note(inspection(picture(number), Verdict.NG))
    assert [int(each[0, 0, 0]) for each in parts.take()] == [MOST_BAD - 2, MOST_BAD - 1]


# On a line


@pytest.fixture
def painting(start, write_config, tmp_path, marble_set, parts_of_now):  # noqa: F811
    """A station whose camera shows marble buttons, changed by something, and its defects painted on them."""
    folder = tmp_path / "pictures"
    folder.mkdir()

    def show(change=lambda pixels: pixels) -> None:
        for number, pixels in enumerate(parts_of_now):
            save_picture(folder / f"new-{number}.png", change(pixels))
            (folder / f"new-{number}.png").rename(folder / f"{number}.png")

    @contextmanager
    def run(change=lambda pixels: pixels, more: str = ""):
        show(change)
        shutil.copy(marble_set, tmp_path / "set.zip")
        config = write_config(
            'source = "folder"\npath = "pictures"\npattern = "?.png"\nloop = true\nfps = 8',
            f'[golden]\nfile = "{tmp_path}/set.zip"\n{PAINTED}\n{more}',
        )
        text = config.read_text()
        config.write_text(text[: text.index('bundle = "')] + 'bundle = "demo"\n' + text[text.index("threads") :])
        running = Running(start("run", config, "--stay"), tmp_path)
        with running.requester, running.subscriber:
            yield running

    run.show = show
    return run


def test_a_healthy_line_passes(painting, tmp_path):
    with painting() as running:
        running.until_state("ContinuousExecution")
        first = running.ask("snapshot")["self_test"]
        assert (first["passed"], first["unpainted"], "painted" in first) == (
            True,
            f"known defects are painted once {PICTURES} parts have come",
            False,
        )
        status, out, _ = finish(inspectd("ctl", "self_test", "--at", tmp_path / "line.toml"), timeout_s=120)
        assert (status, "self-test passed" in out) == (0, True)
        assert f"painted on {PICTURES} pictures of now: " in out
        test = running.ask("snapshot")["self_test"]
        painted = test["painted"]
        assert (painted["found"], painted["missed"], painted["exposure"]) == (painted["known"], [], 1.0)
        assert running.ask("snapshot")["alarms"] == []
        # Parts are judged as if nothing had been.
        running.process.terminate()
        finish(running.process)
    (_, first), *_, (_, last) = kept_tests(tmp_path)
    assert ("painted" in first, last["painted"]) == (False, painted)


@pytest.mark.parametrize("fault", ["covered", "defocused", "overexposed", "underexposed"])
def test_a_camera_that_sees_no_more_leads_to_error(painting, tmp_path, fault):
    with painting(FAULTS[fault]) as running:
        alarm = running.open_alarm("golden.missed", within_s=120)
        assert "known defects are missed that were painted on pictures of now" in alarm["message"]
        assert alarm["severity"] == "error"
        running.until_state("Error")
        snapshot = running.ask("snapshot")
        assert snapshot["healthReason"] == alarm["message"]
        test = snapshot["self_test"]
        assert (test["passed"], test["why"]) == (False, "there are parts to paint on")
        # What is stored is found all the same.
        assert (test["masters"]["passed"], test["painted"]["passed"]) == (True, False)
        running.process.kill()
        finish(running.process)
    assert [result["passed"] for _, result in kept_tests(tmp_path)] == [True, False]


def test_once_the_camera_is_mended_the_line_goes_on(painting):
    with painting(FAULTS["covered"]) as running:
        running.open_alarm("golden.missed", within_s=120)
        running.until_state("Error")
        painting.show()
        running.ask("reset")
        running.until_state("ContinuousExecution")
        # Nobody knows yet whether it sees again.
        assert running.open_alarm("golden.missed")["active"]
        deadline = time.monotonic() + 120
        while running.open_alarm("golden.missed")["active"]:
            assert time.monotonic() < deadline
            assert running.state() == "ContinuousExecution"
            time.sleep(0.1)
        assert running.ask("snapshot")["self_test"]["painted"]["passed"]


def test_an_alarm_alone_stops_nothing(painting):
    with painting(FAULTS["defocused"], 'on_failure = "alarm"') as running:
        running.open_alarm("golden.missed", within_s=120)
        seq = running.ask("snapshot")["streams"][0]["last"]
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT and m.header.seq > seq + 5)
        assert running.state() == "ContinuousExecution"
