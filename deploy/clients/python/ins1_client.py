"""INS1 for programs that know nothing of inspectd: one file to copy, pyzmq and the standard library alone, Python 3.8+.

    subscriber = Subscriber("tcp://10.0.0.5:5560", "tcp://10.0.0.5:5561")
    for event in subscriber:                # every result once, across gaps and starts of the station
        if isinstance(event, Result):
            print(event.camera, VERDICTS[event.header.verdict], event.body["partId"])
        elif isinstance(event, Lost):
            print("these cannot be had any more:", event)

    with Control("tcp://10.0.0.5:5561") as control:      # questions and commands
        print(control.ask("snapshot").result["state"])

    gate = Gate()                                        # good or reject, for the machine that sorts the parts

`read_message` and `read_mask` alone are enough for who has a connection of his own. Whatever does not follow INS1
raises ProtocolError; treat the part as not inspected then. The normative text is docs/protocol.md.

    python ins1_client.py tcp://10.0.0.5:5560 --control tcp://10.0.0.5:5561             a JSON object per event
    python ins1_client.py tcp://10.0.0.5:5560 --check-part 4711 --camera cam1           good (exit 0) or reject (exit 1)
"""

from __future__ import annotations

import argparse
import json
import math
import re
import struct
import sys
import time
import zlib
from collections import deque
from typing import Any, Callable, Iterator, NamedTuple, Sequence, Union

import zmq

__all__ = [
    "Answer",
    "Changed",
    "Control",
    "Gate",
    "Header",
    "Keys",
    "Lost",
    "Mask",
    "Message",
    "NoAnswer",
    "ProtocolError",
    "Refused",
    "Result",
    "Spoiled",
    "Subscriber",
    "read_answer",
    "read_header",
    "read_mask",
    "read_message",
    "read_tcp_header",
]

VERDICT, MASK, HEARTBEAT, STATS, STATE, ALARM, PREVIEW = range(1, 8)
VERDICTS = ("UNDEFINED", "OK", "NG", "REVIEW", "NOT_INSPECTED")
OK, NOT_INSPECTED = 1, 4
STATES = ("", "Preoperational", "Halted", "Error", "Initialized", "Ready", "SingleExecution", "ContinuousExecution")
SIMULATED, PARTIAL, REPLAYED, TRUNCATED, TIME_SYNCED, NOT_DURABLE = 1, 2, 4, 8, 16, 32
STATION_STREAM = 65535
HEADER_BYTES = 64
MAX_BODY_BYTES = 2**20
MAX_PAYLOAD_BYTES = 2**28
MAX_PIXELS = 2**28
MAX_REPLAY = 500

HEARTBEAT_S = 0.25
RESEND_S = 1.0
"""An answer that has not come by then is asked for again, with the same number."""

_HEADER = struct.Struct("<4s4BIHHQQqII2BHHHII")
_ID = struct.Struct("<Q")
_TOPIC_OF = {
    VERDICT: "ins1/verdict/",
    MASK: "ins1/mask/",
    PREVIEW: "ins1/preview/",
    HEARTBEAT: "ins1/hb/",
    STATS: "ins1/stats/",
    STATE: "ins1/state/",
    ALARM: "ins1/alarm/",
}
_OF_A_CAMERA = (VERDICT, MASK, PREVIEW)
_CAMERA = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", re.ASCII)
_INBOX_MESSAGES = 10_000
_INBOX_BYTES = 64 * 2**20
_EPOCHS_KEPT = 8


class ProtocolError(ValueError):
    """Something came that does not follow INS1."""


class Refused(Exception):
    """The station does not do what it was asked for.

    Attributes:
        code: why, one of the words of docs/protocol.md: forbidden, wrong_state, ...
        field: the argument at fault, "" where it is none.
    """

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.field = field


class NoAnswer(Exception):
    """The station did not answer in time."""


# Messages


class Header(NamedTuple):
    """The 64 bytes; docs/protocol.md says what each field is."""

    ver_minor: int
    msg_type: int
    flags: int
    epoch: int
    stream: int
    seq: int
    frame_id: int
    t_acq_ns: int
    latency_us: int
    crc32: int
    verdict: int
    state: int
    defect_count: int
    worst_class: int
    worst_score_e4: int
    recipe_no: int
    trigger_id: int


class Message(NamedTuple):
    """One message, checked; `camera` is "" where it is of the station."""

    topic: str
    camera: str
    header: Header
    body: dict[str, Any]
    payload: bytes


class Mask(NamedTuple):
    """Labels row by row, a byte for each pixel; 0 is the good surface, `classes[k - 1]` the class of label k."""

    width: int
    height: int
    labels: bytes
    classes: tuple[str, ...]
    scale_mm_per_px: float | None


def read_header(data: bytes) -> Header:
    """Check and read a header, also one that a later minor version made longer.

    Raises:
        ProtocolError: another magic or major version, cut short, or a field out of range.
    """
    if len(data) < HEADER_BYTES:
        raise ProtocolError(f"header: expected at least 64 bytes, got {len(data)}")
    magic, major, minor, msg_type, flags, epoch, header_bytes, *rest = _HEADER.unpack_from(data)
    if magic != b"INS1":
        raise ProtocolError(f"header: expected magic b'INS1', got {magic!r}")
    if major != 1:
        raise ProtocolError(f"header: expected major version 1, got {major}")
    if header_bytes != len(data):
        raise ProtocolError(f"header: expected header_bytes as long as it is, {len(data)}, got {header_bytes}")
    header = Header(minor, msg_type, flags, epoch, *rest)
    if header.verdict > NOT_INSPECTED:
        raise ProtocolError(f"header: expected verdict 0..4, got {header.verdict}")
    if not 1 <= header.state <= 7:
        raise ProtocolError(f"header: expected state 1..7, got {header.state}")
    if header.worst_score_e4 > 10_000:
        raise ProtocolError(f"header: expected worst_score_e4 0..10000, got {header.worst_score_e4}")
    if not 1 <= msg_type <= PREVIEW and (minor == 0 or msg_type == 0):
        raise ProtocolError(f"header: expected msg_type 1..7, got {msg_type}")
    return header


def read_tcp_header(data: bytes) -> Header:
    """Check and read a header as it comes over plain TCP: 64 bytes whose checksum is their own.

    Raises:
        ProtocolError: as above, or another checksum. Close the connection then: where a header begins is not known.
    """
    header = read_header(data)
    if zlib.crc32(data[:44] + bytes(4) + data[48:]) != header.crc32:
        raise ProtocolError(f"header: expected crc32 {header.crc32:#010x} as it says, got another")
    return header


def read_message(parts: Sequence[bytes]) -> Message:
    """Check and read what came from a socket: three or four parts.

    Raises:
        ProtocolError: it does not follow INS1.
    """
    if len(parts) not in (3, 4):
        raise ProtocolError(f"message: expected 3 or 4 parts, got {len(parts)}")
    topic, header, text = parts[0], read_header(parts[1]), parts[2]
    payload = parts[3] if len(parts) == 4 else b""
    if len(text) > MAX_BODY_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"message: a body of {len(text)} and a payload of {len(payload)} bytes are too long")
    name, camera = _read_topic(topic, header)
    if zlib.crc32(payload, zlib.crc32(text)) != header.crc32:
        raise ProtocolError(f"{name} {header.seq}: expected crc32 {header.crc32:#010x} as the header says, got another")
    return Message(name, camera, header, _read_body(name, header, text), payload)


def read_mask(message: Message) -> Mask:
    """The mask of a mask message; its size is checked before anything of that size is allocated.

    Raises:
        ProtocolError: it is of another type, or does not hold together.
    """
    if message.header.msg_type != MASK:
        raise ProtocolError(f"{message.topic}: expected a mask, got type {message.header.msg_type}")
    body = message.body
    width, height, encoding = body["width"], body["height"], body["encoding"]
    if width * height > MAX_PIXELS:
        raise ProtocolError(f"mask: expected at most {MAX_PIXELS} pixels, got {width} x {height}")
    if encoding == "rle8":
        labels = _read_runs(message.payload, width * height)
    elif encoding == "rle8+zlib":
        limit = min(5 * width * height, MAX_PAYLOAD_BYTES)
        labels = _read_runs(_inflate(message.payload, limit), width * height)
    elif encoding == "png8":
        labels = _read_png(message.payload, width, height)
    else:
        raise ProtocolError(f"mask: expected the encoding rle8, rle8+zlib or png8, got {encoding[:32]!r}")
    classes = tuple(body["classes"])
    # Without a copy for each label: what is left after the good ones are deleted is unknown.
    if unknown := labels.translate(None, bytes(range(min(len(classes), 255) + 1))):
        raise ProtocolError(f"mask: label {unknown[0]} has no class, there are {len(classes)}")
    return Mask(width, height, labels, classes, body.get("scale_mm_per_px"))


def _read_topic(topic: bytes, header: Header) -> tuple[str, str]:
    if len(topic) > 255 or not topic.startswith(b"ins1/") or not topic.endswith(b"/"):
        raise ProtocolError(f"topic: expected 'ins1/' at the start and '/' at the end, got {topic[:64]!r}")
    try:
        name = topic.decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError(f"topic: expected ASCII, got {topic[:64]!r}") from None
    expected = _TOPIC_OF.get(header.msg_type)
    if expected is None:
        return name, ""  # of a later minor version; to be passed over
    if header.msg_type not in _OF_A_CAMERA:
        camera = ""
    else:
        camera = name[len(expected) : -1] if name.startswith(expected) else "?"
        expected += f"{camera}/"
        if name == expected and not _CAMERA.match(camera):
            raise ProtocolError(f"topic: {camera[:64]!r} is no camera's name")
    if name != expected:
        raise ProtocolError(f"topic: expected {_TOPIC_OF[header.msg_type]!r} for type {header.msg_type}, got {name!r}")
    return name, camera


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _read_json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"JSON: expected an object, got {type(value).__name__}")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_positive(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _TIME.match(value) is not None


def _is_duration(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]


def _is_scale(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _is_score(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1  # type: ignore[operator]


def _is_state(value: object) -> bool:
    return value in STATES[1:]


def _is_row(check: Callable[[object], bool], length: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) == length and all(map(check, value))


def _is_list(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_object(fields: dict[str, Callable[[object], bool]]) -> Callable[[object], bool]:
    """Whether a value has these fields; a name that ends in `?` may be missing, and more fields may be there."""

    def check(value: object) -> bool:
        if not isinstance(value, dict):
            return False
        for name, is_right in fields.items():
            field = name[:-1] if name.endswith("?") else name
            if field not in value:
                if field == name:
                    return False
            elif not is_right(value[field]):
                return False
        return True

    return check


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_BODIES: dict[int, dict[str, Callable[[object], bool]]] = {
    VERDICT: {
        **dict.fromkeys(("resultId", "jobId", "measId", "partId"), _is_text),
        **dict.fromkeys(("internalRecipeId", "externalRecipeId", "modelDigest", "reason"), _is_text),
        "resultState": lambda value: value in (1, 4) and _is_whole(value),
        **dict.fromkeys(("isPartial", "isSimulated", "truncated"), _is_flag),
        "creationTime": _is_time,
        "processingTimes_ms": _is_object(dict.fromkeys(("acquire", "pre", "infer", "post"), _is_duration)),
        "defects": _is_list(
            _is_object(
                {
                    "id": _is_positive,
                    "classId": lambda value: _is_positive(value) and value < 255,  # type: ignore[operator]
                    "class": _is_text,
                    "score": _is_score,
                    "bbox_px": _is_row(_is_whole, 4),
                    "area_px": _is_positive,
                    "area_mm2?": _is_scale,
                    "length_mm?": _is_scale,
                    "centroid_px": _is_row(_is_number, 2),
                }
            )
        ),
        "source?": _is_text,
    },
    MASK: {
        "width": _is_positive,
        "height": _is_positive,
        "encoding": _is_text,
        "classes": _is_list(_is_text),
        "scale_mm_per_px?": _is_scale,
    },
    PREVIEW: {"width": _is_positive, "height": _is_positive, "encoding": _is_text},
    HEARTBEAT: {
        "station": _is_text,
        "streams": _is_list(
            _is_object({"stream": _is_count, "camera": _is_text, "last": _is_count, "oldest": _is_positive})
        ),
        "state": _is_state,
        "uptime_s": _is_duration,
        "drops": _is_count,
        "journal_lag": _is_count,
    },
    STATE: {"station": _is_text, "state": _is_state, "previous": _is_state},
    ALARM: {
        **dict.fromkeys(("station", "alarmId", "code", "severity", "message"), _is_text),
        **dict.fromkeys(("active", "acked"), _is_flag),
        "raisedTime": _is_time,
    },
    STATS: {"station": _is_text, "uptime_s": _is_duration},
}


def _read_body(topic: str, header: Header, text: bytes) -> dict[str, Any]:
    try:
        body = _read_json(text)
    except ProtocolError as error:
        raise ProtocolError(f"{topic} {header.seq}: {error}") from None
    for name, is_right in _BODIES.get(header.msg_type, {}).items():
        if not _is_object({name: is_right})(body):
            raise ProtocolError(f"{topic} {header.seq}: the body's field {name.rstrip('?')} is missing or wrong")
    return body


def _read_runs(data: bytes, pixels: int) -> bytes:
    count, rest = divmod(len(data), 5)
    if rest or not count:
        raise ProtocolError(f"rle8: expected a multiple of 5 bytes and at least one run, got {len(data)}")
    lengths = struct.unpack_from(f"<{count}I", data)
    if not all(lengths):
        raise ProtocolError("rle8: expected runs of at least one pixel, got one of 0")
    if sum(lengths) != pixels:
        raise ProtocolError(f"rle8: the runs sum to {sum(lengths)}, expected {pixels}")
    return b"".join(data[4 * count + at : 4 * count + at + 1] * length for at, length in enumerate(lengths))


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        result = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"zlib: the data is damaged ({error})") from None
    if len(result) > limit:
        raise ProtocolError(f"zlib: expected at most {limit} bytes after inflating, got more")
    if not stream.eof:
        raise ProtocolError(f"zlib: the stream of {len(data)} bytes is cut short")
    if stream.unused_data:
        raise ProtocolError(f"zlib: {len(stream.unused_data)} bytes follow the stream")
    return result


def _read_png(data: bytes, width: int, height: int) -> bytes:
    """Grey values of a PNG (ISO/IEC 15948), 8-bit grey, not interlaced."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ProtocolError("png8: expected the signature of a PNG")
    position, kinds, pixels = 8, [], []
    while position < len(data):
        if len(data) - position < 12:
            raise ProtocolError(f"png8: {len(data) - position} bytes at the end are no chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ProtocolError(f"png8: chunk {kind!r} is cut short")
        content = data[position + 8 : end - 4]
        if zlib.crc32(kind + content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ProtocolError(f"png8: chunk {kind!r} has another checksum than stated")
        kinds.append(kind)
        if kind == b"IDAT":
            pixels.append(content)
        elif kind == b"IHDR" and content != struct.pack(">II5B", width, height, 8, 0, 0, 0, 0):
            raise ProtocolError(f"png8: expected an 8-bit grey picture of {width} x {height}, not interlaced")
        position = end
    if len(kinds) < 3 or kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or set(kinds[1:-1]) != {b"IDAT"}:
        raise ProtocolError(f"png8: expected the chunks IHDR, IDAT and IEND alone, got {kinds[:8]}")
    rows = _inflate(b"".join(pixels), height * (width + 1))
    if len(rows) != height * (width + 1):
        raise ProtocolError(f"png8: expected {height * (width + 1)} bytes of pixels, got {len(rows)}")
    return _unfilter(rows, width, height)


def _unfilter(rows: bytes, width: int, height: int) -> bytes:
    labels = bytearray(width * height)
    above = bytes(width)
    for number in range(height):
        start = number * (width + 1)
        kind, row = rows[start], bytearray(rows[start + 1 : start + 1 + width])
        if kind > 4:
            raise ProtocolError(f"png8: the picture is damaged (filter {kind})")
        if kind == 1:
            for x in range(1, width):
                row[x] = (row[x] + row[x - 1]) & 255
        elif kind == 2:
            for x in range(width):
                row[x] = (row[x] + above[x]) & 255
        elif kind == 3:
            for x in range(width):
                row[x] = (row[x] + ((row[x - 1] if x else 0) + above[x]) // 2) & 255
        elif kind == 4:
            for x in range(width):
                left, corner = (row[x - 1], above[x - 1]) if x else (0, 0)
                row[x] = (row[x] + _paeth(left, above[x], corner)) & 255
        labels[number * width : (number + 1) * width] = above = bytes(row)
    return bytes(labels)


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    distances = abs(guess - left), abs(guess - above), abs(guess - corner)
    return (left, above, corner)[distances.index(min(distances))]


# Control


class Answer(NamedTuple):
    """What a station answered to what was done: the result, and what belongs to it and is no JSON."""

    result: dict[str, Any]
    blobs: tuple[bytes, ...]


def read_answer(parts: Sequence[bytes]) -> tuple[int, Union[Answer, Refused]]:
    """The number of the request, and the answer to it.

    Raises:
        ProtocolError: it is no answer.
    """
    if len(parts) < 2 or len(parts[0]) != _ID.size:
        raise ProtocolError(f"answer: expected a number of 8 bytes and a JSON object, got {len(parts)} parts")
    try:
        value = _read_json(parts[1])
    except ProtocolError as error:
        raise ProtocolError(f"answer: {error}") from None
    (number,) = _ID.unpack(parts[0])
    if value.get("ok") is True and isinstance(value.get("result"), dict):
        return number, Answer(value["result"], tuple(parts[2:]))
    fault = value.get("error")
    if value.get("ok") is False and isinstance(fault, dict) and isinstance(fault.get("code"), str):
        return number, Refused(fault["code"], str(fault.get("field", "")), str(fault.get("message", "")))
    raise ProtocolError("answer: expected a result or an error")


def read_replay(answer: Answer) -> list[Message]:
    """The messages of the answer to a replay, in the order in which they were sent.

    Raises:
        ProtocolError: one of them does not follow INS1, or there are more or fewer than it says.
    """
    if len(answer.blobs) % 4:
        raise ProtocolError(f"replay: expected four parts for each message, got {len(answer.blobs)}")
    if answer.result.get("messages") != len(answer.blobs) // 4:
        raise ProtocolError(
            f"replay: expected {answer.result.get('messages')} messages as it says, got {len(answer.blobs) // 4}"
        )
    return [read_message(answer.blobs[at : at + 4]) for at in range(0, len(answer.blobs), 4)]


class Keys(NamedTuple):
    """CURVE keys in Z85: the station's public one, and this client's pair."""

    server: bytes
    public: bytes
    secret: bytes

    @classmethod
    def from_file(cls, path: str, server: str = "") -> Keys:
        """Read a client's file: lines such as `secret_key = "..."`.

        Args:
            path: of the file.
            server: the station's public key, where the file does not have it.

        Raises:
            ValueError: a key is missing.
        """
        with open(path, encoding="utf-8") as file:
            found = dict(re.findall(r"^\s*([a-z_-]+)\s*=\s*[\"'](\S{40})[\"']\s*(?:#.*)?$", file.read(), re.MULTILINE))
        keys = {name.replace("-", "_"): key for name, key in found.items()}
        names = ("server_key", "station_key", "server", "station")
        server = server or next((keys[name] for name in names if name in keys), "")
        public = keys.get("public_key", keys.get("public", ""))
        secret = keys.get("secret_key", keys.get("secret", ""))
        for name, key in (("server_key", server), ("public_key", public), ("secret_key", secret)):
            if not key:
                raise ValueError(f'{path}: expected a line {name} = "..." with a key of 40 characters')
        return cls(server.encode(), public.encode(), secret.encode())


def _connect(context: zmq.Context, kind: int, endpoint: str, keys: Keys | None, name: bytes = b"") -> zmq.Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    # Without these a client stays deaf after its network was away for a second.
    socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
    # Where a full queue stops the reading, libzmq up to 4.3.5 ends the whole process once the connection is made anew
    # (its issue 3937): the queue has no bound here, and `receive` empties it.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    if name:
        socket.setsockopt(zmq.ROUTING_ID, name)
    if kind == zmq.DEALER:
        # Nothing is kept for a station that is away: it is asked again.
        socket.setsockopt(zmq.IMMEDIATE, 1)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ValueError(
            f"endpoint {endpoint}: cannot be connected to ({error.strerror}); expected an address such as "
            f"tcp://192.168.0.5:5561 or ipc:///var/lib/inspectd/ctl"
        ) from error
    return socket


class Control:
    """Questions and commands to a station; for one thread.

    What changes something is done once, however often it has to be sent: the station knows a request by its number.

    Args:
        endpoint: address of the station's control.
        keys: CURVE keys, None where the station has none.
        name: by which a station without keys knows this client, at most 255 bytes. Two clients must not share one. A
            random one if empty: then a command that was sent before this program was started anew is not known again.
        clock: monotonic, s.
        utc_ms: the numbers of requests begin at this clock, so that they are above those of before.
    """

    def __init__(
        self,
        endpoint: str,
        keys: Keys | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
        utc_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.endpoint = endpoint
        self._clock = clock
        self._next_id = utc_ms()
        self._context = zmq.Context()
        try:
            self.socket = _connect(self._context, zmq.DEALER, endpoint, keys, name.encode())
        except BaseException:
            self._context.term()
            raise

    def close(self) -> None:
        """Let go. May be called twice."""
        self.socket.close()
        self._context.term()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def ask(
        self,
        op: str,
        args: dict[str, Any] | None = None,
        timeout_s: float = 5.0,
        request_id: int | None = None,
    ) -> Answer:
        """Ask, and wait for the answer; asked again with the same number while none comes.

        Args:
            op: name of the operation.
            args: its arguments.
            timeout_s: how long to wait.
            request_id: number of a request that was sent before, to learn what became of it; a new one if None.

        Raises:
            NoAnswer: none came in time; `request_id` of the error's second argument asks again.
            Refused: the station does not do it.
        """
        number = self.new_id() if request_id is None else request_id
        give_up_s = self._clock() + timeout_s
        sent = 0
        while self._clock() < give_up_s:
            sent += self.send(number, op, args or {})
            resend_s = min(self._clock() + RESEND_S, give_up_s)
            while (left_s := resend_s - self._clock()) > 0:
                if not self.socket.poll(math.ceil(left_s * 1000)):
                    continue
                outcome = self.take(number)
                if isinstance(outcome, Answer):
                    return outcome
                # Sent again, it may be answered that it is still being done: the real answer follows.
                if outcome is not None and not (outcome.code == "busy" and sent > 1):
                    raise outcome
        raise NoAnswer(
            f"{self.endpoint}: no answer to {op} within {timeout_s:g} s; check that the station runs, and the keys",
            number,
        )

    def new_id(self) -> int:
        """A number that no request had."""
        self._next_id += 1
        return self._next_id - 1

    def send(self, number: int, op: str, args: dict[str, Any]) -> bool:
        """Send a request, if the station is there; never waits."""
        parts = [_ID.pack(number), json.dumps({"op": op, "args": args}).encode()]
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def take(self, number: int) -> Union[Answer, Refused, None]:
        """The answer to a request if it has come; others that came are of requests that were given up."""
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                found, outcome = read_answer(parts)
            except ProtocolError:
                continue  # asked for again
            if found == number:
                return outcome


# Results, each once


class Result(NamedTuple):
    """A verdict; `mask` is its mask message where masks are asked for, the part was inspected, and it could be had."""

    message: Message
    mask: Message | None = None

    @property
    def header(self) -> Header:
        """Of the verdict."""
        return self.message.header

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.message.camera

    @property
    def body(self) -> dict[str, Any]:
        """Of the verdict."""
        return self.message.body


class Changed(NamedTuple):
    """The station changed its state, or an alarm came or went."""

    message: Message


class Lost(NamedTuple):
    """Results that cannot be had any more: `first` to `last`, or to an end that is not known (None)."""

    epoch: int
    stream: int
    camera: str
    first: int
    last: int | None
    reason: str


class Spoiled(NamedTuple):
    """A message came that does not follow INS1; what it was is fetched again, if it counts."""

    reason: str


Event = Union[Result, Changed, Lost, Spoiled]
_Step = "Iterator[Event | None]"


class Subscriber:
    """Every result once, by the six rules for clients of docs/protocol.md; for one thread.

    Iterate over it, or call `receive`. Results of a stream come in the order of their (epoch, seq). Between two calls
    what comes is kept without bound: do long work elsewhere.

    Args:
        publish: address of the results.
        control: address of the station's control; without it nothing can be fetched again, and a gap is Lost.
        cameras: names of the cameras to follow; None for all.
        masks: fetch masks too.
        station: follow changes of state and alarms too.
        since: where to go on, from `position` of before, so that nothing is missed between two runs of this program;
            None begins with what comes from now on.
        keys: CURVE keys, None where the station has none.
        heard: told of each message as it comes, before what was lost before it is fetched; for a `Gate`.
        patience_s: how long the station may leave a question unanswered before what it was about is given up as Lost,
            or a verdict is given out without its mask.
        clock: monotonic, s.

    Attributes:
        started: where it began: {"epoch": ..., "streams": {stream: seq}}, None before that is known.
        epoch: of the station, None before it is known.
    """

    def __init__(
        self,
        publish: str,
        control: str | None = None,
        cameras: Sequence[str] | None = None,
        masks: bool = False,
        station: bool = True,
        since: dict[str, Any] | None = None,
        keys: Keys | None = None,
        heard: Callable[[Message], None] = lambda _message: None,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch: int | None = None
        self.started: dict[str, Any] | None = None
        self._cameras = None if cameras is None else frozenset(cameras)
        self._masks = masks
        self._station = station
        self._heard = heard
        self._patience_s = patience_s
        self._clock = clock
        self._done: dict[tuple[int, int], int] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._inbox: deque = deque()
        self._inbox_bytes = 0
        self._held: Message | None = None
        self._deadline_s = math.inf
        self._asked_of_older: int | None = None
        if since is not None:
            self.epoch = int(since["epoch"])
            self._done = {(self.epoch, int(stream)): int(seq) for stream, seq in since["streams"].items()}
        self._context = zmq.Context()
        self._control: Control | None = None
        try:
            self._socket = _connect(self._context, zmq.SUB, publish, keys)
            for topic in self._topics():
                self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            if control is not None:
                self._control = Control(control, keys, clock=clock)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._steps = self._run()

    def _topics(self) -> list[str]:
        kinds = [VERDICT, *([MASK] if self._masks else [])]
        names = [""] if self._cameras is None else [f"{camera}/" for camera in sorted(self._cameras)]
        topics = [_TOPIC_OF[kind] + name for kind in kinds for name in names]
        return [*topics, _TOPIC_OF[HEARTBEAT], *([_TOPIC_OF[STATE], _TOPIC_OF[ALARM]] if self._station else [])]

    def close(self) -> None:
        """Let go. May be called twice."""
        self._steps.close()  # type: ignore[attr-defined]
        self._socket.close()
        if self._control is not None:
            self._control.close()
        self._context.term()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def position(self) -> dict[str, Any]:
        """How far this program has come, as JSON can hold it: keep it after each result that was dealt with."""
        epoch = self.epoch or 0
        return {"epoch": epoch, "streams": {str(s): seq for (e, s), seq in self._done.items() if e == epoch}}

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.receive(math.inf)
            if event is not None:
                yield event

    def receive(self, timeout_s: float) -> Event | None:
        """What comes next; None if nothing does in time."""
        self._deadline_s = self._clock() + timeout_s
        return next(self._steps)

    # One long procedure that yields what it has, and None whenever nobody wants to wait any longer.

    def _run(self) -> _Step:
        if self._control is not None:
            yield from self._catch_up()
        while True:
            if not self._inbox:
                # A verdict whose mask has not come at once is not kept for long.
                until_s = self._clock() + 0.05 if self._held is not None else math.inf
                yield from self._wait(until_s)
            if not self._inbox:
                yield from self._release()
                continue
            message = self._inbox.popleft()
            if isinstance(message, Spoiled):
                yield message
                continue
            self._inbox_bytes -= len(message.payload)
            yield from self._take(message)

    def _wait(self, until_s: float) -> _Step:
        """Until something has come, or the time is over."""
        sockets = [self._socket]
        if self._control is not None:
            sockets.append(self._control.socket)
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        while True:
            left_s = min(until_s, self._deadline_s) - self._clock()
            # In steps, so that an interrupt is heard on every system.
            ready = dict(poller.poll(min(max(0, math.ceil(left_s * 1000)) if left_s < 1 else 1000, 1000)))
            if self._socket in ready:
                self._pump()
            if self._control is not None and self._control.socket in ready and math.isinf(until_s):
                self._control.take(-1)  # answers that nobody waits for any more
            if ready or self._clock() >= until_s:
                return
            if self._clock() >= self._deadline_s:
                yield None

    def _pump(self) -> None:
        """Take in what has come. What finds no room is let go: a gap, which is fetched later."""
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            has_room = len(self._inbox) < _INBOX_MESSAGES and self._inbox_bytes < _INBOX_BYTES
            try:
                message = read_message(parts)
            except ProtocolError as error:
                if has_room:
                    self._inbox.append(Spoiled(str(error)))
                continue
            self._heard(message)
            if has_room:
                self._inbox.append(message)
                self._inbox_bytes += len(message.payload)

    def _take(self, message: Message) -> _Step:
        header = message.header
        kind = header.msg_type
        if header.flags & REPLAYED:
            return  # nobody publishes such
        if kind == MASK:
            if self._held is not None and _place(header) == _place(self._held.header):
                yield from self._release(message)
            return
        yield from self._release()
        if kind not in (VERDICT, STATE, ALARM, HEARTBEAT):
            return
        if self.epoch is None or header.epoch > self.epoch:
            yield from self._catch_up(header.epoch)
        elif header.epoch < self.epoch and self._control is not None and self._asked_of_older != header.epoch:
            # What was still on its way from before a start; or the station has lost count and begins anew.
            self._asked_of_older = header.epoch
            yield from self._catch_up()
        if kind == HEARTBEAT:
            yield from self._compare(message)
            return
        key = header.epoch, header.stream
        if self.epoch is not None and header.epoch < self.epoch and key not in self._done:
            return  # of before the snapshot that this client began with
        self._names[key] = message.camera
        if self._control is None:
            self._begin_at(key, header.seq - 1)
        done = self._done.get(key, 0)
        if header.seq <= done:
            return
        if header.seq > done + 1:
            yield from self._recover(*key, header.seq - 1)
        if kind != VERDICT or not self._masks or header.verdict == NOT_INSPECTED:
            self._done[key] = header.seq
            yield Result(message) if kind == VERDICT else Changed(message)
        else:
            self._held = message

    def _release(self, mask: Message | None = None) -> _Step:
        """Give out the verdict that waits for its mask; one that did not come is fetched."""
        message, self._held = self._held, None
        if message is None:
            return
        header = message.header
        if mask is None and self._control is not None:
            args = {"stream": header.stream, "from": header.seq, "to": header.seq, "epoch": header.epoch, "masks": True}
            try:
                # As long as a gap is asked for: a station that was killed between a verdict and its mask starts again.
                answer = yield from self._ask_patiently("replay", args, self._patience_s)
                again = (each for each in read_replay(answer) if _place(each.header) == _place(header))
                mask = next((each for each in again if each.header.msg_type == MASK), None)
            except (NoAnswer, ProtocolError, Refused):
                pass  # the verdict is what counts
        self._done[header.epoch, header.stream] = header.seq
        yield Result(message, mask)

    def _compare(self, message: Message) -> _Step:
        """What the heartbeat tells of and did not come is fetched."""
        epoch = message.header.epoch
        for position in message.body["streams"]:
            key = epoch, position["stream"]
            self._names[key] = position["camera"]
            if self._control is None:
                self._begin_at(key, position["last"])
            if self._follows(key) and epoch == self.epoch:
                yield from self._recover(*key, position["last"])

    def _begin_at(self, key: tuple[int, int], seq: int) -> None:
        """Without control a stream begins where it is first seen, in the first epoch that is seen."""
        if self.started is not None and key[0] == self.started["epoch"] and key not in self._done:
            self._done[key] = seq

    def _follows(self, key: tuple[int, int]) -> bool:
        if key[1] == STATION_STREAM:
            return self._station
        # Of an epoch that was missed as a whole only the numbers are known, not the names.
        return self._cameras is None or key not in self._names or self._names[key] in self._cameras

    def _catch_up(self, heard: int | None = None) -> _Step:
        """Rules 2 and 6: a snapshot, what is left of the epochs before, and then the present one."""
        snapshot = None if self._control is None else (yield from self._snapshot(heard))
        if snapshot is None:
            if heard is not None:
                yield from self._new_epoch(heard, {}, "cannot be asked for" if self._control is None else "no answer")
            return
        epoch = snapshot["epoch"]
        for position in snapshot["streams"]:
            self._names[epoch, position["stream"]] = position["camera"]
        if self.epoch is not None and epoch < self.epoch:
            for (old, stream), seq in self._of(self.epoch):
                yield self._lost(old, stream, seq + 1, None, "the station has lost count of its starts")
            self.epoch, self._done = None, {}
        if self.epoch is None:
            self.epoch = epoch
            self._done = {(epoch, each["stream"]): each["last"] for each in snapshot["streams"]}
            self.started = self.position
            return
        held = {
            each["epoch"]: {position["stream"]: position["last"] for position in each["streams"]}
            for each in snapshot["epochs"]
        }
        yield from self._new_epoch(epoch, held, "no longer held")
        if self.started is None:
            self.started = self.position
        for position in snapshot["streams"]:
            if self._follows((epoch, position["stream"])):
                yield from self._recover(epoch, position["stream"], position["last"])

    def _new_epoch(self, epoch: int, held: dict[int, dict[int, int]], reason: str) -> _Step:
        mine = self.epoch
        if mine is None:
            self.epoch = epoch
            self.started = self.position
            return
        if epoch == mine:
            return
        for old in sorted({mine, *(each for each in held if mine < each < epoch)}):
            if old not in held:
                for (_, stream), seq in self._of(old):
                    yield self._lost(old, stream, seq + 1, None, reason)
            for stream, last in sorted(held.get(old, {}).items()):
                if self._follows((old, stream)):
                    yield from self._recover(old, stream, last)
            self.epoch = old
        if epoch - mine > 1 and not all(each in held for each in range(max(mine + 1, epoch - 50), epoch)):
            yield self._lost(epoch - 1, STATION_STREAM, 1, None, f"some starts between {mine} and {epoch} are not held")
        self.epoch = epoch
        for key in [key for key in self._done if key[0] + _EPOCHS_KEPT < epoch]:
            del self._done[key]

    def _of(self, epoch: int) -> list[tuple[tuple[int, int], int]]:
        return [(key, seq) for key, seq in sorted(self._done.items()) if key[0] == epoch and self._follows(key)]

    def _snapshot(self, heard: int | None) -> Iterator[Any]:
        """Where everything stands; None if the station does not tell in time."""
        give_up_s = self._clock() + self._patience_s
        while self._clock() < give_up_s:
            try:
                answer = yield from self._ask("snapshot", {}, give_up_s - self._clock())
            except (NoAnswer, Refused):
                answer = None
            # One that was answered by the station of before would say nothing of the new one.
            is_snapshot = answer is not None and _is_snapshot(answer.result)
            if is_snapshot and (heard is None or answer.result["epoch"] >= heard):
                return answer.result
            yield from self._pause(0.1)
        if heard is None and self.epoch is None:
            raise NoAnswer(f"no snapshot within {self._patience_s:g} s; check the address of control, and the keys")
        return None

    def _recover(self, epoch: int, stream: int, last: int) -> _Step:
        """Rules 4 and 5: fetch what comes after what is there, up to `last`; what cannot be had is Lost."""
        key = epoch, stream
        give_up_s = self._clock() + self._patience_s
        tries = 0
        while (first := self._done.get(key, 0) + 1) <= last:
            if self._control is None:
                yield self._lost(epoch, stream, first, last, "there is no control to ask")
                return
            to = min(first + MAX_REPLAY - 1, last)
            args = {"stream": stream, "from": first, "to": to, "epoch": epoch, "masks": self._masks}
            try:
                answer = yield from self._ask_patiently("replay", args, give_up_s - self._clock())
                given, messages = _read_given(answer, key)
            except NoAnswer:
                yield self._lost(epoch, stream, first, last, "control does not answer")
                return
            except Refused as error:
                yield self._lost(epoch, stream, first, last, str(error))
                return
            except ProtocolError as error:
                # What is damaged in the journal stays so; the others are asked for one by one.
                if to > first:
                    yield from self._recover_one_by_one(key, to)
                else:
                    yield self._lost(epoch, stream, first, first, str(error))
                continue
            yield from self._give(key, messages, min(to, given["to"]))
            if self._done.get(key, 0) >= first:
                tries = 0
                continue
            if given["newest"] < first and tries < 5:
                # It was sent before it got to the disk: it may be there soon.
                tries += 1
                yield from self._pause(0.2)
                continue
            # Nothing of these is there; before `oldest` nothing at all.
            end = max(to, min(given["oldest"] - 1, last)) if given["newest"] >= first else last
            yield self._lost(epoch, stream, first, end, "not in the journal")

    def _recover_one_by_one(self, key: tuple[int, int], to: int) -> _Step:
        for seq in range(self._done.get(key, 0) + 1, to + 1):
            yield from self._recover(*key, seq)

    def _give(self, key: tuple[int, int], messages: list[Message], to: int) -> _Step:
        """Give out what a replay gave, up to a number; what it left out is Lost."""
        epoch, stream = key
        masks = {each.header.seq: each for each in messages if each.header.msg_type == MASK}
        for message in messages:
            first, seq = self._done.get(key, 0) + 1, message.header.seq
            if message.header.msg_type == MASK or not first <= seq <= to:
                continue
            self._names[key] = message.camera
            if seq > first:
                yield self._lost(epoch, stream, first, seq - 1, "not in the journal")
            self._done[key] = seq
            if message.header.msg_type != VERDICT:
                yield Changed(message)
            elif self._cameras is None or message.camera in self._cameras:
                yield Result(message, masks.get(seq))
        first = self._done.get(key, 0) + 1
        if first <= to:
            yield self._lost(epoch, stream, first, to, "not in the journal")

    def _lost(self, epoch: int, stream: int, first: int, last: int | None, reason: str) -> Lost:
        if last is not None:
            self._done[epoch, stream] = last
        return Lost(epoch, stream, self._names.get((epoch, stream), ""), first, last, reason)

    def _ask(self, op: str, args: dict[str, Any], patience_s: float) -> Iterator[Any]:
        control = self._control
        if control is None:
            raise NoAnswer("there is no control to ask")
        number = control.new_id()
        give_up_s = self._clock() + patience_s
        while self._clock() < give_up_s:
            control.send(number, op, args)
            resend_s = min(self._clock() + RESEND_S, give_up_s)
            while self._clock() < resend_s:
                outcome = control.take(number)
                if isinstance(outcome, Refused):
                    raise outcome
                if outcome is not None:
                    return outcome
                yield from self._wait(resend_s)
        raise NoAnswer(f"{control.endpoint}: no answer to {op} within {patience_s:.3g} s")

    def _ask_patiently(self, op: str, args: dict[str, Any], patience_s: float) -> Iterator[Any]:
        """The same, and once more after a pause where the station says that it cannot just now."""
        give_up_s = self._clock() + patience_s
        tries = 0
        while True:
            try:
                return (yield from self._ask(op, args, give_up_s - self._clock()))
            except Refused as error:
                if error.code not in ("busy", "failed") or tries == 5:
                    raise
            tries += 1
            yield from self._pause(0.2)

    def _pause(self, seconds: float) -> _Step:
        until_s = self._clock() + seconds
        while self._clock() < until_s:
            yield from self._wait(until_s)


def _place(header: Header) -> tuple[int, int, int]:
    return header.epoch, header.stream, header.seq


_is_snapshot = _is_object(
    {
        "epoch": _is_count,
        "streams": _is_list(_is_object({"stream": _is_count, "camera": _is_text, "last": _is_count})),
        "epochs": _is_list(
            _is_object({"epoch": _is_count, "streams": _is_list(_is_object({"stream": _is_count, "last": _is_count}))})
        ),
    }
)
_is_given = _is_object(dict.fromkeys(("epoch", "stream", "oldest", "newest", "from", "to", "messages"), _is_count))


def _read_given(answer: Answer, key: tuple[int, int]) -> tuple[dict[str, Any], list[Message]]:
    """The result of a replay and its messages, which are of the stream that was asked for and in order."""
    if not _is_given(answer.result):
        raise ProtocolError("replay: a field of the result is missing or wrong")
    messages = read_replay(answer)
    places = [(*_place(message.header), message.header.msg_type) for message in messages]
    if places != sorted(set(places)) or any(place[:2] != key for place in places):
        raise ProtocolError("replay: messages of another stream, twice, or out of order")
    return answer.result, messages


# The machine that sorts


class Gate:
    """Whether a part may pass: the fail-safe rule. A part is good only if everything holds; all else is a reject.

    Feed it every message as it comes, of one camera. `begin` when the part is triggered, then `decide` until it says
    True or False; None is not yet, and never comes after the deadline.

    Args:
        camera: whose verdicts count.
        period_s: of the station's heartbeat.
        clock: monotonic, s: your own, never the station's.
    """

    def __init__(self, camera: str, period_s: float = HEARTBEAT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._camera = camera
        self._oldest_s = 3 * period_s
        self._clock = clock
        self._heartbeat_s = -math.inf
        self._trigger_id: int | None = None
        self._deadline_s = -math.inf
        self._decided: bool | None = None

    def begin(self, trigger_id: int, deadline_s: float) -> None:
        """A part was triggered; what comes of others from now on is not about it.

        Args:
            trigger_id: its number; None of before may still be on its way under the same one.
            deadline_s: from now on.
        """
        self._trigger_id = trigger_id
        self._deadline_s = self._clock() + deadline_s
        self._decided = None

    def feed(self, message: Message) -> None:
        """A message came."""
        header, now_s = message.header, self._clock()
        if header.msg_type == HEARTBEAT:
            self._heartbeat_s = now_s
        elif (
            header.msg_type == VERDICT
            and message.camera == self._camera
            and header.trigger_id == self._trigger_id
            and not header.flags & REPLAYED
            and self._decided is None
            and now_s < self._deadline_s
        ):
            self._decided = header.verdict == OK and now_s - self._heartbeat_s < self._oldest_s

    def decide(self) -> bool | None:
        """True: good. False: reject. None: wait, and ask again."""
        if self._decided is None and (self._trigger_id is None or self._clock() >= self._deadline_s):
            self._decided = False
        return self._decided


# The command


def main() -> int:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("publish", help="address of the results, such as tcp://10.0.0.5:5560")
    parser.add_argument("--control", help="address of control; without it what was missed cannot be fetched")
    parser.add_argument("--camera", action="append", help="name of a camera to follow; all of them without it")
    parser.add_argument("--masks", action="store_true", help="fetch masks too, and count their pixels")
    parser.add_argument("--count", type=int, help="end after so many results")
    parser.add_argument("--position", help="file that keeps how far this program has come, to go on from there")
    parser.add_argument("--keys", help="file with CURVE keys")
    parser.add_argument("--server-key", default="", help="the station's public key, where the file does not have it")
    parser.add_argument("--check-part", type=int, metavar="TRIGGER_ID", help="wait for the verdict on one part")
    parser.add_argument("--deadline", type=float, default=5.0, help="of --check-part, s")
    options = parser.parse_args()
    try:
        keys = Keys.from_file(options.keys, options.server_key) if options.keys else None
        return _check(options, keys) if options.check_part is not None else _follow(options, keys)
    except (NoAnswer, OSError, ValueError) as error:
        sys.stderr.write(f"ins1_client: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _follow(options: argparse.Namespace, keys: Keys | None) -> int:
    since = None
    if options.position:
        try:
            with open(options.position, encoding="utf-8") as file:
                since = json.load(file)
        except FileNotFoundError:
            pass
    results = 0
    subscriber = Subscriber(
        options.publish, options.control, cameras=options.camera, masks=options.masks, since=since, keys=keys
    )
    with subscriber:
        told = False
        while options.count is None or results < options.count:
            event = subscriber.receive(0.1)
            if not told and subscriber.started is not None:
                _tell("started", subscriber.started)
                told = True
            if event is not None:
                _tell(*_as_json(event))
                results += isinstance(event, Result)
                if options.position:
                    with open(options.position, "w", encoding="utf-8") as file:
                        json.dump(subscriber.position, file)
    return 0


def _as_json(event: Event) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Lost):
        return "lost", event._asdict()
    if isinstance(event, Spoiled):
        return "spoiled", event._asdict()
    header, body = event.message.header, event.message.body
    place = {name: getattr(header, name) for name in ("epoch", "stream", "seq")}
    replayed = bool(header.flags & REPLAYED)
    if isinstance(event, Changed):
        kind = "state" if header.msg_type == STATE else "alarm"
        return kind, {**place, "replayed": replayed, "body": body}
    told: dict[str, Any] = {
        "camera": event.camera,
        "verdict": VERDICTS[header.verdict],
        **place,
        "replayed": replayed,
        "trigger_id": header.trigger_id,
        "defects": header.defect_count,
        "reason": body["reason"],
    }
    if event.mask is not None:
        mask = read_mask(event.mask)
        told["mask_px"] = {name: mask.labels.count(label) for label, name in enumerate(mask.classes, 1)}
    return "result", told


def _tell(kind: str, told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": kind, **told}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _check(options: argparse.Namespace, keys: Keys | None) -> int:
    if not options.camera or len(options.camera) != 1:
        raise ValueError("--check-part: expected one --camera, whose verdict counts")
    gate = Gate(options.camera[0])
    gate.begin(options.check_part, options.deadline)
    # Fetching what was lost would come too late for a part that is passing by.
    subscriber = Subscriber(options.publish, cameras=options.camera, station=False, keys=keys, heard=gate.feed)
    with subscriber:
        while (good := gate.decide()) is None:
            subscriber.receive(0.01)
    sys.stdout.write("good\n" if good else "reject\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
