"""Opens, streams from, breaks and closes a simulated camera: `simcam_drive.py FEED PRODUCER`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from inspectd.config import GenicamCamera
from inspectd.errors import CameraError, FrameTimeout
from inspectd.runtime.simcam import FEED_VARIABLE
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.sources.damaged import DamagedFrame
from inspectd.runtime.sources.genicam import GenicamSource

WIDTH, HEIGHT = 37, 23
STREAM_S = 0.25
SETTINGS = {
    3: ({"PixelFormat": "RGB8"}, {"PixelFormat": "BayerRG8", "Width": 21, "OffsetX": 4}),
    1: ({"PixelFormat": "Mono8", "Height": 7}, {"PixelFormat": "Mono12p", "Width": 13, "Height": 9}),
}


def main() -> None:
    feed, producer = Path(sys.argv[1]), sys.argv[2]
    got = 0
    for channels, settings in SETTINGS.items():
        path = feed.with_name(f"{feed.stem}{channels}.feed")
        os.environ[FEED_VARIABLE] = str(path)
        with FrameFeed(path, WIDTH, HEIGHT, channels, slots=16) as belt, Faults(path) as faults:
            acts = [
                faults.clear, lambda: faults.incomplete(2), lambda: faults.drop(2), lambda: faults.late(1, 50),
                lambda: faults.duplicate(2), lambda: faults.pad(7), faults.lose, faults.silence, faults.stall,
                lambda: faults.claim_format(7), lambda: faults.reboot(100),
            ]  # fmt: skip
            for act in acts:
                for features in settings:
                    faults.clear()
                    if act is acts[5]:
                        act()
                    got += stream(belt, producer, features, act)
    sys.stdout.write(f"{got}\n")


def stream(belt, producer, features, act) -> int:
    camera = GenicamCamera(
        source="genicam", producer=producer, timeout_ms=100, features={**features, "AcquisitionFrameRate": 500.0}
    )
    source, got = GenicamSource("camera", camera), 0
    source.open()
    source.start()
    act()
    while belt.put(np.zeros(belt.shape, np.uint8), 0):
        pass
    until = time.monotonic() + STREAM_S
    try:
        while time.monotonic() < until:
            try:
                source.read(0.02)
                got += 1
            except (FrameTimeout, DamagedFrame):  # noqa: PERF203 - that is the loop
                continue
    except CameraError:
        pass
    source.close()
    return got


if __name__ == "__main__":
    main()
