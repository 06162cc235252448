"""Headers over plain TCP, for PLCs without ZeroMQ: a process beside the line (docs/protocol.md).

    python -m inspectd.runtime.header_push --from ipc:///run/inspectd/pub --port 5562

One thread waits for everything. A client that takes nothing, talks, or is gone costs the others nothing: what it does
not take in time is not kept for it, and it is disconnected.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import selectors
import signal
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType

from inspectd.errors import ConfigError
from inspectd.wire import HEADER_BYTES, Header

from .beats import Beat, Reporter
from .logs import fault, set_up_as_told
from .messaging.header_feed import HeaderFeed

__all__ = ["MAX_CLIENTS", "HeaderPush", "main", "over_tcp"]

MAX_CLIENTS = 16
"""Whoever comes beyond that is sent away at once."""
MAX_WAITING = 256
"""Headers that may wait for a client beside those in the system's buffer."""
STALLED_S = 1.0
"""A client that has taken nothing for so long is disconnected."""
MAX_HEARD_BYTES = 4096
"""A client that says more than this in a second is disconnected: it has nothing to say."""

_SEND_BUFFER_BYTES = 8192
_BATCH = 16
_UNACKNOWLEDGED_MS = 5000
_TICK_S = 0.25
_LAST_S = 0.2
"""So long it listens on at the end: what was published last comes through two threads of ZeroMQ."""
_DRAIN_S = 0.5
_READ_BYTES = 4096
_CRC = struct.Struct("<I")
_CRC_AT = 44
_log = logging.getLogger("inspectd.headers")


def over_tcp(header: Header) -> bytes:
    """The 64 bytes as they go over TCP: their checksum is their own, with the field 0."""
    data = bytearray(replace(header, crc32=0).pack())
    _CRC.pack_into(data, _CRC_AT, zlib.crc32(data))
    return bytes(data)


@dataclass(eq=False)
class _Client:
    """One connection.

    Attributes:
        waiting: what is to be sent; it begins inside a header if the system took a part of one.
        since_s: since when something waits and nothing was taken.
        heard: bytes that it has said in this second.
    """

    socket: socket.socket
    name: str
    waiting: bytearray = field(default_factory=bytearray)
    since_s: float = 0.0
    heard: int = 0


class HeaderPush:
    """The server; used from one thread.

    Args:
        feed: where the headers come from; open.
        host: address of this machine to listen at.
        port: port to listen at; 0 for any free one.
        monotonic_s: clock of all intervals.

    Attributes:
        each_turn: called several times a second.

    Raises:
        ConfigError: the address is taken or cannot be bound.
    """

    def __init__(
        self, feed: HeaderFeed, host: str, port: int, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.each_turn: Callable[[], None] = lambda: None
        self._feed = feed
        self._monotonic_s = monotonic_s
        self._clients: set[_Client] = set()
        self._over = False
        self._heard_from_s = monotonic_s()
        self._listener = _listen(host, port)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(feed, selectors.EVENT_READ, self._pass_on)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, with the port that was chosen."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def end_with(self, life: int) -> None:
        """End when the other end of this pipe is closed."""

        def end() -> None:
            self._selector.unregister(life)  # it would be readable for ever
            self.stop()

        self._selector.register(life, selectors.EVENT_READ, end)

    def stop(self) -> None:
        """`run` returns soon; may be called from a signal handler."""
        self._over = True

    def run(self) -> None:
        """Serve until `stop`, then pass on what was published before it, and give clients a moment for what waits."""
        while not self._over:
            self._step(_TICK_S)
            self.each_turn()
        over_s = self._monotonic_s()
        while (past_s := self._monotonic_s() - over_s) < _LAST_S or (
            past_s < _DRAIN_S and any(client.waiting for client in self._clients)
        ):
            self._step(0.01)

    def close(self) -> None:
        """Let everybody go."""
        for client in list(self._clients):
            self._drop(client, "")
        self._selector.close()
        self._listener.close()

    def _step(self, timeout_s: float) -> None:
        for key, events in self._selector.select(timeout_s):
            if isinstance(key.data, _Client):
                if key.data in self._clients:  # one of those served before it may have had it dropped
                    self._serve(key.data, events)
            else:
                key.data()
        # The descriptor of the feed tells once; whatever it did not tell is found here.
        self._pass_on()
        now_s = self._monotonic_s()
        for client in list(self._clients):
            if client.waiting and now_s - client.since_s > STALLED_S:
                self._drop(client, f"it has taken nothing for {STALLED_S:g} s")
        if now_s - self._heard_from_s >= 1.0:
            self._heard_from_s = now_s
            for client in self._clients:
                client.heard = 0

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            # It has gone again, or descriptors are short: the others go on.
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                _log.warning("headers: a connection could not be taken: %s", error.strerror)
                time.sleep(0.01)
            return
        name = f"{address[0]}:{address[1]}"
        if len(self._clients) >= MAX_CLIENTS:
            _log.warning("headers: %s is sent away: %d clients are connected already", name, MAX_CLIENTS)
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What lies in the system's buffer gets old: a small one shows soon who does not read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        client = _Client(connection, name)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)
        _log.info("headers: %s is connected", name)

    def _pass_on(self) -> None:
        for header in self._feed.headers():
            data = over_tcp(header)
            for client in list(self._clients):
                if len(client.waiting) >= MAX_WAITING * HEADER_BYTES:
                    self._drop(client, f"{MAX_WAITING} headers wait for it")
                    continue
                if not client.waiting:
                    client.since_s = self._monotonic_s()
                    self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
                client.waiting += data

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._hear(client)
            if events & selectors.EVENT_WRITE and client in self._clients:
                self._send(client)
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop(client, f"the connection broke ({error.strerror})")

    def _hear(self, client: _Client) -> None:
        said = client.socket.recv(_READ_BYTES)
        client.heard += len(said)
        if not said:
            self._drop(client, "it has gone")
        elif client.heard > MAX_HEARD_BYTES:
            self._drop(client, f"it said more than {MAX_HEARD_BYTES} bytes in a second, and has nothing to say")

    def _send(self, client: _Client) -> None:
        # A socket that is called writable has room for more than this, so no header is cut: a third of its buffer.
        sent = client.socket.send(client.waiting[: _BATCH * HEADER_BYTES])
        del client.waiting[:sent]
        client.since_s = self._monotonic_s()
        if not client.waiting:
            self._selector.modify(client.socket, selectors.EVENT_READ, client)

    def _drop(self, client: _Client, reason: str) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.socket)
        if len(client.waiting) % HEADER_BYTES:
            # A part of a header is with the system: the client is to see an error, not an end.
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        if reason:
            _log.info("headers: %s is disconnected: %s", client.name, reason)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"publish.header_host {host}: no address of this machine ({error.strerror}); expected one such as 127.0.0.1"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"publish.header_port {port}: cannot be bound at {host} ({error.strerror}); `ss -ltnp` shows who listens "
            f"where"
        ) from error
    return listener


def main(arguments: list[str] | None = None) -> int:
    """The process. It writes HOST:PORT to standard output once it listens."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="endpoint", required=True, help="address that the station publishes at")
    parser.add_argument("--host", default="127.0.0.1", help="address of this machine to listen at")
    parser.add_argument("--port", type=int, required=True, help="port to listen at; 0 for any")
    parser.add_argument("--life", type=int, help="descriptor of a pipe: end when its other end is closed")
    options = parser.parse_args(arguments)
    set_up_as_told("headers")
    reporter = Reporter.from_environment()
    try:
        with contextlib.closing(reporter), HeaderFeed(options.endpoint) as feed:
            push = HeaderPush(feed, options.host, options.port)
            with contextlib.closing(push):
                _serve(push, options.life, reporter)
    except ConfigError as error:
        fault(str(error))
        return 2
    return 0


def _serve(push: HeaderPush, life: int | None, reporter: Reporter) -> None:
    def beat() -> Beat:
        return Beat(state="Serving", ready=True, status=f"{push.clients} clients at {host}:{port}")

    def end(_number: int, _frame: FrameType | None) -> None:
        push.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    if life is not None:
        push.end_with(life)
    host, port = push.address
    if reporter.is_supervised:
        # Standard output is the station's.
        _log.info("headers go to whoever connects to %s:%d", host, port)
    else:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(f"{host}:{port}\n")
            sys.stdout.flush()
    reporter.gone = push.stop
    push.each_turn = lambda: reporter.tick(beat)
    push.run()
    reporter.bye(0)


if __name__ == "__main__":
    sys.exit(main())
