"""The client in C, under the sanitisers: golden vectors, noise, and a station that is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import zmq

from inspectd.wire import MessageType

from .bench import CLIENTS, GOLDEN, WAIT_S, place, told, wait_until

SOURCES = CLIENTS / "c"
FLAGS = ["-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
FLAGS += ["-fno-sanitize-recover=all"]
ENVIRONMENT = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_leaks=1"}
NOT_READ = {"mask-rle8-zlib", "mask-png8"}
"""This client reads rle8 alone, and says so."""
FINE, NOT_SUPPORTED = 0, 8

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not there: apt install gcc libc6-dev")


def libzmq() -> list[str]:
    """Link options: the libzmq of this machine if its header is there too, else the one within pyzmq."""
    if shutil.which("pkg-config"):
        found = subprocess.run(["pkg-config", "--cflags", "--libs", "libzmq"], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split()
    folder = Path(importlib.util.find_spec("zmq").origin).parents[1] / "pyzmq.libs"
    libraries = sorted(folder.glob("libzmq*.so*"))
    if not libraries:
        pytest.skip("there is no libzmq to link against: apt install libzmq3-dev, or a wheel of pyzmq for Linux")
    return [f"-I{SOURCES / 'fallback'}", str(libraries[0]), f"-Wl,-rpath,{folder}"]


def build(folder: Path, main: Path) -> Path:
    program = folder / main.stem
    command = ["gcc", *FLAGS, f"-I{SOURCES}", "-o", program, main, SOURCES / "ins1.c", *libzmq()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return program


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("c"), Path(__file__).with_name("c_driver.c"))


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return build(tmp_path_factory.mktemp("c"), SOURCES / "example.c")


def lines(program, *words):
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT, timeout=WAIT_S * 2
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_golden_message(driver, path):
    expected = told(path)
    status, *rest = lines(driver, "message", path)
    status = int(status.split()[0])
    if not expected["accept"] or path.stem in NOT_READ:
        assert status != FINE
        assert (status == NOT_SUPPORTED) == (path.stem in NOT_READ | {"reject-encoding-unknown"} or "zip" in path.stem)
        return
    assert status == FINE
    assert [int(word) for word in rest[0].split()] == in_order(expected["header"])
    assert expected["topic"] == "ins1/tomorrow/" or rest[1] in expected["topic"]
    if "labels" in expected:
        assert [int(word) for word in rest[2].split()] == [label for row in expected["labels"] for label in row]


def in_order(header):
    names = "ver_minor msg_type flags epoch stream seq frame_id t_acq_ns latency_us crc32 verdict state defect_count "
    names += "worst_class worst_score_e4 recipe_no trigger_id"
    return [header[name] for name in names.split()]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("tcp/*.bin")), ids=lambda path: path.stem)
def test_golden_headers_over_tcp(driver, path):
    found = [[int(word) for word in line.split()] for line in lines(driver, "tcp", path)]
    assert found == [in_order(header) for header in told(path)["headers"]]


DEEP = b"[" * 33 + b"]" * 33


@pytest.mark.parametrize(
    "text",
    [
        *(b'{"a":1}', b" [ ] ", b"{}", b'"\\u00e9\\n"', b"-0.5e+3", b"[1,2,{}]", b"null", b'{"a":[],"b":{"c":true}}'),
        *(
            b"",
            b" ",
            b"{",
            b'{"a"}',
            b'{"a":}',
            b'{"a":1,}',
            b"[1,]",
            b"[1 2]",
            b"01",
            b"1.",
            b"-",
            b"1e",
            b"+1",
            b"tru",
        ),
        *(
            b'"\\x"',
            b'"\\u12"',
            b'"\x01"',
            b'"\xff"',
            b'"\xc0\x80"',
            b'"\xed\xa0\x80"',
            b'"\xf4\x90\x80\x80"',
            b'"',
            b"NaN",
        ),
        *(b"{}{}", b"[]]", b"{1:2}", b"\xef\xbb\xbf{}", b'"\\', b'"\\u', b"[" * 1000, DEEP, '"äöü €𝄞"'.encode()),
    ],
)
def test_json_is_told_from_what_is_none(driver, tmp_path, text):
    (tmp_path / "text").write_bytes(text)
    try:
        json.loads(text.decode(), parse_constant=lambda word: pytest.fail(word) if word == "" else 1 / 0)
        is_json = text != DEEP  # deeper than this scanner goes
    except (ValueError, RecursionError, ZeroDivisionError):
        is_json = False
    assert lines(driver, "json", tmp_path / "text")[0] == str(int(is_json))


@pytest.mark.parametrize(
    ("value", "number", "text", "items"),
    [
        ("18446744073709551615", "1 18446744073709551615", "0 ", "0"),
        ("18446744073709551616", "0 0", "0 ", "0"),
        ("-1", "0 0", "0 ", "0"),
        ("1.0", "0 0", "0 ", "0"),
        (r'"a\"\\\/\t\u00e9\ud834\udd1e"', "0 0", '1 a"\\/\té𝄞', "0"),
        (r'"\u0000"', "0 0", "0 ", "0"),
        (r'"\ud834"', "0 0", "0 ", "0"),
        (f'"{"x" * 31}"', "0 0", f"1 {'x' * 31}", "0"),
        ('[1, [2, 3], {"found": 4}]', "0 0", "0 ", "3"),
    ],
)
def test_json_values(driver, tmp_path, *, value, number, text, items):
    (tmp_path / "text").write_text(f'{{"other": {{"found": 1}}, "found" : {value} , "z": 0}}', encoding="utf-8")
    found = lines(driver, "json", tmp_path / "text")
    assert (found[0], found[1], found[3]) == ("1", number, items)
    assert found[2] == text or text == "0 "


def test_a_text_that_does_not_fit_is_not_cut(driver, tmp_path):
    (tmp_path / "text").write_text(f'{{"found": "{"x" * 32}"}}')
    assert lines(driver, "json", tmp_path / "text")[2].startswith("0")


def test_the_gate_is_fail_safe(driver):
    good, wait, reject = "1", "-1", "0"
    expected = [good, *[reject] * 4, wait, wait, reject, good, reject, wait, reject, good, reject, reject, reject]
    assert lines(driver, "gate") == expected


def test_no_message_makes_it_read_or_write_where_it_should_not(driver):
    vectors = [path for path in sorted(GOLDEN.glob("*.bin")) if path.stem not in ("reject-two-parts",)]
    (fine,) = lines(driver, "fuzz", 8000, *vectors)
    assert int(fine) > 500


def test_the_fallback_header_agrees_with_libzmq():
    text = (SOURCES / "fallback" / "zmq.h").read_text()
    numbers = {
        line.split(" = ")[0].strip(): int(line.split(" = ")[1].rstrip(","))
        for line in text.splitlines()
        if line.strip().startswith("ZMQ_") and " = " in line
    }
    names = {"ZMQ_DONTWAIT": "NOBLOCK"}
    for name, number in numbers.items():
        assert int(getattr(zmq, names.get(name, name.removeprefix("ZMQ_")))) == number, name


def test_the_makefile_builds_the_example(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not there: apt install make")
    shutil.copytree(SOURCES, tmp_path / "c")
    options = [f"ZMQ_LIBS={' '.join(word for word in libzmq() if not word.startswith('-I'))}"]
    done = subprocess.run(["make", "-C", tmp_path / "c", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    usage = subprocess.run([tmp_path / "c" / "example"], capture_output=True, text=True)
    assert (usage.returncode, usage.stderr.count("\n")) == (2, 1)


# Against a station


class Running:
    """The example, and the lines that it has printed."""

    def __init__(self, program, *words):
        self.lines = []
        self.process = subprocess.Popen(
            [program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    def of(self, kind):
        return [line[1:] for line in list(self.lines) if line[0] == kind]

    @property
    def results(self):
        return [tuple(map(int, words[:3])) for words in self.of("result")]

    def expected(self, bench, *kinds):
        first = {(int(epoch), int(stream)): int(seq) for epoch, stream, seq in self.of("started")}
        begun = min(epoch for epoch, _ in first)
        places = map(place, bench.written(*kinds))
        return [each for each in places if each[0] > begun or each[2] >= first.get(each[:2], 1)]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        err = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        assert (self.process.returncode, err) == (0, "")


@pytest.mark.parametrize("options", [(), ("--masks",)], ids=["verdicts", "masks"])
def test_every_result_comes_once_however_often_the_station_is_killed(bench, example, options):
    bench.start(rate=200, drop=0.03, cameras=2)
    client = Running(example, bench.publish, bench.control, *options)
    wait_until(lambda: client.of("started"), "the first snapshot")
    for _ in range(5):
        time.sleep(0.5)
        bench.kill()
        bench.start(rate=200, drop=0.03, cameras=2)
    time.sleep(0.5)
    bench.quieten()
    expected = client.expected(bench)
    wait_until(lambda: len(client.results) >= len(expected), "all results")
    time.sleep(0.5)
    client.stop()
    assert sorted(client.results) == sorted(expected)
    for stream in (0, 1):
        own = [seq for seq in client.results if seq[1] == stream]
        assert own == sorted(own)
    assert not client.of("lost") + client.of("spoiled")
    changed = sorted(tuple(map(int, words[:3])) for words in client.of("changed"))
    assert changed == sorted(client.expected(bench, MessageType.STATE, MessageType.ALARM))
    if options:
        assert_masks_are_there(client)


def assert_masks_are_there(client):
    for words in client.of("result"):
        assert ("mask=32x48" in words or "mask=48x32" in words) == (words[4] != "NOT_INSPECTED"), words


def test_a_mask_is_waited_for_while_the_station_starts_again(bench, example):
    """It is killed between a verdict and its mask, and needs some seconds."""
    bench.quieten()
    bench.start(rate=100, killed_before_mask=21)
    client = Running(example, bench.publish, bench.control, "--masks")
    wait_until(lambda: client.of("started"), "the first snapshot")
    bench.wake()
    bench.process.wait(WAIT_S)
    time.sleep(3.0)
    bench.kill()
    bench.start(rate=100)
    wait_until(lambda: client.results and client.results[-1][0] == 2, "results of the new start")
    client.stop()
    assert not client.of("lost") + client.of("spoiled")
    assert (1, 0, 21) in client.results
    assert_masks_are_there(client)


def test_what_is_no_longer_held_is_told(bench, example):
    """It sleeps while the station forgets."""
    bench.start(rate=400, keep=50)
    client = Running(example, bench.publish, bench.control)
    wait_until(lambda: len(client.results) > 5, "results")
    client.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    client.process.send_signal(signal.SIGCONT)
    bench.quieten()
    last = len(bench.written())
    wait_until(lambda: client.results[-1][2] == last, "the last result")
    client.stop()
    told = {
        seq
        for _, stream, first, end, *_ in client.of("lost")
        if stream == "0"
        for seq in range(int(first), int(end) + 1)
    }
    had = [seq for _, _, seq in client.results]
    assert sorted([*had, *told]) == [seq for _, _, seq in client.expected(bench)]


def test_without_control_what_is_missed_is_told(bench, example):
    bench.start(rate=200, drop=0.1)
    client = Running(example, bench.publish, "-")
    wait_until(lambda: len(client.results) > 50, "results")
    bench.quieten()
    time.sleep(0.5)
    client.stop()
    told = [
        seq
        for _, stream, first, end, *_ in client.of("lost")
        if stream == "0"
        for seq in range(int(first), int(end) + 1)
    ]
    had = [seq for _, _, seq in client.results]
    assert sorted(had + told) == list(range(min(had + told), len(bench.written()) + 1))


def test_one_camera_alone(bench, example):
    bench.start(rate=200, cameras=3, drop=0.1)
    client = Running(example, bench.publish, bench.control, "--camera", "cam2")
    wait_until(lambda: client.of("started"), "the first snapshot")
    time.sleep(0.5)
    bench.kill()
    bench.start(rate=200, cameras=3, drop=0.1)
    time.sleep(0.5)
    bench.quieten()
    expected = [each for each in client.expected(bench) if each[1] == 1]
    wait_until(lambda: len(client.results) >= len(expected), "all results")
    client.stop()
    assert client.results == expected
    assert not client.of("changed") + client.of("lost") + client.of("spoiled")
    assert {words[3] for words in client.of("result")} == {"cam2"}


def test_a_station_that_is_away_is_waited_for_and_left(bench, example):
    client = Running(example, bench.publish, bench.control)
    time.sleep(0.3)
    client.stop()


def test_one_part_is_good_or_a_reject(bench, example):
    """Of the bench every fifth part is NOT_INSPECTED, and the one after it OK; trigger_id counts from 1."""
    bench.start(rate=20)
    wait_until(lambda: len(bench.written()) > 5, "results")
    number = len(bench.written()) // 5 * 5 + 45
    wanted = [(number + 1, "10000", "good"), (number, "10000", "reject"), (100_000, "300", "reject")]
    started = [
        Running(example, bench.publish, "-", "--part", "cam1", str(part), wait_ms) for part, wait_ms, _ in wanted
    ]
    for client, (_, _, outcome) in zip(started, wanted, strict=True):
        client.process.wait(WAIT_S)
        client._thread.join(WAIT_S)
        assert client.lines == [[outcome]]
        assert client.process.returncode == (outcome != "good")
        client.process.stdout.close()
        client.process.stderr.close()
