"""A folder of pictures as a GenICam camera."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from .camera_site import frames
from .conftest import finish, inspectd, picture, save_picture


def served(site, folder, *options):
    """The command, once its camera is there."""
    process = inspectd("simcam", "serve", folder, "--feed", site.path, *options)
    deadline = time.monotonic() + 20
    while not site.path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_pictures_come_in_the_order_of_their_names_and_once(site, pictures):
    process = served(site, pictures, "--once")
    grabber = site.streaming(queue_frames=16)
    for number, frame in enumerate(frames(grabber, 10), start=1):
        np.testing.assert_array_equal(frame.pixels, picture(defect=number % 2 == 0))
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    assert "10 pictures were put before the camera" in out


def test_a_folder_goes_round_as_mono_until_interrupted(site, pictures):
    process = served(site, pictures, "--mono")
    grabber = site.streaming(queue_frames=32)
    got = frames(grabber, 24)
    assert {frame.pixels.shape for frame in got} == {(64, 64, 1)}
    assert [int(frame.pixels.max()) for frame in got[:4]] == [40, 255, 40, 255]
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert (status, err) == (0, "")


@pytest.mark.parametrize("options", [(), ("--mono",)])
def test_pictures_of_several_sizes_are_refused(site, pictures, options):
    save_picture(pictures / "part11.png", picture(defect=False, side=32))
    process = served(site, pictures, "--once", *options)
    grabber = site.streaming(queue_frames=16)
    frames(grabber, 8)
    status, _, err = finish(process)
    assert status == 2
    assert "picture 11 is 32 x 32 px, the first one 64 x 64" in err
