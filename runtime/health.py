"""What monitoring asks by HTTP, answered by the supervisor: so there is an answer when the core is dead.

    /metrics   for Prometheus
    /healthz   200 while supervisor and core work, else 503 and why
    /readyz    200 while parts would be judged, else 503 and why
    /status    everything, as JSON; what `inspectd status` shows

A client that is slow, sends nonsense or never goes costs one of a few threads for some seconds, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from inspectd.errors import ConfigError

from .report import Report

__all__ = ["HealthServer"]

HOST = "127.0.0.1"
CLIENT_S = 3.0
"""So long may a client take to send its request, and again to take the answer."""
THREADS = 4
WAITING = 32
"""Clients that may wait for a thread; more are sent away."""
MAX_REQUEST_BYTES = 8192
_JSON = "application/json"
_GOODBYE_S = 0.5
_END_S = 1.0

_log = logging.getLogger("inspectd.health")


class HealthServer:
    """Answers at a port of this machine until it is closed; a context manager.

    Attributes:
        port: that it listens at.

    Args:
        port: to listen at; 0 for any free one.
        report: how the station is; called in other threads.

    Raises:
        ConfigError: the port cannot be listened at.
    """

    def __init__(self, port: int, report: Callable[[], Report]) -> None:
        try:
            self._listener = socket.create_server((HOST, port), backlog=WAITING)
        except OSError as error:
            who = "; is another station running?" if error.errno == errno.EADDRINUSE else ""
            raise ConfigError(
                f"health.port: cannot listen at {HOST}:{port} ({error.strerror}){who} Expected a free port; 0 takes any"
            ) from error
        self.port: int = self._listener.getsockname()[1]
        self._report = report
        self._is_closed = False
        self._clients: queue.Queue[socket.socket | None] = queue.Queue(WAITING)
        # They must not hold the end of the process.
        self._threads = [threading.Thread(target=self._accept, name="health", daemon=True)]
        self._threads += [
            threading.Thread(target=self._work, name=f"health-{number}", daemon=True) for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> HealthServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._is_closed = True
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(queue.Empty):
            while True:
                client = self._clients.get_nowait()
                if client is not None:
                    client.close()
        for _ in range(THREADS):
            with contextlib.suppress(queue.Full):
                self._clients.put_nowait(None)
        until_s = time.monotonic() + _END_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if not self._is_closed:
                    # No descriptor is free, perhaps; that may pass.
                    _log.warning("no client can be accepted: %s", error.strerror)
                    time.sleep(0.2)
                continue
            try:
                self._clients.put_nowait(client)
            except queue.Full:
                client.close()

    def _work(self) -> None:
        while (client := self._clients.get()) is not None:
            with client:
                # Whatever is wrong with a client, the next one is answered.
                try:
                    self._serve(client)
                except OSError:
                    continue
                except Exception:  # noqa: BLE001 - and told
                    _log.exception("a request could not be answered")

    def _serve(self, client: socket.socket) -> None:
        request = _read_request(client)
        if not request:
            return
        answer = _Exchange(request, self._report).answer
        client.settimeout(CLIENT_S)
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        # To close with something unread would take the answer back.
        until_s = time.monotonic() + _GOODBYE_S
        while (left_s := until_s - time.monotonic()) > 0:
            client.settimeout(left_s)
            if not client.recv(65_536):
                return


def _read_request(client: socket.socket) -> bytes:
    """The head of a request, or as much of it as is allowed; empty where it does not come in time."""
    until_s = time.monotonic() + CLIENT_S
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or len(head) > MAX_REQUEST_BYTES:
            # A head that is too long is answered by what is said of it, one that is too slow not at all.
            return head if len(head) > MAX_REQUEST_BYTES else b""
        client.settimeout(left_s)
        more = client.recv(4096)
        if not more:
            return b""
        head += more
    return head


class _Exchange(BaseHTTPRequestHandler):
    """A request that is there as a whole, and its answer."""

    server_version = "inspectd"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    error_content_type = "text/plain"
    error_message_format = "%(code)d %(message)s\n"

    def __init__(self, request: bytes, report: Callable[[], Report]) -> None:
        self._request = request
        self._report = report
        self.rfile = io.BufferedReader(io.BytesIO(request))
        self.wfile = self._written = io.BytesIO()
        self.client_address = (HOST, 0)
        self.close_connection = True
        self.handle_one_request()

    @property
    def answer(self) -> bytes:
        """What has to be sent."""
        return self._written.getvalue()

    def parse_request(self) -> bool:
        """As the library does; a head that was cut is refused."""
        if len(self._request) > MAX_REQUEST_BYTES:
            self.requestline, self.request_version, self.command = "", self.protocol_version, ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer."""
        report = self._report()
        match self.path.partition("?")[0]:
            case "/metrics":
                from .metrics import CONTENT_TYPE, metrics

                self._send(HTTPStatus.OK, metrics(report), CONTENT_TYPE)
            case "/healthz":
                why = report.unhealthy()
                self._send_json(not why, {"healthy": not why, "reason": why})
            case "/readyz":
                why, beat = report.unready(), report.fresh_beat
                told = {"state": beat.state, "deviceHealth": beat.health.value} if beat else {"state": None}
                self._send_json(not why, {"ready": not why, **told, "reason": why})
            case "/status":
                self._send(HTTPStatus.OK, report.model_dump_json().encode() + b"\n", _JSON)
            case _:
                text = b"nothing is here; expected /metrics, /healthz, /readyz or /status\n"
                self._send(HTTPStatus.NOT_FOUND, text, "text/plain")

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def _send_json(self, is_well: bool, facts: dict[str, object]) -> None:
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, json.dumps(facts).encode() + b"\n", _JSON)

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Nothing: what monitoring asks every few seconds is no news."""
