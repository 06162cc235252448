"""The unit, judged by systemd's own tools, and held against what the supervisor does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inspectd.errors import CameraError
from inspectd.runtime.child import DRAIN_S
from inspectd.runtime.restarts import BackOff
from inspectd.runtime.simcam import producer_path

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "inspectd@.service"
PROGRAM = "/opt/inspectd/bin/inspectd"
EXPOSURE = 1.6
"""As docs/station.md says; measured with systemd 252."""


def settings() -> dict[str, str]:
    """The last value of each setting."""
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def unit(tmp_path):
    """An instance of the unit, whose program is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; it comes with systemd")
    program = tmp_path / "inspectd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "inspectd@press4.service"
    path.write_text(UNIT.read_text().replace(PROGRAM, str(program)))
    return path


def test_systemd_finds_no_fault(unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_as_closed_as_the_docs_say(unit):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}", unit],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = float(re.search(r"exposure level for .*: ([\d.]+)", done.stdout)[1])
    assert found <= EXPOSURE
    page = (FOLDER.parents[1] / "docs" / "station.md").read_text()
    assert f"exposure level of {EXPOSURE}" in page


def test_its_times_are_longer_than_the_supervisor_s():
    unit = settings()
    assert int(unit["WatchdogSec"]) > BackOff().patient_s
    # The core drains, then the others.
    assert int(unit["TimeoutStopSec"]) > 2 * DRAIN_S
    assert (unit["Type"], unit["RestartPreventExitStatus"], unit["KillMode"]) == ("notify", "2", "mixed")


def allowed(group: str) -> set[str]:
    """The system calls of a group of systemd's."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group], capture_output=True, text=True, check=True
    )
    names = [line.strip() for line in done.stdout.splitlines()[1:] if line.strip() and line.strip()[0] != "#"]
    calls = {name for name in names if not name.startswith("@")}
    return calls.union(*(allowed(name) for name in names if name.startswith("@")))


def test_a_line_calls_nothing_that_the_unit_forbids(unit, tmp_path):
    """A camera's process, shared memory, inference and publishing, seen by strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed; it is a package of that name")
    try:
        producer_path()
    except CameraError as error:
        pytest.skip(str(error))
    listed = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    granted, refused = listed
    assert refused.startswith("~")
    calls = allowed(granted).difference(*(allowed(group) for group in refused[1:].split()))
    script = "from inspectd.runtime.entry import main; main()"
    options = ("demo", "--frames", "3", "--endpoint", f"ipc://{tmp_path}/pub")
    done = subprocess.run(
        ["strace", "-f", "-qq", "-c", "-U", "name", "-o", tmp_path / "calls", sys.executable, "-c", script, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    used = set(re.findall(r"^\w+$", (tmp_path / "calls").read_text(), re.MULTILINE)) - {"syscall", "total"}
    assert len(used) > 50
    # Whether the clock is synchronised is asked of the kernel, and where that is refused of systemd-timesyncd.
    tolerated = {"clock_adjtime", "adjtimex"}
    if os.geteuid() == 0:
        tolerated.add("fchown")  # SQLite gives its files to their owner only where it runs as root
    assert used - calls <= tolerated


def test_its_user_is_made_by_sysusers(tmp_path):
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed; it comes with systemd")
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--dry-run", FOLDER / "inspectd.sysusers"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"user '{settings()['User']}'" in done.stdout + done.stderr
