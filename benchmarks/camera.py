"""What a frame costs on its way from a camera to the line: CPU time and highest rate, beside a bare harvesters loop.

Both take the same frames from the simulated camera at the same rate, in turns. The bare loop fetches and copies, in one
process. The line's way is whole: the camera's process, which checks each frame and writes it to the ring, and the read
of the line's thread, which maps it. The simulated camera exposes within the consumer's process: its copy counts in
both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from inspectd.config import GenicamCamera
from inspectd.errors import CameraError, FrameTimeout
from inspectd.runtime.simcam import FEED_VARIABLE, producer_path
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.sources.grabber import Grabber

from .measure import Comparison, Report, table

__all__ = ["BOUND", "run"]

BOUND = 1.2
"""Highest ratio of the CPU time per frame that is allowed."""
RATE_HZ = 30.0
SIZES = {"640 x 480 mono": (480, 640, 1), "5 MP mono": (2048, 2448, 1), "5 MP colour": (2048, 2448, 3)}
_FASTEST_HZ = 1000.0
_WARM_UP = 10
_PATIENCE_S = 30.0
_SLOTS = 16

_BARE = """
import json, sys, time
import numpy as np
from harvesters.core import Harvester

producer, rate, warm_up, frames = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
harvester = Harvester()
harvester.add_file(producer)
harvester.update()
camera = harvester.create(0)
camera.remote_device.node_map.AcquisitionFrameRate.value = rate
camera.num_buffers = 8
camera.start()
first = last = None
for number in range(warm_up + frames):
    if number == warm_up:
        cpu, wall = time.process_time(), time.monotonic()
    with camera.fetch(timeout=30.0) as buffer:
        image = buffer.payload.components[0]
        picture = image.data.reshape(image.height, image.width, -1).copy()
        first = buffer.frame_id if first is None else first
        last = buffer.frame_id
cpu, wall = time.process_time() - cpu, time.monotonic() - wall
camera.destroy()
harvester.reset()
print(json.dumps({"cpu_s": cpu, "wall_s": wall, "lost": last - first + 1 - warm_up - frames}))
"""


@dataclass(frozen=True, slots=True)
class _Round:
    """CPU and wall-clock seconds of some frames, and how many were lost among them."""

    cpu_s: float
    wall_s: float
    lost: int


def run(*, rounds: int, frames: int) -> Report:
    """Compare the line's way with a bare harvesters loop.

    Args:
        rounds: how often each is run, for each size.
        frames: of a round.

    Raises:
        CameraError: the simulated camera is not built, or delivers nothing.
    """
    producer_path()
    rows, values, passed = [], {}, True
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder:
        for name, shape in SIZES.items():
            feed = Path(folder) / f"{name.replace(' ', '-')}.feed"
            with _belt(feed, shape):
                steady = [_both(RATE_HZ, frames, number) for number in range(rounds)]
                fastest = [_both(_FASTEST_HZ, frames, number) for number in range(rounds)]
            feed.unlink()
            cpu = Comparison(
                tuple(1e3 * bare.cpu_s / frames for bare, _ in steady),
                tuple(1e3 * line.cpu_s / frames for _, line in steady),
                BOUND,
            )
            rates = [median(frames / each.wall_s for each in ways) for ways in zip(*fastest, strict=True)]
            lost = sum(line.lost for _, line in steady)
            passed &= cpu.passed and lost == 0
            rows.append(
                (
                    name,
                    f"{median(cpu.baseline_ms):.2f}",
                    f"{median(cpu.measured_ms):.2f}",
                    f"{cpu.ratio:.2f}",
                    f"{cpu.spread[0]:.2f} to {cpu.spread[1]:.2f}",
                    str(lost),
                    f"{rates[0]:.0f}",
                    f"{rates[1]:.0f}",
                )
            )
            values[name] = {**cpu.values(), "lost": lost, "fastest_bare_fps": rates[0], "fastest_line_fps": rates[1]}
    headings = (
        f"at {RATE_HZ:g} frames/s", "bare ms", "line ms", "ratio", "rounds", "lost", "fastest bare/s", "fastest line/s",
    )  # fmt: skip
    text = f"{table(headings, rows)}\n  CPU time a frame; bound of the ratio {BOUND}, of the lost 0: "
    return Report(text + ("pass" if passed else "FAIL"), values, passed)


@contextmanager
def _belt(path: Path, shape: tuple[int, int, int]) -> Iterator[None]:
    """A feed that is always full, by a thread; and cameras on it in all processes that are started meanwhile."""
    over = threading.Event()
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)

    def pass_parts(feed: FrameFeed) -> None:
        number = 0
        while not over.is_set():
            number += feed.put(pictures[number % 2], 0.2)

    before = os.environ.get(FEED_VARIABLE)
    with FrameFeed(path, shape[1], shape[0], shape[2], slots=_SLOTS) as feed:
        thread = threading.Thread(target=pass_parts, args=(feed,), daemon=True)
        os.environ[FEED_VARIABLE] = str(path)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if before is None:
                del os.environ[FEED_VARIABLE]
            else:
                os.environ[FEED_VARIABLE] = before


def _both(rate_hz: float, frames: int, number: int) -> tuple[_Round, _Round]:
    """A round of each, in turns: A B, B A and so on."""
    if number % 2 == 0:
        bare = _bare(rate_hz, frames)
        return bare, _line(rate_hz, frames)
    line = _line(rate_hz, frames)
    return _bare(rate_hz, frames), line


def _bare(rate_hz: float, frames: int) -> _Round:
    command = [sys.executable, "-c", _BARE, str(producer_path()), str(rate_hz), str(_WARM_UP), str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CameraError(f"the bare loop failed: {done.stderr.strip().splitlines()[-1:]}")
    return _Round(**json.loads(done.stdout))


def _line(rate_hz: float, frames: int) -> _Round:
    camera = GenicamCamera(
        source="genicam", producer="simulator", features={"AcquisitionFrameRate": rate_hz}, reconnect=False
    )
    grabber = Grabber("cam1", camera)
    try:
        grabber.open()
        grabber.start()
        _read(grabber, _WARM_UP)
        process, missed = grabber.process, _gone(grabber)
        cpu, wall = _cpu_s(process) + time.thread_time(), time.monotonic()
        _read(grabber, frames)
        cpu, wall = _cpu_s(process) + time.thread_time() - cpu, time.monotonic() - wall
        return _Round(cpu, wall, _gone(grabber) - missed)
    finally:
        grabber.close()


def _gone(grabber: Grabber) -> int:
    status = grabber.status
    return status.missed + status.overruns + status.unusable


def _read(grabber: Grabber, frames: int) -> None:
    deadline, left = time.monotonic() + _PATIENCE_S, frames
    while left:
        try:
            grabber.read(0.1)
            left -= 1
        except FrameTimeout:  # noqa: PERF203 - that is the loop
            if time.monotonic() > deadline:
                raise


def _cpu_s(process: int | None) -> float:
    """CPU time of a process so far, of all its threads, s."""
    if process is None:
        raise CameraError("the camera's process has ended")
    nanoseconds = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9
