"""The fixed part of an INS1 message: header, enumerations and topics (docs/protocol.md)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from inspectd.errors import ProtocolError

__all__ = [
    "CAMERA_NAME",
    "HEADER_BYTES",
    "MAGIC",
    "STATION_STREAM",
    "VERSION_MAJOR",
    "VERSION_MINOR",
    "Flags",
    "Header",
    "MessageType",
    "State",
    "camera_of",
    "topic_of",
]

MAGIC = b"INS1"
VERSION_MAJOR = 1
VERSION_MINOR = 0
HEADER_BYTES = 64
STATION_STREAM = 0xFFFF
"""The stream of messages that belong to no camera."""
CAMERA_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$"
"""What a camera may be called: fit for a topic, a file name and a PLC string."""

_LAYOUT = struct.Struct("<4s4BIHHQQqII2BHHHII")
_PREFIX = "ins1/"


class MessageType(IntEnum):
    """What a message is."""

    VERDICT = 1
    MASK = 2
    HEARTBEAT = 3
    STATS = 4
    STATE = 5
    ALARM = 6
    PREVIEW = 7


class Flags(IntFlag):
    """Bits of the header's flags; readers ignore those they do not know."""

    NONE = 0
    SIMULATED = 1
    PARTIAL = 2
    REPLAYED = 4
    TRUNCATED = 8
    TIME_SYNCED = 16
    NOT_DURABLE = 32


class State(IntEnum):
    """What the station is doing; the names are those of OPC 40100-1, the numbers are INS1's own."""

    PREOPERATIONAL = 1
    HALTED = 2
    ERROR = 3
    INITIALIZED = 4
    READY = 5
    SINGLE_EXECUTION = 6
    CONTINUOUS_EXECUTION = 7

    @property
    def label(self) -> str:
        """The name as OPC 40100-1 spells it, for instance `ContinuousExecution`."""
        return "".join(word.capitalize() for word in self.name.split("_"))


_RANGES = {
    "msg_type": (1, 0xFF),
    "ver_minor": (0, 0xFF),
    "flags": (0, 0xFF),
    "epoch": (0, 0xFFFF_FFFF),
    "stream": (0, 0xFFFF),
    "seq": (0, 0xFFFF_FFFF_FFFF_FFFF),
    "frame_id": (0, 0xFFFF_FFFF_FFFF_FFFF),
    "t_acq_ns": (-(2**63), 2**63 - 1),
    "latency_us": (0, 0xFFFF_FFFF),
    "crc32": (0, 0xFFFF_FFFF),
    "verdict": (0, 4),
    "state": (1, 7),
    "defect_count": (0, 0xFFFF),
    "worst_class": (0, 0xFFFF),
    "worst_score_e4": (0, 10_000),
    "recipe_no": (0, 0xFFFF_FFFF),
    "trigger_id": (0, 0xFFFF_FFFF),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The 64-byte header, little-endian. Units are in the names; docs/protocol.md has the table.

    Attributes:
        msg_type: a `MessageType`, or a higher number where `ver_minor` is above ours.
        epoch: counts the starts of the publisher.
        state: what the station is doing.
        flags: see `Flags`.
        stream: index of the camera, or STATION_STREAM.
        seq: number in its stream, from 1 without gaps; 0 for messages that are not counted.
        frame_id: the camera's block id.
        t_acq_ns: exposure, UTC ns since 1970; 0 where there is no frame.
        latency_us: from the frame's arrival to publishing; 0 is unknown, the highest value means "or more".
        crc32: over body and payload.
        verdict: `Verdict` of the part, 0 where the message is not about a part.
        defect_count: all defects that were found, also those the body leaves out; stops at 65535.
        worst_class: label of the defect with the highest score, 0 without defects.
        worst_score_e4: its score in steps of 1/10000.
        recipe_no: number of the recipe, 0 without one.
        trigger_id: the PLC's part or trigger number; 0 when free-running, and where it is not known.
        ver_minor: the minor version of the writer.

    Raises:
        ProtocolError: a number that its field cannot hold.
    """

    msg_type: int
    epoch: int
    state: State
    flags: Flags = Flags.NONE
    stream: int = STATION_STREAM
    seq: int = 0
    frame_id: int = 0
    t_acq_ns: int = 0
    latency_us: int = 0
    crc32: int = 0
    verdict: int = 0
    defect_count: int = 0
    worst_class: int = 0
    worst_score_e4: int = 0
    recipe_no: int = 0
    trigger_id: int = 0
    ver_minor: int = VERSION_MINOR

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not lowest <= value <= highest:
                raise ProtocolError(f"header field {name}: expected {lowest}..{highest}, got {value!r}")
        if self.ver_minor <= VERSION_MINOR and self.msg_type not in MessageType.__members__.values():
            raise ProtocolError(f"header field msg_type: expected 1..{max(MessageType)}, got {self.msg_type}")
        object.__setattr__(self, "flags", Flags(self.flags))
        object.__setattr__(self, "state", State(self.state))

    def pack(self) -> bytes:
        """The 64 bytes."""
        return _LAYOUT.pack(
            MAGIC,
            VERSION_MAJOR,
            self.ver_minor,
            self.msg_type,
            self.flags,
            self.epoch,
            HEADER_BYTES,
            self.stream,
            self.seq,
            self.frame_id,
            self.t_acq_ns,
            self.latency_us,
            self.crc32,
            self.verdict,
            self.state,
            self.defect_count,
            self.worst_class,
            self.worst_score_e4,
            self.recipe_no,
            self.trigger_id,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Read a header, also one that a later minor version made longer.

        Raises:
            ProtocolError: another magic or major version, cut short, or a field out of range.
        """
        if data[:4] != MAGIC[: len(data)]:
            raise ProtocolError(f"header: expected magic {MAGIC!r}, got {data[:4]!r}")
        if len(data) < HEADER_BYTES:
            raise ProtocolError(f"header: expected at least {HEADER_BYTES} bytes, got {len(data)}")
        _, major, minor, msg_type, flags, epoch, header_bytes, stream, *rest = _LAYOUT.unpack_from(data)
        if major != VERSION_MAJOR:
            raise ProtocolError(f"header: expected major version {VERSION_MAJOR}, got {major}")
        if not HEADER_BYTES <= header_bytes == len(data):
            raise ProtocolError(
                f"header: expected header_bytes of at least {HEADER_BYTES} and equal to the {len(data)} bytes "
                f"received, got {header_bytes}"
            )
        seq, frame_id, t_acq_ns, latency_us, crc32, verdict, state, count, worst_class, worst_score, *rest = rest
        recipe_no, trigger_id = rest
        return cls(
            msg_type=msg_type,
            ver_minor=minor,
            flags=flags,
            epoch=epoch,
            stream=stream,
            seq=seq,
            frame_id=frame_id,
            t_acq_ns=t_acq_ns,
            latency_us=latency_us,
            crc32=crc32,
            verdict=verdict,
            state=state,
            defect_count=count,
            worst_class=worst_class,
            worst_score_e4=worst_score,
            recipe_no=recipe_no,
            trigger_id=trigger_id,
        )


_KINDS = {
    MessageType.VERDICT: "verdict",
    MessageType.MASK: "mask",
    MessageType.PREVIEW: "preview",
    MessageType.HEARTBEAT: "hb",
    MessageType.STATS: "stats",
    MessageType.STATE: "state",
    MessageType.ALARM: "alarm",
}
_OF_A_CAMERA = (MessageType.VERDICT, MessageType.MASK, MessageType.PREVIEW)


def topic_of(msg_type: MessageType, camera: str = "") -> str:
    """The topic, for instance `ins1/verdict/cam1/` or `ins1/hb/`; `camera` only for what has one.

    Raises:
        ProtocolError: a camera name that does not fit a topic, or one too many or too few.
    """
    kind = _KINDS[msg_type]
    if msg_type not in _OF_A_CAMERA:
        if camera:
            raise ProtocolError(f"a {kind} message belongs to no camera, got {camera!r}")
        return f"{_PREFIX}{kind}/"
    if not re.fullmatch(CAMERA_NAME, camera):
        raise ProtocolError(
            f"camera name {camera!r}: expected 1 to 64 letters, digits, '_', '-' or '.', the first not a '.'"
        )
    return f"{_PREFIX}{kind}/{camera}/"


def camera_of(topic: str, header: Header) -> str:
    """The camera that a topic names, "" where it names none; holds topic and header against each other.

    Raises:
        ProtocolError: not a topic of INS1, or the topic of another message type than the header's.
    """
    if not topic.startswith(_PREFIX) or not topic.endswith("/"):
        raise ProtocolError(f"topic: expected {_PREFIX!r} at the start and '/' at the end, got {topic!r}")
    try:
        msg_type = MessageType(header.msg_type)
    except ValueError:
        return ""  # of a later minor version, which alone may bring new types
    camera = ""
    if msg_type in _OF_A_CAMERA:
        camera = topic[len(_PREFIX) :].partition("/")[2].removesuffix("/")
    if topic != (expected := topic_of(msg_type, camera)):
        raise ProtocolError(f"topic: expected {expected!r} for a {msg_type.name} message, got {topic!r}")
    return camera
