"""Pictures from a camera for people: taken as the line takes them, with what can be said of their light."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import Camera, Feature, GenicamCamera
from inspectd.errors import ConfigError, EndOfFrames, FrameTimeout
from inspectd.frame import Frame, FrameSource

from .sources import make_source
from .sources.survey import FoundCamera

__all__ = ["Picture", "settings_of", "snapshots", "taken", "write_picture"]

SATURATED_SHARE = 0.001
"""From this share of saturated pixels on there is a warning: highlights of a few pixels are common."""
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Picture:
    """What is said of a picture.

    Attributes:
        width: px.
        height: px.
        channels: 1 (grey) or 3 (RGB).
        mean: grey value, 0..255, over all channels.
        saturated: share of the pixels with a channel at 255, 0..1.
    """

    width: int
    height: int
    channels: int
    mean: float
    saturated: float

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Picture:
        """Measure a picture, uint8 [H, W, C]."""
        height, width, channels = pixels.shape
        saturated = float((pixels.max(axis=2) == 255).mean())
        return cls(width, height, channels, float(pixels.mean()), saturated)

    @property
    def warning(self) -> str:
        """What is wrong with its light; empty where nothing is."""
        if self.saturated < SATURATED_SHARE:
            return ""
        return f"{self.saturated:.1%} of the pixels are saturated; shorten ExposureTime, or lower Gain or the light"

    def __str__(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        return f"{self.width} x {self.height} px, {kind}, mean grey value {self.mean:.1f}"


def snapshots(
    camera: FoundCamera, out: Path, *, count: int, features: Mapping[str, Feature], timeout_s: float
) -> Iterator[tuple[Path, Picture]]:
    """Take pictures and write each as it comes.

    Args:
        camera: a camera that was found.
        out: a PNG file; several pictures get -1, -2, ... before the suffix.
        count: how many.
        features: set before.
        timeout_s: the longest that one picture may take, s.

    Raises:
        ConfigError: the file is no PNG or cannot be written.
        CameraError: the camera cannot be opened, refuses a feature, is silent, or sends an incomplete frame.
    """
    _check(out)
    settings = settings_of(camera, features=features, timeout_s=timeout_s)
    for number, frame in enumerate(taken(camera.serial or camera.id, settings, count=count), 1):
        path = out if count == 1 else out.with_stem(f"{out.stem}-{number}")
        write_picture(path, frame.pixels)
        yield path, Picture.of(frame.pixels)


def settings_of(camera: FoundCamera, *, features: Mapping[str, Feature], timeout_s: float) -> GenicamCamera:
    """A camera that was found as a line would have it; without a picture within `timeout_s` it is lost."""
    return GenicamCamera(
        source="genicam",
        producer=camera.producer,
        device=camera.id,
        features=dict(features),
        timeout_ms=round(timeout_s * 1000),
        reconnect=False,
    )


def taken(
    name: str,
    settings: Camera,
    *,
    count: int,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Frame]:
    """Take pictures as a line takes them; a camera that waits for software triggers has one for each.

    Args:
        name: of the camera in messages.
        settings: of the camera.
        count: how many.
        timeout_s: the longest that one may take, s; without it what the settings say.
        clock: s.

    Raises:
        ConfigError: the source ends before.
        CameraError: the camera cannot be opened, refuses a feature, is silent, or sends an incomplete frame.
    """
    source = make_source(name, settings)
    by_software = isinstance(settings, GenicamCamera) and settings.trigger == "Software"
    try:
        source.open()
        source.start()
        for number in range(1, count + 1):
            if by_software:
                source.trigger(number)
            yield _next(source, name, timeout_s, clock)
    except EndOfFrames as error:
        raise ConfigError(f"{error}, and {count} pictures are asked for by --frames; ask for fewer") from error
    finally:
        source.close()


def _next(source: FrameSource, name: str, timeout_s: float | None, clock: Callable[[], float]) -> Frame:
    began = clock()
    while timeout_s is None or clock() - began < timeout_s:
        with suppress(FrameTimeout):
            return source.read(_POLL_S if timeout_s is None else min(_POLL_S, timeout_s))
    raise FrameTimeout(
        f"camera {name!r}: no picture within {timeout_s:g} s; where something triggers it, let parts pass, or give it "
        "more time by --timeout"
    )


def _check(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: pictures are written as PNG, which loses nothing; expected a name ending in .png")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels uint8 [H, W, 1 or 3] (RGB) as PNG.

    Raises:
        ConfigError: it cannot be written.
    """
    done, data = cv2.imencode(".png", pixels[..., ::-1])  # OpenCV takes BGR
    try:
        if not done:
            raise ConfigError(f"{path}: a picture of {list(pixels.shape)} cannot be encoded as PNG")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
