"""A station of toy processes under a real supervisor, as tests start it and look at it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from inspectd.runtime.report import Report

HERE = Path(__file__).parent
WAIT_S = 20.0
# Soon enough for a test, late enough to be told apart.
QUICK = {"delays_s": [0.1, 0.2], "many": 5, "window_s": 60.0, "patient_s": 2.0, "healthy_s": 1.0}


def until(condition: Callable[[], object], what: str = "", within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what or "did not become true"
        time.sleep(0.02)


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class StationSite:
    """A folder with a station in it; `core` is essential, whatever else is named is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(
        self,
        *,
        back_off: dict | None = None,
        environment: dict | None = None,
        limits: dict | None = None,
        health: bool = False,
        **ways: str,
    ):
        """Start it: name of each process and what it does."""
        short = {"start_s": 8.0, "silent_s": 1.0, "drain_s": 3.0, **(limits or {})}
        children = [
            {
                "name": name,
                "command": [sys.executable, str(HERE / "toy_child.py"), str(self.folder), name, *way.split()],
                "essential": name == "core",
                **short,
            }
            for name, way in ways.items()
        ]
        options = {"children": children, "back_off": back_off or QUICK, "health": health}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "toy_station.py"), str(self.folder), json.dumps(options)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        return self

    @property
    def report(self) -> Report | None:
        with contextlib.suppress(FileNotFoundError):
            return Report.model_validate_json((self.folder / "report.json").read_text())
        return None

    def noted(self, name: str, kind: str) -> list[dict]:
        """What a process has noted."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / f"{name}.log").read_text().splitlines()
            return [note for line in lines if (note := json.loads(line))["kind"] == kind]
        return []

    def is_(self, state: str, name: str = "core", restarts: int = 0) -> bool:
        report = self.report
        told = report.processes.get(name) if report else None
        return told is not None and told.state == state and told.restarts >= restarts

    def until(self, state: str, name: str = "core", restarts: int = 0) -> None:
        until(lambda: self.is_(state, name, restarts) or self._has_ended(), f"{name} is not {state}: {self.report}")
        assert self.is_(state, name, restarts), self.report

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def pid(self, name: str = "core") -> int:
        report = self.report
        assert report is not None
        number = report.processes[name].pid
        assert number is not None
        return number

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def finish(self, within_s: float = WAIT_S) -> tuple[int, str]:
        """Exit status and log; nothing is left running."""
        assert self.process is not None
        _, err = self.process.communicate(timeout=within_s)
        self.gone(within_s=1.0)
        return self.process.returncode, err

    def gone(self, within_s: float) -> None:
        """Wait until no process of the station runs."""
        numbers = [note["pid"] for path in self.folder.glob("*.log") for note in self.noted(path.stem, "start")]
        until(lambda: not any(map(is_running, numbers)), f"still running: {numbers}", within_s)

    def close(self) -> None:
        """Kill what a failed test has left."""
        if self.process is not None:
            self.process.kill()
            if self.process.stderr is not None:
                self.process.stderr.close()
            self.process.wait()
        for path in self.folder.glob("*.log"):
            for note in self.noted(path.stem, "start"):
                if is_running(note["pid"]) and b"toy_child" in Path(f"/proc/{note['pid']}/cmdline").read_bytes():
                    os.kill(note["pid"], 9)
