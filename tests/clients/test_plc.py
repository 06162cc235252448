"""The Structured Text for PLCs: its offsets and numbers are the protocol's. Nothing here runs it."""

from __future__ import annotations

import re
import struct

import pytest

from inspectd.wire import HEADER_BYTES, Header, MessageType, State

from .bench import CLIENTS

SOURCE = (CLIENTS / "plc" / "ins1_header.st").read_text(encoding="utf-8")
NUMBERS = {
    name: int(value.replace("16#", ""), 16 if value.startswith("16#") else 10)
    for name, value in re.findall(r"^\s*(INS1_\w+) : \w+ := (16#[0-9A-F]+|\d+);", SOURCE, re.MULTILINE)
}
WIDTH = {"BYTE": 1, "UINT": 2, "UDINT": 4, "ULINT": 8}


def offset_of(field: str) -> int:
    """Where the bytes of a header change with this field."""
    values = {"msg_type": (1, 5), "state": (State.READY, State.HALTED), "verdict": (1, 2), "flags": (0, 1)}
    low, high = values.get(field, (0, 1))
    base = {"msg_type": MessageType.VERDICT, "epoch": 0, "state": State.READY}
    one, other = (Header(**{**base, field: value}).pack() for value in (low, high))
    return next(at for at in range(HEADER_BYTES) if one[at] != other[at])


FIELDS = [
    *("msg_type", "flags", "epoch", "stream", "seq", "latency_us", "crc32", "verdict", "state", "defect_count"),
    *("worst_class", "worst_score_e4", "recipe_no", "trigger_id"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_offsets_are_those_of_the_header(field):
    assert NUMBERS[f"INS1_OFS_{field.upper()}"] == offset_of(field)


def test_the_offsets_of_what_never_changes():
    data = Header(msg_type=1, epoch=1, state=State.READY).pack()
    assert data[NUMBERS["INS1_OFS_MAGIC"] :][:4] == bytes(
        int(value, 16) for value in re.findall(r"INS1_OFS_MAGIC(?: \+ \d)?\] <> 16#([0-9A-F]{2})", SOURCE)
    )
    assert data[NUMBERS["INS1_OFS_VER_MAJOR"]] == 1
    assert struct.unpack_from("<H", data, NUMBERS["INS1_OFS_HEADER_BYTES"]) == (HEADER_BYTES,)
    assert set(NUMBERS) >= {f"INS1_OFS_{field.upper()}" for field in FIELDS}


def test_every_field_is_read_by_its_width():
    struct_of = re.search(r"TYPE INS1_HEADER :(.*?)END_TYPE", SOURCE, re.DOTALL).group(1)
    types = dict(re.findall(r"(\w+) : (\w+);", struct_of))
    widths = {
        "BYTE": r"Data\[{}\]",
        "UINT": r"INS1_U16\(.*{}\)",
        "UDINT": r"INS1_U32\(.*{}\)",
        "ULINT": r"INS1_U64\(.*{}\)",
    }
    for name, kind in types.items():
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
        pattern = rf"Header\.{name} := {widths[kind].format('INS1_OFS_' + snake)};"
        assert re.search(pattern, SOURCE), pattern
    layout = dict(zip(("msg_type", "seq", "trigger_id", "stream"), ("BYTE", "ULINT", "UDINT", "UINT"), strict=True))
    for field, kind in layout.items():
        assert types["".join(word.title() for word in field.split("_"))] == kind


def test_numbers_are_those_of_the_protocol():
    expected = {
        "INS1_HEADER_BYTES": 64,
        "INS1_MSG_VERDICT": MessageType.VERDICT,
        "INS1_MSG_HEARTBEAT": MessageType.HEARTBEAT,
        "INS1_MSG_STATE": MessageType.STATE,
        "INS1_VERDICT_OK": 1,
        "INS1_VERDICT_NOT_INSPECTED": 4,
        "INS1_STATE_LAST": max(State),
        "INS1_SCORE_LAST": 10_000,
        "INS1_CRC_POLYNOMIAL": 0xEDB88320,
    }
    assert {name: NUMBERS[name] for name in expected} == expected
    assert "INS1_HEARTBEAT_OLDEST : TIME := T#750ms;" in SOURCE


def test_it_says_that_it_was_not_run():
    assert "THIS HAS NOT BEEN RUN ON A PLC" in SOURCE
