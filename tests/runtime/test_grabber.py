"""A camera in a process of its own: real harvesters, a real GenTL producer, real signals."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inspectd.config import GenicamCamera
from inspectd.errors import CameraAway, CameraError, CameraLost, EndOfFrames, FrameTimeout
from inspectd.frame import CameraState, Frame
from inspectd.runtime.restarts import BackOff
from inspectd.runtime.simcam import producer_path
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.sources import grabber as module
from inspectd.runtime.sources.grab_link import Kind, Packet
from inspectd.runtime.sources.grabber import Grabber

from .camera_site import HEIGHT, WAIT_S, WIDTH, answers, frames, picture, until


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_frames_arrive_bit_exact_through_the_ring(site):
    site.plug_in()
    grabber = site.camera()
    grabber.open()
    assert grabber.status.state is CameraState.READY
    grabber.start()
    assert grabber.status.state is CameraState.STREAMING
    site.pass_parts(40)
    got = []
    for number in range(40):
        (frame,) = frames(grabber, 1)
        np.testing.assert_array_equal(frame.pixels, picture(number))
        got.append((frame.frame_id, frame.camera_clock))
        assert 0 <= time.monotonic_ns() - frame.received_ns < 5e9
        del frame
    assert got == [(number, True) for number in range(40)]
    status = grabber.status
    assert (status.frames, status.connections, status.reason, status.missed, status.late) == (40, 1, "", 0, 0)


def test_frames_that_are_kept_stay_as_they_are_and_what_finds_no_place_is_counted(site):
    site.plug_in()
    grabber = site.streaming(queue_frames=4)
    site.pass_parts(20)
    kept = frames(grabber, 8)
    until(lambda: grabber.status.overruns == 12, grabber)
    for number, frame in enumerate(kept):
        np.testing.assert_array_equal(frame.pixels, picture(number))
    del kept, frame
    site.pass_parts(2)
    assert [frame.frame_id for frame in frames(grabber, 2)] == [20, 21]
    assert (grabber.status.frames, grabber.status.overruns, grabber.status.missed) == (10, 12, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_replaced_and_what_it_gave_stays(site, number):
    site.plug_in()
    grabber = site.streaming()
    site.pass_parts(3)
    kept = frames(grabber, 3)
    os.kill(grabber.process, number)
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    assert f"ended by {number.name}" in grabber.status.reason
    began = time.monotonic()
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    assert time.monotonic() - began < 10
    site.pass_parts(3)
    for place, frame in enumerate(kept + frames(grabber, 3)):
        np.testing.assert_array_equal(frame.pixels, picture(place))
    assert (grabber.status.connections, grabber.status.reason, grabber.status.frames) == (2, "", 6)


def test_a_process_that_hangs_is_killed_and_replaced(site, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.6)
    site.plug_in()
    grabber = site.streaming()
    hanging = grabber.process
    os.kill(hanging, signal.SIGSTOP)
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    assert "its producer hangs" in grabber.status.reason
    assert not is_running(hanging)
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    site.pass_parts(1)
    np.testing.assert_array_equal(frames(grabber, 1)[0].pixels, picture(0))


def test_a_camera_that_is_absent_at_the_start_is_found_once_it_is_there(site, caplog):
    grabber = site.streaming()
    assert grabber.status.state is CameraState.CONNECTING
    assert "not found" in grabber.status.reason
    assert "looking for it again" in caplog.text
    with pytest.raises(FrameTimeout):
        grabber.read(0.2)
    site.plug_in()
    site.pass_parts(2)
    np.testing.assert_array_equal(frames(grabber, 2)[1].pixels, picture(1))
    assert grabber.status.state is CameraState.STREAMING


def test_a_camera_that_another_holds_is_taken_once_it_is_let_go(site):
    site.plug_in()
    first = site.streaming()
    second = site.streaming()
    assert second.status.state is CameraState.CONNECTING
    assert "in use by another program" in second.status.reason
    first.close()
    until(lambda: second.status.state is CameraState.STREAMING, second)


def test_a_process_that_dies_again_and_again_is_failing_until_it_has_been_well(site, monkeypatch):
    monkeypatch.setattr(module, "BACK_OFF_S", (0.0,))
    site.plug_in()
    grabber = site.camera(too_often=BackOff(healthy_s=5.0))
    grabber.open()
    grabber.start()
    for death in range(1, 6):
        until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
        assert not grabber.status.failing
        os.kill(grabber.process, signal.SIGKILL)
        until(lambda death=death: grabber.status.connections == death + 1 or grabber.status.failing, grabber)
    assert grabber.status.failing
    # That it is there again is not enough.
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    assert grabber.status.failing
    until(lambda: not grabber.status.failing, grabber)


def test_a_camera_that_is_absent_is_no_process_that_fails(site, monkeypatch):
    monkeypatch.setattr(module, "BACK_OFF_S", (0.0,))
    grabber = site.streaming()
    for _ in range(8):
        number = grabber.process
        until(lambda number=number: grabber.process not in (number, None), grabber)
    assert grabber.status.state is CameraState.CONNECTING
    assert not grabber.status.failing


def test_a_camera_that_is_not_to_be_looked_for_again_ends_with_its_reason(site):
    with pytest.raises(CameraAway, match="not found"):
        site.camera(reconnect=False).open()
    site.plug_in()
    grabber = site.streaming(reconnect=False)
    os.kill(grabber.process, signal.SIGKILL)
    with pytest.raises(CameraLost, match="ended by SIGKILL"):
        frames(grabber, 1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"features": {"AcquisitionFrameRate": 1e6}}, "is out of range; expected a number from 0.1 to 1000"),
        ({"trigger": "Line7"}, "feature 'TriggerSource': 'Line7' does not fit"),
        ({"trigger": "Line1", "trigger_divider": 70_000}, "feature 'TriggerDivider': 70000 is out of range"),
        ({"features": {"TriggerMode": "On"}}, "waits for a trigger .TriggerMode is On.; set cameras.cam1.trigger"),
    ],
)
def test_settings_that_the_camera_does_not_take_end_the_start(site, settings, told):
    """They are the configuration's fault: no waiting helps."""
    site.plug_in()
    grabber = site.camera(**settings)
    with pytest.raises(CameraError, match=told) as error:
        grabber.open()
    assert not isinstance(error.value, CameraAway)
    assert grabber.process is None


def test_each_software_trigger_comes_back_with_its_number(site):
    site.plug_in()
    grabber = site.streaming(trigger="Software")
    site.pass_parts(5)
    for number in (101, 102, 103):
        grabber.trigger(number)
    got = frames(grabber, 3)
    assert [(frame.frame_id, frame.trigger_id) for frame in got] == [(0, 101), (1, 102), (2, 103)]
    np.testing.assert_array_equal(got[2].pixels, picture(2))
    # Without a trigger there is none, and the camera is not lost for it.
    with pytest.raises(FrameTimeout):
        grabber.read(0.3)
    assert grabber.status.state is CameraState.STREAMING


def test_every_trigger_has_an_answer_whatever_becomes_of_the_camera(site):
    site.plug_in()
    grabber = site.streaming(trigger="Software", trigger_timeout_ms=700)
    site.pass_parts(1)
    for number in (1, 2, 3):
        grabber.trigger(number)  # the belt has one part: two are never answered
    got = answers(grabber, 3)
    assert got[0] == (1, "")
    assert [number for number, _ in got] == [1, 2, 3]
    assert all("it did not answer trigger 2 in 700 ms" in why for _, why in got[1:])
    assert grabber.status.state is CameraState.LOST
    grabber.trigger(4)
    (away,) = answers(grabber, 1)
    assert away[0] == 4
    assert "trigger 4 came while there was no camera" in away[1]
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    site.pass_parts(1)
    grabber.trigger(5)
    assert answers(grabber, 1) == [(5, "")]


def test_a_triggered_part_that_finds_no_place_is_told(site):
    site.plug_in()
    grabber = site.streaming(trigger="Software", queue_frames=1)
    site.pass_parts(7)
    for number in range(1, 8):
        grabber.trigger(number)
    kept = frames(grabber, 5)
    got = answers(grabber, 2)
    assert [frame.trigger_id for frame in kept] == [1, 2, 3, 4, 5]
    assert [number for number, _ in got] == [6, 7]
    assert all("overrun: 5 frames" in why for _, why in got)
    assert grabber.status.overruns == 2


@pytest.mark.parametrize("hanging", [False, True])
def test_a_line_that_is_killed_takes_its_camera_along(site, hanging):
    """Even while the producer hangs and holds the interpreter: no thread of it could notice."""
    site.plug_in()
    program = """
import sys, time
from inspectd.config import GenicamCamera
from inspectd.runtime.sources.grab_link import Kind, Packet
from inspectd.runtime.sources.grabber import Grabber
grabber = Grabber("cam1", GenicamCamera(source="genicam", producer="simulator"))
grabber.open()
grabber.start()
print(grabber.process, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as line:
        number = int(line.stdout.readline())
        if hanging:
            with Faults(site.path) as faults:
                faults.hang()
            time.sleep(0.3)
        assert is_running(number)
        line.kill()
    deadline = time.monotonic() + 5
    while is_running(number):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # The camera is free again.
    with Faults(site.path) as faults:
        faults.clear()
    assert site.streaming().status.state is CameraState.STREAMING


def test_another_producer_is_grabbed_and_replaced_likewise(site):
    """The one inside the genicam package: three cameras, no trigger, no faults but those that signals make."""
    camera = GenicamCamera(
        source="genicam",
        producer="viky",
        device="1",
        queue_frames=32,
        features={"Width": 128, "Height": 100, "PixelFormat": "Mono8", "AcquisitionFrameRate": 100.0},
    )
    grabber = Grabber("cam1", camera)
    site.grabbers.append(grabber)
    grabber.open()
    grabber.start()
    got = frames(grabber, 30)
    assert {frame.pixels.shape for frame in got} == {(100, 128, 1)}
    numbers = [frame.frame_id for frame in got]
    assert numbers == list(range(numbers[0], numbers[0] + 30))
    os.kill(grabber.process, signal.SIGKILL)
    while grabber.status.state is not CameraState.LOST:
        with contextlib.suppress(FrameTimeout):
            grabber.read(0.1)
    assert len(frames(grabber, 5)) == 5
    assert grabber.status.connections == 2


def test_a_camera_that_comes_back_with_another_pixel_format_is_not_taken(site, monkeypatch):
    """Where no feature sets it: without power it forgets what was set by hand, and the network would get grey."""
    monkeypatch.setattr(module, "BACK_OFF_S", (0.1,))
    site.plug_in()
    grabber = site.streaming()
    site.pass_parts(1)
    assert frames(grabber, 1)[0].pixels.shape[2] == 3

    def lose(channels: int) -> None:
        if grabber.process is not None:
            os.kill(grabber.process, signal.SIGKILL)
        site.feed.close()
        site.feed = FrameFeed(site.path, WIDTH, HEIGHT, channels=channels)

    lose(channels=1)
    until(lambda: "Mono8" in grabber.status.reason, grabber)
    assert grabber.status.reason.startswith("camera 'cam1': sends Mono8 now, and sent RGB8 before; ")
    assert "cameras.cam1.features.PixelFormat" in grabber.status.reason
    assert (grabber.status.state, grabber.status.connections) == (CameraState.LOST, 1)
    # Nor where it is opened anew, by a reset: nobody has looked at it since.
    grabber.close()
    grabber.open()
    grabber.start()
    until(lambda: "Mono8" in grabber.status.reason, grabber)
    assert grabber.status.state is not CameraState.STREAMING
    lose(channels=3)
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    assert site.feed.put(picture(7), 5.0)
    np.testing.assert_array_equal(frames(grabber, 1)[0].pixels, picture(7))


def test_a_process_that_fails_at_once_ends_the_start(site, monkeypatch):
    """A broken installation is no camera that may come back."""
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", "import no_such_module"))
    with pytest.raises(CameraError, match="its process ended with status 1") as error:
        site.camera().open()
    assert not isinstance(error.value, CameraAway)


def test_a_machine_without_room_for_a_process_is_waited_for(site, monkeypatch):
    site.plug_in()
    with monkeypatch.context() as patched:
        patched.setattr(module, "COMMAND", ("/no/such/program",))
        grabber = site.streaming()
    assert "no process can be started for it" in grabber.status.reason
    site.pass_parts(1)
    frames(grabber, 1)


def test_a_camera_that_nobody_reads_from_is_let_go_in_good_order(site, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    site.plug_in()
    grabber = site.streaming()
    process = grabber._child._process
    time.sleep(0.6)
    grabber.close()
    assert process.returncode == 0


def test_a_process_whose_line_has_ended_before_it_began_ends(site):
    reading, writing = os.pipe()
    os.close(writing)
    program = f"from inspectd.runtime.sources.grab import _die_with; _die_with({reading}); import time; time.sleep(30)"
    done = subprocess.run([sys.executable, "-c", program], pass_fds=[reading], timeout=20)
    os.close(reading)
    assert done.returncode == 0


def test_memory_that_cannot_be_mapped_is_a_lost_camera(site, monkeypatch):
    site.plug_in()

    def full(_descriptor, _size):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("inspectd.runtime.sources.ring.mmap.mmap", full)
        grabber = site.streaming()
    assert "cannot be mapped" in grabber.status.reason
    site.pass_parts(1)
    frames(grabber, 1)


def test_nothing_is_left_behind(site):
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    site.plug_in()
    site.streaming().close()
    before = descriptors()
    for _ in range(3):
        grabber = site.streaming()
        site.pass_parts(1)
        frames(grabber, 1)
        number = grabber.process
        grabber.close()
        assert not is_running(number)
    assert descriptors() == before


def resident_kib() -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_a_thousand_connections(site, monkeypatch, caplog):
    """What harvesters leaks with each connection ends with its process; the line's own must leak nothing either."""
    monkeypatch.setattr(module, "BACK_OFF_S", (0.0,))
    # Each loss is an alarm, which pytest would keep.
    caplog.set_level(logging.CRITICAL, "inspectd.camera")
    site.plug_in()
    grabber = site.streaming()
    grown = []
    for number in range(1000):
        site.pass_parts(1)
        np.testing.assert_array_equal(frames(grabber, 1)[0].pixels, picture(number))
        os.kill(grabber.process, signal.SIGKILL)
        until(lambda connections=number + 2: grabber.status.connections == connections, grabber)
        if number % 100 == 99:
            gc.collect()
            grown.append(resident_kib())
    assert grown[-1] - grown[0] < 4096, grown


def stopped(grabber: Grabber) -> list[Frame]:
    """What was on its way when it was stopped."""
    got, deadline = [], time.monotonic() + WAIT_S
    while True:
        assert time.monotonic() < deadline, grabber.status
        try:
            got.append(grabber.read(0.1))
        except FrameTimeout:
            continue
        except EndOfFrames:
            return got


def test_a_camera_stops_and_starts_without_being_let_go(site):
    site.plug_in()
    grabber = site.streaming()
    number = grabber.process
    for round_ in range(3):
        site.pass_parts(5)
        first = len(frames(grabber, 5))
        grabber.stop()
        assert stopped(grabber) == []
        assert grabber.status.state is CameraState.READY
        with pytest.raises(EndOfFrames):
            grabber.read(0.1)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:  # it is not forgotten meanwhile
            grabber.attend()
            time.sleep(0.02)
        grabber.start()
        assert grabber.status.state is CameraState.STREAMING
        assert (first, grabber.process) == (5, number), round_
    assert (grabber.status.connections, grabber.status.missed, grabber.status.frames) == (1, 0, 15)


def test_what_was_exposed_before_the_stop_is_delivered_after_it(site):
    site.plug_in()
    grabber = site.streaming(queue_frames=8)
    site.pass_parts(6)
    time.sleep(0.5)  # all have passed, and nobody has read them
    grabber.stop()
    assert [frame.trigger_id for frame in stopped(grabber)] == [1, 2, 3, 4, 5, 6]
    grabber.start()
    assert grabber.status.frames == 6
    site.pass_parts(2)
    assert [frame.trigger_id for frame in frames(grabber, 2)] == [7, 8]
    assert grabber.status.missed == 0


def test_a_camera_that_dies_while_it_is_stopped_is_found_again(site):
    site.plug_in()
    grabber = site.streaming()
    grabber.stop()
    stopped(grabber)
    os.kill(grabber.process, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    states = set()
    while grabber.status.connections < 2:
        assert time.monotonic() < deadline, grabber.status
        grabber.attend()
        states.add(grabber.status.state)
        time.sleep(0.02)
    assert CameraState.LOST in states
    grabber.start()
    site.pass_parts(2)
    assert len(frames(grabber, 2)) == 2


def test_triggers_that_were_not_sent_when_it_was_stopped_are_answered(site):
    site.plug_in()
    grabber = site.streaming(trigger="Software")
    for number in (11, 12, 13):
        grabber.trigger(number)  # there is no part on the belt
    grabber.stop()
    got = dict(answers(grabber, 3))
    assert sorted(got) == [11, 12, 13]
    assert "before its picture came" in got[11]
    assert "was not sent: the camera was stopped" in got[13]


# Parts that a line triggers


@pytest.fixture
def pulses(site):
    """The light barrier: pulses on the camera's input, and what goes wrong with its pictures."""
    site.plug_in()
    with Faults(site.path) as faults:
        yield faults


def by_line(site, **settings) -> Grabber:
    """A camera that a line triggers, and whose producer numbers no parts: as real ones are."""
    return site.streaming(producer=str(producer_path()), trigger="Line1", **settings)


def test_each_part_that_a_line_triggers_has_its_number_from_one_on_at_each_start(site, pulses):
    grabber = by_line(site)
    site.pass_parts(12)
    pulses.pulse(2)
    assert answers(grabber, 2) == [(1, ""), (2, "")]
    pulses.drop(2)
    pulses.pulse(3)
    got = answers(grabber, 3)
    assert [number for number, _ in got] == [3, 4, 5]
    assert ["lost between camera and host" in why for _, why in got] == [True, True, False]
    pulses.incomplete(1)
    pulses.pulse(2)
    got = answers(grabber, 2)
    assert [(number, "incomplete" in why) for number, why in got] == [(6, True), (7, False)]
    for _ in range(2):
        grabber.stop()
        assert stopped(grabber) == []
        grabber.start()
        pulses.pulse()
        assert answers(grabber, 1) == [(1, "")]
    assert grabber.status.uncounted == ""


def test_parts_that_find_no_place_have_their_numbers_too(site, pulses):
    grabber = by_line(site, queue_frames=1)
    site.pass_parts(8)
    pulses.pulse(7)
    kept = frames(grabber, 5)
    got = answers(grabber, 2)
    assert [frame.trigger_id for frame in kept] == [1, 2, 3, 4, 5]
    assert [number for number, _ in got] == [6, 7]
    assert all("overrun: 5 frames" in why for _, why in got)
    del kept
    pulses.pulse()
    assert answers(grabber, 1) == [(8, "")]


def test_after_the_last_number_comes_the_first(site, pulses):
    grabber = by_line(site)
    site.pass_parts(2)
    grabber._part = 2**32 - 2
    pulses.pulse(2)
    assert answers(grabber, 2) == [(2**32 - 1, ""), (1, "")]


def test_a_camera_that_was_away_gives_no_part_a_number_until_the_next_start(site, pulses, caplog):
    """Nobody knows what was triggered meanwhile, and a number that is wrong passes a part by another's picture."""
    grabber = by_line(site)
    site.pass_parts(6)
    pulses.pulse()
    assert answers(grabber, 1) == [(1, "")]
    os.kill(grabber.process, signal.SIGKILL)
    until(lambda: grabber.status.connections == 2 and grabber.status.state is CameraState.STREAMING, grabber)
    pulses.pulse(2)
    assert answers(grabber, 2) == [(0, ""), (0, "")]
    assert "which part a frame shows is not known: it was lost" in grabber.status.uncounted
    assert grabber.status.uncounted in caplog.text
    grabber.stop()
    stopped(grabber)
    grabber.start()
    assert grabber.status.uncounted == ""
    pulses.pulse(2)
    assert answers(grabber, 2) == [(1, ""), (2, "")]


def test_a_camera_that_comes_after_the_start_numbers_no_parts(site):
    grabber = by_line(site)
    assert "it was not there when the line was started" in grabber.status.uncounted
    site.plug_in()
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    site.pass_parts(1)
    with Faults(site.path) as faults:
        faults.pulse()
    assert answers(grabber, 1) == [(0, "")]


@pytest.mark.parametrize("settings", [{}, {"trigger": "Software"}])
def test_cameras_whose_parts_need_no_count_are_never_without_one(site, settings):
    site.plug_in()
    grabber = site.streaming(producer=str(producer_path()), **settings)
    os.kill(grabber.process, signal.SIGKILL)
    until(lambda: grabber.status.connections == 2 and grabber.status.state is CameraState.STREAMING, grabber)
    assert grabber.status.uncounted == ""


def test_a_frame_whose_number_came_before_passes_no_part(site, pulses):
    """And whether it is a pulse more nobody knows."""
    grabber = by_line(site)
    site.pass_parts(4)
    pulses.pulse(2)
    assert answers(grabber, 2) == [(1, ""), (2, "")]
    pulses.duplicate(1)
    pulses.pulse(2)
    (number, why), after = answers(grabber, 2)
    assert (number, after) == (0, (0, ""))
    assert "frame 1 came after frame 1: which part it shows is not known" in why
    assert "frame 1 came after frame 1" in grabber.status.uncounted
    assert (grabber.status.frames, grabber.status.unusable, grabber.status.missed) == (3, 1, 0)


def test_of_a_camera_that_runs_freely_a_number_again_is_a_damaged_frame(site, pulses):
    grabber = site.streaming(producer=str(producer_path()))
    site.pass_parts(2)
    frames(grabber, 2)
    pulses.duplicate(1)
    site.pass_parts(2)
    assert ["frame 1 came after frame 1" in why for _, why in answers(grabber, 2)] == [True, False]


def test_frames_that_are_lost_right_after_a_start_are_parts(site, pulses):
    grabber = by_line(site)
    site.pass_parts(8)
    for lost in (0, 0, 3):
        pulses.drop(lost)
        pulses.pulse(lost + 1)
        got = answers(grabber, lost + 1)
        assert [number for number, _ in got] == list(range(1, lost + 2))
        assert [bool(why) for _, why in got] == [True] * lost + [False]
        grabber.stop()
        stopped(grabber)
        grabber.start()


@pytest.mark.parametrize(
    ("trigger", "numbers", "missed", "is_lost"),
    [
        ("Line1", (65534, 65535, 1), 0, False),
        ("Line1", (65534, 1), 1, False),
        ("Line1", (65534, 3), 3, False),
        ("Software", (65534, 65535, 1, 2), 0, False),
        ("Software", (65534, 1), 0, True),
    ],
)
def test_a_counter_of_16_bits_that_begins_anew(trigger, numbers, missed, is_lost):
    """No camera: its numbers alone matter here."""
    grabber = Grabber("cam1", GenicamCamera(source="genicam", producer="none.cti", trigger=trigger))
    grabber._set(state=CameraState.STREAMING, connections=1)
    told = contextlib.nullcontext()
    for place, number in enumerate(numbers, 1):
        if trigger == "Software":
            grabber._triggers.append(number)
            grabber._answer_by_ns = 1
            if is_lost and place == len(numbers):
                told = pytest.raises(CameraLost, match=f"frame {number} came after frame {numbers[-2]}")
        with told:
            grabber._arrive(Frame("cam1", number, picture(0), acquired_ns=0))
    assert grabber.status.frames == len(numbers) - is_lost
    assert (grabber.status.missed, grabber.status.unusable) == (missed, 0)


def test_a_counter_that_begins_anew_in_between_passes_no_part_and_takes_their_numbers():
    grabber = Grabber("cam1", GenicamCamera(source="genicam", producer="none.cti", trigger="Line1"))
    grabber._set(state=CameraState.STREAMING, connections=1)
    grabber._wanted, grabber._part = True, 0
    for number in (1, 2, 3, 1, 2):
        grabber._arrive(Frame("cam1", number, picture(0), acquired_ns=0))
    assert answers(grabber, 3) == [(1, ""), (2, ""), (3, "")]
    (number, why), after = answers(grabber, 2)
    assert (number, after) == (0, (0, ""))
    assert "frame 1 came after frame 3: which part it shows is not known" in why
    assert grabber.status.uncounted


# What is under way at a stop


@pytest.mark.parametrize(
    ("settings", "slow"), [({"trigger": "Line1"}, True), ({"trigger": "Software"}, True), ({}, False)]
)
def test_a_part_that_was_exposed_when_the_line_was_stopped_is_waited_for(site, pulses, settings, slow):
    grabber = site.streaming(**settings)
    pulses.late(1, 600)
    site.pass_parts(1)
    if settings == {"trigger": "Software"}:
        grabber.trigger(1)
    elif settings:
        pulses.pulse()
    time.sleep(0.2)
    grabber.stop()
    began = time.monotonic()
    assert len(stopped(grabber)) == slow
    assert (time.monotonic() - began > 0.3) == slow


@pytest.mark.parametrize("settings", [{}, {"trigger": "Software"}])
def test_a_stop_with_nothing_under_way_is_quick(site, settings):
    site.plug_in()
    grabber = site.streaming(**settings)
    began = time.monotonic()
    grabber.stop()
    assert stopped(grabber) == []
    assert time.monotonic() - began < 0.8


def test_what_a_stop_had_no_time_for_is_counted():
    """No camera: what its process says at the end of its time is what matters here."""
    grabber = Grabber("cam1", GenicamCamera(source="genicam", producer="none.cti", trigger="Line1"))
    grabber._set(state=CameraState.STREAMING, connections=1)
    grabber._part, grabber._pausing = 7, True
    grabber._take(None, Packet(Kind.PAUSED, b'{"unread": 2}'))
    got = answers(grabber, 2)
    assert [number for number, _ in got] == [8, 9]
    assert all("was still on its way when the camera was stopped" in why for _, why in got)
    assert (grabber.status.state, grabber.status.missed) == (CameraState.READY, 2)
