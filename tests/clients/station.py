"""A station for clients to be held against: real sockets, a process of its own, and a journal that survives kill -9.

    python -m tests.clients.station FOLDER --rate 200      (or by its path)

It publishes verdicts, masks, changes of state, alarms and heartbeats, writes each to the journal before it is sent, and
answers hello, snapshot, replay and ack_alarm by docs/protocol.md alone: it shares inspectd.wire with the real one, and
nothing else. While FOLDER/quiet exists it sends nothing but heartbeats.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import zmq

from inspectd.defect import find_defects
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.wire import (
    MAX_ANSWER_BYTES,
    MAX_REPLAY_ROWS,
    OPERATIONS,
    STATION_STREAM,
    AlarmBody,
    Answer,
    ArgumentError,
    Flags,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    Request,
    State,
    StreamPosition,
    alarm_message,
    heartbeat_message,
    mask_message,
    state_message,
    verdict_message,
)

VERDICTS = (Verdict.OK, Verdict.NG, Verdict.OK, Verdict.REVIEW, Verdict.NOT_INSPECTED)
STATE = State.CONTINUOUS_EXECUTION
CLASSES = ClassMap(("scratch", "stain"))


class Log:
    """Messages in the order in which they were written; one that was not written whole is not there."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        self.messages: list[Message] = []
        whole = position = 0
        while len(data) - position >= 16:
            lengths = struct.unpack_from("<4I", data, position)
            position += 16
            if position + sum(lengths) > len(data):
                break
            parts = []
            for length in lengths:
                parts.append(data[position : position + length])
                position += length
            self.messages.append(Message.from_parts(parts))
            whole = position
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)

    def write(self, messages: list[Message]) -> None:
        data = b""
        for message in messages:
            parts = (*message.to_parts(), b"")[:4]
            data += struct.pack("<4I", *map(len, parts)) + b"".join(parts)
        os.write(self._file, data)
        self.messages += messages


class Station:
    """See above.

    Args:
        folder: of the journal, and of the sockets unless they are tcp.
        options: of the command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder = folder
        self._options = options
        self._log = Log(folder / "journal")
        self._held: dict[tuple[int, int], dict[int, list[Message]]] = {}
        for message in self._log.messages:
            self._hold(message)
        counter = folder / "epoch"
        self.epoch = int(counter.read_text()) + 1 if counter.exists() else 1
        counter.write_text(str(self.epoch))
        self._cameras = [f"cam{number}" for number in range(1, options.cameras + 1)]
        self._last = dict.fromkeys((*range(len(self._cameras)), STATION_STREAM), 0)
        self._started_s = time.monotonic()
        self._random = random.Random(self.epoch)  # which messages are lost
        self._requests: dict[tuple[bytes, int], tuple[Request, list[bytes]]] = {}
        self._deaf = options.deaf
        self._alarm_acked = False
        self._parts = {verdict: self._part(verdict) for verdict in VERDICTS}
        context = zmq.Context.instance()
        self._pub = context.socket(zmq.XPUB)
        self._ctl = context.socket(zmq.ROUTER)
        for socket, address in ((self._pub, options.publish), (self._ctl, options.control)):
            socket.linger = 0
            socket.heartbeat_ivl = 500
            socket.heartbeat_timeout = 1500
            socket.sndhwm = 200
            if options.secret:
                socket.curve_server = True
                socket.curve_secretkey = options.secret.encode()
            socket.bind(address or f"ipc://{folder}/{'pub' if socket is self._pub else 'ctl'}")
        self._ctl.router_handover = True
        self._ctl.router_mandatory = True

    def run(self) -> None:
        publish, control = (socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in (self._pub, self._ctl))
        sys.stdout.write(f"{self.epoch} {publish} {control}\n")
        sys.stdout.flush()
        poller = zmq.Poller()
        poller.register(self._ctl, zmq.POLLIN)
        poller.register(self._pub, zmq.POLLIN)
        poller.register(sys.stdin, zmq.POLLIN)  # it ends with who started it
        beat_s = next_s = time.monotonic()
        self._count([state_message("bench", STATE, State.READY, epoch=self.epoch, seq=1)])
        number = 0
        while True:
            now_s = time.monotonic()
            if now_s >= beat_s:
                beat_s = now_s + self._options.heartbeat
                self._send(self._heartbeat(), dropped=False)
            is_quiet = (self._folder / "quiet").exists()
            if is_quiet:
                next_s = now_s + 0.01
            while next_s <= now_s and not is_quiet:
                next_s += 1 / self._options.rate
                self._publish(self._cameras[number % len(self._cameras)], number)
                number += 1
                if number % 40 == 0:
                    self._count([self._alarm(f"{self.epoch}-{number}")])
            ready = dict(poller.poll(max(0, (min(beat_s, next_s) - time.monotonic()) * 1000)))
            if sys.stdin.fileno() in ready:
                return
            if self._pub in ready:
                self._pub.recv_multipart()
            if self._ctl in ready:
                self._answer(*self._ctl.recv_multipart())

    # What is sent

    def _part(self, verdict: Verdict) -> Inspection:
        frame = Frame("cam1", 1, np.zeros((32, 48, 1), np.uint8), 1_767_225_600_000_000_000, 1)
        if verdict is Verdict.NOT_INSPECTED:
            return Inspection(frame, verdict, (), None, "ab" * 32, reason="half a frame")
        labels = np.zeros((32, 48), np.uint8)
        if verdict is not Verdict.OK:
            labels[4:9, 6:16] = 1
        mask = Mask(labels, CLASSES)
        defects = find_defects(mask, np.full(labels.shape, 230, np.uint8))
        return Inspection(frame, verdict, defects, mask, "ab" * 32)

    def _publish(self, camera: str, number: int) -> None:
        stream = self._cameras.index(camera)
        seq = self._last[stream] + 1
        part = self._parts[VERDICTS[number % len(VERDICTS)]]
        frame = replace(part.frame, camera=camera, frame_id=number, trigger_id=number + 1)
        part = replace(part, frame=frame)
        origin = Origin(epoch=self.epoch, stream=stream, seq=seq, state=STATE, flags=Flags.SIMULATED)
        messages = [verdict_message(part, origin, created_ns=time.time_ns())]
        if part.mask is not None:
            messages.append(mask_message(part, origin, encoding=MaskEncoding(self._options.encoding)))
        self._count(messages)

    def _alarm(self, number: str) -> Message:
        body = AlarmBody(
            station="bench",
            alarm_id=number,
            code="journal.full",
            severity="warning",
            message="the disk is nearly full",
            active=True,
            acked=False,
            raised_time="2026-01-01T00:00:00.000000Z",
        )
        return alarm_message(body, STATE, epoch=self.epoch, seq=self._last[STATION_STREAM] + 1)

    def _heartbeat(self) -> Message:
        uptime_s = time.monotonic() - self._started_s
        return heartbeat_message("bench", STATE, self._positions(), epoch=self.epoch, uptime_s=uptime_s)

    def _positions(self) -> list[StreamPosition]:
        names = {**dict(enumerate(self._cameras)), STATION_STREAM: ""}
        return [
            StreamPosition(stream=stream, camera=names[stream], last=last, oldest=self._oldest(stream))
            for stream, last in self._last.items()
        ]

    def _oldest(self, stream: int) -> int:
        return min(self._held.get((self.epoch, stream), {}), default=self._last[stream] + 1)

    def _count(self, messages: list[Message]) -> None:
        """First the journal, then the socket."""
        self._log.write(messages)
        for message in messages:
            self._hold(message)
        header = messages[0].header
        lost = self._random.random() < self._options.drop
        for message in messages:
            if message.header.msg_type == MessageType.MASK and message.header.seq == self._options.killed_before_mask:
                time.sleep(0.2)  # what was sent gets out
                os.kill(os.getpid(), signal.SIGKILL)
            self._send(message, dropped=lost)
        self._last[header.stream] = header.seq

    def _hold(self, message: Message) -> None:
        header = message.header
        rows = self._held.setdefault((header.epoch, header.stream), {})
        rows.setdefault(header.seq, []).append(message)
        while self._options.keep and len(rows) > self._options.keep:
            del rows[min(rows)]

    def _send(self, message: Message, *, dropped: bool) -> None:
        if not dropped:
            self._pub.send_multipart(message.to_parts())

    # What is answered

    def _answer(self, identity: bytes, *parts: bytes) -> None:
        if self._deaf:
            self._deaf -= 1
            return
        request = Request.from_parts(parts)
        with contextlib.suppress(zmq.ZMQError):  # it has gone
            self._ctl.send_multipart([identity, *self._answered(identity, request)])

    def _answered(self, identity: bytes, request: Request) -> list[bytes]:
        number = request.request_id
        before = self._requests.get((identity, number))
        if before is not None:
            if before[0] != request:
                return Answer(number, code="repeated", message="used for another request").to_parts()
            return before[1]
        try:
            arguments = request.parsed()
        except KeyError:
            return Answer(number, code="unknown_operation", field="op", message=request.op).to_parts()
        except ArgumentError as error:
            return Answer(number, code="bad_request", field=error.field, message=str(error)).to_parts()
        match request.op:
            case "hello":
                answer = Answer(number, {"station": "bench", "protocol": "1.0", "epoch": self.epoch})
            case "snapshot":
                answer = Answer(number, self._snapshot())
            case "replay":
                answer = self._replay(number, arguments)
            case "ack_alarm":
                times = sum(past.op == "ack_alarm" for past, _ in self._requests.values()) + 1
                answer = Answer(number, {"alarms": [], "times": times})
            case _:
                answer = Answer(number, code="forbidden", message=f"{request.op}: not here")
        if OPERATIONS[request.op].changes:
            self._requests[identity, number] = request, answer.to_parts()
        return answer.to_parts()

    def _snapshot(self) -> dict[str, object]:
        epochs: dict[int, list[dict[str, int]]] = {}
        for (epoch, stream), rows in sorted(self._held.items(), key=lambda item: (-item[0][0], item[0][1])):
            if epoch != self.epoch:
                row = {"stream": stream, "last": max(rows), "oldest": min(rows)}
                epochs.setdefault(epoch, []).append(row)
        return {
            "station": "bench",
            "epoch": self.epoch,
            "state": STATE.label,
            "deviceHealth": "NORMAL",
            "healthReason": "",
            "streams": [position.model_dump() for position in self._positions()],
            "epochs": [{"epoch": epoch, "streams": streams} for epoch, streams in list(epochs.items())[:50]],
            "alarms": [],
            "recipe": {"recipe_no": 0, "internal_id": "", "external_id": "", "job_id": ""},
            "model": {"name": "", "digest": "", "loaded": "", "previous": ""},
            "acceptance": {},
        }

    def _replay(self, number: int, arguments) -> Answer:
        first, last, epoch = arguments.first, arguments.last, arguments.epoch or self.epoch
        if not first <= last < first + MAX_REPLAY_ROWS:
            return Answer(number, code="bad_request", field="to", message=f"{first} to {last}")
        rows = self._held.get((epoch, arguments.stream))
        if not rows:
            return Answer(number, code="not_found", message="nothing is held of it")
        blobs: list[bytes] = []
        given, size = first - 1, 0
        for seq in range(max(first, min(rows)), min(last, max(rows)) + 1):
            if size > self._options.answer_bytes:
                break
            given = seq
            for message in rows.get(seq, ()):
                if message.header.msg_type == MessageType.MASK and not arguments.masks:
                    continue
                again = replace(message, header=replace(message.header, flags=message.header.flags | Flags.REPLAYED))
                blobs += (*again.to_parts(), b"")[:4]
                size += len(blobs[-2]) + len(blobs[-1])
        result = {
            "epoch": epoch,
            "stream": arguments.stream,
            "oldest": min(rows),
            "newest": max(rows),
            "from": max(first, min(rows)),
            "to": given,
            "messages": len(blobs) // 4,
        }
        return Answer(number, result, blobs=tuple(blobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--publish", default="", help="address; pub in the folder without it")
    parser.add_argument("--control", default="", help="address; ctl in the folder without it")
    parser.add_argument("--rate", type=float, default=200, help="results per second, of all cameras")
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--heartbeat", type=float, default=0.25, help="period, s")
    parser.add_argument("--drop", type=float, default=0, help="share of the results that are not sent, but kept")
    parser.add_argument("--killed-before-mask", type=int, help="kill -9 after this verdict, before its mask is sent")
    parser.add_argument("--keep", type=int, default=0, help="results that are held of each stream; 0 is all")
    parser.add_argument("--deaf", type=int, default=0, help="requests that are not answered")
    parser.add_argument("--answer-bytes", type=int, default=MAX_ANSWER_BYTES, help="longest answer")
    parser.add_argument("--encoding", default="rle8")
    parser.add_argument("--secret", default="", help="CURVE secret key of the station, Z85; any client may come")
    options = parser.parse_args()
    Station(options.folder, options).run()


if __name__ == "__main__":
    main()
