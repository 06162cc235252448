"""A camera that gives one and the same picture for ever passes no part by it."""

from __future__ import annotations

import numpy as np
import pytest

from inspectd.config import parse_config
from inspectd.frame import Frame
from inspectd.inspection import Verdict
from inspectd.runtime.frozen import FrozenWatch, RepeatedFrame, watches_for
from inspectd.runtime.simcam import FEED_VARIABLE, producer_path
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.wire import DeviceHealth, HeartbeatBody, Message, MessageType, VerdictBody, read_body

from .test_line import Script, Setup, setup  # noqa: F401 - a fixture
from .test_station import Running, start, station  # noqa: F401 - fixtures

SIDE = 64
MAKERS = 'source = "genicam"\nproducer = "maker.cti"\n'


def taken(seed: int, *, defect: bool = False) -> np.ndarray:
    """As a sensor gives it: dark grey with noise; with a white square where the part has a defect."""
    pixels = np.random.default_rng(seed).normal(40, 1.5, (SIDE, SIDE, 3)).astype(np.uint8)
    if defect:
        pixels[16:32, 16:32] = 255
    return pixels


def frames(*pictures: np.ndarray) -> list[Frame]:
    """With numbers that go on, whatever the pictures do."""
    return [Frame("cam1", number, pixels.copy(), acquired_ns=0) for number, pixels in enumerate(pictures, 1)]


def refused(watch: FrozenWatch, *pictures: np.ndarray) -> list[bool]:
    told = []
    for frame in frames(*pictures):
        try:
            watch.look(frame)
        except RepeatedFrame:
            told.append(True)
        else:
            told.append(False)
        assert watch.is_frozen == told[-1]
    assert watch.refused == sum(told)
    return told


def test_from_the_second_identical_picture_on_until_another_comes():
    a, b = taken(1), taken(2)
    assert refused(FrozenWatch(2), a, a, a, b, a, b, b) == [False, True, True, False, False, False, True]
    assert refused(FrozenWatch(3), a, a, a, b, b) == [False, False, True, False, False]
    assert refused(FrozenWatch(0), a, a, a) == [False] * 3


def test_one_grey_value_is_another_picture():
    other = taken(1)
    other[50, 7, 1] += 1
    assert refused(FrozenWatch(2), taken(1), other) == [False, False]


def test_the_same_bytes_in_another_shape_are_another_picture():
    a = taken(1)
    assert refused(FrozenWatch(2), a, a.reshape(SIDE // 2, SIDE * 2, 3)) == [False, False]


def test_of_a_large_picture_rows_from_top_to_bottom_are_looked_at():
    large = np.random.default_rng(1).integers(0, 256, (2048, 2448, 3), np.uint8)
    noisy = large.copy()
    noisy[2000:] ^= 1
    assert refused(FrozenWatch(2), large, large, noisy) == [False, True, False]


@pytest.mark.parametrize(
    ("camera", "refuses"),
    [
        (MAKERS, True),
        (MAKERS + "frozen_frames = 0", False),
        ('source = "genicam"\nproducer = "simulator"', False),
        ('source = "genicam"\nproducer = "simulator"\nfrozen_frames = 2', True),
        ('source = "genicam"\nproducer = "viky"', False),
        ('source = "folder"\npath = "pictures"', False),
        ('source = "buttons"', False),
    ],
)
def test_pictures_of_what_is_no_camera_may_repeat(tmp_path, camera, refuses):
    config = parse_config(f'[cameras.cam1]\n{camera}\n[model]\nbundle = "demo"\n', tmp_path / "line.toml")
    a = taken(1)
    assert refused(watches_for(config.cameras)["cam1"], a, a) == [False, refuses]


def test_no_part_is_judged_by_the_picture_of_another(setup: Setup):  # noqa: F811
    good, bad = taken(1), taken(2, defect=True)
    line = setup.run(
        Script(*frames(good, good, good, bad, bad, taken(3))), camera=MAKERS + "queue_frames = 64", frames=6
    )
    out = Verdict.NOT_INSPECTED
    # Nor is a defect: that the known one of a master part is found has to be seen on that part.
    assert setup.verdicts == [Verdict.OK, out, out, Verdict.NG, out, Verdict.OK]
    assert setup.reasons[1].startswith("the picture is the one before it, byte for byte")
    assert line.frozen["cam1"].refused == 3
    assert not line.frozen["cam1"].is_frozen


def test_a_station_whose_camera_is_frozen_says_so_until_it_is_not(station, tmp_path, monkeypatch):  # noqa: F811
    """By its path the simulated camera is one like any other."""
    monkeypatch.setenv(FEED_VARIABLE, str(tmp_path / "cam.feed"))
    camera = f'source = "genicam"\nproducer = "{producer_path()}"\nfeatures = {{ AcquisitionFrameRate = 100.0 }}\n'
    feed = FrameFeed(tmp_path / "cam.feed", SIDE, SIDE, slots=32)
    with station(camera, "", "--wait", "20") as running:
        for seed in (1, 2, 2, 2, 2):
            assert feed.put(taken(seed), 5.0)
        told = [verdict(running) for _ in range(5)]
        ok, out = Verdict.OK, Verdict.NOT_INSPECTED
        assert [(each.header.frame_id, Verdict(each.header.verdict)) for each in told] == [
            *((0, ok), (1, ok), (2, out), (3, out), (4, out))
        ]
        assert read_body(told[2], VerdictBody).reason.startswith("the picture is the one before it")
        alarm = running.open_alarm("camera.frozen.cam1")
        assert (alarm["severity"], alarm["active"]) == ("error", True)
        assert "camera 'cam1': parts are NOT_INSPECTED: it gives one and the same picture" in alarm["message"]
        running.until(lambda message: health(message) is DeviceHealth.MAINTENANCE_REQUIRED)
        assert feed.put(taken(3), 5.0)
        assert verdict(running).header.verdict == Verdict.OK
        running.alarm("camera.frozen.cam1", active=False)
    feed.close()


def verdict(running: Running) -> Message:
    return running.until(lambda message: message.header.msg_type == MessageType.VERDICT)


def health(message: Message) -> DeviceHealth | None:
    is_heartbeat = message.header.msg_type == MessageType.HEARTBEAT
    return read_body(message, HeartbeatBody).device_health if is_heartbeat else None
