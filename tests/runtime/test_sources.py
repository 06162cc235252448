"""Frame sources: real folders, real rendered parts, real GenTL producers (each in a process of its own)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.buttons import line_part
from inspectd.config import ButtonsCamera, FolderCamera
from inspectd.errors import CameraError, EndOfFrames, FrameTimeout
from inspectd.runtime.sources import make_source
from inspectd.runtime.sources.damaged import DamagedFrame
from inspectd.runtime.sources.pace import Pace
from inspectd.runtime.sources.pixel_formats import PIXEL_FORMATS, to_pixels

from .conftest import picture, save_picture


def folder_source(path, **settings):
    return make_source("cam1", FolderCamera(source="folder", path=path, **settings))


# Folders


def test_a_folder_is_read_in_natural_order_to_its_end(pictures):
    source = folder_source(pictures)
    source.open()
    assert [path.name for path in source.files] == [f"part{number}.png" for number in range(1, 11)]
    for number in range(1, 11):
        frame = source.read(1.0)
        assert (frame.frame_id, frame.source) == (number, f"part{number}.png")
        np.testing.assert_array_equal(frame.pixels, picture(defect=number % 2 == 0))
        assert frame.received_ns > 0
    with pytest.raises(EndOfFrames, match="all 10 pictures"):
        source.read(1.0)
    source.close()
    source.close()


def test_a_looping_folder_starts_anew_and_goes_on_counting(pictures):
    source = folder_source(pictures, loop=True, pattern="part[12].png")
    source.open()
    assert [source.read(1.0).frame_id for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"pattern": "*.bmp"}, "no picture matches"), ({"pattern": "/abs/*"}, "is not a glob")],
)
def test_folders_without_pictures(pictures, settings, complaint):
    source = folder_source(pictures, **settings)
    with pytest.raises(CameraError, match=complaint):
        source.open()
    source.close()


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(CameraError, match=r"set cameras\.cam1\.path"):
        folder_source(tmp_path / "missing").open()
    with pytest.raises(CameraError, match="cannot be listed: File name too long"):
        folder_source(tmp_path / ("x" * 300)).open()


def damaged_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    png, jpeg = (cv2.imencode(suffix, noise)[1].tobytes() for suffix in (".png", ".jpg"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty.png": b"",
        "truncated.png": png[: len(png) // 2],
        "flipped.png": bytes(flipped),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.png": b"this is no picture",
        "float.tiff": cv2.imencode(".tiff", noise.astype(np.float32))[1].tobytes(),
    }


@pytest.mark.parametrize("name", damaged_files())
def test_a_damaged_picture_is_a_damaged_frame_and_the_next_one_comes(tmp_path, name):
    (tmp_path / name).write_bytes(damaged_files()[name])
    save_picture(tmp_path / "zz.png", picture(defect=False))
    source = folder_source(tmp_path)
    source.open()
    with pytest.raises(DamagedFrame, match=name) as caught:
        source.read(1.0)
    assert (caught.value.frame.frame_id, caught.value.frame.camera) == (1, "cam1")
    assert source.read(1.0).frame_id == 2


def test_a_picture_that_went_away_is_a_damaged_frame(pictures):
    source = folder_source(pictures)
    source.open()
    (pictures / "part1.png").unlink()
    with pytest.raises(DamagedFrame, match=r"part1\.png"):
        source.read(1.0)


def test_sixteen_bits_lose_the_low_ones_that_the_configuration_names(tmp_path):
    cv2.imwrite(str(tmp_path / "part.png"), np.full((4, 5), 0x0ABC, np.uint16))
    for bits, expected in ((16, 0x0A), (12, 0xAB)):
        source = folder_source(tmp_path, bits=bits)
        source.open()
        assert (source.read(1.0).pixels == expected).all()


# Pace


def test_frames_come_at_the_rate_asked_for_and_a_late_one_is_followed_by_no_burst():
    now = [0]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)

    pace = Pace(10, clock=lambda: now[0], sleep=sleep)
    moments = []
    for _ in range(3):
        pace.wait(1.0, "cam1")
        moments.append(now[0] / 1e9)
    sleep(1.0)
    for _ in range(3):
        pace.wait(1.0, "cam1")
        moments.append(now[0] / 1e9)
    np.testing.assert_allclose(np.diff(moments), [0.1, 0.1, 1.0, 0.1, 0.1])


def test_a_frame_that_is_not_due_in_time_is_a_timeout(pictures):
    source = folder_source(pictures, fps=2)
    source.open()
    source.read(0.0)
    with pytest.raises(FrameTimeout):
        source.read(0.01)


# Rendered buttons


def test_buttons_are_the_parts_of_the_line_whether_rendered_ahead_or_not():
    source = make_source("cam1", ButtonsCamera(source="buttons", seed=3, size=64, ahead=1))
    source.open()
    for index in range(2):
        frame = source.read(1.0)
        assert frame.frame_id == index + 1
        np.testing.assert_array_equal(frame.pixels, line_part(index, 3, 0.3, size=64).image)
    source.close()
    with pytest.raises(EndOfFrames):
        source.read(1.0)


# Pixel formats


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), padding=st.integers(0, 5), cut=st.booleans(),
    name=st.sampled_from(["Mono8", "RGB8", "BGR8", "RGBa8"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_padding_and_channel_order_are_undone(size, padding, cut, name, seed):
    rng = np.random.default_rng(seed)
    height, width = size
    grey = name == "Mono8"
    pixels = rng.integers(0, 256, (height, width, 1 if grey else 3), np.uint8)
    stored = pixels[..., ::-1] if name == "BGR8" else pixels
    if name == "RGBa8":
        stored = np.concatenate([stored, rng.integers(0, 256, (height, width, 1), np.uint8)], axis=2)
    lines = np.concatenate([stored.reshape(height, -1), rng.integers(0, 256, (height, padding), np.uint8)], axis=1)
    data = lines.reshape(-1)
    data = data[: data.size - padding] if cut else data
    got = to_pixels(data, height, width, padding, PIXEL_FORMATS[name])
    np.testing.assert_array_equal(got, pixels)
    assert got.flags.c_contiguous
    assert got.flags.owndata or got.base is not data


@pytest.mark.parametrize("name", ["BayerGR8", "BayerRG8", "BayerGB8", "BayerBG8"])
def test_bayer_patterns_keep_red_red(name):
    order = {"R": 200, "G": 100, "B": 50}
    first, second = name[5], name[6]
    others = {"GR": "BG", "RG": "GB", "GB": "RG", "BG": "GR"}[first + second]
    mosaic = np.tile(np.array([[order[first], order[second]], [order[c] for c in others]], np.uint8), (8, 8))
    pixels = to_pixels(mosaic.reshape(-1), 16, 16, 0, PIXEL_FORMATS[name])
    np.testing.assert_array_equal(pixels[4:12, 4:12].reshape(-1, 3), np.tile([200, 100, 50], (64, 1)))


@pytest.mark.parametrize(("height", "width", "padding"), [(4, 5, 0), (0, 5, 0), (2, 2, -1)])
def test_a_buffer_that_does_not_fit_is_refused(height, width, padding):
    with pytest.raises(ValueError, match="needs"):
        to_pixels(np.zeros(19, np.uint8), height, width, padding, PIXEL_FORMATS["Mono8"])


# GenICam


def in_process(script: str, **environment: str) -> dict:
    """Run a script that prints one JSON object; a producer can be loaded once in a process."""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


PRELUDE = """
import json, signal
from inspectd.config import GenicamCamera
from inspectd.errors import CameraError, CameraLost, FrameTimeout
from inspectd.runtime.sources.genicam import GenicamSource

def camera(**settings):
    return GenicamSource("cam1", GenicamCamera(**{"source": "genicam", "producer": "viky", **settings}))

def complaint(**settings):
    source = camera(**settings)
    try:
        source.open()
    except CameraError as error:
        return str(error)
    finally:
        source.close()
"""


def test_the_viky_camera_delivers_what_its_features_say():
    got = in_process(
        PRELUDE
        + """
handler = signal.getsignal(signal.SIGINT)
seen = {}
for name in ("RGBa8", "Mono8"):
    source = camera(device="1", features={"Width": 128, "Height": 100, "PixelFormat": name,
                                          "AcquisitionFrameRate": 100.0})
    source.open()
    source.start()
    frames = [source.read(2.0) for _ in range(5)]
    seen[name] = [list(frames[0].pixels.shape), [frame.frame_id for frame in frames],
                  [frame.acquired_ns > 1.6e18 for frame in frames]]
    source.close()
    source.close()
seen["handler"] = signal.getsignal(signal.SIGINT) is handler
print(json.dumps(seen))
"""
    )
    assert got["RGBa8"] == [[100, 128, 3], [1, 2, 3, 4, 5], [True] * 5]
    assert got["Mono8"][0] == [100, 128, 1]
    assert got["handler"]


def test_what_is_wrong_with_a_camera_is_told():
    got = in_process(
        PRELUDE
        + """
from pathlib import Path
import cv2
print(json.dumps({
    "many": complaint(), "none": complaint(device="9"),
    "range": complaint(device="0", features={"Width": 5000}),
    "unknown": complaint(device="0", features={"Widht": 200}),
    "three": complaint(device="0", features={"Widht": 200, "Height": 200, "Width": "wide", "PayloadSize": 1}),
    "kind": complaint(device="0", features={"Width": "wide"}),
    "choice": complaint(device="0", features={"PixelFormat": "Mono16"}),
    "locked": complaint(device="0", features={"PayloadSize": 1}),
    "category": complaint(device="0", features={"ImageFormatControl": 1}),
    "producer": complaint(producer="/nowhere/maker.cti"),
    "no producer": complaint(producer=cv2.__file__),
    "other library": complaint(producer=str(next(Path(cv2.__file__).parent.glob("cv2*.so")))),
    "long name": complaint(producer="/" + 300 * "x"),
}))
"""
    )
    assert "finds 3; set cameras.cam1.device" in got["many"]
    assert "VikyTL_DEV_blue" in got["many"]
    assert "not found" in got["none"]
    assert "VikyTL_DEV_red" in got["none"]
    assert "expected a whole number from 100 to 800" in got["range"]
    assert "did you mean 'Width'?" in got["unknown"]
    first, second, third = got["three"].splitlines()
    assert "'Widht' does not exist" in first
    assert "'wide' does not fit" in second
    assert "cannot be written now" in third
    assert "'wide' does not fit" in got["kind"]
    assert "expected one of RGBa8, Mono8" in got["choice"]
    assert "cannot be written now" in got["locked"]
    assert "is a category" in got["category"]
    assert "no GenTL producer at /nowhere/maker.cti" in got["producer"]
    assert "is not a GenTL producer" in got["no producer"]
    assert "is a library, but no GenTL producer" in got["other library"]
    assert "File name too long" in got["long name"]


def test_cameras_behind_one_producer_share_it_and_one_camera_is_opened_once():
    got = in_process(
        PRELUDE
        + """
first, second = camera(device="0"), camera(device="1")
first.open()
first.start()
second.open()
second.start()
first.read(2.0)
second.read(2.0)
in_use = complaint(device="0")
first.close()
second.read(2.0)
second.close()
third = camera(device="0")
third.open()
third.start()
print(json.dumps({"in use": in_use, "again": third.read(2.0).frame_id}))
third.close()
"""
    )
    assert "in use by another program" in got["in use"]
    assert got["again"] == 1


def test_a_frame_that_was_not_filled_to_its_end_is_damaged():
    """A line-scan camera's short frame counts as complete, and the rest of the buffer holds an earlier picture."""
    got = in_process(
        PRELUDE
        + """
from types import SimpleNamespace
from inspectd.runtime.sources.damaged import DamagedFrame

source = camera(device="0", features={"Width": 100, "Height": 100, "PixelFormat": "Mono8"})
source.open()
source.start()
buffer = SimpleNamespace(frame_id=7, timestamp_ns=0, payload_type=1, pixel_format=0x01080001, width=100, height=100,
                         padding_x=0, image_offset=0, raw_buffer=bytes(10_000), size_filled=10_000,
                         is_complete=lambda: True)
whole = source._frame(buffer).pixels.shape
buffer.size_filled = 6_000
try:
    source._frame(buffer)
except DamagedFrame as error:
    print(json.dumps({"whole": whole, "short": str(error), "id": error.frame.frame_id}))
source.close()
"""
    )
    assert got["whole"] == [100, 100, 1]
    assert "needs 10000 bytes, the buffer holds 6000" in got["short"]
    assert got["id"] == 7


def test_a_silent_camera_is_lost_after_its_timeout():
    got = in_process(
        PRELUDE
        + """
source = camera(device="0", timeout_ms=300, features={"AcquisitionFrameRate": 1.0})
source.open()
source.start()
timeouts = 0
try:
    while True:
        try:
            source.read(0.05)
        except FrameTimeout:
            timeouts += 1
except CameraLost as error:
    print(json.dumps({"timeouts": timeouts, "lost": str(error)}))
source.close()
"""
    )
    assert got["timeouts"] >= 3
    assert "no frame for 0.3 s" in got["lost"]


def test_the_simulated_camera_delivers_the_pixels_of_its_feed(tmp_path):
    feed = tmp_path / "line.feed"
    got = in_process(
        PRELUDE
        + """
import os
from pathlib import Path
import numpy as np
from inspectd.runtime.simcam.feed import FrameFeed
rng = np.random.default_rng(0)
with FrameFeed(Path(os.environ["INSPECTD_SIM_FEED"]), 50, 40, slots=6) as feed:
    parts = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(6)]
    for part in parts:
        assert feed.put(part, 1.0)
    source = camera(producer="simulator", features={"AcquisitionFrameRate": 50.0})
    source.open()
    source.start()
    frames = [source.read(2.0) for _ in parts]
    print(json.dumps({"same": [bool((a.pixels == b).all()) for a, b in zip(frames, parts)],
                      "ids": [frame.frame_id for frame in frames]}))
    source.close()
""",
        INSPECTD_SIM_FEED=str(feed),
    )
    assert got == {"same": [True] * 6, "ids": [0, 1, 2, 3, 4, 5]}
