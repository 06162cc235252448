"""Requests and answers of control: what is none is refused, and nothing else happens."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.errors import ProtocolError
from inspectd.wire import MAX_REQUEST_BYTES, OPERATIONS, ROLES, Answer, ArgumentError, Request

numbers = st.integers(0, 2**64 - 1)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
arguments = st.dictionaries(st.text(max_size=8), values, max_size=4)


@given(number=numbers, op=st.sampled_from(sorted(OPERATIONS)), args=arguments)
def test_a_request_comes_back_as_it_was_sent(number, op, args):
    assert Request.from_parts(Request(number, op, args).to_parts()) == Request(number, op, args)


@given(number=numbers, result=arguments, blobs=st.lists(st.binary(max_size=20), max_size=5))
def test_an_answer_comes_back_as_it_was_sent(number, result, blobs):
    answer = Answer(number, result, blobs=tuple(blobs))
    assert Answer.from_parts(answer.to_parts()) == answer


@given(parts=st.lists(st.binary(max_size=100), max_size=5))
def test_any_parts_are_a_request_or_refused(parts):
    try:
        Request.from_parts(parts)
    except ProtocolError as error:
        assert str(error)  # noqa: PT017 - some are requests
    try:
        Answer.from_parts(parts)
    except ProtocolError as error:
        assert str(error)  # noqa: PT017


@given(op=st.sampled_from(sorted(OPERATIONS)), args=arguments)
def test_any_arguments_are_taken_or_refused_with_the_field_at_fault(op, args):
    try:
        Request(1, op, args).parsed()
    except ArgumentError as error:
        assert op in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("op", "args", "field"),
    [
        ("replay", {"stream": 0, "from": 0, "to": 5}, "from"),
        ("replay", {"stream": 0, "to": 5}, "from"),
        ("replay", {"stream": 70_000, "from": 1, "to": 5}, "stream"),
        ("set_threshold", {"class": "a", "score": 0}, "score"),
        ("set_threshold", {"class": "a", "scroe": 0.5}, "scroe"),
        ("load_model", {"bundle": "../up"}, "bundle"),
        ("load_model", {"bundle": ".hidden"}, "bundle"),
        ("load_model", {"bundle": "a/b"}, "bundle"),
        ("stop", {"now": 1}, "now"),
        ("prepare_recipe", {"recipe_no": 2**32}, "recipe_no"),
        ("start_single_job", {"trigger_id": True}, "trigger_id"),
    ],
)
def test_what_is_wrong_is_named(op, args, field):
    with pytest.raises(ArgumentError) as caught:
        Request(1, op, args).parsed()
    assert caught.value.field == field


def test_a_request_is_bounded():
    parts = Request(1, "hello", {}).to_parts()
    with pytest.raises(ProtocolError, match="at most"):
        Request.from_parts([*parts, b"x" * MAX_REQUEST_BYTES])
    with pytest.raises(ProtocolError):
        Request.from_parts([parts[0], b"[" * 50_000])


def test_roles_and_operations_fit_together():
    for name, operation in OPERATIONS.items():
        assert operation.role in ROLES
        assert operation.arguments.__doc__, name
    assert [name for name, operation in OPERATIONS.items() if not operation.changes] == [
        *("hello", "snapshot", "replay", "get_result", "get_image")
    ]
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    for name, operation in OPERATIONS.items():
        assert f"`{name}`" in page
        for field in operation.arguments.model_fields.values():
            assert field.alias is None or f"`{field.alias}`" in page
    assert json.loads(Answer(1, code="busy", message="x").to_parts()[1])["error"]["code"] == "busy"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_readers_hold_against_a_fuzzer(tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install atheris, where there is a wheel for this Python")
    script = Path(__file__).with_name("fuzz_wire.py")
    done = subprocess.run(
        [
            sys.executable,
            script,
            "-max_total_time=180",
            "-rss_limit_mb=1500",
            "-timeout=10",
            "-max_len=4096",
            tmp_path / "corpus",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr[-3000:]
