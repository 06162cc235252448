"""A small file whose writer has a thread of its own: real files, and a disk that answers when the test says so."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from inspectd.runtime import state_file
from inspectd.runtime.state_file import StateFile

from .station_site import until


class Disk:
    """A file on a disk that may be slow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.may_write = threading.Event()
        self.may_write.set()
        self.begun: list[str] = []

    def write(self, text: str) -> None:
        self.begun.append(text)
        assert self.may_write.wait(20)
        self.path.write_text(text)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "file")
    yield disk
    disk.may_write.set()


def test_of_what_comes_while_something_is_written_the_latest_is_written_next(disk):
    answered = threading.Semaphore(0)
    file = StateFile(disk.write, name="test", written="", answered=answered.release)
    file.keep("")
    assert file.is_settled("")
    disk.may_write.clear()
    began_s = time.monotonic()
    for state in ("1", "2", "3"):
        file.keep(state)
    assert time.monotonic() - began_s < 5
    assert not any(map(file.is_settled, ("", "1", "3")))
    disk.may_write.set()
    assert answered.acquire(timeout=5)
    assert file.is_settled("1")
    file.keep("3")
    assert answered.acquire(timeout=5)
    assert (file.is_settled("3"), file.failure) == (True, "")
    assert (disk.begun, disk.path.read_text()) == (["1", "3"], "3")


def test_a_disk_that_refuses_is_told_and_asked_again(disk):
    disk.path.mkdir()
    answered = threading.Semaphore(0)
    file = StateFile(disk.write, name="test", written="0", answered=answered.release)
    file.keep("1")
    assert answered.acquire(timeout=5)
    assert (file.is_settled("1"), file.failure) == (True, "Is a directory")
    disk.path.rmdir()
    file.keep("1")
    assert answered.acquire(timeout=5)
    assert (file.failure, disk.path.read_text()) == ("", "1")


def test_a_fault_of_the_writer_is_told_by_its_name_and_ends_nothing(caplog):
    written = []

    def write(state: str) -> None:
        written.append(state)
        if len(written) < 3:
            raise TypeError("not JSON")

    answered = threading.Semaphore(0)
    file = StateFile(write, name="test", written="0", answered=answered.release)
    file.keep("1")
    assert answered.acquire(timeout=5)
    assert file.failure == "TypeError: not JSON"
    file.keep("1")
    assert answered.acquire(timeout=5)
    assert file.failure == "TypeError: not JSON"
    file.keep("1")
    assert answered.acquire(timeout=5)
    assert (file.failure, written) == ("", ["1", "1", "1"])
    # Where it came from is told once, however often it comes again.
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_after_a_failure_nobody_knows_what_the_file_says(disk):
    """A write may fail after the new file has taken its place."""
    disk.path.mkdir()
    file = StateFile(disk.write, name="test", written="0")
    file.keep("1")
    until(lambda: file.is_settled("1"))
    disk.path.rmdir()
    assert not file.is_settled("0")
    assert file.close("0")
    assert disk.path.read_text() == "0"


def test_a_disk_that_does_not_answer_is_told_and_at_the_end_waited_for_only_so_long(disk, monkeypatch):
    monkeypatch.setattr(state_file, "LAST_WRITE_S", 0.3)
    monkeypatch.setattr(state_file, "_SLOW_S", 0.1)
    file = StateFile(disk.write, name="test", written="0")
    disk.may_write.clear()
    file.keep("1")
    until(lambda: file.failure == "the disk does not answer")
    began_s = time.monotonic()
    assert not file.close("2")
    assert 0.2 < time.monotonic() - began_s < 10
    disk.may_write.set()
    until(lambda: not file.failure)
    assert file.close("2")
    assert (disk.begun, disk.path.read_text()) == (["1", "2"], "2")
