"""A supervisor over real processes that crash, hang, and are killed."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.runtime.child import Child
from inspectd.runtime.restarts import BackOff, History
from inspectd.runtime.supervisor import Supervisor

from .station_site import QUICK, StationSite, until


@pytest.fixture
def station(tmp_path):
    site = StationSite(tmp_path)
    yield site
    site.close()


def test_a_signal_reaches_the_core_once_and_the_others_after_it(station):
    station.start(core="run", archive="run")
    station.until("running")
    station.until("running", "archive")
    station.signal(signal.SIGINT)
    status, log = station.finish()
    assert status == 0, log
    assert len(station.noted("core", "SIGTERM")) == len(station.noted("archive", "SIGTERM")) == 1
    assert not station.noted("core", "SIGINT")
    assert station.noted("core", "end")[0]["at"] <= station.noted("archive", "SIGTERM")[0]["at"]
    assert {note["why"] for name in ("core", "archive") for note in station.noted(name, "end")} == {"SIGTERM"}


@pytest.mark.parametrize(
    ("way", "expected"),
    [("bye 0", 0), ("bye 1", 1), ("bye 2", 2), ("flood-bye 1", 1), ("exit 0", 0), ("exit 2", 2)],
)
def test_an_end_on_purpose_and_an_error_of_configuration_are_passed_on(station, way, expected):
    station.start(core=way, archive="run")
    status, log = station.finish()
    assert status == expected, log
    assert len(station.noted("core", "start")) == 1


@pytest.mark.parametrize(
    ("way", "told"), [("crash", "ended by SIGSEGV"), ("status 1", "ended with status 1"), ("status 2", "with status 2")]
)
def test_any_other_end_is_started_again_and_after_five_it_is_failing(station, way, told):
    station.start(core=way, archive="run")
    until(lambda: station.report and station.report.processes["core"].failing, within_s=40)
    report = station.report
    assert report.processes["core"].restarts >= 4
    assert told in report.processes["core"].last_end
    assert {alarm.code for alarm in report.alarms} == {"process.restarted.core", "process.failing.core"}
    assert not report.processes["archive"].restarts
    began = [note["at"] for note in station.noted("core", "start")]
    until(lambda: len(station.noted("core", "start")) > len(began))
    assert station.noted("core", "start")[len(began)]["at"] - began[-1] > QUICK["patient_s"]
    station.signal(signal.SIGTERM)  # what it ends with depends on what the core is at
    assert "failed 5 times within 60 s" in station.finish()[1]


def test_a_crash_is_an_alarm_until_the_process_has_been_well_for_a_while(station):
    station.start(core="crash-once", archive="run")
    station.until("running", restarts=1)
    until(lambda: not station.report.alarms)
    until(lambda: len(station.noted("core", "alarm")) == 2)
    assert [(note["code"], note["active"]) for note in station.noted("core", "alarm")] == [
        ("process.restarted.core", True),
        ("process.restarted.core", False),
    ]
    assert len(station.noted("archive", "start")) == 1


def test_others_may_fail_as_they_like(station):
    station.start(core="run", archive="crash", bridge="status 0")
    until(lambda: station.report and station.report.processes["archive"].failing, within_s=40)
    until(lambda: any(note["code"] == "process.failing.archive" for note in station.noted("core", "alarm")))
    until(lambda: any(note["states"].get("archive") == "waiting" for note in station.noted("core", "siblings")))
    assert station.report.processes["bridge"].restarts  # it was not asked to end
    assert len(station.noted("core", "start")) == 1
    station.signal(signal.SIGTERM)
    status, log = station.finish()
    assert status == 0, log


@pytest.mark.parametrize("name", ["core", "archive"])
def test_a_process_that_hangs_is_killed_and_started_again(station, name):
    station.start(core="run", archive="run")
    station.until("running", name)
    hanging = station.pid(name)
    os.kill(hanging, signal.SIGSTOP)
    began = time.monotonic()
    station.until("running", name, restarts=1)
    assert station.noted(name, "start")[1]["at"] - began > 0.9
    assert station.pid(name) != hanging
    assert "was killed because it hung: nothing was heard of it" in station.report.processes[name].last_end


def test_a_stage_that_stays_busy_is_named_and_the_process_replaced(station):
    station.start(core="busy")
    station.until("running", restarts=1)
    assert "stage 'infer' has been busy for" in station.report.processes["core"].last_end
    station.signal(signal.SIGTERM)
    status, log = station.finish()
    assert status == 0
    assert "core hangs: stage 'infer'" in log


def test_a_start_may_take_longer_than_a_beat(station):
    station.start(core="loading")
    station.until("running")
    assert len(station.noted("core", "start")) == 1


def test_a_start_that_never_comes_to_its_end_is_tried_again(station):
    station.start(core="silent", limits={"start_s": 1.5})
    until(lambda: len(station.noted("core", "start")) == 2)
    station.signal(signal.SIGTERM)


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path):
    child = Child("core", ["/no/such/program"], essential=True)
    supervisor = Supervisor([child], back_off=BackOff(delays_s=(0.05,), many=3, patient_s=0.1))
    charge = supervisor._charges[0]
    charge.start()
    until(lambda: charge.see_to(restart=True) or charge.report().failing)
    assert "No such file or directory: /no/such/program" in charge.report().last_end


def test_a_core_that_does_not_drain_is_killed(station):
    station.start(core="deaf", limits={"drain_s": 1.0})
    station.until("running")
    station.signal(signal.SIGTERM)
    status, log = station.finish()
    assert status == 128 + signal.SIGKILL
    assert "core has not ended in 1 s; killed" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_everything_at_once(station, number):
    station.start(core="deaf", archive="run", limits={"drain_s": 60.0})
    station.until("running")
    station.signal(number)
    station.until("stopping")
    station.signal(number)
    status, _ = station.finish(5.0)
    assert status == 128 + number


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.5])
def test_a_signal_during_the_start_ends_with_0(station, delay_s):
    station.start(core="loading", archive="run")
    until(lambda: station.report)
    time.sleep(delay_s)
    station.signal(signal.SIGTERM)
    status, log = station.finish()
    assert status == 0, log


def test_a_stop_between_two_tries_does_not_wait_for_the_next(station):
    station.start(core="crash", back_off={**QUICK, "delays_s": [60.0]})
    station.until("waiting")
    station.signal(signal.SIGTERM)
    status, _ = station.finish(5.0)
    assert status == 1


def test_the_processes_end_in_good_order_when_the_supervisor_is_killed(station):
    station.start(core="run", archive="run")
    station.until("running")
    station.until("running", "archive")
    station.signal(signal.SIGKILL)
    station.gone(within_s=3.0)
    assert [note["why"] for note in station.noted("core", "end")] == ["gone"]
    assert [note["why"] for note in station.noted("archive", "end")] == ["gone"]


def test_a_process_that_does_not_end_without_its_supervisor_is_ended(station):
    station.start(core="orphan")
    station.until("running")
    station.signal(signal.SIGKILL)
    until(lambda: station.noted("core", "gone"))
    station.gone(within_s=5.0)


@pytest.mark.parametrize("way", ["garbage", "flood"])
def test_what_a_process_sends_hurts_nobody(station, way):
    station.start(core="run", archive=way)
    station.until("running")
    station.until("running", "archive")
    time.sleep(1.5)
    report = station.report
    assert all((each.state, each.restarts) == ("running", 0) for each in report.processes.values()), report
    assert report.unready() == ""
    station.signal(signal.SIGTERM)
    status, log = station.finish()
    assert status == 0
    assert log.count("passed over") == (way == "garbage")


def test_a_supervisor_that_stood_still_blames_nobody(station):
    station.start(core="run", archive="run")
    station.until("running")
    station.until("running", "archive")
    numbers = [station.process.pid, station.pid(), station.pid("archive")]
    for number in numbers:
        os.kill(number, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(numbers[0], signal.SIGCONT)
    time.sleep(0.4)
    for number in numbers[1:]:
        os.kill(number, signal.SIGCONT)
    time.sleep(1.0)
    assert [station.process.pid, station.pid(), station.pid("archive")] == numbers


# systemd


class ServiceManager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.bind("\0" + address[1:] if address.startswith("@") else address)
        self._end.settimeout(0.05)
        self.told: list[tuple[float, str]] = []

    def hear(self, text: str, within_s: float = 15.0) -> None:
        until(lambda: any(text in line for _, line in self.heard()), f"{text!r} not in {self.told}", within_s)

    def heard(self) -> list[tuple[float, str]]:
        try:
            while True:
                message = self._end.recv(4096).decode()
                self.told += [(time.monotonic(), line) for line in message.splitlines()]
        except TimeoutError:
            return self.told

    def close(self) -> None:
        self._end.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@inspectd-test-{os.getpid()}"
    manager = ServiceManager(address)
    manager.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    yield manager
    manager.close()


def test_systemd_is_told_when_it_is_ready_what_it_does_and_that_it_stops(station, manager):
    station.start(core="loading", environment=manager.environment)
    manager.hear("EXTEND_TIMEOUT_USEC=90000000")
    assert not any(line == "READY=1" for _, line in manager.told)
    manager.hear("READY=1")
    manager.hear("STATUS=core works")
    manager.hear("WATCHDOG=1")
    station.signal(signal.SIGTERM)
    assert station.finish()[0] == 0
    lines = [line for _, line in manager.heard()]
    assert lines.count("READY=1") == lines.count("STOPPING=1") == 1


def test_systemd_is_told_of_a_new_configuration(station, manager):
    station.start(core="reload", environment=manager.environment)
    until(lambda: [line for _, line in manager.heard()].count("READY=1") == 2)
    lines = [line for _, line in manager.told]
    assert lines.count("RELOADING=1") == 1
    assert lines.index("READY=1") < lines.index("RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines)
    station.signal(signal.SIGTERM)
    assert station.finish()[0] == 0


def test_the_watchdog_starves_while_the_core_is_away(station, manager):
    station.start(core="crash-once", environment=manager.environment, back_off={**QUICK, "delays_s": [2.0]})
    station.until("waiting")
    manager.heard()
    manager.told.clear()
    time.sleep(1.0)
    assert not any(line == "WATCHDOG=1" for _, line in manager.heard())
    manager.hear("WATCHDOG=1")


def test_the_watchdog_is_not_fed_by_a_supervisor_that_hangs(station, manager):
    station.start(core="run", environment=manager.environment)
    manager.hear("WATCHDOG=1")
    station.signal(signal.SIGSTOP)
    time.sleep(0.2)
    manager.heard()
    manager.told.clear()
    time.sleep(0.8)
    assert not manager.heard()
    station.signal(signal.SIGCONT)
    manager.hear("WATCHDOG=1")


# The policy


def failures(gaps, back_off):
    history, now, seen = History(), 0.0, []
    for gap, healthy in gaps:
        now += gap
        history = back_off.after_health(history, healthy)
        history, delay = back_off.after_failure(history, now)
        seen.append((now, healthy, history, delay))
        now += delay
    return seen


GAPS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 59.9) | st.just(60.0)), max_size=40)


@given(GAPS)
def test_delays_are_those_of_the_rule_and_never_shrink_without_health(gaps):
    back_off = BackOff()
    before = 0.0
    for _, healthy, history, delay in failures(gaps, back_off):
        assert delay == back_off.patient_s if history.failing else delay in back_off.delays_s
        assert delay == back_off.delays_s[0] if healthy >= back_off.healthy_s else delay >= before
        before = delay


@given(GAPS)
def test_it_is_failing_exactly_from_five_failures_in_a_minute_on_until_it_was_well(gaps):
    back_off = BackOff()
    failing, times = False, []
    for now, healthy, history, _ in failures(gaps, back_off):
        if healthy >= back_off.healthy_s:
            failing, times = False, []
        times.append(now)
        failing = failing or sum(now - each < back_off.window_s for each in times) >= back_off.many
        assert history.failing == failing
        assert history.attempts == len(times)


def test_what_crashes_at_once_is_failing_after_nine_seconds():
    seen = failures([(0.0, 0.0)] * 8, BackOff())
    assert [delay for *_, delay in seen] == [0.5, 1.0, 2.0, 5.0, 30.0, 30.0, 30.0, 30.0]
    assert seen[4][0] == 8.5


@pytest.mark.parametrize("essential", [(), ("core", "archive")])
def test_exactly_one_child_is_essential(essential):
    with pytest.raises(ValueError, match="exactly one that is essential"):
        Supervisor([Child(name, ["true"], essential=name in essential) for name in ("core", "archive")])


def test_a_name_that_no_alarm_could_have_is_refused():
    with pytest.raises(ValueError, match="expected letters, digits"):
        Child("cam 1", ["true"])
