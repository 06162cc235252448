"""Every fault that the simulated camera has, and what becomes of it in the line's acquisition."""

from __future__ import annotations

import time

import numpy as np
import pytest

from inspectd.errors import CameraError, ConfigError, FrameTimeout
from inspectd.frame import CameraState
from inspectd.runtime.simcam.control import FAULTS, found_feeds, inject
from inspectd.runtime.simcam.faults import SENT, Faults, Sent
from inspectd.runtime.sources import grabber as module
from inspectd.runtime.sources.damaged import DamagedFrame

from .camera_site import answers, frames, picture, until
from .conftest import run_inspectd


@pytest.fixture
def faults(site):
    site.plug_in()
    with Faults(site.path) as faults:
        yield faults


def parts(grabber, count):
    """(frame id, part, why it is no picture) of the next frames; pictures are compared with what was put."""
    got = []
    deadline = time.monotonic() + 20
    while len(got) < count:
        assert time.monotonic() < deadline, (got, grabber.status)
        try:
            frame = grabber.read(0.1)
        except FrameTimeout:
            continue
        except DamagedFrame as error:
            got.append((error.frame.frame_id, error.frame.trigger_id, str(error)))
        else:
            np.testing.assert_array_equal(frame.pixels, picture(frame.trigger_id - 1))
            got.append((frame.frame_id, frame.trigger_id, ""))
            del frame
    return got


def test_incomplete_frames_are_told_as_such(site, faults):
    grabber = site.streaming()
    faults.incomplete(2)
    site.pass_parts(4)
    got = parts(grabber, 4)
    assert [(number, part) for number, part, _ in got] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert ["incomplete" in why for _, _, why in got] == [True, True, False, False]
    assert (grabber.status.frames, grabber.status.unusable, grabber.status.missed) == (2, 2, 0)
    assert faults.sent == Sent(exposed=4, delivered=4, without_buffer=0, dropped=0, incomplete=2)


def test_dropped_frames_are_counted_by_the_gap(site, faults):
    grabber = site.streaming()
    site.pass_parts(1)
    frames(grabber, 1)
    faults.drop(3)
    site.pass_parts(5)
    assert [number for number, _, _ in parts(grabber, 2)] == [4, 5]
    assert grabber.status.missed == 3
    assert faults.sent.dropped == 3


def test_of_a_camera_with_a_trigger_line_each_dropped_frame_is_a_part(site, faults):
    grabber = site.streaming(trigger="Line1")
    site.pass_parts(5)
    faults.pulse()
    assert parts(grabber, 1) == [(0, 1, "")]
    faults.drop(2)
    faults.pulse(3)
    got = parts(grabber, 3)
    assert ["lost between camera and host" in why for _, _, why in got] == [True, True, False]
    assert got[2][:2] == (3, 4)
    assert grabber.status.missed == 2


def test_frames_that_are_dropped_before_the_first_one_are_parts_too(site, faults):
    """Numbers begin at 0 or 1, so that one more may be missing than can be told."""
    faults.drop(3)
    grabber = site.streaming(trigger="Line1")
    site.pass_parts(4)
    faults.pulse(4)
    got = parts(grabber, 3)
    assert ["lost between camera and host" in why for _, _, why in got] == [True, True, False]


@pytest.mark.parametrize("before", [0, 2])
def test_a_trigger_without_an_answer_gives_no_other_part_its_number(site, faults, before):
    """Triggers go on while one of them is lost, at the start too: whatever comes later must not answer earlier ones."""
    grabber = site.streaming(trigger="Software", trigger_timeout_ms=600)
    site.pass_parts(8)
    for number in range(1, before + 1):
        grabber.trigger(number)
    assert answers(grabber, before) == [(number, "") for number in range(1, before + 1)]
    faults.drop(1)
    numbers = range(before + 1, before + 4)
    for number in numbers:
        grabber.trigger(number)
        time.sleep(0.1)
    got = answers(grabber, 3)
    assert [number for number, _ in got] == list(numbers)
    assert all(f"did not answer trigger {before + 1} in 600 ms" in why for _, why in got)
    assert grabber.status.state is CameraState.LOST
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    grabber.trigger(50)
    assert answers(grabber, 1) == [(50, "")]


def test_a_repeated_number_is_no_answer_to_a_trigger(site, faults):
    grabber = site.streaming(trigger="Software")
    site.pass_parts(3)
    grabber.trigger(1)
    assert answers(grabber, 1) == [(1, "")]
    faults.duplicate(1)
    grabber.trigger(2)
    ((number, why),) = answers(grabber, 1)
    assert number == 2
    assert "frame 0 came after frame 0: which trigger it answers is not known" in why
    assert grabber.status.state is CameraState.LOST


def test_late_frames_come_with_the_time_of_their_exposure_and_are_counted(site, faults):
    grabber = site.streaming()
    faults.late(1, 1300)
    site.pass_parts(2)
    first, _second = frames(grabber, 2)
    age_s = (time.time_ns() - first.acquired_ns) / 1e9
    assert 1.2 < age_s < 5
    assert grabber.status.late == 1
    # What has to be done by a deadline has to be done from the exposure on.
    assert 1.2 < (time.monotonic_ns() - first.received_ns) / 1e9 < 5


def test_repeated_numbers_are_no_gap(site, faults):
    grabber = site.streaming()
    site.pass_parts(1)
    frames(grabber, 1)
    faults.duplicate(2)
    site.pass_parts(3)
    assert [(number, part) for number, part, _ in parts(grabber, 3)] == [(0, 2), (0, 3), (1, 4)]
    assert grabber.status.missed == 0


def test_a_stalled_camera_is_lost_after_its_timeout_and_back_when_it_goes_on(site, faults):
    grabber = site.streaming(timeout_ms=400)
    faults.stall()
    site.pass_parts(2)
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    assert "no frame for 0.4 s" in grabber.status.reason
    faults.clear()
    assert [part for _, part, _ in parts(grabber, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("fault", "reason"), [("lose", "the connection broke"), ("silence", "has not answered in time")]
)
def test_a_cable_that_is_pulled_and_plugged_in_again(site, faults, fault, reason):
    grabber = site.streaming()
    site.pass_parts(2)
    assert [part for _, part, _ in parts(grabber, 2)] == [1, 2]
    began = time.monotonic()
    getattr(faults, fault)()
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    assert time.monotonic() - began < 5
    assert reason in grabber.status.reason
    site.pass_parts(2)
    began = time.monotonic()
    faults.clear()
    assert [part for _, part, _ in parts(grabber, 2)] == [3, 4]
    assert time.monotonic() - began < 10
    assert grabber.status.connections == 2


def test_a_break_of_the_link_that_nobody_saw_ends_the_connection_all_the_same(site, faults):
    grabber = site.streaming()
    site.pass_parts(2)
    assert [part for _, part, _ in parts(grabber, 2)] == [1, 2]
    faults.lose()
    faults.clear()
    site.pass_parts(2)
    assert [part for _, part, _ in parts(grabber, 2)] == [3, 4]
    assert grabber.status.connections == 2


def test_a_camera_that_reboots_is_set_again(site, faults):
    grabber = site.streaming(trigger="Software")
    faults.reboot(1500)
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    until(lambda: grabber.status.state is CameraState.STREAMING, grabber)
    site.pass_parts(2)
    # Its trigger mode is off at power-up: without being set again it would run freely.
    with pytest.raises(FrameTimeout):
        grabber.read(0.4)
    grabber.trigger(9)
    assert answers(grabber, 1) == [(9, "")]


@pytest.mark.parametrize(("fault", "reason"), [("refuse", "in use by another program"), ("hide", "not found")])
def test_a_camera_that_cannot_be_had_at_the_start(site, faults, fault, reason):
    getattr(faults, fault)()
    grabber = site.streaming()
    assert grabber.status.state is CameraState.CONNECTING
    assert reason in grabber.status.reason
    faults.clear()
    site.pass_parts(1)
    assert [part for _, part, _ in parts(grabber, 1)] == [1]


def test_a_producer_that_hangs_is_ended(site, faults, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.8)
    grabber = site.streaming()
    faults.hang()
    until(lambda: grabber.status.state is CameraState.LOST, grabber)
    assert "its producer hangs" in grabber.status.reason
    faults.clear()
    site.pass_parts(1)
    assert [part for _, part, _ in parts(grabber, 1)] == [1]


def test_padded_lines_are_no_part_of_the_picture(site, faults):
    faults.pad(13)
    grabber = site.streaming()
    site.pass_parts(3)
    assert parts(grabber, 3) == [(0, 1, ""), (1, 2, ""), (2, 3, "")]


def test_frames_of_another_format_are_refused(site, faults):
    grabber = site.streaming()
    faults.claim_format(0x01080009)
    site.pass_parts(1)
    ((_, _, why),) = parts(grabber, 1)
    assert "pixel format 0x01080009; 0x02180014 was agreed on" in why
    faults.clear()
    site.pass_parts(1)
    assert parts(grabber, 1) == [(1, 2, "")]


def test_the_account_goes_on_over_connections(site, faults):
    grabber = site.streaming()
    site.pass_parts(3)
    parts(grabber, 3)
    before = faults.sent
    grabber.close()
    grabber = site.streaming()
    site.pass_parts(2)
    parts(grabber, 2)
    assert faults.sent_since(SENT).delivered == 5
    assert faults.sent_since(before).delivered == 2


# The command


def test_each_fault_of_the_command_is_set_and_cleared(site, faults):
    for name, (count, _) in FAULTS.items():
        inject(site.path, name, range(7, 7 + count))
        assert (faults.active == {}) == (name == "clear"), name
    assert found_feeds(()) == [site.path]


def test_what_is_wrong_with_a_fault_is_told(site, faults, tmp_path):
    with pytest.raises(ConfigError, match="no fault 'lots'; expected one of incomplete, drop"):
        inject(site.path, "lots", ())
    with pytest.raises(ConfigError, match="'late' takes 2 numbers, got 1"):
        inject(site.path, "late", (3,))
    with pytest.raises(CameraError, match="incomplete -1 is not possible"):
        inject(site.path, "incomplete", (-1,))
    (tmp_path / "other.feed").write_bytes(b"x" * 1000)
    with pytest.raises(CameraError, match="is no feed"):
        Faults(tmp_path / "other.feed")
    with pytest.raises(CameraError, match="No such file"):
        Faults(tmp_path / "missing.feed")


def test_the_command_lists_and_injects(site, faults):
    status, out, err = run_inspectd("simcam", "fault", "incomplete", 3)
    assert (status, err) == (0, "")
    assert "incomplete 3" in out
    status, out, err = run_inspectd("simcam", "list")
    assert (status, err) == (0, "")
    assert f"{site.path}: incomplete 3; 0 exposed" in out


def test_without_a_simulated_camera_the_command_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("INSPECTD_SIM_FEED", raising=False)
    monkeypatch.setattr("inspectd.runtime.simcam.control.DEMOS", "no-such-*/*.feed")
    with pytest.raises(CameraError, match="start `inspectd demo`"):
        found_feeds(())
