"""A whole line whose camera fails: `inspectd run` as a process, a subscriber, a simulated camera."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspectd.frame import CameraState
from inspectd.inspection import Verdict
from inspectd.runtime.messaging import Silence, Subscriber
from inspectd.runtime.simcam import FEED_VARIABLE, producer_path
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.wire import AlarmBody, DeviceHealth, HeartbeatBody, Message, MessageType, Severity, read_body

from .conftest import children, core_of, finish, inspectd, picture

CAMERA = 'source = "genicam"\nproducer = "simulator"\nfeatures = { AcquisitionFrameRate = 100.0 }\n'
WAIT_S = 30.0


class Station:
    """A line on a feed, and what it publishes."""

    def __init__(self, config: Path, endpoint: str, feed: Path) -> None:
        self.line = inspectd("run", config, "--wait", "20")
        self.subscriber = Subscriber(endpoint)
        self.path = feed
        self.feed: FrameFeed | None = None
        self.verdicts: list[Message] = []
        self.health = (DeviceHealth.NORMAL, "")
        self.cameras: list[CameraState] = []
        self.alarms: dict[str, AlarmBody] = {}

    def plug_in(self) -> None:
        self.feed = plugged_in(self.path)

    def pass_parts(self, *defects: bool) -> None:
        for defect in defects:
            assert self.feed.put(picture(defect=defect), 5.0)

    def until(self, condition) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, (self.health, self.cameras, len(self.verdicts), self.line.poll())
            message = self.subscriber.receive(0.1)
            if isinstance(message, Silence):
                continue
            if message.header.msg_type == MessageType.VERDICT:
                self.verdicts.append(message)
            elif message.header.msg_type == MessageType.ALARM:
                alarm = read_body(message, AlarmBody)
                self.alarms[alarm.code] = alarm
            elif message.header.msg_type == MessageType.HEARTBEAT:
                body = read_body(message, HeartbeatBody)
                self.health = (body.device_health, body.health_reason)
                self.cameras = [camera.state for camera in body.cameras]

    def camera_process(self) -> int:
        """The only child of the process that judges."""
        (number,) = children(core_of(self.line))
        return number


def plugged_in(path: Path) -> FrameFeed:
    return FrameFeed(path, 64, 64, slots=32)


@pytest.fixture
def feed(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FEED_VARIABLE, str(tmp_path / "cam.feed"))
    return tmp_path / "cam.feed"


@pytest.fixture
def station(write_config, tmp_path, feed):
    yield from running(Station(write_config(CAMERA), f"ipc://{tmp_path}/pub", feed))


@pytest.fixture
def triggered(write_config, tmp_path, feed):
    """Its camera is there from the start, and a line triggers it; its producer numbers no parts, as real ones."""
    plugged = plugged_in(feed)
    camera = f'source = "genicam"\nproducer = "{producer_path()}"\ntrigger = "Line1"\n'
    station = Station(write_config(camera), f"ipc://{tmp_path}/pub", feed)
    station.feed = plugged
    yield from running(station)


def running(station: Station) -> Iterator[Station]:
    with station.subscriber:
        yield station
    if station.line.poll() is None:
        station.line.kill()
        station.line.communicate()
    if station.feed is not None:
        station.feed.close()


def judged(station: Station) -> list[tuple[int, Verdict]]:
    return [(message.header.seq, Verdict(message.header.verdict)) for message in station.verdicts]


def test_a_line_without_its_camera_says_so_and_goes_on_when_it_comes_and_goes(station):
    station.until(lambda: station.health[0] is DeviceHealth.FAILURE)
    assert "camera 'cam1': not found" in station.health[1]
    station.plug_in()
    station.until(lambda: station.health == (DeviceHealth.NORMAL, ""))
    station.pass_parts(True, False)
    station.until(lambda: len(station.verdicts) == 2)

    os.kill(station.camera_process(), signal.SIGKILL)
    station.until(lambda: station.health[0] is DeviceHealth.FAILURE)
    assert "ended by SIGKILL" in station.health[1]
    station.until(lambda: station.health == (DeviceHealth.NORMAL, ""))
    station.pass_parts(False, True)
    station.until(lambda: len(station.verdicts) == 4)
    ok, ng = Verdict.OK, Verdict.NG
    assert judged(station) == [(1, ng), (2, ok), (3, ok), (4, ng)]

    station.line.send_signal(signal.SIGTERM)
    status, out, err = finish(station.line)
    assert status == 0, err
    summary = json.loads(out)
    assert (summary["frames"], summary["verdicts"], summary["cameras"]["cam1"]["connections"]) == (4, 4, 2)
    alarms = [line for line in err.splitlines() if "looking for it again" in line]
    assert len(alarms) == 2, err
    assert sum("is back" in line for line in err.splitlines()) == 2


def test_a_camera_whose_process_dies_again_and_again_is_an_alarm_and_looked_for_all_the_same(station):
    station.plug_in()
    for death in range(5):
        station.until(lambda: station.health[0] is not DeviceHealth.FAILURE)
        assert "process.failing.camera-cam1" not in station.alarms, death
        # A frame that came makes the next try a soon one.
        station.pass_parts(False)
        station.until(lambda death=death: len(station.verdicts) == death + 1)
        os.kill(station.camera_process(), signal.SIGKILL)
        station.until(lambda: station.health[0] is DeviceHealth.FAILURE)
    station.until(lambda: "process.failing.camera-cam1" in station.alarms)
    alarm = station.alarms["process.failing.camera-cam1"]
    assert (alarm.severity, alarm.active) == (Severity.ERROR, True)
    station.until(lambda: not station.alarms["camera.away.cam1"].active)
    station.pass_parts(True)
    station.until(lambda: len(station.verdicts) == 6)
    assert station.alarms["process.failing.camera-cam1"].active


def test_parts_of_a_trigger_line_have_numbers_until_their_camera_was_away(triggered):
    """Without them a late OK would be taken for the next part: "The fail-safe rule" of docs/clients.md."""
    station = triggered
    with Faults(station.path) as faults:
        station.until(lambda: station.cameras == [CameraState.STREAMING])
        station.pass_parts(False, True, False)
        for part in (1, 2):
            faults.pulse()
            station.until(lambda part=part: len(station.verdicts) == part)
        os.kill(station.camera_process(), signal.SIGKILL)
        station.until(lambda: "camera.uncounted.cam1" in station.alarms)
        alarm = station.alarms["camera.uncounted.cam1"]
        assert (alarm.severity, alarm.active) == (Severity.ERROR, True)
        station.until(lambda: station.health == (DeviceHealth.MAINTENANCE_REQUIRED, alarm.message))
        assert station.cameras == [CameraState.STREAMING]
        faults.pulse()
        station.until(lambda: len(station.verdicts) == 3)
    assert judged(station) == [(1, Verdict.OK), (2, Verdict.NG), (3, Verdict.OK)]
    assert [message.header.trigger_id for message in station.verdicts] == [1, 2, 0]


def test_a_picture_that_comes_after_its_deadline_passes_no_part(triggered):
    """Its camera's clock is the host's, so that its age is known."""
    station = triggered
    with Faults(station.path) as faults:
        station.until(lambda: station.cameras == [CameraState.STREAMING])
        station.pass_parts(False, False)
        faults.late(1, 1500)
        for part in (1, 2):
            faults.pulse()
            station.until(lambda part=part: len(station.verdicts) == part)
    assert judged(station) == [(1, Verdict.NOT_INSPECTED), (2, Verdict.OK)]
    late, good = (message.header.latency_us for message in station.verdicts)
    assert late > 1_500_000
    assert good < 1_000_000


def test_a_part_that_was_exposed_when_the_line_ends_has_its_verdict(triggered):
    station = triggered
    with Faults(station.path) as faults:
        station.until(lambda: station.cameras == [CameraState.STREAMING])
        station.pass_parts(True)
        faults.late(1, 500)
        faults.pulse()
        time.sleep(0.2)
    station.line.send_signal(signal.SIGTERM)
    station.until(lambda: station.verdicts)
    assert judged(station) == [(1, Verdict.NG)]
    status, out, err = finish(station.line)
    assert status == 0, err
    assert json.loads(out)["frames"] == 1
