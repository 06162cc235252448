"""The health port, asked by real HTTP; metrics, read as Prometheus reads them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from inspectd.errors import ConfigError
from inspectd.frame import CameraState
from inspectd.runtime import health
from inspectd.runtime.beats import Beat, MastersBeat, ProcessStatus, Stage
from inspectd.runtime.health import HealthServer
from inspectd.runtime.metrics import CONTENT_TYPE, metrics
from inspectd.runtime.report import Report
from inspectd.wire import CameraBody, DeviceHealth, HistogramBody, State

from .station_site import StationSite, until
from .test_beats import STATS

CAMERA = CameraBody(
    camera="cam1",
    state=CameraState.STREAMING,
    connections=2,
    frames=30,
    unusable=1,
    missed=4,
    overruns=5,
    late=6,
    host_clock=0,
)


def report(core: dict | None = None, beat: dict | None = None, **changes) -> Report:
    told = Beat(
        **{
            "state": "ContinuousExecution",
            "ready": True,
            "status": "judging",
            "stages": {"infer": Stage(done=7, busy_s=0.25, limit_s=2.0)},
            "cameras": (CAMERA,),
            **(beat or {}),
        }
    )
    values = {"state": "running", "essential": True, "pid": 100, "beat_age_s": 0.1, "beat": told, "stats": STATS}
    archive = ProcessStatus(state="waiting", essential=False, restarts=6, failing=True, last_end="ended by SIGSEGV")
    return Report(
        **{
            "version": "0.1.0",
            "station": 'press "4"\n',
            "uptime_s": 60.0,
            "loop_age_s": 0.05,
            "processes": {"core": ProcessStatus(**{**values, **(core or {})}), "archive": archive},
            **changes,
        }
    )


MASTERS = MastersBeat(
    begun="2026-03-01T06:00:00Z", seconds=1.5, passed=False, known=36, missed=2, good=4, rejected=1, names=("a", "b")
)
DEAD = {"state": "waiting", "pid": None, "beat_age_s": None, "last_end": "ended by SIGSEGV", "restarts": 2}


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


@pytest.fixture
def told():
    return [report()]


@pytest.fixture
def server(told):
    with HealthServer(0, lambda: told[0]) as server:
        yield server


@pytest.mark.parametrize(
    ("now", "expected", "why"),
    [
        (report(), (200, 200), ""),
        (report(beat={"state": "Ready"}), (200, 200), ""),
        (report(beat={"state": "SingleExecution", "health": DeviceHealth.OFF_SPEC}), (200, 200), ""),
        (
            report(beat={"state": "Preoperational"}),
            (200, 503),
            "the station is in Preoperational; expected one of Ready",
        ),
        (report(beat={"health": DeviceHealth.FAILURE, "reason": "cam1 is away"}), (200, 503), "FAILURE: cam1 is away"),
        (report(beat={"ready": False, "status": "loading"}), (200, 503), "the core is starting: loading"),
        (report({"beat_age_s": 7.0}), (503, 503), "nothing was heard of the core for 7.0 s"),
        (report(DEAD), (503, 503), "the core does not run: ended by SIGSEGV"),
        (report({"beat_age_s": None, "running_s": 1.0}), (503, 503), "has not said anything yet"),
        (report(loop_age_s=8.0), (503, 503), "the supervisor has not looked at its processes for 8.0 s"),
    ],
)
def test_healthz_and_readyz_tell_why_not(server, told, now, expected, why):
    told[0] = now
    for path, wanted in zip(("/healthz", "/readyz"), expected, strict=True):
        status, body, headers = get(server.port, path)
        assert (status, headers["content-type"]) == (wanted, "application/json")
        assert (why if status == 503 else "") in json.loads(body)["reason"]
    assert json.loads(get(server.port, "/status")[1])["ready"] is (expected[1] == 200)


def test_status_is_the_whole_report(server, told):
    told[0] = report({"restarts": 3})
    status, body, _ = get(server.port, "/status?pretty")
    assert status == 200
    assert Report.model_validate_json(body) == told[0]


def test_head_and_what_is_not_there(server):
    status, body, headers = get(server.port, "/healthz", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["content-length"]) > 0
    assert get(server.port, "/")[0] == 404
    assert get(server.port, "/healthz", "POST")[0] == 501


# Metrics


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_tell_how_the_master_parts_came_out():
    assert not [name for name, _ in samples(metrics(report()).decode()) if "golden" in name]
    got = samples(metrics(report(beat={"masters": MASTERS})).decode())
    assert {name.removeprefix("inspectd_golden_"): value for (name, _), value in got.items() if "golden" in name} == {
        "passed": 0,
        "known_defects": 36,
        "missed_defects": 2,
        "rejected_good_parts": 1,
        "painted_defects": 0,
        "missed_painted_defects": 0,
        "test_time_seconds": 1772344800,
        "test_duration_seconds": 1.5,
    }


def test_metrics_have_units_and_say_what_was_counted(server):
    status, body, headers = get(server.port, "/metrics")
    assert (status, headers["content-type"]) == (200, CONTENT_TYPE)
    got = samples(body)
    assert got[("inspectd_info", (("station", 'press "4"\n'), ("version", "0.1.0")))] == 1
    assert got[("inspectd_ready", ())] == got[("inspectd_healthy", ())] == 1
    assert got[("inspectd_verdicts_total", (("verdict", "OK"),))] == 2
    assert got[("inspectd_triggers_total", ())] == 3
    assert got[("inspectd_process_restarts_total", (("process", "archive"),))] == 6
    assert got[("inspectd_process_up", (("process", "archive"),))] == 0
    assert got[("inspectd_process_failing", (("process", "archive"),))] == 1
    assert got[("inspectd_process_beat_age_seconds", (("process", "core"),))] == 0.1
    assert got[("inspectd_stage_busy_seconds", (("process", "core"), ("stage", "infer")))] == 0.25
    assert got[("inspectd_state", (("state", "ContinuousExecution"),))] == 1
    assert sum(value for (name, _), value in got.items() if name == "inspectd_state") == 1
    assert sum(name == "inspectd_state" for name, _ in got) == len(State)
    assert got[("inspectd_camera_missed_frames_total", (("camera", "cam1"),))] == 4
    assert got[("inspectd_core_resident_memory_bytes", ())] == 1


def test_histograms_are_cumulative_and_in_seconds():
    got = samples(metrics(report()).decode())

    def of(name: str, **labels: str) -> float:
        return got[(f"inspectd_latency_seconds_{name}", tuple(sorted({"stage": "total", **labels}.items())))]

    assert [of("bucket", le=le) for le in ("0.001", "0.01", "+Inf")] == [1, 2, 2]
    assert (of("count"), of("sum")) == (2, 0.004)


def test_a_histogram_of_another_version_is_left_out():
    odd = HistogramBody(upper_ms=(1.0,), counts=(1,), sum_ms=1.0)
    stats = STATS.model_copy(update={"latency": {"total": odd}})
    assert not [name for name, _ in samples(metrics(report({"stats": stats})).decode()) if "latency" in name]


@pytest.mark.parametrize("core", [DEAD, {"beat_age_s": 9.0}])
def test_old_numbers_are_not_told_as_new(core):
    got = samples(metrics(report(core)).decode())
    assert ("inspectd_triggers_total", ()) not in got
    assert got[("inspectd_healthy", ())] == 0


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=12), st.floats(0, 1e12))
def test_any_histogram_is_one_that_prometheus_takes(counts, total):
    upper = tuple(1.5**number for number in range(len(counts) - 1))
    body = HistogramBody(upper_ms=upper, counts=tuple(counts), sum_ms=total)
    got = samples(metrics(report({"stats": STATS.model_copy(update={"latency": {"x": body}})})).decode())
    buckets = [value for (name, _), value in got.items() if name == "inspectd_latency_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == got[("inspectd_latency_seconds_count", (("stage", "x"),))] == sum(counts)


# Clients that are not well


@pytest.fixture
def clients():
    opened: list[socket.socket] = []
    yield opened
    for client in opened:
        client.close()


def connect(server: HealthServer, opened: list[socket.socket]) -> socket.socket:
    opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
    return opened[-1]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\xff\xfe\x00\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 120 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\n\n", b"200"),
    ],
)
def test_nonsense_is_refused(server, clients, request_, expected):
    client = connect(server, clients)
    client.sendall(request_)
    answer = b""
    while more := client.recv(4096):
        answer += more
    assert expected in answer.splitlines()[0]
    assert get(server.port, "/healthz")[0] == 200


def test_clients_that_say_nothing_cost_others_seconds_at_most(server, clients, monkeypatch):
    monkeypatch.setattr(health, "CLIENT_S", 0.5)
    for _ in range(health.THREADS * 2):
        connect(server, clients)
    began = time.monotonic()
    assert get(server.port, "/healthz")[0] == 200
    assert time.monotonic() - began < 5
    for client in clients:
        assert client.recv(1) == b""


def test_a_client_that_trickles_is_sent_away(server, clients, monkeypatch):
    monkeypatch.setattr(health, "CLIENT_S", 0.5)
    client = connect(server, clients)
    began = time.monotonic()

    def trickle() -> None:
        while time.monotonic() - began < 5:
            client.sendall(b"G")
            time.sleep(0.05)

    with pytest.raises(OSError, match=r"(?i)reset|pipe"):
        trickle()
    assert time.monotonic() - began < 4


def test_a_crowd_is_bounded(server, clients, monkeypatch):
    monkeypatch.setattr(health, "CLIENT_S", 0.3)
    before = threading.active_count()
    for _ in range(200):
        connect(server, clients)
    assert threading.active_count() == before
    until(lambda: get_or_nothing(server.port) == 200)


def get_or_nothing(port: int) -> int:
    try:
        return get(port, "/healthz")[0]
    except OSError:
        return 0


def test_a_report_that_fails_is_no_end(server, told, caplog):
    told[0] = None
    with pytest.raises(http.client.RemoteDisconnected):
        get(server.port, "/healthz")
    until(lambda: "a request could not be answered" in caplog.text)
    told[0] = report()
    assert all(get(server.port, "/healthz")[0] == 200 for _ in range(health.THREADS * 2))


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(ConfigError, match=rf"health\.port: cannot listen at 127\.0\.0\.1:{server.port}"):
        HealthServer(server.port, report)


def test_it_can_listen_again_at_once_and_leaves_no_thread():
    with HealthServer(0, report) as server:
        assert get(server.port, "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(server.port, "/healthz")
    with HealthServer(server.port, report) as again:
        assert get(again.port, "/healthz")[0] == 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("health")]


# A station


def test_a_station_answers_while_its_core_hangs_and_crashes(tmp_path):
    station = StationSite(tmp_path)
    try:
        station.start(core="run", health=True)
        station.until("running")
        port = int((tmp_path / "port").read_text())
        assert get(port, "/readyz")[0] == 200
        os.kill(station.pid(), signal.SIGSTOP)
        until(lambda: get(port, "/healthz")[0] == 503 or station.report.processes["core"].restarts)
        until(lambda: get(port, "/readyz")[0] == 200)
        got = samples(get(port, "/metrics")[1])
        assert got[("inspectd_process_restarts_total", (("process", "core"),))] == 1
        station.signal(signal.SIGTERM)
        assert station.finish()[0] == 0
    finally:
        station.close()


def test_promtool_finds_nothing_to_say():
    try:
        done = subprocess.run(["promtool", "check", "metrics"], input=metrics(report()), capture_output=True)
    except FileNotFoundError:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), sys.argv
