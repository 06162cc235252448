"""Headers over plain TCP: a process of its own, real sockets, and clients that misbehave."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.header_push import MAX_CLIENTS, main
from inspectd.runtime.logs import LOG_VARIABLE
from inspectd.runtime.messaging import CameraStream, Publisher
from inspectd.wire import Header, MessageType, State

WAIT_S = 20.0


def part(number: int) -> Inspection:
    frame = Frame("cam1", number, np.zeros((4, 4, 1), np.uint8), 10, number)
    mask = Mask(np.zeros((4, 4), np.uint8), ClassMap(("scratch",)))
    return Inspection(frame, Verdict.OK, (), mask, "cd" * 32)


class Site:
    """A publisher, and the process that passes its headers on."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hp-", dir="/tmp"))
        self.clients: list[socket.socket] = []
        self.endpoint = f"ipc://{self.folder}/pub"
        self.publisher = Publisher(self.endpoint, epoch=3, cameras={"cam1": CameraStream()})
        self.publisher.open()
        life, self.life = os.pipe()
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "inspectd.runtime.header_push"),
                *("--from", self.endpoint, "--port", "0", "--life", str(life)),
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            pass_fds=(life,),
            env={**os.environ, LOG_VARIABLE: '{"format": "text", "level": "INFO"}'},
        )
        os.close(life)
        host, port = self.process.stdout.readline().strip().rsplit(":", 1)
        self.address = host, int(port)
        assert self.publisher.wait_for_subscriber(WAIT_S)

    def connect(self, *, receive_bytes: int = 0, taken: bool = True) -> socket.socket:
        client = socket.socket()
        self.clients.append(client)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(WAIT_S)
        client.connect(self.address)
        if taken:
            self.wait_for(f"127.0.0.1:{client.getsockname()[1]} is connected")
        return client

    def publish(self, count: int, *, pause_s: float = 0.0) -> None:
        for number in range(count):
            self.publisher.publish(part(number + 1))
            self.publisher.tick()
            time.sleep(pause_s)

    def said(self, words: str) -> bool:
        return words in (self.folder / "log").read_text()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.said(words):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            self.publisher.tick()
            time.sleep(0.01)

    def close(self) -> None:
        for client in self.clients:
            client.close()  # also of a test that failed: else one of another file is blamed
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()
        with contextlib.suppress(OSError):
            os.close(self.life)
        self.publisher.close(0)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


def read_header(client: socket.socket) -> Header | None:
    """The next one, checked; None at the end of the connection."""
    data = b""
    while len(data) < 64:
        more = client.recv(64 - len(data))
        if not more:
            assert data == b"", "half a header"
            return None
        data += more
    header = Header.unpack(data)
    assert zlib.crc32(replace(header, crc32=0).pack()) == header.crc32
    return header


def verdicts(client: socket.socket, count: int) -> list[int]:
    """The numbers of so many verdicts."""
    found = []
    while len(found) < count:
        header = read_header(client)
        assert header is not None
        if header.msg_type == MessageType.VERDICT:
            found.append(header.seq)
    return found


def test_verdicts_heartbeats_and_changes_of_state_and_nothing_else(site):
    client = site.connect()
    site.publish(3)
    site.publisher.state = State.READY
    headers = []
    while not headers or headers[-1].msg_type != MessageType.STATE:
        headers.append(read_header(client))
    kinds = [header.msg_type for header in headers if header.msg_type != MessageType.HEARTBEAT]
    assert kinds == [MessageType.VERDICT] * 3 + [MessageType.STATE]
    assert [header.trigger_id for header in headers if header.msg_type == MessageType.VERDICT] == [1, 2, 3]
    assert headers[-1].state is State.READY
    assert {header.epoch for header in headers} == {3}
    deadline = time.monotonic() + WAIT_S
    while headers[-1].msg_type != MessageType.HEARTBEAT and time.monotonic() < deadline:
        site.publisher.tick()
        if select.select([client], [], [], 0.01)[0]:
            headers.append(read_header(client))
    assert headers[-1].msg_type == MessageType.HEARTBEAT
    client.close()


def test_who_does_not_read_is_disconnected_at_a_whole_header_and_delays_nobody(site):
    slow = site.connect(receive_bytes=2048)
    quick = site.connect()
    delays_s = []
    for number in range(1, 3001):
        begun = time.monotonic()
        site.publish(1)
        assert verdicts(quick, 1) == [number]
        delays_s.append(time.monotonic() - begun)
    assert sorted(delays_s)[2900] < 0.1
    site.wait_for("is disconnected: ")
    assert site.said("headers wait for it") or site.said("has taken nothing for")
    had = 0
    while read_header(slow) is not None:
        had += 1
    assert 0 < had < 3000
    site.publish(1)
    assert verdicts(quick, 1) == [3001]
    slow.close()
    quick.close()


def test_who_only_reads_slowly_but_steadily_stays(site):
    client = site.connect()
    site.publish(40, pause_s=0.02)
    assert verdicts(client, 40) == list(range(1, 41))
    client.close()


def test_garbage_costs_its_sender_the_connection_and_the_others_nothing(site):
    loud, other = site.connect(), site.connect()
    with contextlib.suppress(OSError):
        loud.sendall(os.urandom(64 * 1024))
    site.wait_for("has nothing to say")
    with contextlib.suppress(ConnectionError):
        while loud.recv(4096):
            pass
    site.publish(5)
    assert verdicts(other, 5) == [1, 2, 3, 4, 5]
    loud.close()
    other.close()


def test_a_word_now_and_then_is_passed_over(site):
    client = site.connect()
    client.sendall(b"hello\n")
    site.publish(2)
    assert verdicts(client, 2) == [1, 2]
    client.close()


def test_a_connection_that_breaks_is_let_go(site):
    gone, other = site.connect(), site.connect()
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    site.wait_for("is disconnected: the connection broke")
    site.publish(2)
    assert verdicts(other, 2) == [1, 2]
    other.close()


def test_there_is_room_for_sixteen_and_again_when_one_leaves(site):
    clients = [site.connect() for _ in range(MAX_CLIENTS)]
    turned_away = site.connect(taken=False)
    assert turned_away.recv(1) == b""
    assert site.said("is sent away: 16 clients")
    clients.pop().close()
    site.wait_for("it has gone")
    clients.append(site.connect())
    site.publish(1)
    assert [verdicts(client, 1) for client in clients] == [[1]] * MAX_CLIENTS
    for client in (*clients, turned_away):
        client.close()


def test_it_ends_when_the_line_does(site):
    client = site.connect()
    site.publish(1)
    os.close(site.life)
    assert site.process.wait(WAIT_S) == 0
    assert verdicts(client, 1) == [1]
    while read_header(client) is not None:
        pass
    client.close()


def test_what_was_published_just_before_the_line_ended_is_passed_on(site):
    client = site.connect()
    # When it runs again it sees that the line has ended before ZeroMQ's own thread has read what was published.
    site.process.send_signal(signal.SIGSTOP)
    site.publish(1)
    os.close(site.life)
    site.process.send_signal(signal.SIGCONT)
    assert site.process.wait(WAIT_S) == 0
    assert verdicts(client, 1) == [1]


def test_kill_9_ends_every_connection_at_once(site):
    client = site.connect()
    site.process.kill()
    while read_header(client) is not None:
        pass
    client.close()


def test_sigterm_ends_it_in_good_order(site):
    client = site.connect()
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(WAIT_S) == 0
    while read_header(client) is not None:
        pass
    client.close()


def test_headers_go_on_after_a_new_start_of_the_station(site):
    client = site.connect()
    site.publish(1)
    assert verdicts(client, 1) == [1]
    site.publisher.close(0)
    site.publisher = Publisher(site.endpoint, epoch=4, cameras={"cam1": CameraStream()})
    site.publisher.open()
    assert site.publisher.wait_for_subscriber(WAIT_S)
    site.publish(1)
    while (header := read_header(client)).msg_type != MessageType.VERDICT:
        pass
    assert (header.epoch, header.seq) == (4, 1)
    client.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "nonsense", "--port", "0"), "endpoint nonsense"),
        (("--from", "ipc:///tmp/none", "--port", "0", "--host", "192.0.2.1"), "publish.header_port"),
        (("--from", "ipc:///tmp/none", "--port", "0", "--host", "no such host"), "publish.header_host"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_line(words, says, capsys):
    assert main(list(words)) == 2
    assert says in capsys.readouterr().err
