"""Control: the ROUTER socket that clients ask and command the station by (docs/protocol.md).

    client ── DEALER ── ROUTER (thread) ── replay, get_result, get_image: read from the disk by threads of their own
                                      └── everything else: posted to the line's thread, between two frames

A disk may hang, and no command waits for one: what is read from it has a time limit. What changes something is done
once for each client and request_id: that it was begun is in the journal before it is done, and its answer before it is
sent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import zmq

from inspectd.config import Role
from inspectd.errors import ConfigError, InspectdError, ProtocolError, RequestError
from inspectd.wire import (
    MAX_REQUEST_BYTES,
    OPERATIONS,
    ROLES,
    Answer,
    ArgumentError,
    Arguments,
    Request,
)

from .access import KEY_SIGNS
from .disk_worker import DiskWorker
from .journal import Entry, Journal
from .messaging.link import Link, bind, bind_again, bound_address, let_go
from .on_disk import ON_DISK, Images, OnDisk, Past, refusal

__all__ = ["Client", "ControlServer", "Images", "Station"]

_POLL_MS = 200
_DISK_S = 1.0
"""How long a command waits for the disk before it is done without being kept, or without what was kept of it before."""
_READ_S = 4.0
"""How long a client waits for what is on the disk; below the patience of clients."""
_READS_WAITING = 128
_KEPT_ANSWERS = 1000
_ATTEMPTS_KEPT, _ATTEMPTS_WITHIN_S = 100, 3600.0
"""So many commands that a client may not give are kept: a client must not fill the journal with them."""
_MOST_IN_FLIGHT = 32
"""Requests of one client that are being done; what comes beyond is refused unread."""
_SEND_HIGH_WATER_MARK = 8
"""Answers that wait for a client who does not read; each may have MAX_ANSWER_BYTES."""
_log = logging.getLogger("inspectd.control")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks.

    Attributes:
        key: what it is known by: its public key, or without keys the routing id of its socket, in hexadecimal.
        name: for people.
        role: what it may do.
    """

    key: str
    name: str
    role: Role


class Station(Protocol):
    """What the server needs of a station."""

    @property
    def epoch(self) -> int:
        """Of this start."""

    def post(self, act: Callable[[], None]) -> None:
        """Have something done in the line's thread between two frames."""

    def do(self, op: str, arguments: Arguments, client: Client, answer: Callable[[Outcome], None]) -> None:
        """Do what an operation asks for, in the line's thread; the answer may come later.

        Raises:
            RequestError: it is not done.
        """

    def note_control(self, fault: str) -> None:
        """Why nobody can be answered, in the line's thread; empty once somebody can be again."""

    def note_slow_disk(self, told: str) -> None:
        """What a disk that hangs keeps from being answered, in the line's thread; empty once none does."""


Outcome = Mapping[str, Any] | RequestError
"""The result of an operation, or why it was not done."""


_LOCAL, _OTHER = b"L", b"O"
"""The two doors; the identity of a client is known with the one that it came by before it."""


@dataclass(frozen=True, slots=True)
class _Door:
    """A socket that clients come by, and whether it asks them for keys."""

    link: Link
    is_guarded: bool


@dataclass(frozen=True, slots=True)
class _Made:
    """An answer that waits to be sent; `key` is that of a request that changed something."""

    identity: bytes
    answer: Answer
    key: tuple[str, str] | None = None
    lacks_epochs: bool = False


class ControlServer:
    """The server; a thread of its own between `open` and `close`.

    Args:
        station: what is asked.
        local: `ipc://` address, for this machine alone.
        endpoint: a second address; None for none.
        local_role: what clients without a key may do.
        socket_mode: permissions of the socket of each `ipc://` address; None leaves those of the process.
        journal: where requests are kept, None for nowhere.
        journal_path: of its database, for replays; None where there is none.
        images: finds archived pictures.
        secure: sets keys on the socket before `endpoint` is bound.
        who: the name and role of a key; None where nobody has one.
        context: of the socket, where keys need one that is shared.
        generation: counts up when keys were revoked or changed, so that all connections have to be cut.
    """

    def __init__(
        self,
        station: Station,
        *,
        local: str,
        endpoint: str | None = None,
        local_role: Role = "engineer",
        socket_mode: int | None = None,
        journal: Journal | None = None,
        journal_path: Path | None = None,
        images: Images = lambda _epoch, _stream, _seq: None,
        secure: Callable[[zmq.Socket[Any]], None] | None = None,
        who: Callable[[str], tuple[str, Role] | None] = lambda _key: None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        self._station = station
        self._local = local
        self.endpoint = endpoint
        self._local_role: Role = local_role
        self._socket_mode = socket_mode
        self._journal = journal
        self._on_disk = OnDisk(journal_path, images, epoch=station.epoch)
        self._secure = secure
        self._who = who
        self._context = context
        self._generation = generation
        self._bound_at = generation()
        self._fault = ""
        self._doors: dict[bytes, _Door] = {}
        self._done: queue.SimpleQueue[_Made] = queue.SimpleQueue()
        self._memory: DiskWorker[Past | None] = DiskWorker("control-memory", limit_s=_DISK_S)
        self._results: DiskWorker[Answer] = DiskWorker("control-journal", limit_s=_READ_S, most=_READS_WAITING)
        self._pictures: DiskWorker[Answer] = DiskWorker("control-archive", limit_s=_READ_S, most=_READS_WAITING)
        self._disks: tuple[tuple[DiskWorker[Any], str], ...] = (
            (self._memory, "the journal's disk does not answer: what was done before this start could be done again"),
            (self._results, "the journal's disk does not answer: replay, get_result and earlier epochs cannot be had"),
            (self._pictures, "the archive's disk does not answer: get_image cannot be had"),
        )
        self._slow = ""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._answers: OrderedDict[tuple[str, str], Past] = OrderedDict()
        self._reading: dict[tuple[bytes, int], tuple[str, str]] = {}
        self._in_flight: Counter[bytes] = Counter()
        self._attempts: dict[str, _Allowance] = {}
        self._over = False
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    @property
    def local(self) -> str:
        """The address for this machine."""
        return self._local

    def open(self) -> None:
        """Bind, and begin to serve.

        Raises:
            ConfigError: an address is taken or cannot be bound.
        """
        self._bind()
        for worker, _ in self._disks:
            worker.start()
        self._thread.start()

    def _bind(self) -> None:
        """A socket for each address: where no key is asked for a client could name itself by another's."""
        doors: dict[bytes, _Door] = {}
        try:
            doors[_LOCAL] = self._door(self._local, "station.state_dir", None)
            if self.endpoint is not None:
                door = self._door(self.endpoint, "control.endpoint", self._secure)
                doors[_OTHER] = door
                self.endpoint = bound_address(door.link.socket)
        except BaseException:
            for door in doors.values():
                door.link.close()
            raise
        self._doors = doors

    def _door(self, endpoint: str, setting: str, secure: Callable[[zmq.Socket[Any]], None] | None) -> _Door:
        link = Link(zmq.ROUTER, endpoint, context=self._context)
        socket = link.socket
        socket.maxmsgsize = MAX_REQUEST_BYTES
        socket.sndhwm = _SEND_HIGH_WATER_MARK
        # No bound: libzmq aborts the process when a client dies whose messages wait for room in here.
        socket.rcvhwm = 0
        socket.router_mandatory = True
        socket.router_handover = True
        try:
            if secure is not None:
                secure(socket)
            bind(socket, endpoint, setting=setting, mode=self._socket_mode)
        except BaseException:
            link.close()
            raise
        return _Door(link, is_guarded=secure is not None)

    def _bind_again(self) -> None:
        endpoints = {_LOCAL: self._local, _OTHER: self.endpoint or ""}
        doors, self._doors = self._doors, {}
        for key, door in doors.items():
            let_go(door.link, endpoints[key])
        try:
            bind_again(self._bind)
        except ConfigError as error:
            fault = f"commands cannot be taken: {error}; it is tried again by itself"
            self._tell(fault)
            return
        self._tell("")
        self._bound_at = self._generation()

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            self._station.post(lambda: self._station.note_control(fault))

    def close(self) -> None:
        """Serve nobody any more. May be called twice."""
        self._over = True
        self._wake()
        for worker, _ in self._disks:
            worker.close()
        if self._thread.ident is not None:
            self._thread.join(2 * _DISK_S + 1)
        if not self._thread.is_alive():
            for door in self._doors.values():
                door.link.close(0.2)
            self._doors = {}

    def __enter__(self) -> ControlServer:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The thread

    def _serve(self) -> None:
        while not self._over:
            try:
                if self._generation() != self._bound_at:
                    _log.warning("control: a key was revoked or changed: all connections are cut and made anew")
                    self._bind_again()
                    continue
                poller = zmq.Poller()
                for door in self._doors.values():
                    poller.register(door.link.socket, zmq.POLLIN)
                poller.register(self._wake_read, zmq.POLLIN)
                ready = dict(poller.poll(_POLL_MS))
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                self._watch_disks()
                self._send_done()
                for key, door in self._doors.items():
                    if door.link.socket in ready:
                        self._receive(key, door)
            except Exception:  # noqa: BLE001 - whatever a request does, the next one is served
                _log.exception("control: a request went wrong")
                time.sleep(_POLL_MS / 1000)
        self._send_done()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # enough wait there already
            os.write(self._wake_write, b"x")

    def _receive(self, key: bytes, door: _Door) -> None:
        for _ in range(100):  # then answers have their turn
            try:
                frames = door.link.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            identity, parts = bytes(frames[0].buffer), [bytes(frame.buffer) for frame in frames[1:]]
            if self._in_flight[key + identity] >= _MOST_IN_FLIGHT:
                number = int.from_bytes(parts[0], "little") if parts and len(parts[0]) == 8 else 0
                told = f"{_MOST_IN_FLIGHT} requests of this client are not answered yet; wait for an answer"
                self._send(key + identity, Answer(number, code="busy", message=told))
                continue
            self._take(key + identity, parts, self._client(key + identity, frames[-1], is_guarded=door.is_guarded))

    def _client(self, identity: bytes, frame: zmq.Frame, *, is_guarded: bool) -> Client | None:
        """Who sent a message: by its key where keys are asked for. Elsewhere a client may claim to be anybody."""
        if not is_guarded:
            return Client(identity.hex(), "local", self._local_role)
        try:
            key = str(frame.get("User-Id"))
        except zmq.ZMQError:
            return None
        found = self._who(key)
        return None if found is None else Client(key, *found)

    def _take(self, identity: bytes, parts: list[bytes], client: Client | None) -> None:
        try:
            request = Request.from_parts(parts)
        except ProtocolError as error:
            number = int.from_bytes(parts[0], "little") if parts and len(parts[0]) == 8 else 0
            self._send(identity, Answer(number, code="bad_request", message=str(error)))
            return
        try:
            self._handle(identity, request, client)
        except RequestError as error:
            self._send(identity, refusal(request.request_id, error))
        except (InspectdError, OSError) as error:
            self._send(identity, Answer(request.request_id, code="failed", message=str(error)))

    def _handle(self, identity: bytes, request: Request, client: Client | None) -> None:
        operation = OPERATIONS.get(request.op)
        if operation is None:
            known = ", ".join(OPERATIONS)
            raise RequestError(f"{request.op[:64]!r}: expected one of {known}", code="unknown_operation", field="op")
        if client is None:
            raise RequestError(f"{request.op}: this key is not known any more", code="forbidden")
        try:
            arguments = request.parsed()
        except ArgumentError as error:
            raise RequestError(str(error), code="bad_request", field=error.field) from error
        if ROLES.index(client.role) < ROLES.index(operation.role):
            if operation.changes:
                self._note_refused(request, client)
            raise RequestError(
                f"{request.op}: needs the role {operation.role}, this client is {client.role}", code="forbidden"
            )
        if not operation.changes:
            if request.op in ON_DISK:
                self._read(identity, request, arguments)
            else:
                self._post(identity, request, arguments, client, None)
            return
        key = (client.key, str(request.request_id))
        if (before := self._before(key, request)) is not None:
            self._send(identity, before)
            return
        self._begin(key, request, client)
        self._post(identity, request, arguments, client, key)

    def _post(
        self, identity: bytes, request: Request, arguments: Arguments, client: Client, key: tuple[str, str] | None
    ) -> None:
        number = request.request_id

        def answer(outcome: Outcome) -> None:
            made = refusal(number, outcome) if isinstance(outcome, RequestError) else Answer(number, outcome)
            lacks_epochs = made.ok and request.op == "snapshot" and self._on_disk.has_journal
            self._made(_Made(identity, made, key, lacks_epochs=lacks_epochs))

        def act() -> None:
            try:
                self._station.do(request.op, arguments, client, answer)
            except RequestError as error:
                answer(error)
            except InspectdError as error:
                answer(RequestError(str(error), code="failed"))
            except Exception as error:  # noqa: BLE001 - a command must not take the line along
                _log.exception("control: %s failed unexpectedly", request.op)
                answer(RequestError(f"{request.op}: {type(error).__name__}: {error}", code="failed"))

        self._in_flight[identity] += 1
        self._station.post(act)

    def _made(self, made: _Made) -> None:
        """Have it sent by the thread that has the sockets; from any thread."""
        self._done.put(made)
        self._wake()

    def _send_done(self) -> None:
        while True:
            try:
                made = self._done.get_nowait()
            except queue.Empty:
                return
            identity, answer = made.identity, made.answer
            if made.lacks_epochs:
                self._add_epochs(identity, answer)
                continue
            self._in_flight[identity] -= 1
            if self._in_flight[identity] <= 0:
                del self._in_flight[identity]
            if made.key is None:
                self._reading.pop((identity, answer.request_id), None)
            else:
                self._end(made.key, answer)
            self._send(identity, answer)

    def _send(self, identity: bytes, answer: Answer) -> None:
        door = self._doors.get(identity[:1])
        if door is None:
            return
        try:
            door.link.socket.send_multipart([identity[1:], *answer.to_parts()], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # It has gone, or takes nothing; it asks again if it wants to know.
            _log.debug("control: an answer could not be sent: %s", error.strerror)

    # Once, however often it is sent

    def _before(self, key: tuple[str, str], request: Request) -> Answer | None:
        """The answer to a request that came before; None where this is the first time."""
        args = _canonical(request.args)
        if key in self._answers:
            op, known, text = self._answers[key]
        else:
            past = self._past(key)
            if past is None:
                return None
            op, known, text = past
        if (op, known) != (request.op, args):
            raise RequestError(
                f"{request.op}: the number {request.request_id} was used for another request; take a higher one",
                code="repeated",
            )
        if text is None:
            if key in self._answers:
                raise RequestError(f"{request.op}: is still being done", code="busy")
            raise RequestError(
                f"{request.op}: the station ended while it was done; ask for a snapshot to see how it came out",
                code="failed",
            )
        return Answer.from_parts([request.request_id.to_bytes(8, "little"), text.encode()])

    def _past(self, key: tuple[str, str]) -> Past | None:
        """What the journal knows of a request; where it cannot be read in time, nothing."""
        if not self._on_disk.has_journal:
            return None
        found: list[Past | None] = []
        answered = threading.Event()

        def give(past: Past | None) -> None:
            found.append(past)
            answered.set()

        # Waited for, so that commands keep their order; but for a disk that hangs only once.
        self._memory.do(lambda: self._on_disk.past(key), give, late=None)
        answered.wait(_DISK_S)
        return found[0] if found else None

    def _begin(self, key: tuple[str, str], request: Request, client: Client) -> None:
        args = _canonical(request.args)
        self._answers[key] = (request.op, args, None)
        answered = [each for each, (_, _, text) in self._answers.items() if text is not None]
        for each in answered[: max(0, len(self._answers) - _KEPT_ANSWERS)]:
            del self._answers[each]
        row = (*key, time.time_ns(), self._station.epoch, client.name, client.role, request.op, args)
        _log.info("control: %s (%s) asks for %s", client.name, client.role, request.op)
        self._keep(Entry(begun=row))

    def _end(self, key: tuple[str, str], answer: Answer) -> None:
        text = answer.to_parts()[1].decode()
        if key in self._answers:
            op, args, _ = self._answers[key]
            self._answers[key] = (op, args, text)
        self._keep(Entry(ended=(*key, text)))

    def _note_refused(self, request: Request, client: Client) -> None:
        """Attempts belong to the audit trail; under a number of their own, so that they use up none of the client's."""
        # Without keys clients name themselves, and could be many: they share what is kept.
        who = client.key if len(client.key) == KEY_SIGNS else "local"
        attempts = self._attempts.setdefault(who, _Allowance(_ATTEMPTS_KEPT, _ATTEMPTS_WITHIN_S))
        if not attempts.one_more():
            return
        row_id = f"refused-{request.request_id}"
        args = json.dumps({"notKept": attempts.take_passed_over()}) if attempts.passed_over else "{}"
        row = (client.key, row_id, time.time_ns(), self._station.epoch, client.name, client.role, request.op, args)
        _log.warning("control: %s (%s) may not do %s", client.name, client.role, request.op)
        self._keep(Entry(begun=row, ended=(client.key, row_id, '{"ok": false, "error": {"code": "forbidden"}}')))

    def _keep(self, entry: Entry) -> None:
        if self._journal is None:
            return
        ticket = self._journal.submit(entry)
        deadline = time.monotonic() + _DISK_S
        while not ticket.answered and time.monotonic() < deadline:
            time.sleep(0.001)

    # What is answered from the disk

    def _read(self, identity: bytes, request: Request, arguments: Arguments) -> None:
        number, asked = request.request_id, (request.op, _canonical(request.args))
        if self._reading.get((identity, number)) == asked:
            return  # sent again: its answer will come

        def read() -> Answer:
            return self._on_disk.answer(request, arguments)

        worker = self._pictures if request.op == "get_image" else self._results
        late = Answer(number, code="failed", message=f"{request.op}: the disk does not answer; ask again later")
        self._in_flight[identity] += 1
        self._reading[identity, number] = asked
        if not worker.do(read, lambda answer: self._made(_Made(identity, answer)), late=late):
            told = f"{request.op}: too much waits for the disk; ask again in a moment"
            self._made(_Made(identity, Answer(number, code="busy", message=told)))

    def _add_epochs(self, identity: bytes, answer: Answer) -> None:
        def give(whole: Answer) -> None:
            self._made(_Made(identity, whole))

        if not self._results.do(lambda: self._on_disk.with_epochs(answer), give, late=answer, limit_s=_DISK_S):
            give(answer)

    def _watch_disks(self) -> None:
        for worker, _ in self._disks:
            worker.look()
        slow = "; ".join(told for worker, told in self._disks if worker.busy_s > _READ_S)
        if slow != self._slow:
            self._slow = slow
            self._station.post(lambda: self._station.note_slow_disk(slow))


class _Allowance:
    """So many within a time; those beyond are counted."""

    def __init__(self, most: int, within_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._since_s = clock()
        self._count = 0
        self.passed_over = 0

    def one_more(self) -> bool:
        """Whether there is room for it."""
        if (now_s := self._clock()) - self._since_s >= self._within_s:
            self._since_s, self._count = now_s, 0
        self._count += 1
        if self._count <= self._most:
            return True
        self.passed_over += 1
        return False

    def take_passed_over(self) -> int:
        """How many were, since this was last asked."""
        count, self.passed_over = self.passed_over, 0
        return count


def _canonical(args: Mapping[str, Any]) -> str:
    return json.dumps(args, sort_keys=True)
