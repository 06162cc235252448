"""A feed, cameras in processes of their own on it, and the parts that pass them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inspectd.config import GenicamCamera
from inspectd.errors import FrameTimeout
from inspectd.frame import Frame
from inspectd.runtime.restarts import BackOff
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.sources.damaged import DamagedFrame
from inspectd.runtime.sources.grabber import Grabber

WIDTH, HEIGHT = 37, 23
WAIT_S = 20.0


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


class Site:
    """A feed, and the cameras that are made for it."""

    def __init__(self, feed: Path) -> None:
        self.path = feed
        self.feed: FrameFeed | None = None
        self.grabbers: list[Grabber] = []
        self.put = 0

    def plug_in(self, slots: int = 64) -> None:
        self.feed = FrameFeed(self.path, WIDTH, HEIGHT, slots=slots)

    def pass_parts(self, count: int) -> None:
        for _ in range(count):
            assert self.feed.put(picture(self.put), 5.0)
            self.put += 1

    def camera(self, *, features=None, too_often: BackOff | None = None, **settings) -> Grabber:
        rate = {} if "trigger" in settings else {"AcquisitionFrameRate": 200.0}
        settings = {"producer": "simulator", **settings}
        camera = GenicamCamera(source="genicam", features=features or rate, **settings)
        self.grabbers.append(Grabber("cam1", camera, too_often=too_often))
        return self.grabbers[-1]

    def streaming(self, **settings) -> Grabber:
        grabber = self.camera(**settings)
        grabber.open()
        grabber.start()
        return grabber


def frames(grabber: Grabber, count: int) -> list[Frame]:
    got, until = [], time.monotonic() + WAIT_S
    while len(got) < count:
        assert time.monotonic() < until, f"{len(got)} of {count} frames; {grabber.status}"
        try:
            got.append(grabber.read(0.1))
        except FrameTimeout:
            continue
    return got


def until(condition: Callable[[], bool], grabber: Grabber) -> None:
    """Read on, without a frame, until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, grabber.status
        with pytest.raises(FrameTimeout):
            grabber.read(0.05)


def answers(grabber: Grabber, count: int) -> list[tuple[int, str]]:
    """What became of triggers: number, and why there is no picture."""
    got, deadline = [], time.monotonic() + WAIT_S
    while len(got) < count:
        assert time.monotonic() < deadline, grabber.status
        try:
            frame, why = grabber.read(0.1), ""
        except FrameTimeout:
            continue
        except DamagedFrame as error:
            frame, why = error.frame, str(error)
        got.append((frame.trigger_id, why))
        del frame
    return got
