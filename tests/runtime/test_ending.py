"""What is killed is waited for, by whoever has the time."""

from __future__ import annotations

import subprocess
import sys

from inspectd.runtime.ending import kill_and_reap

from .station_site import until


def test_nothing_is_left_of_a_process_that_nobody_waits_for():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    kill_and_reap(process, 0)
    # An attribute: to ask for the status would wait for it here.
    until(lambda: process.returncode == -9)


def test_one_that_has_ended_keeps_its_status():
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    kill_and_reap(process, 0)
    assert process.returncode == 3
