"""The client in Python on bytes: golden vectors, noise, the fail-safe gate."""

from __future__ import annotations

import ast
import contextlib
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspectd.wire import MaskEncoding, encode_mask

from .bench import CLIENTS, GOLDEN, golden_parts, load_client, told

INS1 = load_client()
SOURCE = CLIENTS / "python" / "ins1_client.py"


def read_everything(parts):
    message = INS1.read_message(parts)
    return message, INS1.read_mask(message) if message.header.msg_type == INS1.MASK else None


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_golden_message(path):
    expected = told(path)
    if not expected["accept"]:
        with pytest.raises(INS1.ProtocolError, match=expected["says"]):
            read_everything(golden_parts(path))
        return
    message, mask = read_everything(golden_parts(path))
    assert message.topic == expected["topic"]
    assert message.header._asdict() == expected["header"]
    assert message.body == expected["body"]
    if mask is not None:
        rows = [list(mask.labels[at : at + mask.width]) for at in range(0, len(mask.labels), mask.width)]
        assert rows == expected["labels"]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("control/*answer*.bin")), ids=lambda path: path.stem)
def test_golden_answer(path):
    expected = told(path)
    if not expected["accept"]:
        with pytest.raises(INS1.ProtocolError, match=expected["says"]):
            INS1.read_replay(INS1.read_answer(golden_parts(path))[1])
        return
    number, outcome = INS1.read_answer(golden_parts(path))
    assert number == expected["request_id"]
    if expected["ok"]:
        assert outcome.result == expected["result"]
        headers = [message.header for message in INS1.read_replay(outcome)]
        assert [{name: getattr(each, name) for name in expected["messages"][0]} for each in headers] == expected[
            "messages"
        ]
    else:
        assert (outcome.code, outcome.field) == (expected["error"]["code"], expected["error"]["field"])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("tcp/*.bin")), ids=lambda path: path.stem)
def test_golden_headers_over_tcp(path):
    expected, data = told(path), path.read_bytes()
    whole = [data[at : at + 64] for at in range(0, len(data) // 64 * 64, 64)]
    headers = [INS1.read_tcp_header(each)._asdict() for each in whole[: len(expected["headers"])]]
    if "says" in expected:
        with pytest.raises(INS1.ProtocolError, match=expected["says"]):
            INS1.read_tcp_header(whole[len(headers)])
    assert headers == expected["headers"]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.sampled_from(MaskEncoding))
def test_every_encoding_of_a_mask_is_read(height, width, seed, encoding):
    labels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8)
    payload = encode_mask(labels, encoding)
    body = {"width": width, "height": height, "encoding": encoding.value, "classes": ["a", "b", "c"]}
    header = INS1.Header(0, INS1.MASK, *[0] * 15)
    assert INS1.read_mask(INS1.Message("ins1/mask/c/", "c", header, body, payload)).labels == labels.tobytes()


@pytest.mark.parametrize("strategy", range(5))
def test_every_filter_of_a_png_is_undone(strategy):
    labels = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8) % 7
    rows, above = b"", np.zeros(60, int)
    for line in labels.astype(int):
        left, corner = np.append(0, line[:-1]), np.append(0, above[:-1])
        guess = left + above - corner
        paeth = np.array(
            [
                min(enumerate((a, b, c)), key=lambda each: (abs(p - each[1]), each[0]))[1]
                for a, b, c, p in zip(left, above, corner, guess, strict=True)
            ]
        )
        predicted = (0 * line, left, above, (left + above) // 2, paeth)[strategy]
        rows += bytes([strategy]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
        above = line
    chunks = [(b"IHDR", struct.pack(">II5B", 60, 40, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    # The filter of this test is the one that OpenCV undoes.
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), labels)
    assert INS1._read_png(data, 60, 40) == labels.tobytes()


VALID = [golden_parts(path) for path in sorted(GOLDEN.glob("*.bin")) if told(path)["accept"]]


@settings(max_examples=500)
@given(
    st.sampled_from(range(len(VALID))),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.tuples(st.integers(0, 3), st.integers(0, 2000)),
)
def test_damaged_messages_only_ever_raise_protocol_error(index, resealed, changes, cut):
    parts = [bytearray(part) for part in VALID[index]]
    for part, position, value in changes:
        if part < len(parts):
            parts[part][position % len(parts[part])] = value
    if cut[0] < len(parts):
        del parts[cut[0]][cut[1] :]
    if resealed and len(parts[1]) >= 64:
        struct.pack_into("<I", parts[1], 44, zlib.crc32(b"".join(parts[2:])))
    with contextlib.suppress(INS1.ProtocolError):
        read_everything([bytes(part) for part in parts])


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_noise_only_ever_raises_protocol_error(parts):
    for read in (INS1.read_message, INS1.read_answer):
        with contextlib.suppress(INS1.ProtocolError):
            read(parts)


@pytest.mark.parametrize("text", [b'{"width":NaN}', b"[" * 100_000, b"\xff", b'"a"', b"{}", b'{"width":true}'])
def test_json_that_is_none_is_refused(text):
    parts = list(VALID[0])
    index = next(i for i, parts in enumerate(VALID) if parts[1][6] == INS1.MASK)
    parts = [*VALID[index][:2], text, b""]
    header = bytearray(parts[1])
    struct.pack_into("<I", header, 44, zlib.crc32(text))
    with pytest.raises(INS1.ProtocolError):
        INS1.read_message([parts[0], bytes(header), text])


def test_the_file_needs_pyzmq_and_the_standard_library_alone():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"zmq"}


def test_keys_are_read_from_a_file(tmp_path):
    path = tmp_path / "client"
    path.write_text(f'# of press 3\nserver_key = "{"s" * 40}"\n    public-key = "{"p" * 40}"  # ours\n')
    with pytest.raises(ValueError, match="secret_key"):
        INS1.Keys.from_file(str(path))
    path.write_text(path.read_text() + f"secret-key = '{'x' * 40}'\n")
    assert INS1.Keys.from_file(str(path)) == (b"s" * 40, b"p" * 40, b"x" * 40)
    assert INS1.Keys.from_file(str(path), "S" * 40).server == b"S" * 40


# The fail-safe gate


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(clock):
    gate = INS1.Gate("cam1", clock=clock)
    gate.feed(message(INS1.HEARTBEAT))
    gate.begin(7, deadline_s=0.5)
    return gate


def message(msg_type, *, verdict=0, trigger_id=0, camera="", flags=0):
    header = INS1.Header(0, msg_type, flags, *[0] * 7, verdict, 7, *[0] * 4, trigger_id)
    return INS1.Message("", camera, header, {}, b"")


def judged(verdict=1, trigger_id=7, camera="cam1", flags=0):
    return message(INS1.VERDICT, verdict=verdict, trigger_id=trigger_id, camera=camera, flags=flags)


def test_a_good_part_is_good(gate):
    assert gate.decide() is None
    gate.feed(judged())
    assert gate.decide() is True


@pytest.mark.parametrize("verdict", [0, 2, 3, 4])
def test_every_other_verdict_is_a_reject(gate, verdict):
    gate.feed(judged(verdict))
    assert gate.decide() is False
    gate.feed(judged())
    assert gate.decide() is False


@pytest.mark.parametrize("other", [{"trigger_id": 6}, {"trigger_id": 0}, {"camera": "cam2"}, {"flags": 4}])
def test_the_verdict_on_another_part_does_not_count(gate, clock, other):
    gate.feed(judged(**other))
    assert gate.decide() is None
    clock.now_s += 0.5
    gate.feed(judged())
    assert gate.decide() is False


def test_what_comes_at_the_deadline_or_later_is_a_reject(gate, clock):
    clock.now_s += 0.5
    gate.feed(judged())
    assert gate.decide() is False


@pytest.mark.parametrize(("age_s", "good"), [(0.749, True), (0.75, False), (10, False)])
def test_the_heartbeat_has_to_be_young(clock, age_s, good):
    gate = INS1.Gate("cam1", clock=clock)
    gate.feed(message(INS1.HEARTBEAT))
    clock.now_s += age_s
    gate.begin(7, deadline_s=0.5)
    gate.feed(judged())
    assert gate.decide() is good


def test_without_a_heartbeat_or_a_part_all_is_a_reject(clock):
    gate = INS1.Gate("cam1", clock=clock)
    gate.feed(judged())
    assert gate.decide() is False
    gate.begin(7, 1)
    gate.feed(judged())
    assert gate.decide() is False
