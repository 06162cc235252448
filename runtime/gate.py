"""CURVE at the sockets that other machines reach: who has no key that the station knows gets nothing.

Measured of libzmq 4.3.5: a CURVE server without a handler lets any key in, and so does a domain without one; only
ZAP_ENFORCE_DOMAIN with a domain fails closed. To take a key off the list stops new connections alone: those that stand
have to be cut by binding anew.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from inspectd.config import Role
from inspectd.errors import ConfigError

from .access import Access, KeysFolder

__all__ = ["DOMAIN", "Gate", "needs_curve"]

DOMAIN = "inspectd"
LOOK_S = 0.25
"""How often the files are looked at; a change is taken up once two looks have found the same."""
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)
_MOST_AT_THE_DOOR = 10_000
_log = logging.getLogger("inspectd.gate")


def needs_curve(endpoint: str, mode: Literal["auto", "always", "off"]) -> bool:
    """Whether an address has to be guarded by keys: by `security.curve`.

    Args:
        endpoint: `tcp://` or `ipc://`.
        mode: auto guards what other machines reach, always all of TCP.
    """
    if mode == "off" or not endpoint.startswith("tcp://"):
        return False
    if mode == "always":
        return True
    host = re.sub(r":[^:]*$", "", endpoint.removeprefix("tcp://")).strip("[]")
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a name, an interface, or * for all


class Gate:
    """Keys and clients of a station, at the sockets of one context; a context manager.

    Args:
        folder: of the keys.
        refused: told of a connection that was not let in, from another thread: why.

    Raises:
        ConfigError: keys or list cannot be used.

    Attributes:
        refused: as above; whoever wants to know sets it.
        context: that the sockets have to be made in.
        fault: why a change of the files was not taken up, for people; empty where all is well.
    """

    def __init__(self, folder: KeysFolder, *, refused: Callable[[str], None] = lambda _why: None) -> None:
        self._folder = folder
        self.refused = refused
        self._stamp = self._seen = folder.stamp()
        self._access: Access = folder.load()
        self._generation = 0
        self.fault = ""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._handler = ThreadAuthenticator(self.context, log=_Silent())
        self._monitors: dict[int, zmq.Socket[Any]] = {}
        self._at_the_door: set[tuple[int, int]] = set()
        self._new: list[zmq.Socket[Any]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gate", daemon=True)

    @property
    def public(self) -> str:
        """The station's public key."""
        return self._access.public

    @property
    def generation(self) -> int:
        """Counts up when connections that stand have to be cut: whoever owns a socket binds it anew."""
        return self._generation

    def who(self, key: str) -> tuple[str, Role] | None:
        """Name and role of a client's key, None if it is not let in."""
        return self._access.who(key)

    def open(self) -> None:
        """Let nobody in but those on the list."""
        self._handler.start()
        self._handler.configure_curve_callback(DOMAIN, credentials_provider=self)
        self._thread.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client's key is let in; asked by pyzmq's authenticator."""
        found = domain == DOMAIN and self._access.who(key.decode("ascii", "replace")) is not None
        if not found:
            # Not the key itself: what somebody tried belongs in no log.
            self.refused("a client with a key that is not on the list was refused")
        return found

    def close(self) -> None:
        """After the sockets were closed: end the context. May be called twice."""
        if self._over.is_set():
            return
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._handler.stop()
        for monitor in [*self._monitors.values(), *self._new]:
            monitor.close(linger=0)
        self.context.term()

    def __enter__(self) -> Gate:
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Guard what a socket of the gate's context is bound to from now on; not what it is bound to already."""
        socket.curve_server = True
        socket.curve_secretkey = self._access.secret
        socket.zap_domain = DOMAIN.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        address = f"inproc://gate-{uuid.uuid4()}"
        socket.monitor(address, _EVENTS)
        monitor: zmq.Socket[Any] = self.context.socket(zmq.PAIR)
        # No bound: libzmq's own thread, which serves every socket, would wait for room in it.
        monitor.rcvhwm = 0
        monitor.connect(address)
        with self._lock:
            self._new.append(monitor)

    # The thread

    def _watch(self) -> None:
        poller = zmq.Poller()
        next_s = 0.0
        while not self._over.is_set():
            with self._lock:
                for monitor in self._new:
                    self._monitors[id(monitor)] = monitor
                    poller.register(monitor, zmq.POLLIN)
                self._new.clear()
            try:
                for monitor, _ in poller.poll(100):
                    self._note(poller, monitor)
                if time.monotonic() >= next_s:
                    next_s = time.monotonic() + LOOK_S
                    self._look()
            except Exception as error:  # noqa: BLE001 - a thread that dies would see no revocation any more
                _log.exception("the gate failed")
                self.fault = f"the list of clients cannot be watched: {type(error).__name__}: {error}"
                self._over.wait(LOOK_S)

    def _note(self, poller: zmq.Poller, monitor: zmq.Socket[Any]) -> None:
        event = parse_monitor_message(monitor.recv_multipart())
        connection = (id(monitor), int(event["value"]))
        match event["event"]:
            case zmq.EVENT_ACCEPTED if len(self._at_the_door) < _MOST_AT_THE_DOOR:
                self._at_the_door.add(connection)
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                # It does not say which connection it is of: better one refusal too few than one too many.
                self._at_the_door = {each for each in self._at_the_door if each[0] != id(monitor)}
            case zmq.EVENT_DISCONNECTED:
                if connection in self._at_the_door:
                    self._at_the_door.discard(connection)
                    self.refused("a connection ended without having shown a key that is known")
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self.refused("a connection that does not speak CURVE was refused")
            case zmq.EVENT_MONITOR_STOPPED:
                poller.unregister(monitor)
                self._monitors.pop(id(monitor), None)
                monitor.close(linger=0)
                self._at_the_door = {each for each in self._at_the_door if each[0] != id(monitor)}
            case _:
                pass

    def _look(self) -> None:
        stamp = self._folder.stamp()
        # A list that an editor is about to write may be empty for a moment, or not be there.
        is_settled, self._seen = stamp == self._seen, stamp
        if not is_settled:
            return
        if stamp == self._stamp:
            self.fault = ""  # what was wrong with the list was taken back
            return
        try:
            if self._access.clients and not self._folder.has_list:
                raise ConfigError(
                    f"{self._folder.path}: the list of clients is gone; write `clients = []` to let nobody in"
                )
            access = self._folder.load()
        except (ConfigError, OSError) as error:
            # Those who were let in stay.
            if str(error) != self.fault:
                _log.error("the list of clients was changed and cannot be used: %s", error)
            self.fault = str(error)
            return
        self._stamp, self.fault = stamp, ""
        before, self._access = self._access, access
        if before.cuts(access):
            self._generation += 1


class _Silent(logging.Logger):
    """The authenticator would log keys."""

    def __init__(self) -> None:
        super().__init__("inspectd.gate.zap", logging.CRITICAL + 1)
