"""A camera at whose feed everything goes wrong at random: is every frame what it should be, and accounted for?

In the first part the simulated camera loses, damages, delays and repeats frames, falls silent, is unplugged, reboots
and is held by somebody else. Every frame that it exposes has to arrive with its own pixels, or to be counted. In the
second part its process is killed and its producer hangs; what is in a process that is killed cannot be counted, so
there it is recovery and pixels that count.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from inspectd.config import GenicamCamera
from inspectd.errors import CameraError, FrameTimeout
from inspectd.frame import CameraState
from inspectd.runtime.simcam import FEED_VARIABLE
from inspectd.runtime.simcam.faults import Faults, Sent
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.sources.damaged import DamagedFrame
from inspectd.runtime.sources.grabber import Grabber

from .measure import Report, table

__all__ = ["run"]

WIDTH, HEIGHT = 64, 48
RATE_HZ = 100.0
VIOLENT_SHARE = 0.2
"""Of the time, in the second part."""
RECOVERY_S = 15.0
"""Longest time from the end of a fault to the next frame."""
_QUEUE_FRAMES = 16
_TIMEOUT_MS = 1000
_DRAIN_S = 10.0

Act = Callable[[], None]


def run(*, minutes: float, seed: int) -> Report:
    """Let faults happen at random.

    Args:
        minutes: how long.
        seed: of the faults.

    Raises:
        CameraError: the simulated camera is not built, or the line does not recover.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder, _site(Path(folder) / "cam.feed") as watch:
        seconds = 60 * minutes
        gentle = _Part(watch, rng, _gentle(watch, rng))
        gentle.go_on_for(seconds * (1 - VIOLENT_SHARE))
        watch.drain()
        counted, sent = watch.counted, watch.faults.sent
        violent = _Part(watch, rng, _violent(watch))
        violent.go_on_for(seconds * VIOLENT_SHARE)
        watch.drain()
        unknown = watch.faults.sent.exposed - watch.counted
    return _report(watch, gentle, violent, counted=counted, sent=sent, unknown=unknown, seed=seed)


def picture(part: int) -> NDArray[np.uint8]:
    """The picture of a part: uint8 [48, 64, 3], another one for each."""
    return np.random.default_rng(part).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@dataclass(slots=True)
class _Watch:
    """The line's side: reads, compares, counts."""

    grabber: Grabber
    faults: Faults
    over: threading.Event
    wrong: int = 0
    right: int = 0
    damaged: int = 0
    seen: Counter[int] = field(default_factory=Counter)

    @property
    def counted(self) -> int:
        """Frames that arrived or were counted as lost."""
        status = self.grabber.status
        return status.frames + status.unusable + status.missed + status.overruns

    def read(self) -> bool:
        """One frame, if one comes; whether it is a picture."""
        try:
            frame = self.grabber.read(0.05)
        except FrameTimeout:
            return False
        except DamagedFrame:
            self.damaged += 1
            return False
        part = frame.trigger_id - 1
        self.seen[part] += 1
        if np.array_equal(frame.pixels, picture(part)):
            self.right += 1
        else:
            self.wrong += 1
        return True

    def until_frame(self) -> float:
        """Read until a picture comes; how long it took, s."""
        began = time.monotonic()
        while not self.read():
            if time.monotonic() - began > RECOVERY_S:
                raise CameraError(f"no frame within {RECOVERY_S:g} s after a fault: {self.grabber.status}")
        return time.monotonic() - began

    def for_s(self, seconds: float) -> None:
        """Read for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.read()

    def drain(self) -> None:
        """No new exposures; read what is under way."""
        self.faults.stall()
        self.for_s(0.5)
        quiet = time.monotonic() + _DRAIN_S
        while self.counted < self.faults.sent.exposed and time.monotonic() < quiet:
            self.read()
        self.faults.clear()


@dataclass(slots=True)
class _Part:
    """A part of the run, with its kinds of faults."""

    watch: _Watch
    rng: np.random.Generator
    kinds: dict[str, Act]
    done: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)

    def go_on_for(self, seconds: float) -> None:
        """One fault after another."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            # A gap before the first frame of a connection has nothing to be seen by.
            self.watch.until_frame()
            self.watch.for_s(self.rng.uniform(0.1, 1.0))
            kind = str(self.rng.choice(list(self.kinds)))
            connections = self.watch.grabber.status.connections
            self.kinds[kind]()
            self.watch.faults.clear()
            waited_s = self.watch.until_frame()
            if self.watch.grabber.status.connections > connections:
                self.recoveries_s.append(waited_s)
            self.done[kind] += 1


def _gentle(watch: _Watch, rng: np.random.Generator) -> dict[str, Act]:
    faults = watch.faults

    def some() -> int:
        return int(rng.integers(1, 6))

    def lasting(*acts: Act) -> Act:
        def act() -> None:
            for each in acts:
                each()
            watch.for_s(rng.uniform(0.1, 2.5))

        return act

    def counted(act: Act) -> Act:
        """Faults of the next frames; with time for them to be exposed."""

        def acted() -> None:
            act()
            watch.for_s(0.5)

        return acted

    return {
        "incomplete": counted(lambda: faults.incomplete(some())),
        "dropped": counted(lambda: faults.drop(some())),
        "late": counted(lambda: faults.late(some(), int(rng.integers(20, 80)))),
        "duplicate": counted(lambda: faults.duplicate(some())),
        "stall": lasting(faults.stall),
        "lost": lasting(faults.lose),
        "silent": lasting(faults.silence),
        "held elsewhere": lasting(faults.lose, faults.refuse),
        "absent": lasting(faults.lose, faults.hide),
        "reboot": lasting(lambda: faults.reboot(int(rng.integers(200, 1500)))),
    }


def _violent(watch: _Watch) -> dict[str, Act]:
    def kill(number: signal.Signals) -> Act:
        def act() -> None:
            if watch.grabber.process is not None:
                os.kill(watch.grabber.process, number)
            watch.for_s(0.2)

        return act

    def hang() -> None:
        watch.faults.hang()
        began = time.monotonic()
        while watch.grabber.status.state is CameraState.STREAMING and time.monotonic() - began < RECOVERY_S:
            watch.read()

    return {"kill -9": kill(signal.SIGKILL), "crash": kill(signal.SIGSEGV), "hang": hang}


@contextmanager
def _site(path: Path) -> Iterator[_Watch]:
    """A belt that never ends, and a camera on it."""
    over = threading.Event()
    # Each fault is an alarm; here they are counted.
    logging.getLogger("inspectd.camera").setLevel(logging.CRITICAL)
    os.environ[FEED_VARIABLE] = str(path)
    camera = GenicamCamera(
        source="genicam",
        producer="simulator",
        features={"AcquisitionFrameRate": RATE_HZ},
        timeout_ms=_TIMEOUT_MS,
        queue_frames=_QUEUE_FRAMES,
    )
    with FrameFeed(path, WIDTH, HEIGHT, slots=16) as feed, Faults(path) as faults:

        def pass_parts() -> None:
            part = 0
            while not over.is_set():
                part += feed.put(picture(part), 0.1, part_id=part)

        belt = threading.Thread(target=pass_parts, daemon=True)
        belt.start()
        grabber = Grabber("cam1", camera)
        try:
            grabber.open()
            grabber.start()
            yield _Watch(grabber, faults, over)
        finally:
            over.set()
            belt.join()
            grabber.close()
            del os.environ[FEED_VARIABLE]


def _report(
    watch: _Watch, gentle: _Part, violent: _Part, *, counted: int, sent: Sent, unknown: int, seed: int
) -> Report:
    status = watch.grabber.status
    doubled = sum(count > 1 for count in watch.seen.values())
    recoveries = gentle.recoveries_s + violent.recoveries_s
    passed = watch.wrong == doubled == 0 and counted == sent.exposed
    rows = [(kind, str(count)) for kind, count in (gentle.done + violent.done).most_common()]
    text = "\n".join(
        (
            table((f"faults, seed {seed}", "times"), rows),
            f"  pictures: {watch.right} right, {watch.wrong} wrong, {doubled} parts twice; {watch.damaged} damaged",
            f"  first part: {sent.exposed} exposed, {counted} arrived or counted as lost",
            f"  second part: {unknown} of the frames in processes that were ended are in no account",
            f"  {status.connections} connections; from the end of a fault to the next frame: median "
            f"{median(recoveries):.1f} s, longest {max(recoveries):.1f} s, of {len(recoveries)}",
            "  no wrong picture, no part twice, every frame of the first part accounted for: "
            + ("pass" if passed else "FAIL"),
        )
    )
    values = {
        "seed": seed,
        "faults": dict(gentle.done + violent.done),
        "right": watch.right,
        "wrong": watch.wrong,
        "twice": doubled,
        "damaged": watch.damaged,
        "exposed": sent.exposed,
        "counted": counted,
        "unknown": unknown,
        "connections": status.connections,
        "recoveries_s": recoveries,
    }
    return Report(text, values, passed)
