"""Work in several processes: they end with the one that it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import functools, os, sys, time
from pathlib import Path
from inspectd.resumable import in_processes

def work(seconds):
    time.sleep(seconds)

def prepare(out):
    (out / str(os.getpid())).touch()

if __name__ == "__main__":
    out, seconds = Path(sys.argv[1]), float(sys.argv[2])
    with in_processes(work, [seconds] * 8, 2, functools.partial(prepare, out), out=out) as done:
        for _ in done:
            pass
        print("done", flush=True)
        time.sleep(600)
"""


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_end_with_the_one_that_was_killed(tmp_path):
    """At work or idle: kill -9 leaves no process behind."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for name, seconds in (("working", "600"), ("idle", "0")):
        out = tmp_path / name
        out.mkdir()
        command = [sys.executable, str(script), str(out), seconds]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            if name == "idle":
                assert process.stdout.readline() == "done\n"
            deadline = time.monotonic() + 60
            while len(pids := [int(path.name) for path in out.iterdir()]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert all(map(lives, pids))
            process.kill()
            # Its standard output is theirs too.
            process.stdout.close()
        deadline = time.monotonic() + 30
        while any(map(lives, pids)):
            assert time.monotonic() < deadline, f"{name}: still there"
            time.sleep(0.1)
