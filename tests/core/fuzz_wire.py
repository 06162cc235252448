"""Fuzzes everything that reads bytes from a network: `python tests/core/fuzz_wire.py -max_total_time=60 FOLDER`.

Whatever comes, a reader gives a message or raises ProtocolError, within bounded memory and time. Needs atheris.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["inspectd.wire"]):
    from inspectd.errors import ProtocolError
    from inspectd.wire import (
        OPERATIONS,
        AlarmBody,
        Answer,
        Header,
        HeartbeatBody,
        MaskEncoding,
        Message,
        PreviewBody,
        Request,
        StateBody,
        StatsBody,
        VerdictBody,
        decode_mask,
        read_body,
        read_mask,
        read_preview,
    )

BODIES = (AlarmBody, HeartbeatBody, PreviewBody, StateBody, StatsBody, VerdictBody)
MOST_PIXELS = 2**20


def parts_of(data: bytes) -> list[bytes]:
    """Up to five parts, each after its length (u16)."""
    parts = []
    while len(data) >= 2 and len(parts) < 5:
        (size,) = struct.unpack_from("<H", data)
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


def write_seeds(folder: Path) -> None:
    """Inputs to begin with: the golden vectors, and a request and an answer of every operation."""

    def cut(kind: int, parts: list[bytes]) -> bytes:
        return bytes([kind]) + b"".join(struct.pack("<H", len(part)) + part for part in parts)

    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((Path(__file__).parents[1] / "golden" / "ins1").glob("*.bin")):
        data, parts = path.read_bytes(), []
        while data:
            (size,) = struct.unpack_from("<I", data)
            parts.append(data[4 : 4 + size])
            data = data[4 + size :]
        (folder / path.stem).write_bytes(cut(3, parts))
    for op, operation in OPERATIONS.items():
        names = [field.alias or name for name, field in operation.arguments.model_fields.items()]
        (folder / f"request-{op}").write_bytes(cut(1, Request(1, op, dict.fromkeys(names, 1)).to_parts()))
    (folder / "answer").write_bytes(cut(2, Answer(1, {"state": "Ready"}, blobs=(b"x",)).to_parts()))
    (folder / "refusal").write_bytes(cut(2, Answer(1, code="busy", message="x").to_parts()))
    for number, runs in enumerate((struct.pack("<IB", 256, 1), zlib.compress(struct.pack("<IB", 256, 1)))):
        (folder / f"mask-{number}").write_bytes(bytes([4, number]) + runs)


def sealed(parts: list[bytes]) -> list[bytes]:
    """With a checksum that fits, so that what lies behind it is reached too."""
    if len(parts) < 3 or len(parts[1]) < 64:
        return parts
    header = bytearray(parts[1])
    struct.pack_into("<I", header, 44, zlib.crc32(b"".join(parts[3:4]), zlib.crc32(parts[2])))
    return [parts[0], bytes(header), *parts[2:4]]


def one_input(data: bytes) -> None:
    """Every reader once."""
    if not data:
        return
    parts = parts_of(data[1:])
    try:
        match data[0] % 5:
            case 0:
                Header.unpack(data[1:])
            case 1:
                request = Request.from_parts(parts)
                if request.op:
                    request.parsed()
            case 2:
                Answer.from_parts(parts)
            case 3:
                message = Message.from_parts(sealed(parts))
                for body in BODIES:
                    if message.header.msg_type == body.TYPE:
                        read_body(message, body)
                if message.header.msg_type == 2:
                    read_mask(message)
                if message.header.msg_type == 7:
                    read_preview(message)
            case _:
                encoding = list(MaskEncoding)[data[1] % 3] if len(data) > 1 else MaskEncoding.RLE8
                decode_mask(data[2:], encoding, 16, 16)
    except (ProtocolError, KeyError) as error:
        if isinstance(error, KeyError) and data[0] % 5 != 1:
            raise


if __name__ == "__main__":
    corpus = Path(sys.argv[-1])
    if corpus.name.startswith("-"):
        sys.exit("say where the inputs are kept: fuzz_wire.py [-max_total_time=60] FOLDER")
    write_seeds(corpus)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
