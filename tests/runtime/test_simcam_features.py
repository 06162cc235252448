"""What the simulated camera can be set to, through the line's own acquisition."""

from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest

from inspectd.errors import CameraError, FrameTimeout
from inspectd.frame import CameraState
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed

from .camera_site import HEIGHT, WIDTH, frames, picture, until
from .conftest import run_inspectd

RATE = {"AcquisitionFrameRate": 200.0}


@pytest.fixture
def grey(site):
    """The same place with a grey feed."""
    site.feed = FrameFeed(site.path, WIDTH, HEIGHT, channels=1, slots=16)
    return site


def put_grey(site, count: int) -> list[np.ndarray]:
    parts = [picture(number)[..., :1] for number in range(count)]
    for part in parts:
        assert site.feed.put(np.ascontiguousarray(part), 5.0)
    return parts


@pytest.mark.parametrize("padding", [0, 5])
def test_mono12p_is_unpacked_to_the_pixels_of_the_feed(grey, padding):
    with Faults(grey.path) as faults:
        faults.pad(padding)
    grabber = grey.streaming(features={"PixelFormat": "Mono12p", **RATE})
    for part, frame in zip(put_grey(grey, 3), frames(grabber, 3), strict=True):
        np.testing.assert_array_equal(frame.pixels, part)


def test_mono12p_of_a_region_begins_lines_inside_bytes(grey):
    region = {"Width": 13, "Height": 7, "OffsetX": 6, "OffsetY": 4}
    grabber = grey.streaming(features={"PixelFormat": "Mono12p", **region, **RATE})
    for part, frame in zip(put_grey(grey, 3), frames(grabber, 3), strict=True):
        np.testing.assert_array_equal(frame.pixels, part[4:11, 6:19])


def test_bayer_comes_back_in_its_colours(site):
    site.plug_in()
    grabber = site.streaming(features={"PixelFormat": "BayerRG8", **RATE})
    smooth = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    smooth[...] = (200, 90, 20)
    assert site.feed.put(smooth, 5.0)
    np.testing.assert_array_equal(frames(grabber, 1)[0].pixels, smooth)


def test_a_region_of_a_mosaic_is_that_of_the_picture(site):
    site.plug_in()
    region = {"Width": 20, "Height": 10, "OffsetX": 4, "OffsetY": 6}
    grabber = site.streaming(features={"PixelFormat": "BayerRG8", **region, **RATE})
    site.pass_parts(1)
    (frame,) = frames(grabber, 1)
    part = picture(0)[6:16, 4:24]
    mosaic = part[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = part[::2, ::2, 0], part[1::2, 1::2, 2]
    np.testing.assert_array_equal(frame.pixels, cv2.cvtColor(mosaic, cv2.COLOR_BayerRGGB2RGB))


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({"Width": 38}, "'Width': 38 is out of range; expected a whole number from 1 to 37"),
        ({"OffsetX": 2}, "'OffsetX': 2 is out of range; expected a whole number from 0 to 0"),
        ({"Width": 30, "OffsetX": 8}, "'OffsetX': 8 is out of range; expected a whole number from 0 to 7"),
        ({"Width": 30, "OffsetX": 3}, "'OffsetX': 3 is out of range"),
        ({"PixelFormat": "Mono8"}, "expected one of RGB8, BayerRG8"),
        ({"ExposureTime": 5.0}, "'ExposureTime': 5.0 is out of range; expected a number from 10.0 to 1000000.0"),
        ({"Gain": 25.0}, "'Gain': 25.0 is out of range"),
        ({"TriggerDivider": 0}, "'TriggerDivider': 0 is out of range"),
    ],
)
def test_what_it_cannot_be_set_to_is_told_with_what_it_can(site, features, told):
    site.plug_in()
    with pytest.raises(CameraError, match=told):
        site.camera(features=features).open()


def test_each_pulse_of_its_line_is_a_frame_and_dividers_count(site):
    site.plug_in()
    grabber = site.streaming(trigger="Line1", trigger_divider=3)
    site.pass_parts(3)
    with Faults(site.path) as faults:
        faults.pulse(2)
        with pytest.raises(FrameTimeout):
            grabber.read(0.3)
        faults.pulse(5)
        got = frames(grabber, 2)
        with pytest.raises(FrameTimeout):
            grabber.read(0.3)
        faults.pulse(2)
        got += frames(grabber, 1)
    for number, frame in enumerate(got):
        np.testing.assert_array_equal(frame.pixels, picture(number))
    assert grabber.status.state is CameraState.STREAMING


def test_no_pulse_is_counted_twice_while_the_camera_takes_them(site):
    site.plug_in(slots=256)
    site.streaming(trigger="Line1", trigger_divider=100)
    site.pass_parts(250)
    with Faults(site.path) as faults:
        for _ in range(20_000):
            faults.pulse()
        deadline = time.monotonic() + 20
        while faults.sent.exposed < 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        assert faults.sent.exposed == 200


def test_user_sets_outlive_the_connection_and_the_power_cycle(site):
    site.plug_in()
    setting = {
        "Width": 16, "Height": 12, "OffsetX": 4, "ExposureTime": 777.0, "Gain": 3.5, **RATE,
        "UserSetSelector": "UserSet1", "UserSetSave": True,
    }  # fmt: skip
    first = site.camera(features=setting)
    first.open()
    first.close()
    loading = {"UserSetSelector": "UserSet1", "UserSetLoad": True, "UserSetDefault": "UserSet1"}
    second = site.streaming(features=loading)
    site.pass_parts(1)
    np.testing.assert_array_equal(frames(second, 1)[0].pixels, picture(0)[:12, 4:20])
    # At power-up it is there by itself.
    with Faults(site.path) as faults:
        faults.reboot(300)
    until(lambda: second.status.state is CameraState.LOST, second)
    second.close()
    third = site.streaming(features={"TriggerMode": "Off"})
    site.pass_parts(1)
    np.testing.assert_array_equal(frames(third, 1)[0].pixels, picture(1)[:12, 4:20])
    fourth_features = {"UserSetSelector": "Default", "UserSetLoad": True, "UserSetDefault": "Default"}
    third.close()
    fourth = site.streaming(features=fourth_features)
    site.pass_parts(1)
    np.testing.assert_array_equal(frames(fourth, 1)[0].pixels, picture(2))


def test_the_camera_commands_set_and_save(site):
    site.plug_in()
    arguments = ("camera", "set", "line", "--producer", "simulator")
    status, out, err = run_inspectd(*arguments, "ExposureTime=1234", "Gain=2", "--save", "UserSet1")
    assert (status, err) == (0, "")
    assert "ExposureTime: 5000.0 -> 1234.0" in out
    status, out, err = run_inspectd(*arguments, "UserSetSelector=UserSet1", "UserSetLoad=true", "Gain=4")
    assert (status, err) == (0, "")
    assert "Gain: 2.0 -> 4.0" in out


def test_the_listing_says_whether_another_process_has_it(site):
    site.plug_in()
    listing = ("camera", "list", "--producer", "simulator", "--json")
    assert [camera["state"] for camera in json.loads(run_inspectd(*listing)[1])[0]["cameras"]] == ["free"]
    grabber = site.streaming()
    assert [camera["state"] for camera in json.loads(run_inspectd(*listing)[1])[0]["cameras"]] == ["in use"]
    site.pass_parts(1)
    frames(grabber, 1)
