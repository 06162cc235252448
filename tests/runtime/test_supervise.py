"""A station's supervisor with everything that its configuration asks for, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from .station_site import HERE, StationSite, until
from .test_health import get
from .test_supervisor import ServiceManager

SCRIPT = """
import sys
from pathlib import Path
from inspectd.runtime.signals import while_starting
while_starting()
from inspectd.config import load_config
from inspectd.errors import InspectdError
from inspectd.runtime.child import Child
from inspectd.runtime.supervise import supervise
config, toy, folder = sys.argv[1:]
try:
    names = ("core", "archive")
    children = [Child(name, (sys.executable, toy, folder, name, "run"), essential=name == "core") for name in names]
    sys.exit(supervise(load_config(Path(config)), children))
except InspectdError as error:
    sys.exit(str(error))
"""
FOLDER = 'source = "folder"\npath = "."'


@pytest.fixture
def station(tmp_path, write_config):
    site = StationSite(tmp_path)

    def start(sections: str, **environment: str) -> StationSite:
        arguments = (str(write_config(FOLDER, sections)), str(HERE / "toy_child.py"), str(tmp_path))
        site.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        return site

    yield start
    site.close()


def test_everything_together(station, tmp_path):
    manager = ServiceManager(str(tmp_path / "notify"))
    site = station(
        '[health]\nport = 0\n[log]\nformat = "json"\nlevel = "DEBUG"',
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="45000000",
    )
    records = [json.loads(site.process.stderr.readline())]
    assert records[0]["process"] == "supervisor"
    port = int(re.search(r"127\.0\.0\.1:(\d+)/", records[0]["message"])[1])
    manager.hear("READY=1")
    until(lambda: get(port, "/readyz")[0] == 200)
    report = json.loads(get(port, "/status")[1])
    assert (report["station"], set(report["processes"])) == ("test", {"core", "archive"})
    site.signal(signal.SIGTERM)
    manager.hear("STOPPING=1")
    status, log = site.finish()
    assert status == 0
    assert {json.loads(line)["process"] for line in log.splitlines()} == {"supervisor"}
    manager.close()


def test_a_port_that_is_taken_ends_it_before_anything_is_started(station, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = station(f"[health]\nport = {listener.getsockname()[1]}")
        status, log = site.finish()
    assert status == 1
    assert "health.port: cannot listen at 127.0.0.1" in log
    assert not list(tmp_path.glob("*.log"))
