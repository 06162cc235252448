"""The client in C#: what of it can be held against the protocol without .NET, and its build where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from inspectd.wire import (
    MAX_BODY_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PIXELS,
    MAX_REPLAY_ROWS,
    STATION_STREAM,
    Flags,
    Header,
    MessageType,
    State,
    topic_of,
)

from .bench import CLIENTS
from .test_plc import offset_of

FOLDER = CLIENTS / "csharp"
SOURCE = (FOLDER / "Ins1.cs").read_text(encoding="utf-8")
FIELDS = [
    *("msg_type", "flags", "epoch", "stream", "seq", "frame_id", "t_acq_ns", "latency_us", "crc32", "verdict", "state"),
    *("defect_count", "worst_class", "worst_score_e4", "recipe_no", "trigger_id", "ver_minor"),
]
READERS = {"byte": r"data\[{}\]", "ushort": "ReadUInt16LittleEndian", "uint": "ReadUInt32LittleEndian"}
READERS |= {"ulong": "ReadUInt64LittleEndian", "long": "ReadInt64LittleEndian"}


def pascal(name: str) -> str:
    return "".join(word.title() for word in name.split("_"))


def constant(name: str) -> int:
    text = re.search(rf"const \w+ {name} = ([^;]+);", SOURCE).group(1)
    base, _, shift = text.partition(" << ")
    return int(base, 0) << int(shift or 0)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_read_where_it_lies(field):
    name = pascal(field)
    assert constant(f"Offset{name}") == offset_of(field)
    kind = re.search(rf"public (\w+) {name} {{ get; init; }}", SOURCE).group(1)
    kind = {"Verdict": "byte", "HeaderFlags": "byte"}.get(kind, kind)
    read = re.search(rf"^            {name} = (.*),$", SOURCE, re.MULTILINE).group(1)
    assert f"Offset{name}" in read
    assert re.search(READERS[kind].format(f"Offset{name}"), read)


def members(enum: str) -> dict[str, int]:
    body = re.search(rf"public enum {enum} : byte\n{{(.*?)}}", SOURCE, re.DOTALL).group(1)
    return {name: int(value) for name, value in re.findall(r"(\w+) = (\d+),", body)}


def test_numbers_and_topics_are_those_of_the_protocol():
    assert members("MessageType") == {kind.name.title(): kind.value for kind in MessageType}
    assert members("Verdict") == {"Undefined": 0, "Ok": 1, "Ng": 2, "Review": 3, "NotInspected": 4}
    assert members("HeaderFlags") == {pascal(flag.name.lower()): flag.value for flag in Flags if flag}
    topics = dict(re.findall(r'\[MessageType\.(\w+)\] = "(.*?)"', SOURCE))
    for kind in MessageType:
        camera = "x" if kind in (MessageType.VERDICT, MessageType.MASK, MessageType.PREVIEW) else ""
        assert topics[kind.name.title()] == topic_of(kind, camera).removesuffix("x/")
    assert constant("Bytes") == len(Header(msg_type=1, epoch=0, state=State.READY).pack())
    assert constant("MaxBodyBytes") == MAX_BODY_BYTES
    assert constant("MaxPayloadBytes") == MAX_PAYLOAD_BYTES
    assert constant("MaxPixels") == MAX_PIXELS
    assert constant("MaxReplay") == MAX_REPLAY_ROWS
    assert constant("StationStream") == STATION_STREAM
    assert constant("Polynomial") == 0xEDB88320
    assert (constant("HeartbeatMs"), constant("OldestPeriods")) == (250, 3)


def test_it_says_that_it_was_not_run():
    assert "has not been compiled or run" in SOURCE
    assert "has not been compiled or run" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_builds(tmp_path):
    if shutil.which("dotnet") is None:
        pytest.skip("dotnet is not there: install the .NET 8 SDK, with a network for NetMQ")
    shutil.copytree(FOLDER, tmp_path / "csharp")
    done = subprocess.run(["dotnet", "build", tmp_path / "csharp"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout
