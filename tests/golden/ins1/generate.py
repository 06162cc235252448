"""Writes the golden vectors of INS1 beside this file: `python tests/golden/ins1/generate.py`.

Each vector is NAME.bin, the parts of one message each preceded by its length (u32, little-endian), and NAME.json:

    what     what the vector shows
    accept   whether a reader must take the message, its body and its payload
    stage    where a reader must refuse it: "message" (parts, header, checksum) or "payload"
    says     a word of the reason
    topic, header, body      what is in it, if it is to be accepted
    labels   the decoded mask, row by row

Control and headers over TCP have folders of their own. control/NAME.bin is a request or an answer, stored in the same
way:

    what     what the vector shows
    kind     "request" or "answer"
    accept   whether its reader must take it
    code, field   why a station must refuse a request; the field at fault
    says     a word of the reason why a client must refuse an answer
    request_id, op, args, ok, result, error   what is in it
    messages      of the answer to a replay: epoch, stream, seq and type of each

tcp/NAME.bin are bytes as they come from the port; NAME.json has `headers`, in their order, and `says` where a reader
must give the connection up after them.

Run it only for a deliberate change of the format: clients in other languages are held against these files.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from inspectd.calibrated import EvenScale
from inspectd.defect import find_defects
from inspectd.frame import CameraState, CameraStatus, Frame
from inspectd.inspection import Inspection, Timings, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.wire import (
    STATION_STREAM,
    AlarmBody,
    Answer,
    Flags,
    Header,
    HistogramBody,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    Recipe,
    Request,
    State,
    StatsBody,
    StreamPosition,
    alarm_message,
    heartbeat_message,
    mask_message,
    read_mask,
    state_message,
    stats_message,
    verdict_message,
)

ACQUIRED_NS = 1_767_225_600_123_456_789  # 2026-01-01T00:00:00.123456789Z
CLASSES = ClassMap(("scratch", "Ölfleck"))
ORIGIN = Origin(
    epoch=7,
    stream=1,
    seq=42,
    state=State.CONTINUOUS_EXECUTION,
    latency_us=15_250,
    flags=Flags.SIMULATED | Flags.NOT_DURABLE,
    recipe=Recipe(number=3, internal_id="button-4", external_id="A-1001", job_id="J2026"),
)


def inspection(verdict: Verdict, source: str = "") -> Inspection:
    """A part of 8 x 6 pixels; with a scratch and a stain where it is NG."""
    frame = Frame("cam1", 1234, np.zeros((6, 8, 3), np.uint8), ACQUIRED_NS, trigger_id=99, received_ns=1, source=source)
    digest = "ab" * 32
    if verdict is Verdict.NOT_INSPECTED:
        return Inspection(frame, verdict, (), None, digest, reason="frame 1234 is incomplete: 2 of 6 lines")
    labels = np.zeros((6, 8), np.uint8)
    confidence = np.zeros((6, 8), np.uint8)
    if verdict is Verdict.NG:
        labels[1, 2:7] = 1
        labels[3:5, 0:2] = 2
        confidence[1, 2:7] = (130, 200, 255, 140, 130)
        confidence[3:5, 0:2] = 204
    mask = Mask(labels, CLASSES)
    defects = find_defects(mask, confidence, scale=EvenScale(0.5))
    used = {"flat_field": "cd" * 32, "scale": "ef" * 32} if verdict is Verdict.NG else {}
    return Inspection(frame, verdict, defects, mask, digest, Timings(0.125, 1.5, 10.25, 0.5), calibration=used)


def sealed(message: Message, body: bytes, payload: bytes) -> Message:
    """The message with another body and payload, and a checksum that fits them."""
    return Message(message.topic, replace(message.header, crc32=zlib.crc32(payload, zlib.crc32(body))), body, payload)


def png(labels: np.ndarray) -> bytes:
    """A PNG in stored blocks, so that its bytes do not depend on the version of zlib."""
    rows = b"".join(b"\0" + row.tobytes() for row in labels)
    chunks = [
        (b"IHDR", struct.pack(">II5B", labels.shape[1], labels.shape[0], 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    ]
    coded = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def replayed(message: Message) -> Message:
    """The message as `replay` gives it."""
    flags = (message.header.flags | Flags.REPLAYED) & ~Flags.NOT_DURABLE
    return replace(message, header=replace(message.header, flags=flags))


def alarm() -> Message:
    """An alarm that is over and has been acknowledged by nobody."""
    body = AlarmBody(
        station="press 3",
        alarm_id="7-4",
        code="camera.away.cam1",
        severity="error",
        message="camera 'cam1' is away: plug it in",
        active=False,
        acked=False,
        raised_time="2026-01-01T00:00:00.000000Z",
    )
    return alarm_message(body, State.CONTINUOUS_EXECUTION, epoch=7, seq=4)


def stats() -> Message:
    """The counters of a station that has judged three parts of four."""
    latency = {
        stage: HistogramBody(upper_ms=(1.0, 10.0, 100.0), counts=(0, 2, 1, 0), sum_ms=35.5)
        for stage in ("wait", "pre", "infer", "post", "journal", "total")
    }
    body = StatsBody(
        station="press 3",
        uptime_s=12.5,
        triggers=4,
        waiting=1,
        verdicts={"OK": 2, "NG": 1, "REVIEW": 0, "NOT_INSPECTED": 0},
        dropped=0,
        lost=1,
        overdue=0,
        not_durable=1,
        latency=latency,
        journal_rows=9,
        journal_bytes=65_536,
        archived=1,
        archive_refused=0,
        alarms=1,
        model_digest="ab" * 32,
        memory_bytes=300_000_000,
        descriptors=41,
    )
    return stats_message(body, State.CONTINUOUS_EXECUTION, epoch=7)


def accepted() -> dict[str, tuple[str, list[bytes]]]:
    """Name, what it shows, and the parts of what a reader must take."""
    created_ns = ACQUIRED_NS + 15_250_000
    ng = inspection(Verdict.NG)
    mask = mask_message(ng, ORIGIN, encoding=MaskEncoding.RLE8, scale_mm_per_px=0.5)
    zipped = sealed(mask, mask.body.replace(b'"rle8"', b'"rle8+zlib"'), zlib.compress(mask.payload, 0))
    pictured = sealed(mask, mask.body.replace(b'"rle8"', b'"png8"'), png(ng.mask.labels))
    heartbeat = heartbeat_message(
        "press 3",
        State.CONTINUOUS_EXECUTION,
        [
            StreamPosition(stream=0, camera="cam0", last=0, oldest=1),
            StreamPosition(stream=1, camera="cam1", last=42, oldest=43),
            StreamPosition(stream=STATION_STREAM, camera="", last=2, oldest=3),
        ],
        epoch=7,
        uptime_s=12.5,
        drops=1,
        cameras={
            "cam0": CameraStatus(CameraState.CONNECTING, "camera 'cam0': not found"),
            "cam1": CameraStatus(CameraState.STREAMING, connections=2, frames=42, missed=1),
        },
    )
    state = state_message("press 3", State.HALTED, State.READY, epoch=7, seq=3, flags=Flags.NOT_DURABLE)
    later = verdict_message(inspection(Verdict.OK), ORIGIN, created_ns=created_ns)
    later = sealed(later, later.body[:-1] + b',"tomorrow":[1]}', b"").to_parts()
    later[1] = bytearray(later[1]) + b"\xee" * 8
    struct.pack_into("<B", later[1], 5, 1)
    struct.pack_into("<H", later[1], 12, 72)
    unknown = sealed(state, b"{}", b"").to_parts()
    unknown[0] = b"ins1/tomorrow/"
    unknown[1] = unknown[1][:5] + bytes((1, 200)) + unknown[1][7:]
    return {
        "verdict-ok": (
            "a good part",
            verdict_message(inspection(Verdict.OK), ORIGIN, created_ns=created_ns).to_parts(),
        ),
        "verdict-ng": ("two defects, worst first", verdict_message(ng, ORIGIN, created_ns=created_ns).to_parts()),
        "verdict-not-inspected": (
            "a failure and its reason",
            verdict_message(inspection(Verdict.NOT_INSPECTED), ORIGIN, created_ns=created_ns).to_parts(),
        ),
        "verdict-source": (
            "a picture that was read from a file",
            verdict_message(inspection(Verdict.OK, "Los 7/Knopf-001.png"), ORIGIN, created_ns=created_ns).to_parts(),
        ),
        "mask-rle8": ("runs", mask.to_parts()),
        "mask-rle8-zlib": ("the same runs in a zlib stream", zipped.to_parts()),
        "mask-png8": ("the same mask as a PNG", pictured.to_parts()),
        "heartbeat": ("three streams, one of which has sent nothing yet", heartbeat.to_parts()),
        "state": ("a change of state", state.to_parts()),
        "state-reason": (
            "a change of state that nobody asked for",
            state_message(
                "press 3", State.ERROR, State.READY, epoch=7, seq=4, reason="the disk of the journal is gone"
            ).to_parts(),
        ),
        "alarm": ("an alarm that is over, and that nobody has acknowledged", alarm().to_parts()),
        "stats": ("counters", stats().to_parts()),
        "verdict-replayed": (
            "a verdict out of the journal",
            replayed(verdict_message(ng, ORIGIN, created_ns=created_ns)).to_parts(),
        ),
        "later-minor": ("minor version 1: 72 bytes of header, a field more in the body", [bytes(p) for p in later]),
        "later-type": ("minor version 1: a message type that is not known; to be passed over", unknown),
    }


def refused() -> dict[str, tuple[str, str, str, list[bytes]]]:
    """Name, what it shows, the stage, a word of the reason, and the parts of what a reader must refuse."""
    mask = mask_message(inspection(Verdict.NG), ORIGIN, encoding=MaskEncoding.RLE8)
    good = mask.to_parts()
    header = good[1]
    zlib_body = mask.body.replace(b'"rle8"', b'"rle8+zlib"')
    overflow = struct.pack("<2I", 48, 2**32 - 1) + bytes((0, 1))
    huge_body = mask.body.replace(b'"width":8', b'"width":65536').replace(b'"height":6', b'"height":65536')

    def payload(body: bytes, data: bytes) -> list[bytes]:
        return sealed(mask, body, data).to_parts()

    compressed = zlib.compress(mask.payload, 0)
    return {
        "bad-crc": ("one bit of the payload flipped", "message", "crc32", [*good[:3], good[3][:-1] + b"\x03"]),
        "bad-magic": ("another magic", "message", "magic", [good[0], b"INS2" + header[4:], *good[2:]]),
        "bad-major": ("major version 2", "message", "major", [good[0], header[:4] + b"\2" + header[5:], *good[2:]]),
        "short-header": ("63 bytes of header", "message", "64 bytes", [good[0], header[:-1], *good[2:]]),
        "long-header": (
            "65 bytes that call themselves 64",
            "message",
            "header_bytes",
            [good[0], header + b"\0", *good[2:]],
        ),
        "bad-verdict": ("verdict 5", "message", "verdict", [good[0], header[:48] + b"\5" + header[49:], *good[2:]]),
        "bad-state": ("state 8", "message", "state", [good[0], header[:49] + b"\10" + header[50:], *good[2:]]),
        "unknown-type": (
            "message type 8 of minor version 0, which has seven",
            "message",
            "msg_type",
            [good[0], header[:6] + b"\10" + header[7:], *good[2:]],
        ),
        "bad-topic": ("a mask under the topic of verdicts", "message", "topic", [b"ins1/verdict/cam1/", *good[1:]]),
        "two-parts": ("header and body missing", "message", "parts", good[:2]),
        "runs-overflow": ("runs that sum to more than the mask", "payload", "sum", payload(mask.body, overflow)),
        "runs-short": ("the last run missing", "payload", "sum", payload(mask.body, b"\1\0\0\0\0")),
        "runs-zero": ("a run of no pixel", "payload", "run", payload(mask.body, struct.pack("<2I", 48, 0) + b"\0\1")),
        "runs-cut": ("not a multiple of five bytes", "payload", "multiple", payload(mask.body, mask.payload[:-1])),
        "label-unknown": (
            "a label without a class",
            "payload",
            "label 9",
            payload(mask.body, struct.pack("<I", 48) + b"\x09"),
        ),
        "body-cut": ("a body that is not all there", "payload", "JSON", payload(mask.body[:-1], mask.payload)),
        "encoding-unknown": (
            "an encoding that is only reserved",
            "payload",
            "encoding",
            payload(mask.body.replace(b'"rle8"', b'"zstd"'), mask.payload),
        ),
        "too-large": ("65536 x 65536 pixels", "payload", "pixels", payload(huge_body, mask.payload)),
        "zip-bomb": (
            "4 MB of zeros for 48 pixels",
            "payload",
            "at most",
            payload(zlib_body, zlib.compress(bytes(2**22))),
        ),
        "zip-cut": ("a zlib stream without its end", "payload", "cut short", payload(zlib_body, compressed[:-2])),
        "zip-trailing": ("bytes after the zlib stream", "payload", "follow", payload(zlib_body, compressed + b"!")),
    }


def describe(what: str, parts: list[bytes]) -> dict[str, object]:
    """The JSON beside a vector that is to be accepted."""
    message = Message.from_parts(parts)
    description = {
        "what": what,
        "accept": True,
        "topic": message.topic,
        "header": {name: int(value) for name, value in asdict(message.header).items()},
        "body": json.loads(message.body),
    }
    if message.header.msg_type == MessageType.MASK:
        description["labels"] = read_mask(message).labels.tolist()
    return description


def requests() -> dict[str, tuple[str, list[bytes], str, str]]:
    """Name, what it shows, the parts, and code and field of the refusal; "" where a station must take it."""
    number = struct.pack("<Q", 2**53 + 1)

    def asked(op: str, **args: object) -> list[bytes]:
        return Request(2**53 + 1, op, args).to_parts()

    return {
        "hello": ("no arguments at all", [number, b'{"op":"hello"}'], "", ""),
        "replay": (
            "results again, with masks",
            asked("replay", **{"stream": 1, "from": 17, "to": 42, "epoch": 7, "masks": True}),
            "",
            "",
        ),
        "ack-alarm": ("a command", asked("ack_alarm", alarmId="7-4"), "", ""),
        "not-json": ("a request cut short", [number, b'{"op":"hello"'], "bad_request", ""),
        "no-op": ("a request for nothing", [number, b'{"args":{}}'], "bad_request", ""),
        "short-id": ("a number of four bytes", [number[:4], b'{"op":"hello"}'], "bad_request", ""),
        "unknown-operation": ("an operation of tomorrow", asked("learn"), "unknown_operation", "op"),
        "unknown-argument": ("an argument too many", asked("hello", loud=True), "bad_request", "loud"),
        "replay-from-zero": (
            "results count from 1",
            asked("replay", **{"stream": 1, "from": 0, "to": 42}),
            "bad_request",
            "from",
        ),
        "replay-text": (
            "a number as text",
            asked("replay", **{"stream": "1", "from": 1, "to": 42}),
            "bad_request",
            "stream",
        ),
    }


def answers() -> dict[str, tuple[str, list[bytes], str]]:
    """Name, what it shows, the parts, and a word of the reason why a client must refuse it; "" where it must not."""
    created_ns = ACQUIRED_NS + 15_250_000
    number = 2**53 + 1
    ng = inspection(Verdict.NG)
    again = [
        replayed(verdict_message(ng, ORIGIN, created_ns=created_ns)),
        replayed(mask_message(ng, ORIGIN, encoding=MaskEncoding.RLE8)),
        replayed(
            verdict_message(inspection(Verdict.NOT_INSPECTED), replace(ORIGIN, seq=43), created_ns=created_ns),
        ),
    ]
    blobs = [part for message in again for part in (*message.to_parts(), b"")[:4]]
    result = {"epoch": 7, "stream": 1, "oldest": 42, "newest": 43, "from": 42, "to": 43, "messages": 3}
    replay = Answer(number, result, blobs=tuple(blobs)).to_parts()
    damaged = [*replay[:4], replay[4][:-2] + b" }", *replay[5:]]
    return {
        "replay": ("three messages of two results, 41 of which are not held any more", replay, ""),
        "refusal": (
            "why it was not done",
            Answer(number, code="forbidden", message="halt: needs the role operator, this client is viewer").to_parts(),
            "",
        ),
        "not-json": ("an answer cut short", [replay[0], replay[1][:-1], *replay[2:]], "answer"),
        "no-result": ("done, and nothing to say", [replay[0], b'{"ok":true}'], "answer"),
        "replay-cut": ("a message without its payload", replay[:-1], "four"),
        "replay-miscounted": ("fewer messages than it says", replay[:-4], "messages"),
        "replay-damaged": ("one message whose body is another than its checksum says", damaged, "crc32"),
    }


def tcp_headers() -> list[Header]:
    """What a line of one camera sends in a second in which it stops."""
    verdicts = [
        verdict_message(inspection(verdict), replace(ORIGIN, seq=seq), created_ns=0).header
        for seq, verdict in enumerate((Verdict.OK, Verdict.NG, Verdict.NOT_INSPECTED), 42)
    ]
    heartbeat = heartbeat_message("press 3", State.CONTINUOUS_EXECUTION, [], epoch=7, uptime_s=12.5).header
    state = state_message("press 3", State.READY, State.CONTINUOUS_EXECUTION, epoch=7, seq=3).header
    return [heartbeat, *verdicts, state]


def over_tcp(header: Header) -> bytes:
    """The 64 bytes with the checksum that they have over TCP: that of themselves, with its field 0."""
    data = bytearray(replace(header, crc32=0).pack())
    struct.pack_into("<I", data, 44, zlib.crc32(data))
    return bytes(data)


def streams() -> dict[str, tuple[str, bytes, list[Header], str]]:
    """Name, what it shows, the bytes, the headers in them, and a word of the reason to give the connection up."""
    headers = tcp_headers()
    data = b"".join(map(over_tcp, headers))
    flipped = bytearray(data)
    flipped[2 * 64 + 48] = 1
    return {
        "headers": ("heartbeat, three verdicts, a change of state", data, headers, ""),
        "headers-cut": ("a connection that broke inside a header", data[:-10], headers[:-1], ""),
        "headers-damaged": ("an NG that has become an OK on its way", bytes(flipped), headers[:2], "crc32"),
    }


def tcp_fields(header: Header) -> dict[str, int]:
    """Every field of a header as it comes over TCP."""
    return {name: int(value) for name, value in asdict(Header.unpack(over_tcp(header))).items()}


def describe_control() -> dict[str, tuple[list[bytes], dict[str, object]]]:
    """Name -> parts and JSON of the vectors of control."""
    described: dict[str, tuple[list[bytes], dict[str, object]]] = {}
    for name, (what, parts, code, field) in requests().items():
        told: dict[str, object] = {"what": what, "kind": "request", "accept": not code}
        if code:
            told |= {"code": code, "field": field}
        else:
            request = Request.from_parts(parts)
            told |= {"request_id": request.request_id, "op": request.op, "args": dict(request.args)}
        described[f"{'reject-' if code else ''}request-{name}"] = parts, told
    for name, (what, parts, says) in answers().items():
        told = {"what": what, "kind": "answer", "accept": not says}
        if says:
            told["says"] = says
        else:
            answer = Answer.from_parts(parts)
            told |= {"request_id": answer.request_id, "ok": answer.ok}
            if answer.result is not None:
                told["result"] = dict(answer.result)
            else:
                told["error"] = {"code": answer.code, "field": answer.field, "message": answer.message}
            blobs = answer.blobs
            messages = [Message.from_parts(blobs[at : at + 4]) for at in range(0, len(blobs), 4)]
            told["messages"] = [
                {name: int(getattr(each.header, name)) for name in ("epoch", "stream", "seq", "msg_type")}
                for each in messages
            ]
        described[f"{'reject-' if says else ''}answer-{name}"] = parts, told
    return described


def stored(parts: list[bytes]) -> bytes:
    """The parts of a message, each after its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def as_text(described: dict[str, object]) -> str:
    """The JSON of a vector."""
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def vectors() -> dict[str, tuple[bytes, str]]:
    """Name, with its folder -> contents of NAME.bin and NAME.json."""
    described = {name: (parts, describe(what, parts)) for name, (what, parts) in accepted().items()}
    for name, (what, stage, says, parts) in refused().items():
        described[f"reject-{name}"] = (parts, {"what": what, "accept": False, "stage": stage, "says": says})
    found = {name: (stored(parts), as_text(description)) for name, (parts, description) in described.items()}
    found |= {f"control/{name}": (stored(parts), as_text(told)) for name, (parts, told) in describe_control().items()}
    for name, (what, data, headers, says) in streams().items():
        told = {"what": what, **({"says": says} if says else {}), "headers": [*map(tcp_fields, headers)]}
        found[f"tcp/{name}"] = (data, as_text(told))
    return found


if __name__ == "__main__":
    for name, (data, text) in vectors().items():
        path = Path(__file__).parent / name
        path.parent.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.bin").write_bytes(data)
        path.with_name(f"{path.name}.json").write_text(text, encoding="utf-8")
