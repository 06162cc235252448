"""Reading beside a thread that may not wait: real FIFOs, whose reader hangs until somebody writes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from inspectd.runtime.disk_worker import DiskWorker

from .station_site import until


@pytest.fixture
def make_worker():
    workers: list[DiskWorker[bytes]] = []

    def make(**limits) -> DiskWorker[bytes]:
        workers.append(DiskWorker("test", **limits))
        workers[-1].start()
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def fifo(tmp_path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_what_is_read_is_given_in_order(make_worker, tmp_path):
    worker, given = make_worker(limit_s=20.0, most=100), []
    for number in range(20):
        path = tmp_path / str(number)
        path.write_text(str(number))
        assert worker.do(path.read_bytes, given.append, late=b"late")
    until(lambda: len(given) == 20)
    assert given == [str(number).encode() for number in range(20)]


def test_what_hangs_is_given_up_and_so_is_what_waits_behind_it(make_worker, fifo, tmp_path):
    worker, given = make_worker(limit_s=3.0, most=3), []
    (tmp_path / "whole").write_bytes(b"whole")
    worker.do(fifo.read_bytes, given.append, late=b"late")
    until(lambda: worker.busy_s > 0)
    worker.do((tmp_path / "whole").read_bytes, given.append, late=b"late too", limit_s=0.1)
    until(lambda: worker.look() or given)
    assert given == [b"late too"]
    until(lambda: worker.look() or len(given) == 2)
    until(lambda: worker.is_hanging)
    began_s = time.monotonic()
    assert worker.do(fifo.read_bytes, given.append, late=b"at once")
    assert time.monotonic() - began_s < 1.5
    assert given == [b"late too", b"late", b"at once"]
    # Once the disk answers, it is read from again; what was given up is given to nobody.
    fifo.open("wb").close()
    until(lambda: not worker.is_hanging)
    worker.do((tmp_path / "whole").read_bytes, given.append, late=b"late")
    until(lambda: len(given) == 4)
    assert given[-1] == b"whole"


def test_no_more_may_wait_than_so_many(make_worker, fifo):
    worker, given = make_worker(limit_s=20.0, most=2), []
    taken = [worker.do(fifo.read_bytes, given.append, late=b"late") for _ in range(3)]
    assert taken == [True, True, False]
    for number in (1, 2):
        fifo.open("wb").close()
        until(lambda number=number: len(given) == number)
    assert worker.do(lambda: b"again", given.append, late=b"late")
    until(lambda: len(given) == 3)
    assert given == [b"", b"", b"again"]


def test_what_goes_wrong_unexpectedly_does_not_end_it(make_worker):
    worker, given = make_worker(limit_s=20.0, most=2), []

    def broken() -> bytes:
        raise RuntimeError("on purpose")

    worker.do(broken, given.append, late=b"late")
    worker.do(lambda: b"whole", given.append, late=b"late")
    until(lambda: len(given) == 2)
    assert given == [b"late", b"whole"]
