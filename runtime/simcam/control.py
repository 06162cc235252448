"""What `inspectd simcam` does: feeds that are found, faults by their names, folders that are served."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import FolderCamera
from inspectd.errors import CameraError, ConfigError, EndOfFrames
from inspectd.runtime.sources.folder import FolderSource

from . import FEED_VARIABLE
from .faults import Faults
from .feed import FrameFeed, is_fed

__all__ = ["FAULTS", "found_feeds", "inject", "serve_folder"]

DEMOS = "inspectd-*/*.feed"
"""Where demos put their feeds, under /dev/shm or the folder for temporary files."""
_PUT_S = 0.5
_POLL_S = 0.05

FAULTS: dict[str, tuple[int, Callable[..., None]]] = {
    "incomplete": (1, Faults.incomplete),
    "drop": (1, Faults.drop),
    "late": (2, Faults.late),
    "duplicate": (1, Faults.duplicate),
    "stall": (0, Faults.stall),
    "lost": (0, Faults.lose),
    "silent": (0, Faults.silence),
    "refuse": (0, Faults.refuse),
    "absent": (0, Faults.hide),
    "hang": (0, Faults.hang),
    "padded": (1, Faults.pad),
    "format": (1, Faults.claim_format),
    "reboot": (1, Faults.reboot),
    "clear": (0, Faults.clear),
}
"""By name: how many numbers it takes, and what it does."""


def found_feeds(given: Sequence[Path]) -> list[Path]:
    """The feeds that are meant: those given, those of the environment, or else those of demos on this machine.

    Raises:
        CameraError: there is none.
    """
    if given:
        return list(given)
    named = [Path(path) for path in os.environ.get(FEED_VARIABLE, "").split(":") if path]
    found = [feed for path in named for feed in (sorted(path.glob("*.feed")) if path.is_dir() else [path])]
    if not named:
        # A demo that was killed leaves its feed behind.
        folders = dict.fromkeys((Path("/dev/shm"), Path(tempfile.gettempdir())))  # noqa: S108 - only looked through
        found = [feed for folder in folders for feed in sorted(folder.glob(DEMOS)) if is_fed(feed)]
    if not found:
        raise CameraError(
            f"no simulated camera is found; start `inspectd demo`, set {FEED_VARIABLE}, or name one with --feed"
        )
    return found


def inject(path: Path, name: str, numbers: Sequence[int]) -> None:
    """Set a fault of a camera.

    Raises:
        ConfigError: there is no such fault, or it takes other numbers.
        CameraError: the file is no feed.
    """
    if name not in FAULTS:
        raise ConfigError(f"there is no fault {name!r}; expected one of {', '.join(FAULTS)}")
    wanted, method = FAULTS[name]
    if len(numbers) != wanted:
        raise ConfigError(f"fault {name!r} takes {wanted or 'no'} number{'s' * (wanted != 1)}, got {len(numbers)}")
    with Faults(path) as faults:
        method(faults, *numbers)


def serve_folder(folder: Path, feed: Path, *, mono: bool, once: bool) -> int:
    """Put the pictures of a folder before a camera, in the order of their names, until interrupted.

    Args:
        folder: pictures of one size.
        feed: the file to make.
        mono: as grey pictures.
        once: end after the last one has been taken.

    Returns:
        How many were put.

    Raises:
        CameraError: no pictures, pictures of several sizes, or the feed cannot be made.
    """
    source = FolderSource(folder.name, FolderCamera(source="folder", path=folder, loop=not once))
    source.open()
    count = 0
    first = _picture(source, mono=mono)
    height, width, channels = first.shape
    with FrameFeed(feed, width, height, channels) as belt:
        picture: NDArray[np.uint8] | None = first
        try:
            while picture is not None:
                if picture.shape != first.shape:
                    raise CameraError(
                        f"{folder}: picture {count + 1} is {picture.shape[1]} x {picture.shape[0]} px, the first one "
                        f"{width} x {height}; a camera has one size"
                    )
                while not belt.put(picture, _PUT_S):
                    pass
                count += 1
                try:
                    picture = _picture(source, mono=mono)
                except EndOfFrames:
                    picture = None
            while belt.consumed < belt.written:
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            pass
    source.close()
    return count


def _picture(source: FolderSource, *, mono: bool) -> NDArray[np.uint8]:
    pixels = source.read(1.0).pixels
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if not mono:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
