"""Packets over a real pair of sockets, and the reporter of a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.runtime.beats import (
    LINK_VARIABLE,
    MAX_PACKET_BYTES,
    PERIOD_S,
    Alarm,
    Beat,
    BeatLink,
    Bye,
    LinkClosed,
    PacketRefused,
    ProcessStatus,
    Reporter,
    Siblings,
    Stage,
    Work,
)
from inspectd.wire import DeviceHealth, HistogramBody, Severity, StatsBody

from .station_site import until

STATS = StatsBody(
    station="s",
    uptime_s=1.5,
    triggers=3,
    waiting=1,
    verdicts={"OK": 2},
    dropped=0,
    lost=0,
    overdue=0,
    not_durable=0,
    latency={"total": HistogramBody(upper_ms=(1.0, 10.0), counts=(1, 1, 0), sum_ms=4.0)},
    journal_rows=2,
    journal_bytes=100,
    archived=0,
    archive_refused=0,
    alarms=0,
    model_digest="",
    memory_bytes=1,
    descriptors=1,
)
BEAT = Beat(
    state="Ready",
    ready=True,
    status="läuft",
    stages={"infer": Stage(done=3, busy_s=0.1, limit_s=2.0)},
    stats=STATS,
    health=DeviceHealth.OFF_SPEC,
    reason="on the processor",
    facts={"bytes": 12},
)
PACKETS = [
    BEAT,
    Bye(exit=1, reason="done"),
    Alarm(code="process.failing.archive", severity=Severity.ERROR, message="why", active=True),
    Siblings(processes={"archive": ProcessStatus(state="waiting", essential=False, restarts=3, failing=True)}),
]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: packet.kind)
def test_a_packet_comes_as_it_was_sent(pair, packet):
    ours, theirs = map(BeatLink, pair)
    assert ours.send(packet)
    assert theirs.receive() == packet
    assert theirs.receive() is None


@given(
    st.binary(min_size=1, max_size=200)
    | st.sampled_from([b"[" * 50_000, b'{"kind":"bye","exit":1e999}', b'"\xed\xa0\x80"'])
)
def test_whatever_comes_is_a_packet_or_refused(content):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(content)
        link = BeatLink(theirs)
        with pytest.raises(PacketRefused):
            link.receive()
        assert BeatLink(ours).send(BEAT)
        assert link.receive() == BEAT


def test_a_packet_that_is_too_big_is_refused_on_both_sides(pair):
    ours, theirs = map(BeatLink, pair)
    with pytest.raises(PacketRefused, match="expected at most 65536"):
        ours.send(Bye(exit=0, reason="x" * MAX_PACKET_BYTES))
    pair[0].send(b"x" * (MAX_PACKET_BYTES + 1))
    with pytest.raises(PacketRefused, match="more than 65536 bytes"):
        theirs.receive()


def test_what_was_sent_before_the_end_is_received(pair):
    ours, theirs = map(BeatLink, pair)
    theirs.send(BEAT)  # that nobody reads
    ours.send(Bye(exit=0))
    ours.close()
    assert theirs.receive() == Bye(exit=0)
    with pytest.raises(LinkClosed):
        theirs.receive()
    assert not theirs.send(BEAT)


def test_without_a_supervisor_it_does_nothing():
    reporter = Reporter.from_environment({})
    reporter.tick(lambda: pytest.fail("nobody wants a beat"))
    reporter.beat(BEAT)
    reporter.bye(0)
    assert reporter.received() == []
    assert not reporter.is_supervised
    assert not reporter.supervisor_gone
    reporter.close()


def test_a_descriptor_that_is_none_is_no_supervisor():
    assert not Reporter.from_environment({LINK_VARIABLE: "999"}).is_supervised
    assert not Reporter.from_environment({LINK_VARIABLE: "x"}).is_supervised


def test_it_beats_in_its_period_and_hears(pair):
    now = [0.0]
    link, reporter = BeatLink(pair[0]), Reporter(pair[1], clock=lambda: now[0])
    for now[0] in (0.0, PERIOD_S / 2, PERIOD_S, PERIOD_S * 1.5):
        reporter.tick(lambda: BEAT)
    assert [link.receive() for _ in range(3)] == [BEAT, BEAT, None]
    for packet in PACKETS:
        link.send(packet)
    pair[0].send(b"nonsense")
    assert reporter.received() == PACKETS[2:]
    reporter.close()


def test_a_supervisor_that_does_not_listen_does_not_hold_it(pair):
    reporter = Reporter(pair[1])
    began = time.monotonic()
    for _ in range(2000):
        reporter.beat(BEAT)
    assert time.monotonic() - began < 2
    began = time.monotonic()
    reporter.bye(0)
    assert 0.9 < time.monotonic() - began < 3
    reporter.close()


def test_a_bye_waits_for_a_place(pair):
    link, reporter = BeatLink(pair[0]), Reporter(pair[1])
    for _ in range(2000):
        reporter.beat(BEAT)
    reader = threading.Timer(0.2, lambda: [link.receive() for _ in range(10)])
    reader.start()
    reporter.bye(3, "end")
    reader.join()
    last = None
    while packet := link.receive():
        last = packet
    assert last == Bye(exit=3, reason="end")
    reporter.close()


def test_a_beat_that_is_too_big_goes_without_what_makes_it_so(pair, caplog):
    link, reporter = BeatLink(pair[0]), Reporter(pair[1])
    for _ in range(3):
        reporter.beat(BEAT.model_copy(update={"facts": {"long": "x" * MAX_PACKET_BYTES}}))
    got = link.receive()
    assert isinstance(got, Beat)
    assert (got.stages, got.facts, got.stats) == (BEAT.stages, {}, None)
    assert caplog.text.count("beats go without") == 1
    reporter.close()


def test_it_notices_that_the_supervisor_has_gone_though_nobody_asks(pair):
    called = threading.Event()
    reporter = Reporter(pair[1], gone=called.set)
    assert not called.wait(0.2)
    pair[0].send(PACKETS[2].model_dump_json().encode())  # to be read is not to be closed
    assert not called.wait(0.2)
    pair[0].close()
    assert called.wait(2)
    assert reporter.supervisor_gone
    reporter.beat(BEAT)
    reporter.bye(0)
    assert reporter.received() == [PACKETS[2]]
    reporter.close()  # in time: it is not killed
    assert not [thread for thread in threading.enumerate() if thread.name == "supervisor"]


def test_an_orphan_that_does_not_end_is_killed(pair):
    script = """
import socket, sys, time
from inspectd.runtime.beats import Reporter
Reporter(socket.socket(fileno=int(sys.argv[1])), orphan_s=0.2)
print(flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(pair[1].fileno())], pass_fds=(pair[1].fileno(),), stdout=subprocess.PIPE
    )
    pair[1].close()
    process.stdout.readline()
    pair[0].close()
    assert process.wait(20) == -signal.SIGKILL
    process.stdout.close()


def test_processes_that_it_starts_do_not_hold_its_link(pair, monkeypatch):
    end = os.dup(pair[1].fileno())
    os.set_inheritable(end, True)
    monkeypatch.setenv(LINK_VARIABLE, str(end))
    reporter = Reporter.from_environment()
    assert reporter.is_supervised
    assert LINK_VARIABLE not in os.environ
    assert not os.get_inheritable(end)
    reporter.close()


def test_work_tells_how_long_it_has_been_at_it():
    now = [10.0]
    work = Work(2.0, clock=lambda: now[0])
    assert work.stage == Stage(done=0, limit_s=2.0)
    with work:
        now[0] = 13.0
        assert work.stage == Stage(done=0, busy_s=3.0, limit_s=2.0)
    assert work.stage == Stage(done=1, limit_s=2.0)
    with pytest.raises(RuntimeError), work:
        raise RuntimeError
    assert work.stage.done == 2


def test_a_beat_is_there_again_once_the_supervisor_listens(pair):
    link, reporter = BeatLink(pair[0]), Reporter(pair[1])
    for _ in range(2000):
        reporter.beat(BEAT)
    while link.receive() is not None:
        pass
    reporter.beat(BEAT)
    until(lambda: link.receive() == BEAT)
    reporter.close()


def test_a_start_that_hangs_says_so(tmp_path, pair):
    """Its bundle is on a disk that never answers, as a pipe that nobody writes to."""
    (tmp_path / "bundle").mkdir()
    os.mkfifo(tmp_path / "bundle" / "bundle.json")
    config = tmp_path / "line.toml"
    config.write_text(
        f"""
        [station]
        state_dir = "{tmp_path}/state"
        [cameras.cam1]
        source = "buttons"
        [model]
        bundle = "{tmp_path}/bundle"
        [publish]
        endpoint = "ipc://{tmp_path}/pub"
        """
    )
    ours, theirs = pair
    code = "from inspectd.runtime import line; line.OPEN_S = 0.5; from inspectd.runtime.entry import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(config), "--stay"],
        env={**os.environ, LINK_VARIABLE: str(theirs.fileno())},
        pass_fds=(theirs.fileno(),),
    )
    link = BeatLink(ours)

    def hangs() -> bool:
        packet = link.receive()
        if not isinstance(packet, Beat):
            return False
        stage = packet.stages["starting"]
        return stage.limit_s == 0.5 and stage.busy_s > stage.limit_s

    try:
        until(hangs)
    finally:
        process.kill()
        process.wait()
