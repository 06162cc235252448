"""The unit, judged by systemd's own tools, and held against what the supervisor does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from inspectd.runtime.child import DRAIN_S
from inspectd.runtime.restarts import BackOff

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
