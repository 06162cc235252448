"""The door of control: who is believed to be who, what is kept of attempts, and a door that cannot be opened again."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inspectd.errors import RequestError
from inspectd.runtime import control
from inspectd.runtime.control import Client, ControlServer, Outcome
from inspectd.runtime.journal import Journal, JournalReader
from inspectd.runtime.messaging import Requester
from inspectd.wire import Answer, Arguments, Request

from .station_site import until

ENGINEER = "Z" * 40


class Records:
    """A station that notes who asked; it decides nothing itself."""

    epoch = 1

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.told: list[str] = []
        self.slow: list[str] = []

    def post(self, act: Callable[[], None]) -> None:
        act()

    def do(self, op: str, arguments: Arguments, client: Client, answer: Callable[[Outcome], None]) -> None:
        self.clients.append(client)
        answer({})

    def note_control(self, fault: str) -> None:
        self.told.append(fault)

    def note_slow_disk(self, told: str) -> None:
        self.slow.append(told)


class RawClient:
    """ZMTP 3.0 with the mechanism NULL, by hand, so that it can claim any property."""

    def __init__(self, path: Path, properties: dict[str, bytes]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5)
        self._socket.connect(str(path))
        greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
        self._socket.sendall(greeting)
        assert self._exactly(64)[12:16] == b"NULL"
        body = b"\x05READY" + b"".join(
            bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value
            for name, value in properties.items()
        )
        self._socket.sendall(bytes([4, len(body)]) + body)
        flags, ready = self._frame()
        assert flags & 4
        assert ready.startswith(b"\x05READY")

    def tell(self, parts: list[bytes]) -> None:
        for number, part in enumerate(parts):
            self._socket.sendall(bytes([number < len(parts) - 1, len(part)]) + part)

    def ask(self, parts: list[bytes]) -> list[bytes]:
        """Parts of the answer."""
        self.tell(parts)
        return self.answer()

    def answer(self) -> list[bytes]:
        """Parts of the next answer."""
        answer = []
        more = 1
        while more:
            more, part = self._frame()
            if more & 4:
                assert part.startswith(b"\x04PING")
                pong = b"\x04PONG" + part[7:]
                self._socket.sendall(bytes([4, len(pong)]) + pong)
                continue
            answer.append(part)
            more &= 1
        return answer

    def close(self) -> None:
        self._socket.close()

    def _frame(self) -> tuple[int, bytes]:
        (flags,) = self._exactly(1)
        (size,) = struct.unpack(">Q", self._exactly(8)) if flags & 2 else self._exactly(1)
        return flags, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the station ended the connection"
            data += more
        return data


def test_a_name_that_a_client_gives_itself_is_not_believed(tmp_path):
    station = Records()
    path = tmp_path / "ctl"
    server = ControlServer(
        station,
        local=f"ipc://{path}",
        local_role="viewer",
        endpoint="tcp://127.0.0.1:*",
        who=lambda key: ("anna", "engineer") if key == ENGINEER else None,
    )
    with server:
        client = RawClient(path, {"Socket-Type": b"DEALER", "Identity": b"me", "User-Id": ENGINEER.encode()})
        try:
            hello = Answer.from_parts(client.ask(Request(1, "hello", {}).to_parts()))
            assert hello.code == ""
            (seen,) = station.clients
            assert (seen.name, seen.role) == ("local", "viewer")
            refused = Answer.from_parts(client.ask(Request(2, "stop", {}).to_parts()))
            assert refused.code == "forbidden"
            assert len(station.clients) == 1
        finally:
            client.close()


def test_attempts_without_end_do_not_fill_the_journal(tmp_path):
    journal = Journal(tmp_path / "journal.db", epoch=1)
    journal.open()
    local = f"ipc://{tmp_path / 'ctl'}"
    server = ControlServer(Records(), local=local, local_role="viewer", journal=journal, journal_path=journal.path)
    with server, Requester(local) as requester:
        for _ in range(250):
            with pytest.raises(RequestError, match="needs the role operator"):
                requester.ask("stop")
        # They are counted all the same: the next one that is kept says how many were not.
        passed_over = server._attempts["local"].passed_over
        assert passed_over >= 150  # more where an answer took so long that it was asked again
        server._attempts["local"]._since_s -= 4000
        with pytest.raises(RequestError, match="needs the role operator"):
            requester.ask("stop")
    assert journal.close()
    with JournalReader(journal.path) as reader:
        attempts = list(reader.requests())
    assert len(attempts) == 101
    assert [each.args for each in attempts if each.args != "{}"] == [f'{{"notKept": {passed_over}}}']


def test_a_door_that_cannot_be_opened_again_is_told_and_tried_again(tmp_path):
    station, generation = Records(), [0]
    sockets, away = tmp_path / "sockets", tmp_path / "away"
    sockets.mkdir()
    local = f"ipc://{sockets / 'ctl'}"
    with ControlServer(station, local=local, generation=lambda: generation[0]) as server:
        with Requester(local) as requester:
            requester.ask("hello")
        sockets.rename(away)
        generation[0] = 1
        until(lambda: station.told, "nobody was told")
        assert "commands cannot be taken" in station.told[0]
        away.rename(sockets)
        until(lambda: station.told[-1] == "", "it was not tried again")
        with Requester(server.local) as requester:
            requester.ask("hello")
    assert len(station.told) == 2


def test_its_sockets_have_the_permissions_that_are_asked_for_also_when_they_are_made_anew(tmp_path):
    station, generation = Records(), [0]
    local, endpoint = (f"ipc://{tmp_path / name}" for name in ("ctl", "commands"))

    def socket_of(name: str) -> tuple[int, str]:
        status = (tmp_path / name).stat()
        return status.st_ino, oct(status.st_mode & 0o777)

    with ControlServer(
        station, local=local, endpoint=endpoint, socket_mode=0o640, generation=lambda: generation[0]
    ) as server:
        before = [socket_of(name) for name in ("ctl", "commands")]
        assert [mode for _, mode in before] == ["0o640", "0o640"]
        generation[0] = 1
        until(lambda: server._bound_at == 1)
        for address, name in ((local, "ctl"), (endpoint, "commands")):
            assert socket_of(name)[1] == "0o640"
            with Requester(address) as requester:
                requester.ask("hello")


class Busy(Records):
    """A station that answers nothing."""

    def do(self, op: str, arguments: Arguments, client: Client, answer: Callable[[Outcome], None]) -> None:
        self.clients.append(client)


def test_a_client_that_asks_without_end_is_told_to_wait(tmp_path):
    station = Busy()
    path = tmp_path / "ctl"
    with ControlServer(station, local=f"ipc://{path}"):
        client = RawClient(path, {"Socket-Type": b"DEALER", "Identity": b"me"})
        try:
            for number in range(1, 33):
                client.tell(Request(number, "snapshot", {}).to_parts())
            refused = Answer.from_parts(client.ask(Request(33, "snapshot", {}).to_parts()))
            assert (refused.request_id, refused.code) == (33, "busy")
            assert len(station.clients) == 32
        finally:
            client.close()


FLOOD = """
import sys, zmq
from inspectd.wire import Request
dealer = zmq.Context().socket(zmq.DEALER)
dealer.sndhwm = 0  # nothing of the flood waits on this side
dealer.connect(sys.argv[1])
request = Request(1, "snapshot", {}).to_parts()
print("begins", flush=True)
while True:
    dealer.send_multipart(request)
"""


@contextlib.contextmanager
def flood(local: str) -> Iterator[None]:
    """A process that asks as fast as it can and takes no answer; at the end it is killed at it."""
    process = subprocess.Popen([sys.executable, "-c", FLOOD, local], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"begins\n"
        yield
        process.kill()


class InTurn(Records):
    """A station with a thread of its own, as the line has one: it does one thing after another, 5 ms each."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.over = False
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def post(self, act: Callable[[], None]) -> None:
        self.acts.put(act)

    def _work(self) -> None:
        while not self.over:
            time.sleep(0.005)
            with contextlib.suppress(queue.Empty):
                self.acts.get(timeout=0.1)()


def test_a_flood_of_one_client_keeps_no_other_waiting(tmp_path):
    station = InTurn()
    local = f"ipc://{tmp_path / 'ctl'}"
    try:
        with ControlServer(station, local=local), Requester(local) as requester, flood(local):
            until(lambda: len(station.clients) > 32)
            for _ in range(10):
                requester.ask("hello", timeout_s=2.0)
                # What is being done of the flood, and nothing else, was before it.
                assert station.acts.qsize() <= 33
    finally:
        station.over = True
        station.thread.join()


KILLED = """
import sys, time
from inspectd.runtime.control import ControlServer
from inspectd.runtime.messaging import Requester
from tests.runtime.test_control import Records, flood

class Stalls(Records):
    def post(self, act):
        if not self.clients:
            time.sleep(3)
        super().post(act)

with ControlServer(Stalls(), local=sys.argv[1]):
    with flood(sys.argv[1]):
        time.sleep(1)
    time.sleep(1)
    with Requester(sys.argv[1]) as requester:
        print(requester.ask("hello", timeout_s=20).ok)
"""


def test_a_client_that_is_killed_while_its_flood_waits_does_not_take_the_station_along(tmp_path):
    """In a process of its own, for libzmq would abort it."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, f"ipc://{tmp_path / 'ctl'}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


class Shelf:
    """Pictures, the first of which is a FIFO: whoever reads it hangs, as on a disk of a network that is away."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "picture"
        os.mkfifo(self.fifo)
        self.asked: list[int] = []

    def __call__(self, epoch: int, stream: int, seq: int) -> tuple[dict[str, object], bytes]:
        self.asked.append(seq)
        return {"format": "png"}, self.fifo.read_bytes() if seq == 1 else b"whole"

    def let_go(self) -> None:
        with contextlib.suppress(OSError):  # nobody hangs there
            os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.let_go()


def picture(number: int, seq: int) -> list[bytes]:
    """A question for a picture."""
    return Request(number, "get_image", {"stream": 0, "seq": seq}).to_parts()


def test_a_picture_that_hangs_keeps_nobody_waiting(tmp_path, shelf, monkeypatch):
    monkeypatch.setattr(control, "_READ_S", 3.0)
    station, local = Records(), f"ipc://{tmp_path / 'ctl'}"
    with ControlServer(station, local=local, images=shelf), Requester(local) as requester:
        viewer = RawClient(tmp_path / "ctl", {"Socket-Type": b"DEALER", "Identity": b"me"})
        try:
            viewer.tell(picture(1, seq=1))
            until(lambda: shelf.asked)
            for number in range(3):  # sent again, as clients do
                viewer.tell(picture(1, seq=1))
                viewer.tell(picture(2 + number, seq=2))
            for op in ("abort", "stop", "halt", "reset", "snapshot"):
                assert requester.ask(op, timeout_s=2.5).ok
            answers = {answer.request_id: answer for answer in (Answer.from_parts(viewer.answer()) for _ in range(4))}
            assert {answer.code for answer in answers.values()} == {"failed"}
            assert "get_image: the disk does not answer" in answers[1].message
            until(lambda: station.slow)
            assert "the archive's disk does not answer: get_image cannot be had" in station.slow[0]
            # And whoever asks now is told so at once.
            with pytest.raises(RequestError, match="the disk does not answer"):
                requester.ask("get_image", {"stream": 0, "seq": 2}, timeout_s=2.5)
            assert shelf.asked == [1]
            shelf.let_go()
            until(lambda: station.slow[-1] == "")
            # What was given up is neither read nor answered any more.
            assert Answer.from_parts(viewer.ask(picture(9, seq=3))).blobs == (b"whole",)
            assert shelf.asked == [1, 3]
        finally:
            viewer.close()


def test_a_server_ends_although_the_disk_hangs(tmp_path, shelf):
    with ControlServer(Records(), local=f"ipc://{tmp_path / 'ctl'}", images=shelf):
        client = RawClient(tmp_path / "ctl", {"Socket-Type": b"DEALER", "Identity": b"me"})
        client.tell(picture(1, seq=1))
        until(lambda: shelf.asked)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2.9
    client.close()


def test_who_asks_for_more_than_may_wait_is_told_to_come_again(tmp_path, shelf, monkeypatch):
    monkeypatch.setattr(control, "_READS_WAITING", 4)
    with ControlServer(Records(), local=f"ipc://{tmp_path / 'ctl'}", images=shelf):
        client = RawClient(tmp_path / "ctl", {"Socket-Type": b"DEALER", "Identity": b"me"})
        try:
            for number in range(1, 6):
                client.tell(picture(number, seq=1))
            refused = Answer.from_parts(client.answer())
            assert (refused.request_id, refused.code) == (5, "busy")
            assert "too much waits for the disk" in refused.message
        finally:
            client.close()


def test_a_command_waits_for_what_was_kept_of_before_only_so_long(tmp_path):
    journal = Journal(tmp_path / "journal.db", epoch=1)
    journal.open()
    assert journal.close()
    station, local = Records(), f"ipc://{tmp_path / 'ctl'}"
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")  # whoever reads waits
    with ControlServer(station, local=local, journal_path=journal.path), Requester(local) as requester:
        for _ in range(3):
            began_s = time.monotonic()
            assert requester.ask("abort").ok
            assert time.monotonic() - began_s < 4
    assert len(station.clients) == 3
    other.close()
