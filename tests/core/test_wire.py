"""INS1 on bytes: round trips, golden vectors, and decoders that only ever refuse."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inspectd.defect import Defect, find_defects
from inspectd.errors import ProtocolError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Timings, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.wire import (
    MAX_DEFECTS,
    MAX_PIXELS,
    Answer,
    ArgumentError,
    Flags,
    Header,
    HeartbeatBody,
    MaskBody,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    Request,
    State,
    StreamPosition,
    VerdictBody,
    decode_mask,
    decode_preview,
    encode_mask,
    heartbeat_message,
    mask_message,
    preview_message,
    read_body,
    read_mask,
    read_preview,
    state_message,
    topic_of,
    verdict_message,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "ins1"
CLASSES = ClassMap(("scratch", "dent", "stain"))
ORIGIN = Origin(epoch=1, stream=0, seq=1, state=State.READY)
U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1


def golden_generator():
    spec = importlib.util.spec_from_file_location("ins1_golden", GOLDEN / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def inspection(labels: np.ndarray, *, trigger_id: int = 0, channels: int = 3) -> Inspection:
    mask = Mask(labels, CLASSES)
    defects = find_defects(mask, np.full(labels.shape, 200, np.uint8))
    frame = Frame("cam1", 5, np.full((*labels.shape, channels), 80, np.uint8), 1_000_000_000, trigger_id)
    return Inspection(frame, Verdict.NG if defects else Verdict.OK, defects, mask, "00" * 32, Timings(1, 2, 3, 4))


headers = st.builds(
    Header,
    msg_type=st.sampled_from(MessageType),
    epoch=st.integers(0, U32),
    state=st.sampled_from(State),
    flags=st.integers(0, 255).map(Flags),
    stream=st.integers(0, U16),
    seq=st.integers(0, U64),
    frame_id=st.integers(0, U64),
    t_acq_ns=st.integers(-(2**63), 2**63 - 1),
    latency_us=st.integers(0, U32),
    crc32=st.integers(0, U32),
    verdict=st.integers(0, 4),
    defect_count=st.integers(0, U16),
    worst_class=st.integers(0, U16),
    worst_score_e4=st.integers(0, 10_000),
    recipe_no=st.integers(0, U32),
    trigger_id=st.integers(0, U32),
    ver_minor=st.integers(0, 255),
)
masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: st.lists(st.integers(0, 3), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda values: np.array(values, np.uint8).reshape(size)
    )
)


@given(headers)
def test_header_round_trip(header):
    assert Header.unpack(header.pack()) == header


def test_header_offsets_are_those_of_the_protocol():
    data = Header(
        msg_type=MessageType.MASK,
        ver_minor=0,
        flags=Flags.SIMULATED | Flags.TRUNCATED,
        epoch=0x11121314,
        state=State.READY,
        stream=0x2122,
        seq=0x3132333435363738,
        frame_id=0x4142434445464748,
        t_acq_ns=-2,
        latency_us=0x51525354,
        crc32=0x61626364,
        verdict=2,
        defect_count=0x7172,
        worst_class=0x8182,
        worst_score_e4=9999,
        recipe_no=0x91929394,
        trigger_id=0xA1A2A3A4,
    ).pack()
    assert len(data) == 64
    assert data[:8] == b"INS1" + bytes((1, 0, 2, 9))
    fields = {8: ("I", 0x11121314), 12: ("H", 64), 14: ("H", 0x2122), 16: ("Q", 0x3132333435363738)}
    fields |= {24: ("Q", 0x4142434445464748), 32: ("q", -2), 40: ("I", 0x51525354), 44: ("I", 0x61626364)}
    fields |= {48: ("B", 2), 49: ("B", 5), 50: ("H", 0x7172), 52: ("H", 0x8182), 54: ("H", 9999)}
    fields |= {56: ("I", 0x91929394), 60: ("I", 0xA1A2A3A4)}
    for offset, (kind, value) in fields.items():
        assert struct.unpack_from(f"<{kind}", data, offset) == (value,)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seq", -1), ("trigger_id", 2**32), ("verdict", 5), ("state", 0), ("worst_score_e4", 10_001), ("msg_type", 8)],
)
def test_header_refuses_what_a_field_cannot_hold(field, value):
    with pytest.raises(ProtocolError, match=rf"{field}: expected .*, got {value}"):
        Header(**{"msg_type": MessageType.VERDICT, "epoch": 1, "state": State.READY, field: value})


@pytest.mark.parametrize("camera", ["", "a/b", "ins1/", "cam 1", "cam\n", "käm", "x" * 65, "..", ".hidden"])
def test_a_camera_name_cannot_break_a_topic(camera):
    with pytest.raises(ProtocolError, match="camera name"):
        topic_of(MessageType.VERDICT, camera)


def test_topics():
    assert topic_of(MessageType.MASK, "cam1") == "ins1/mask/cam1/"
    assert topic_of(MessageType.HEARTBEAT) == "ins1/hb/"
    with pytest.raises(ProtocolError, match="no camera"):
        topic_of(MessageType.STATE, "cam1")


@given(masks, st.sampled_from(MaskEncoding))
def test_masks_come_back_as_they_were(labels, encoding):
    message = mask_message(inspection(labels), ORIGIN, encoding=encoding, scale_mm_per_px=0.1)
    received = Message.from_parts(message.to_parts())
    mask = read_mask(received)
    np.testing.assert_array_equal(mask.labels, labels)
    assert mask.classes == CLASSES
    assert read_body(received, MaskBody).scale_mm_per_px == 0.1


@given(masks, st.integers(0, U32), st.integers(0, 2**62))
def test_verdicts_come_back_as_they_were(labels, trigger_id, created_ns):
    found = inspection(labels, trigger_id=trigger_id)
    origin = replace(ORIGIN, epoch=3, seq=9, flags=Flags.SIMULATED)
    sent = verdict_message(found, origin, created_ns=created_ns)
    received = Message.from_parts(sent.to_parts())
    assert received == sent
    header, body = received.header, read_body(received, VerdictBody)
    assert (header.verdict, header.defect_count, header.trigger_id) == (
        found.verdict,
        len(found.defects),
        trigger_id,
    )
    assert body.result_id == "3-0-9"
    assert body.part_id == (str(trigger_id) if trigger_id else "")
    assert body.is_simulated
    assert {(d.class_name, d.area_px, d.bbox_px) for d in body.defects} <= {
        (d.class_name, d.area_px, d.bbox_px) for d in found.defects
    }
    assert all(CLASSES.name(defect.class_id) == defect.class_name for defect in body.defects)


def test_the_worst_defects_are_kept_and_all_are_counted():
    labels = np.zeros((2, 500), np.uint8)
    labels[0, ::2] = 1
    few = inspection(labels)
    defects = tuple(
        Defect("scratch", 1, defect.bbox_px, defect.centroid_px, number / 250)
        for number, defect in enumerate(few.defects)
    )
    message = verdict_message(replace(few, defects=defects), ORIGIN, created_ns=0)
    body = read_body(message, VerdictBody)
    assert body.truncated
    assert Flags.TRUNCATED in message.header.flags
    assert message.header.defect_count == 250
    assert message.header.worst_score_e4 == 9960
    assert [defect.score for defect in body.defects] == [n / 250 for n in range(249, 249 - MAX_DEFECTS, -1)]
    assert [defect.id for defect in body.defects] == list(range(1, MAX_DEFECTS + 1))


def test_a_failure_carries_its_reason_and_no_mask():
    frame = Frame("cam1", 1, np.zeros((2, 2, 1), np.uint8), 0, source="lot/b\udcff.png")
    failed = Inspection(frame, Verdict.NOT_INSPECTED, (), None, "", reason="cannot read b\udcff.png " + "x" * 5000)
    message = verdict_message(failed, ORIGIN, created_ns=0)
    body = read_body(message, VerdictBody)
    assert message.header.verdict == 4
    assert body.result_state == 4
    assert body.reason.startswith("cannot read b?.png")
    assert body.source == "lot/b?.png"
    assert len(body.reason) == 1000
    with pytest.raises(ProtocolError, match="not inspected"):
        mask_message(failed, ORIGIN, encoding=MaskEncoding.RLE8)


def test_what_cannot_be_said_is_refused_by_the_writer():
    found = inspection(np.zeros((2, 2), np.uint8), trigger_id=2**32)
    with pytest.raises(ProtocolError, match="trigger_id"):
        verdict_message(found, ORIGIN, created_ns=0)
    broken_clock = replace(inspection(np.zeros((2, 2), np.uint8)), timings=Timings(wait_ms=float("nan")))
    with pytest.raises(ProtocolError, match="acquire"):
        verdict_message(broken_clock, ORIGIN, created_ns=0)
    with pytest.raises(ProtocolError, match="scale_mm_per_px"):
        mask_message(inspection(np.zeros((2, 2), np.uint8)), ORIGIN, encoding=MaskEncoding.RLE8, scale_mm_per_px=0.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_previews(channels):
    rows = np.linspace(0, 255, 64 * 48).astype(np.uint8).reshape(64, 48, 1)
    pixels = np.ascontiguousarray(np.concatenate([rows, rows // 2, 255 - rows][:channels], axis=2))
    found = inspection(np.zeros((64, 48), np.uint8))
    found = replace(found, frame=replace(found.frame, pixels=pixels))
    message = Message.from_parts(preview_message(found, ORIGIN).to_parts())
    picture = read_preview(message)
    assert picture.shape == (64, 48, 3)
    assert np.abs(picture.astype(int) - pixels).mean() < 4
    with pytest.raises(ProtocolError, match="expected a JPEG of 48 x 64, got 64 x 48"):
        decode_preview(message.payload, 48, 64)


def test_heartbeat_round_trip():
    streams = [StreamPosition(stream=0, camera="cam1", last=4, oldest=5)]
    message = heartbeat_message("press", State.READY, streams, epoch=2, uptime_s=1.5, drops=3)
    body = read_body(Message.from_parts(message.to_parts()), HeartbeatBody)
    assert body == HeartbeatBody(
        station="press", streams=tuple(streams), state="Ready", uptime_s=1.5, drops=3, journal_lag=0
    )
    with pytest.raises(ProtocolError, match="uptime_s"):
        heartbeat_message("press", State.READY, streams, epoch=2, uptime_s=-1)


def test_reading_a_body_as_another_type_is_refused():
    message = state_message("press", State.READY, State.HALTED, epoch=1, seq=1)
    with pytest.raises(ProtocolError, match="expected a VERDICT message, got type 5"):
        read_body(message, VerdictBody)


# Golden vectors


def test_the_golden_vectors_are_what_is_written_today():
    written = golden_generator().vectors()
    for suffix in (".bin", ".json"):
        paths = (path.relative_to(GOLDEN) for path in GOLDEN.rglob(f"*{suffix}"))
        assert {path.with_suffix("").as_posix() for path in paths} == set(written)
    for name, (data, text) in written.items():
        assert (GOLDEN / f"{name}.json").read_text(encoding="utf-8") == text, name
        if name != "reject-zip-bomb":  # the one vector whose bytes depend on the version of zlib
            assert (GOLDEN / f"{name}.bin").read_bytes() == data, name


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_golden_vector(path):
    parts = golden_parts(path)
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if told["accept"]:
        message = Message.from_parts(parts)
        assert message.topic == told["topic"]
        assert {name: int(getattr(message.header, name)) for name in told["header"]} == told["header"]
        assert json.loads(message.body) == told["body"]
        if message.header.ver_minor == 0:
            assert message.to_parts() == parts
        if "labels" in told:
            assert read_mask(message).labels.tolist() == told["labels"]
    elif told["stage"] == "message":
        with pytest.raises(ProtocolError, match=told["says"]):
            Message.from_parts(parts)
    else:
        message = Message.from_parts(parts)
        with pytest.raises(ProtocolError, match=told["says"]):
            read_mask(message)


def golden_parts(path: Path) -> list[bytes]:
    data, parts = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data)
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("control/*request*.bin")), ids=lambda path: path.stem)
def test_golden_request(path):
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    try:
        request = Request.from_parts(golden_parts(path))
        request.parsed()
    except ArgumentError as error:
        found = {"code": "bad_request", "field": error.field}
    except ProtocolError:
        found = {"code": "bad_request", "field": ""}
    except KeyError:
        found = {"code": "unknown_operation", "field": "op"}
    else:
        found = {"request_id": request.request_id, "op": request.op, "args": dict(request.args)}
    assert found.items() <= told.items()
    assert told["accept"] == ("op" in found)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("control/*answer*.bin")), ids=lambda path: path.stem)
def test_golden_answer(path):
    """Whether the messages of a replay are whole is for who asked for them."""
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if told.get("says") == "answer":
        with pytest.raises(ProtocolError, match="answer"):
            Answer.from_parts(golden_parts(path))
        return
    answer = Answer.from_parts(golden_parts(path))
    if told["accept"]:
        assert (answer.request_id, answer.ok) == (told["request_id"], told["ok"])
        assert answer.result == told.get("result")
        if not answer.ok:
            assert {"code": answer.code, "field": answer.field, "message": answer.message} == told["error"]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("tcp/*.bin")), ids=lambda path: path.stem)
def test_golden_headers_over_tcp(path):
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    data, headers = path.read_bytes(), []
    for at in range(0, len(data) // 64 * 64, 64):
        header = Header.unpack(data[at : at + 64])
        if zlib.crc32(replace(header, crc32=0).pack()) != header.crc32:
            break
        headers.append({name: int(getattr(header, name)) for name in told["headers"][0]})
    assert headers == told["headers"]


# Decoders


def read_everything(parts: list[bytes]) -> None:
    message = Message.from_parts(parts)
    match message.header.msg_type:
        case MessageType.MASK:
            read_mask(message)
        case MessageType.PREVIEW:
            read_preview(message)
        case MessageType.VERDICT:
            read_body(message, VerdictBody)
        case MessageType.HEARTBEAT:
            read_body(message, HeartbeatBody)


def valid_messages() -> list[Message]:
    labels = np.zeros((16, 24), np.uint8)
    labels[2:6, 3:9] = 2
    found = inspection(labels)
    return [
        verdict_message(found, ORIGIN, created_ns=0),
        *(mask_message(found, ORIGIN, encoding=encoding) for encoding in MaskEncoding),
        preview_message(found, ORIGIN),
        heartbeat_message(
            "a", State.READY, [StreamPosition(stream=0, camera="b", last=0, oldest=1)], epoch=1, uptime_s=0
        ),
    ]


VALID = valid_messages()


def refused_or_fine(parts: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        read_everything(parts)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_noise_only_ever_raises_protocol_error(parts):
    refused_or_fine(parts)


@settings(max_examples=400)
@given(
    st.sampled_from(range(len(VALID))),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5000), st.integers(0, 255)), max_size=4),
    st.tuples(st.integers(0, 3), st.integers(0, 5000)),
)
def test_damaged_messages_only_ever_raise_protocol_error(index, resealed, changes, cut):
    """Bytes changed and one part cut; with the checksum made to fit, so that what lies behind it is reached."""
    parts = [bytearray(part) for part in VALID[index].to_parts()]
    for part, position, value in changes:
        if part < len(parts):
            parts[part][position % len(parts[part])] = value
    if cut[0] < len(parts):
        del parts[cut[0]][cut[1] :]
    if resealed and len(parts[1]) == 64:
        struct.pack_into("<I", parts[1], 44, zlib.crc32(b"".join(parts[2:])))
    refused_or_fine([bytes(part) for part in parts])


@given(st.sampled_from(MaskEncoding), st.binary(max_size=100), st.integers(0, 40), st.integers(0, 40))
@example(MaskEncoding.PNG8, b"\x89PNG\r\n\x1a\n", 1, 1)
def test_payload_noise_only_ever_raises_protocol_error(encoding, payload, height, width):
    with contextlib.suppress(ProtocolError):
        assert decode_mask(payload, encoding, height, width).shape == (height, width)


@given(st.binary(max_size=100))
def test_preview_noise_only_ever_raises_protocol_error(payload):
    with pytest.raises(ProtocolError):
        decode_preview(b"\xff\xd8" + payload, 3, 3)


def test_sizes_are_bounded_before_anything_is_allocated():
    runs = struct.pack("<I", U32) + b"\0"
    for encoding in MaskEncoding:
        with pytest.raises(ProtocolError, match="pixels"):
            decode_mask(runs, encoding, MAX_PIXELS, 2)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_png_bombs_and_other_pictures_are_refused():
    labels = np.zeros((8, 8), np.uint8)
    good = encode_mask(labels, MaskEncoding.PNG8)
    start, end = good[: 8 + 25], png_chunk(b"IEND", b"")

    def refused(payload: bytes, says: str) -> None:
        with pytest.raises(ProtocolError, match=says):
            decode_mask(payload, MaskEncoding.PNG8, 8, 8)

    refused(start + png_chunk(b"IDAT", zlib.compress(bytes(10**6))) + end, "at most 72 bytes")
    refused(start + png_chunk(b"IDAT", zlib.compress(bytes(71))) + end, "expected 72 bytes of pixels")
    refused(start + png_chunk(b"IDAT", zlib.compress(b"\x07" * 72)) + end, "damaged")
    refused(start + png_chunk(b"zTXt", b"") + good[len(start) :], "IHDR, IDAT and IEND alone")
    refused(good + b"garbage", "no chunk")
    refused(good[:-1], "no chunk")
    refused(good[:-20] + b"!" + good[-19:], "chunk")
    refused(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(), "8-bit grey")
    refused(cv2.imencode(".png", np.zeros((9, 8), np.uint8))[1].tobytes(), "8-bit grey picture of 8 x 8")
