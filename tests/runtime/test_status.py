"""`inspectd status` against a real port."""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.runtime.health import HealthServer
from inspectd.runtime.status_view import quantile_ms
from inspectd.wire import DeviceHealth, HistogramBody

from .conftest import run_inspectd
from .station_site import StationSite
from .test_health import DEAD, MASTERS, report

FOLDER = 'source = "folder"\npath = "pictures"'


def told(now, *arguments):
    with HealthServer(0, lambda: now) as server:
        return run_inspectd("status", "--port", server.port, *arguments)


def test_a_station_that_judges(tmp_path):
    status, out, err = told(report())
    assert (status, err) == (0, "")
    # A name is shown as it was written; a line break in it does not make a line.
    assert out.splitlines()[0] == "station 'press \"4\"\\n': ready"
    for text in ("ContinuousExecution, deviceHealth NORMAL", "OK 2", "triggers 3", "waiting 1", "2 rows"):
        assert text in out
    lines = [line.split() for line in out.splitlines()]
    assert ["cam1", "Streaming", "30", "4", "1", "5", "6"] in lines
    assert ["total", "1.0", "ms", "9.8", "ms", "2"] in lines
    (archive,) = [line for line in lines if line[:1] == ["archive"] and "failing" in line]
    assert archive[1:4] == ["waiting,", "failing", "6"]


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (report(DEAD), "the core does not run: ended by SIGSEGV"),
        (report(beat={"health": DeviceHealth.FAILURE, "reason": "no \x1b[1mcamera"}), "FAILURE: no ?[1mcamera"),
        (report(beat={"state": "Halted"}), "the station is in Halted"),
    ],
)
def test_a_station_that_does_not_is_1_and_says_why(now, why):
    status, out, err = told(now)
    assert (status, err) == (1, "")
    assert "not ready: " in out
    assert why in out.replace("\n", " ")
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("masters", "told_so"),
    [
        (MASTERS, "in 1.5 s: 34 of 36 known defects found, 3 of 4 good parts accepted; missed: a, b"),
        (
            MASTERS.model_copy(update={"painted": 21, "painted_missed": 1}),
            "3 of 4 good parts accepted, 20 of 21 painted; missed: a, b",
        ),
        (
            MASTERS.model_copy(update={"known": 0, "fault": "cannot be judged: no file"}),
            "golden 2026-03-01T06:00:00Z, in 1.5 s: cannot be judged: no file",
        ),
    ],
)
def test_how_the_master_parts_came_out(masters, told_so):
    _, out, _ = told(report(beat={"masters": masters}))
    assert told_so in " ".join(out.split())


def test_json_is_the_report():
    status, out, _ = told(report(), "--json")
    assert status == 0
    facts = json.loads(out)
    assert (facts["ready"], facts["reason"], facts["processes"]["archive"]["restarts"]) == (True, "", 6)
    status, out, _ = told(report(DEAD), "--json")
    assert (status, json.loads(out)["ready"]) == (1, False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nobody_there_is_2_with_a_remedy(write_config):
    port = free_port()
    config = write_config(FOLDER, f"[health]\nport = {port}")
    for arguments in ((config,), ("--port", port)):
        status, out, err = run_inspectd("status", *arguments)
        assert (status, out) == (2, "")
        assert err.startswith(f"inspectd: error: 127.0.0.1:{port}: no station answers (Connection refused); start it")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "expected"),
    [("", "health.port is not set"), ("[health]\nport = 0", "health.port is 0"), (None, "expected the station's conf")],
)
def test_no_port_is_2_with_a_remedy(write_config, section, expected):
    arguments = () if section is None else (write_config(FOLDER, section),)
    status, _, err = run_inspectd("status", *arguments)
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno"],
)
def test_another_program_is_2(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        status, _, err = run_inspectd("status", "--port", listener.getsockname()[1])
        thread.join()
    assert status == 2
    assert "what answers is no station" in err
    assert err.count("\n") == 1


def test_a_station_of_real_processes(tmp_path):
    station = StationSite(tmp_path)
    try:
        station.start(core="run", archive="run", health=True)
        station.until("running")
        station.until("running", "archive")
        status, out, err = run_inspectd("status", "--port", (tmp_path / "port").read_text())
        assert (status, err) == (0, "")
        assert str(station.pid("archive")) in out
        station.signal(signal.SIGTERM)
        station.finish()
    finally:
        station.close()


# Quantiles

HISTOGRAMS = st.lists(st.integers(0, 1000), min_size=2, max_size=10).map(
    lambda counts: HistogramBody(
        upper_ms=tuple(2.0**number for number in range(len(counts) - 1)), counts=tuple(counts), sum_ms=0.0
    )
)


@given(HISTOGRAMS, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_and_lie_in_the_bin_of_their_part(histogram, one, other):
    if not sum(histogram.counts):
        assert quantile_ms(histogram, one) is None
        return
    (low, _), (high, beyond) = (quantile_ms(histogram, share) for share in sorted((one, other)))
    assert low <= high
    assert not beyond or (high == histogram.upper_ms[-1] and histogram.counts[-1])


def test_quantiles_are_between_the_bounds():
    histogram = HistogramBody(upper_ms=(10.0, 20.0), counts=(50, 49, 1), sum_ms=0.0)
    assert quantile_ms(histogram, 0.25) == (5.0, False)
    assert quantile_ms(histogram, 0.5) == (10.0, False)
    assert quantile_ms(histogram, 0.99) == (20.0, False)
    assert quantile_ms(histogram, 0.995) == (20.0, True)
