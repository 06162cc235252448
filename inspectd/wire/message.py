"""Whole INS1 messages: from results to parts on a socket, and back."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from inspectd.calibrated import ImageNumbers
from inspectd.defect import Defect
from inspectd.errors import ProtocolError
from inspectd.frame import CameraStatus
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask

from .bodies import (
    AlarmBody,
    Body,
    CameraBody,
    DefectBody,
    DeviceHealth,
    HeartbeatBody,
    MaskBody,
    MaskEncoding,
    PreviewBody,
    ProcessingTimes,
    StateBody,
    StatsBody,
    StreamPosition,
    VerdictBody,
)
from .codecs import MAX_PAYLOAD_BYTES, decode_mask, decode_preview, encode_mask, encode_preview
from .header import Flags, Header, MessageType, State, camera_of, topic_of

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_DEFECTS",
    "PREVIEW_QUALITY",
    "Message",
    "Origin",
    "Recipe",
    "alarm_message",
    "camera_bodies",
    "heartbeat_message",
    "mask_message",
    "preview_message",
    "read_body",
    "read_mask",
    "read_preview",
    "state_message",
    "stats_message",
    "verdict_message",
]

MAX_BODY_BYTES = 2**20
"""Longest body."""
MAX_DEFECTS = 100
"""Defects that a verdict body lists; the rest is counted in the header."""
PREVIEW_QUALITY = 90
"""JPEG quality of previews."""

_MAX_TOPIC_BYTES = 255
_MAX_REASON = 1000
_EPOCH_1970 = datetime(1970, 1, 1, tzinfo=timezone.utc)

_Body = TypeVar("_Body", bound=Body)


@dataclass(frozen=True, slots=True)
class Message:
    """One valid message; what does not follow INS1 cannot become one.

    Attributes:
        topic: for instance `ins1/verdict/cam1/`.
        header: the fixed part.
        body: JSON, UTF-8; `read_body` gives it typed.
        payload: mask or picture; empty for the other types.

    Raises:
        ProtocolError: topic and header disagree, a part is too long, or the checksum is wrong.
    """

    topic: str
    header: Header
    body: bytes
    payload: bytes = b""

    def __post_init__(self) -> None:
        camera_of(self.topic, self.header)
        if len(self.body) > MAX_BODY_BYTES or len(self.payload) > MAX_PAYLOAD_BYTES:
            raise ProtocolError(
                f"{self.topic}: expected at most {MAX_BODY_BYTES} bytes of body and {MAX_PAYLOAD_BYTES} of payload, "
                f"got {len(self.body)} and {len(self.payload)}"
            )
        if (crc := _crc32(self.body, self.payload)) != self.header.crc32:
            raise ProtocolError(
                f"{self.topic}: expected crc32 {self.header.crc32:#010x} as the header says, got {crc:#010x}"
            )

    @property
    def camera(self) -> str:
        """The camera of the topic, "" where it names none."""
        return camera_of(self.topic, self.header)

    def to_parts(self) -> list[bytes]:
        """The three or four parts to send as one ZeroMQ message."""
        parts = [self.topic.encode("ascii"), self.header.pack(), self.body]
        return [*parts, self.payload] if self.payload else parts

    @classmethod
    def from_parts(cls, parts: Sequence[bytes]) -> Message:
        """Read what was received.

        Raises:
            ProtocolError: it does not follow INS1.
        """
        if len(parts) not in (3, 4):
            raise ProtocolError(f"message: expected 3 or 4 parts, got {len(parts)}")
        if len(parts[0]) > _MAX_TOPIC_BYTES or not parts[0].isascii():
            raise ProtocolError(
                f"topic: expected at most {_MAX_TOPIC_BYTES} bytes of ASCII, got {len(parts[0])}: {parts[0][:32]!r}"
            )
        payload = parts[3] if len(parts) == 4 else b""
        return cls(parts[0].decode("ascii"), Header.unpack(parts[1]), parts[2], payload)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the station was set to when it judged."""

    number: int = 0
    internal_id: str = ""
    external_id: str = ""
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a result stands in what its station sends; verdict, mask and preview of a result share it.

    Attributes:
        epoch: number of this start of the station.
        stream: index of the camera.
        seq: number of the result in its stream, from 1.
        state: what the station is doing.
        latency_us: from the frame's arrival to publishing.
        flags: what holds for all messages of the result.
        recipe: what the station was set to.
    """

    epoch: int
    stream: int
    seq: int
    state: State
    latency_us: int = 0
    flags: Flags = Flags.NONE
    recipe: Recipe = Recipe()


def verdict_message(inspection: Inspection, origin: Origin, *, created_ns: int) -> Message:
    """The verdict on a part.

    Args:
        inspection: the result.
        origin: where it stands.
        created_ns: now, UTC ns since 1970.

    Raises:
        ProtocolError: something in it does not fit the format.
    """
    with _refusing(f"verdict on frame {inspection.frame.frame_id}"):
        body = _verdict_body(inspection, origin, created_ns)
    header = _result_header(MessageType.VERDICT, inspection, origin)
    if body.truncated:
        header = replace(header, flags=header.flags | Flags.TRUNCATED)
    return _seal(topic_of(MessageType.VERDICT, inspection.frame.camera), header, body)


def mask_message(
    inspection: Inspection, origin: Origin, *, encoding: MaskEncoding, scale_mm_per_px: float | None = None
) -> Message:
    """The mask of a part that was inspected.

    Raises:
        ProtocolError: the part was not inspected, or the mask does not fit the format.
    """
    if inspection.mask is None:
        raise ProtocolError(f"frame {inspection.frame.frame_id} was not inspected: there is no mask to send")
    height, width = inspection.mask.labels.shape
    with _refusing(f"mask of frame {inspection.frame.frame_id}"):
        body = MaskBody(
            width=width,
            height=height,
            encoding=encoding,
            classes=inspection.mask.classes.names,
            scale_mm_per_px=scale_mm_per_px,
        )
    header = _result_header(MessageType.MASK, inspection, origin)
    payload = encode_mask(inspection.mask.labels, encoding)
    return _seal(topic_of(MessageType.MASK, inspection.frame.camera), header, body, payload)


def preview_message(inspection: Inspection, origin: Origin) -> Message:
    """The camera's picture as a JPEG, for people to look at."""
    frame = inspection.frame
    body = PreviewBody(width=frame.width, height=frame.height, encoding="jpeg")
    header = _result_header(MessageType.PREVIEW, inspection, origin)
    payload = encode_preview(frame.pixels, PREVIEW_QUALITY)
    return _seal(topic_of(MessageType.PREVIEW, frame.camera), header, body, payload)


def heartbeat_message(
    station: str,
    state: State,
    streams: Sequence[StreamPosition],
    *,
    epoch: int,
    uptime_s: float,
    drops: int = 0,
    journal_lag: int = 0,
    health: DeviceHealth = DeviceHealth.NORMAL,
    health_reason: str = "",
    cameras: Mapping[str, CameraStatus] = MappingProxyType({}),
) -> Message:
    """The sign of life: how far each stream has come, and what the station is doing.

    Raises:
        ProtocolError: something in it does not fit the format.
    """
    values = {
        "station": station,
        "streams": tuple(streams),
        "state": state.label,
        "uptime_s": round(uptime_s, 3),
        "drops": drops,
        "journal_lag": journal_lag,
        "deviceHealth": health,
        "healthReason": health_reason,
        "cameras": camera_bodies(cameras),
    }
    with _refusing("heartbeat"):
        body = HeartbeatBody.model_validate(values)
    return _seal(topic_of(body.TYPE), Header(msg_type=body.TYPE, epoch=epoch, state=state), body)


def camera_bodies(cameras: Mapping[str, CameraStatus]) -> tuple[CameraBody, ...]:
    """How cameras are, as heartbeats tell it."""
    return tuple(CameraBody.model_validate({"camera": name, **asdict(status)}) for name, status in cameras.items())


def state_message(
    station: str,
    state: State,
    previous: State,
    *,
    epoch: int,
    seq: int,
    flags: Flags = Flags.NONE,
    reason: str = "",
) -> Message:
    """A change of state; counted in the station's own stream."""
    with _refusing("state"):
        body = StateBody.model_validate(
            {
                "station": station,
                "state": state.label,
                "previous": previous.label,
                "reason": _as_text(reason[:_MAX_REASON]),
            }
        )
    return _seal(topic_of(body.TYPE), Header(msg_type=body.TYPE, epoch=epoch, seq=seq, state=state, flags=flags), body)


def alarm_message(body: AlarmBody, state: State, *, epoch: int, seq: int) -> Message:
    """An alarm; counted in the station's own stream."""
    return _seal(topic_of(body.TYPE), Header(msg_type=body.TYPE, epoch=epoch, seq=seq, state=state), body)


def stats_message(body: StatsBody, state: State, *, epoch: int) -> Message:
    """The counters."""
    return _seal(topic_of(body.TYPE), Header(msg_type=body.TYPE, epoch=epoch, state=state), body)


def read_body(message: Message, model: type[_Body]) -> _Body:
    """The body as the model of its type, for instance `read_body(message, VerdictBody)`.

    Raises:
        ProtocolError: the message is of another type, or its body is not what the type asks for.
    """
    if message.header.msg_type != model.TYPE:
        raise ProtocolError(
            f"{message.topic}: expected a {model.TYPE.name} message, got type {message.header.msg_type}"
        )
    with _refusing(f"{message.topic} {message.header.seq}"):
        return model.model_validate_json(message.body)


def read_mask(message: Message) -> Mask:
    """The mask of a mask message.

    Raises:
        ProtocolError: not a mask message, or one that does not hold together.
    """
    body = read_body(message, MaskBody)
    labels = decode_mask(message.payload, body.encoding, body.height, body.width)
    try:
        return Mask(labels, ClassMap(body.classes))
    except ValueError as error:
        raise ProtocolError(f"{message.topic} {message.header.seq}: {error}") from error


def read_preview(message: Message) -> NDArray[np.uint8]:
    """The picture uint8 [H, W, 3] (RGB) of a preview message.

    Raises:
        ProtocolError: not a preview message, or one that does not hold together.
    """
    body = read_body(message, PreviewBody)
    return decode_preview(message.payload, body.height, body.width)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors(include_url=False)
        )
        raise ProtocolError(f"{what}: {faults}") from error


def _verdict_body(inspection: Inspection, origin: Origin, created_ns: int) -> VerdictBody:
    frame, timings, recipe = inspection.frame, inspection.timings, origin.recipe
    worst_first = sorted(inspection.defects, key=_severity, reverse=True)
    return VerdictBody(
        result_id=f"{origin.epoch}-{origin.stream}-{origin.seq}",
        job_id=recipe.job_id,
        meas_id=str(frame.frame_id),
        part_id=str(frame.trigger_id) if frame.trigger_id else "",
        internal_recipe_id=recipe.internal_id,
        external_recipe_id=recipe.external_id,
        model_digest=inspection.bundle_digest,
        result_state=4 if inspection.verdict is Verdict.NOT_INSPECTED else 1,
        is_partial=Flags.PARTIAL in origin.flags,
        is_simulated=Flags.SIMULATED in origin.flags,
        creation_time=(_EPOCH_1970 + timedelta(microseconds=created_ns // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        processing_times_ms=ProcessingTimes(
            acquire=round(timings.wait_ms, 3),
            pre=round(timings.pre_ms, 3),
            infer=round(timings.infer_ms, 3),
            post=round(timings.post_ms, 3),
        ),
        defects=tuple(
            _defect_body(number, defect, inspection) for number, defect in enumerate(worst_first[:MAX_DEFECTS], 1)
        ),
        truncated=len(worst_first) > MAX_DEFECTS,
        reason=_as_text(inspection.reason[:_MAX_REASON]),
        source=_as_text(frame.source) or None,
        image=None if inspection.image is None else _rounded(inspection.image.numbers),
        calibration=dict(inspection.calibration) or None,
    )


def _rounded(numbers: ImageNumbers) -> dict[str, float]:
    """Four digits: what a person reads, and a chart shows."""
    return {name: float(f"{value:.4g}") for name, value in asdict(numbers).items()}


def _as_text(words: str) -> str:
    """A file name need not be text, and a reason may quote one; it must not cost the message."""
    return words.encode("utf-8", "replace").decode("utf-8")


def _severity(defect: Defect) -> tuple[float, int]:
    return defect.score, defect.area_px


def _defect_body(number: int, defect: Defect, inspection: Inspection) -> DefectBody:
    return DefectBody(
        id=number,
        class_id=_label(defect, inspection),
        class_name=defect.class_name,
        score=round(defect.score, 4),
        bbox_px=defect.bbox_px,
        area_px=defect.area_px,
        area_mm2=_six_digits(defect.area_mm2),
        length_mm=_six_digits(defect.length_mm),
        centroid_px=(round(defect.centroid_px[0], 3), round(defect.centroid_px[1], 3)),
    )


def _six_digits(value: float | None) -> float | None:
    """More than any calibration knows."""
    return None if value is None else float(f"{value:.6g}")


def _label(defect: Defect, inspection: Inspection) -> int:
    if inspection.mask is None:
        raise ProtocolError(f"frame {inspection.frame.frame_id} shows a defect, but has no mask")
    try:
        return inspection.mask.classes.label(defect.class_name)
    except ValueError as error:
        raise ProtocolError(f"frame {inspection.frame.frame_id}: {error}") from error


def _result_header(msg_type: MessageType, inspection: Inspection, origin: Origin) -> Header:
    frame = inspection.frame
    worst = max(inspection.defects, key=_severity, default=None)
    return Header(
        msg_type=msg_type,
        epoch=origin.epoch,
        state=origin.state,
        flags=origin.flags,
        stream=origin.stream,
        seq=origin.seq,
        frame_id=frame.frame_id,
        t_acq_ns=frame.acquired_ns,
        latency_us=origin.latency_us,
        verdict=inspection.verdict,
        defect_count=min(len(inspection.defects), 0xFFFF),
        worst_class=0 if worst is None else _label(worst, inspection),
        worst_score_e4=0 if worst is None else round(worst.score * 10_000),
        recipe_no=origin.recipe.number,
        trigger_id=frame.trigger_id,
    )


def _seal(topic: str, header: Header, body: Body, payload: bytes = b"") -> Message:
    """Put the checksum into the header."""
    text = body.model_dump_json(by_alias=True, exclude_none=True).encode("utf-8")
    return Message(topic, replace(header, crc32=_crc32(text, payload)), text, payload)


def _crc32(body: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(body))
