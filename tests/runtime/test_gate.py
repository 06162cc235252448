"""Keys at the door: who has none that the station knows gets nothing. Real sockets, real CURVE."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import socket as posix_socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from inspectd.errors import ConfigError
from inspectd.permissions import check_unshared
from inspectd.runtime.access import ClientKeys, KeysFolder, write_client_file
from inspectd.runtime.gate import Gate, needs_curve

TODAY = dt.date(2026, 11, 26)


class Door:
    """A gate with a ROUTER and an XPUB behind it, each with an address for this machine and one for others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = KeysFolder(folder / "keys")
        self.keys.make_station()
        self.refused: Counter[str] = Counter()
        self.pairs: dict[str, tuple[str, str]] = {}

    def client(self, name: str, role: str = "viewer") -> Path:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        self.pairs[name] = public, secret
        self.keys.add(name, role, public, today=TODAY)
        path = self.folder / f"{name}.toml"
        write_client_file(path, self.keys.load().public, public, secret)
        return path

    def open(self) -> None:
        self.gate = Gate(self.keys, refused=lambda why: self.refused.update([why]))
        self.gate.open()
        self.bind()

    def bind(self) -> None:
        self.router = self.gate.context.socket(zmq.ROUTER)
        self.xpub = self.gate.context.socket(zmq.XPUB)
        self.addresses = {}
        for name, socket in (("router", self.router), ("xpub", self.xpub)):
            socket.linger = 0
            socket.bind(f"ipc://{self.folder}/{name}")
            self.gate.secure(socket)
            socket.bind("tcp://127.0.0.1:*")
            self.addresses[name] = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def unbind(self) -> None:
        self.router.close()
        self.xpub.close()

    def close(self) -> None:
        self.unbind()
        self.gate.close()

    def asks(
        self, secure: Callable[[zmq.Socket], None] | None, address: str = "", timeout_ms: int = 5000
    ) -> str | None:
        """Ask as a client; the User-Id that the server sees, None if nothing arrives."""
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 0
        try:
            if secure is not None:
                secure(dealer)
            dealer.connect(address or self.addresses["router"])
            dealer.send(b"hello")
            if not self.router.poll(timeout_ms):
                return None
            frames = self.router.recv_multipart(copy=False)
            self.router.send_multipart([frames[0].bytes, b"world"])
            assert dealer.poll(2000)
            assert dealer.recv() == b"world"
            try:
                return str(frames[1].get("User-Id"))
            except zmq.ZMQError:
                return ""
        finally:
            dealer.close()
            context.term()

    def hears(self, secure: Callable[[zmq.Socket], None] | None, timeout_ms: int = 5000) -> bool:
        """Subscribe as a client; whether anything arrives."""
        context = zmq.Context()
        sub = context.socket(zmq.SUB)
        sub.linger = 0
        try:
            if secure is not None:
                secure(sub)
            sub.subscribe(b"")
            sub.connect(self.addresses["xpub"])
            deadline = time.monotonic() + timeout_ms / 1000
            while time.monotonic() < deadline:
                self.xpub.send(b"news")
                if sub.poll(20):
                    return True
            return False
        finally:
            sub.close()
            context.term()


@pytest.fixture
def door(tmp_path):
    return Door(tmp_path)


def strange(door: Door) -> Callable[[zmq.Socket], None]:
    """Keys of a client that nobody knows."""
    public, secret = zmq.curve_keypair()
    return ClientKeys(door.keys.load().public.encode(), public, secret).apply


def test_who_is_on_the_list_gets_in_and_nobody_else(door):
    known = ClientKeys.load(door.client("anna", "engineer")).apply
    door.open()
    try:
        assert door.asks(known) == door.pairs["anna"][0]
        assert door.gate.who(door.pairs["anna"][0]) == ("anna", "engineer")
        assert door.hears(known)
        for wrong in (strange(door), None):
            assert door.asks(wrong, timeout_ms=600) is None
            assert not door.hears(wrong, timeout_ms=600)
        # A client that was given another station's key does not get in either, whoever it is.
        other, _ = zmq.curve_keypair()
        mine = door.pairs["anna"]
        assert door.asks(ClientKeys(other, mine[0].encode(), mine[1].encode()).apply, timeout_ms=600) is None
        assert any("not on the list" in why for why in door.refused)
    finally:
        door.close()


def test_the_socket_of_this_machine_asks_for_no_key(door):
    door.client("anna")
    door.open()
    try:
        assert door.asks(None, f"ipc://{door.folder}/router") == ""
    finally:
        door.close()


def test_without_its_handler_nobody_gets_in(door):
    known = ClientKeys.load(door.client("anna")).apply
    door.open()
    try:
        assert door.asks(known) is not None
        door.gate._handler.stop()
        assert door.asks(known, timeout_ms=600) is None
        assert not door.hears(known, timeout_ms=600)
    finally:
        door.close()


def test_a_revoked_client_is_cut_off_and_the_others_come_again(door):
    anna, berta = (ClientKeys.load(door.client(name)).apply for name in ("anna", "berta"))
    door.open()
    context = zmq.Context()
    dealers = {}
    try:
        for name, secure in (("anna", anna), ("berta", berta)):
            dealers[name] = context.socket(zmq.DEALER)
            dealers[name].linger = 0
            secure(dealers[name])
            dealers[name].connect(door.addresses["router"])
            dealers[name].send(b"1")
            assert door.router.poll(2000)
            door.router.recv_multipart()
        before = door.gate.generation
        door.keys.revoke("anna", today=TODAY)
        deadline = time.monotonic() + 1.0
        while door.gate.generation == before:
            assert time.monotonic() < deadline, "nobody noticed within a second"
            time.sleep(0.01)
        assert door.gate.who(door.pairs["anna"][0]) is None
        # The connection stands until the owner of the socket binds it anew: that is what the generation is for.
        address = door.addresses["router"]
        door.router.unbind(address)
        door.unbind()
        door.router = door.gate.context.socket(zmq.ROUTER)
        door.gate.secure(door.router)
        deadline = time.monotonic() + 10.0
        while True:
            try:
                door.router.bind(address)
                break
            except zmq.ZMQError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        door.xpub = door.gate.context.socket(zmq.XPUB)
        got = set()
        began = time.monotonic()
        while time.monotonic() < began + 20 and (b"berta" not in got or time.monotonic() < began + 2):
            for name, dealer in dealers.items():
                # What was handed to a connection that is just being cut is lost with it.
                with contextlib.suppress(zmq.Again):
                    dealer.send(name.encode(), zmq.NOBLOCK)
            if door.router.poll(100):
                got.add(door.router.recv_multipart()[1])
        assert got == {b"berta"}
    finally:
        for dealer in dealers.values():
            dealer.close()
        context.term()
        door.close()


def test_new_keys_of_the_station_shut_out_the_old_ones(door):
    known = ClientKeys.load(door.client("anna")).apply
    door.open()
    try:
        assert door.asks(known) is not None
        old, before = door.gate.public, door.gate.generation
        door.keys.make_station(replace_old=True)
        deadline = time.monotonic() + 2.0
        while door.gate.generation == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert door.gate.public != old
        door.unbind()
        door.bind()
        assert door.asks(known, timeout_ms=600) is None
        public, secret = door.pairs["anna"]
        assert door.asks(ClientKeys(door.gate.public.encode(), public.encode(), secret.encode()).apply) == public
    finally:
        door.close()


def test_a_client_that_comes_and_goes_is_no_refusal(door):
    known = ClientKeys.load(door.client("anna")).apply
    door.open()
    try:
        for _ in range(4):
            assert door.asks(known) is not None
        time.sleep(0.5)
        assert not door.refused
    finally:
        door.close()


def test_garbage_at_the_door_is_noticed_and_hurts_nobody(door):
    known = ClientKeys.load(door.client("anna")).apply
    door.open()
    try:
        host, port = door.addresses["router"].removeprefix("tcp://").split(":")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000), b"\xff" + b"\x00" * 8 + b"\x7f" + b"\x00" * 100):
            with posix_socket.create_connection((host, int(port))) as raw:
                raw.sendall(garbage)
                raw.settimeout(0.2)
                with contextlib.suppress(OSError):
                    raw.recv(100)
        assert door.asks(known) is not None
        deadline = time.monotonic() + 3
        while not door.refused:
            assert time.monotonic() < deadline, "nobody was told"
            time.sleep(0.02)
    finally:
        door.close()


def test_a_list_that_is_broken_keeps_those_who_are_in_and_is_told(door):
    known = ClientKeys.load(door.client("anna")).apply
    door.open()
    try:
        (door.keys.path / "clients.toml").write_text('[[clients]]\nname = "anna"')
        deadline = time.monotonic() + 2.0
        while not door.gate.fault:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert door.asks(known) is not None
    finally:
        door.close()


def test_a_list_that_is_being_written_throws_nobody_out(door):
    door.client("anna")
    anna = door.pairs["anna"][0]
    path = door.keys.path / "clients.toml"
    whole = path.read_text()
    door.open()
    try:
        before = door.gate.generation
        # As editors do: emptied and filled again, or taken away and put back; and one that was left empty.
        for _ in range(5):
            path.write_text("")
            time.sleep(0.05)
            path.unlink()
            time.sleep(0.05)
            path.write_text(whole)
            time.sleep(0.1)
        path.write_text("")
        deadline = time.monotonic() + 10.0
        while not door.gate.fault:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "clients = []" in door.gate.fault
        assert door.gate.generation == before
        assert door.gate.who(anna) is not None
        # One that is gone says as little.
        path.unlink()
        while "is gone" not in door.gate.fault:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert door.gate.who(anna) is not None
        # And one that was put back as it was is no fault any more.
        path.write_text(whole)
        while door.gate.fault:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # To say that nobody may come is something else.
        path.write_text("clients = []\n")
        while door.gate.generation == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert door.gate.who(anna) is None
        assert not door.gate.fault
    finally:
        door.close()


def test_thousands_at_the_door_hold_up_nobody_even_if_nobody_counts_them(door, monkeypatch):
    known = ClientKeys.load(door.client("anna")).apply
    stuck = threading.Event()
    monkeypatch.setattr(Gate, "_note", lambda *_: stuck.wait(30))
    door.open()
    try:
        host, port = door.addresses["router"].removeprefix("tcp://").split(":")
        for _ in range(3000):  # each is accepted and ends: more events than a queue of ZeroMQ takes
            posix_socket.create_connection((host, int(port))).close()
        assert door.asks(known) is not None
    finally:
        stuck.set()
        door.close()


def test_no_secret_is_shown(door, caplog):
    caplog.set_level(logging.DEBUG)
    path = door.client("anna")
    door.open()
    try:
        door.asks(ClientKeys.load(path).apply)
        door.asks(strange(door))
        shown = f"{caplog.text} {door.gate} {door.keys.load()!r} {ClientKeys.load(path)!r}"
        secrets = [(door.keys.path / "station.key").read_text().strip(), door.pairs["anna"][1]]
        assert all(secret not in shown for secret in secrets)
    finally:
        door.close()


# Files


def test_faults_of_the_list_are_told_at_once(door):
    public, _ = (key.decode() for key in zmq.curve_keypair())
    (door.keys.path / "clients.toml").write_text(
        f'[[clients]]\nname = "a b"\nrole = "boss"\nkey = "short"\ncreated = "x"\nextra = 1\n'
        f'[[clients]]\nname = "anna"\nrole = "viewer"\nkey = "{public}"\ncreated = 2026-01-01\n'
        f'[[clients]]\nname = "berta"\nrole = "viewer"\nkey = "{public}"\ncreated = 2026-01-01\n'
    )
    with pytest.raises(ConfigError) as caught:
        door.keys.load()
    told = str(caught.value).splitlines()
    assert len(told) == 6
    assert any("role: expected one of viewer, operator, engineer, got 'boss'" in line for line in told)
    assert any("has the name or the key of 'anna'" in line for line in told)


def test_a_secret_that_others_can_read_is_refused(door):
    path = door.client("anna")
    (door.keys.path / "station.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        door.keys.load()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        ClientKeys.load(path)


def test_keys_that_are_not_there_or_do_not_belong_together(door, tmp_path):
    with pytest.raises(ConfigError, match="inspectd keys station --keys"):
        KeysFolder(tmp_path / "nothing").load()
    with pytest.raises(ConfigError, match="there is one already"):
        door.keys.make_station()
    public, _ = zmq.curve_keypair()
    (door.keys.path / "station.pub").write_text(public.decode())
    with pytest.raises(ConfigError, match="is not the public key of"):
        door.keys.load()
    (door.keys.path / "station.pub").write_text("x" * 39)
    with pytest.raises(ConfigError, match="40 signs"):
        door.keys.load()


def test_a_list_that_lies_where_others_can_write_lets_in_nobody_through_a_link(door, tmp_path):
    door.client("anna")
    path, elsewhere = door.keys.path / "clients.toml", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / "clients.toml")
    path.symlink_to(elsewhere / "clients.toml")
    door.keys.load()
    elsewhere.chmod(0o777)
    with pytest.raises(ConfigError, match=r"elsewhere: others can write to it, and so say who is let in"):
        door.keys.load()


@pytest.mark.parametrize("way", ["absolute", "relative", "folder"])
def test_a_link_that_others_can_turn_lets_in_nobody(door, tmp_path, way):
    """However proper what it leads to now: it may be an older list by the next start."""
    door.client("anna")
    shared, path = tmp_path / "shared", door.keys.path / "clients.toml"
    shared.mkdir()
    proper = tmp_path / "proper"
    proper.mkdir()
    path.rename(proper / "clients.toml")
    match way:
        case "absolute":
            path.symlink_to(shared / "link")
            (shared / "link").symlink_to(proper / "clients.toml")
        case "relative":
            path.symlink_to("../shared/link")
            (shared / "link").symlink_to("../proper/../proper/clients.toml")
        case "folder":
            path.symlink_to(shared / "folder" / "clients.toml")
            (shared / "folder").symlink_to(proper)
    assert len(door.keys.load().clients) == 1
    shared.chmod(0o777)
    with pytest.raises(ConfigError, match=r"shared: others can write to it, and so say who is let in"):
        door.keys.load()


def test_a_list_that_is_a_circle_of_links_is_none(door):
    path = door.keys.path / "clients.toml"
    path.symlink_to("clients.toml")
    with pytest.raises(ConfigError, match=r"clients\.toml: cannot be read"):
        check_unshared(path, "who is let in")


def test_a_list_that_others_can_write_lets_in_nobody(door):
    door.client("anna")
    path = door.keys.path / "clients.toml"
    path.chmod(0o664)
    with pytest.raises(ConfigError, match=r"clients.toml: others can write to it, and so say who is let in"):
        door.keys.load()
    path.chmod(0o644)
    door.keys.load()
    door.keys.path.chmod(0o777)
    with pytest.raises(ConfigError, match="others can write to it"):
        door.keys.load()


def test_commands_at_once_lose_no_client(door):
    code = (
        "import sys, datetime; from pathlib import Path; from inspectd.runtime.access import KeysFolder, make_pair\n"
        "folder = KeysFolder(Path(sys.argv[1]))\n"
        "for number in range(10): folder.add(f'{sys.argv[2]}-{number}', 'viewer', make_pair()[0], "
        "today=datetime.date(2026, 11, 26))"
    )
    commands = [subprocess.Popen([sys.executable, "-c", code, str(door.keys.path), name]) for name in "abcd"]
    assert [command.wait(60) for command in commands] == [0, 0, 0, 0]
    assert len(door.keys.entries()) == 40


def test_at_no_moment_of_a_rotation_has_the_station_no_key(door, monkeypatch):
    old = (door.keys.path / "station.key").read_text()

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inspectd.runtime.access.replace_file", fails)
    with pytest.raises(ConfigError, match="No space left"):
        door.keys.make_station(replace_old=True)
    assert (door.keys.path / "station.key").read_text() == old
    monkeypatch.undo()
    door.keys.make_station(replace_old=True)
    assert (door.keys.path / "station.key").read_text() != old
    (kept,) = door.keys.path.glob("station.key.*")
    assert kept.read_text() == old
    assert kept.stat().st_mode & 0o077 == 0


def test_names_and_keys_are_given_once(door):
    door.client("anna")
    public, _ = (key.decode() for key in zmq.curve_keypair())
    for name, key, told in (
        ("anna", public, "of this name already"),
        ("berta", door.pairs["anna"][0], "is that of 'anna'"),
        ("b c", public, "expected up to 64"),
        ("berta", "short", "40 signs"),
    ):
        with pytest.raises(ConfigError, match=told):
            door.keys.add(name, "viewer", key, today=TODAY)
    door.keys.revoke("anna", today=TODAY)
    with pytest.raises(ConfigError, match="none of that name is let in"):
        door.keys.revoke("anna", today=TODAY)
    assert [entry.revoked for entry in door.keys.entries()] == [TODAY]


@pytest.mark.parametrize(
    ("endpoint", "auto", "always"),
    [
        ("tcp://127.0.0.1:5560", False, True),
        ("tcp://127.3.2.1:5560", False, True),
        ("tcp://localhost:5560", False, True),
        ("tcp://[::1]:5560", False, True),
        ("tcp://*:5560", True, True),
        ("tcp://0.0.0.0:5560", True, True),
        ("tcp://192.168.0.5:5560", True, True),
        ("tcp://[::]:5560", True, True),
        ("tcp://eth0:5560", True, True),
        ("tcp://station.example:5560", True, True),
        ("ipc:///run/pub", False, False),
    ],
)
def test_what_other_machines_reach_is_guarded(endpoint, auto, always):
    assert needs_curve(endpoint, "auto") is auto
    assert needs_curve(endpoint, "always") is always
    assert not needs_curve(endpoint, "off")


def test_roles_are_the_same_everywhere():
    from inspectd.config import Role
    from inspectd.runtime import keys_cli
    from inspectd.wire import ROLES

    assert Role.__args__ == keys_cli.Role.__args__ == ROLES
