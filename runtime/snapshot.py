"""Pictures from a camera for people: taken as the line takes them, with what can be said of their light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import Feature, GenicamCamera
from inspectd.errors import ConfigError, FrameTimeout
from inspectd.frame import Frame, FrameSource

from .sources import make_source
from .sources.survey import FoundCamera

__all__ = ["Picture", "snapshots"]

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
    settings = GenicamCamera(
        source="genicam",
        producer=camera.producer,
        device=camera.id,
        features=dict(features),
        timeout_ms=round(timeout_s * 1000),
        reconnect=False,
    )
    source = make_source(camera.serial or camera.id, settings)
    try:
        source.open()
        source.start()
        for number in range(1, count + 1):
            path = out if count == 1 else out.with_stem(f"{out.stem}-{number}")
            pixels = _next(source).pixels
            _write(path, pixels)
            yield path, Picture.of(pixels)
    finally:
        source.close()


def _next(source: FrameSource) -> Frame:
    """The source itself gives up after its `timeout_ms`."""
    while True:
        with suppress(FrameTimeout):
            return source.read(_POLL_S)


def _check(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: pictures are written as PNG, which loses nothing; expected a name ending in .png")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", pixels[..., ::-1])  # OpenCV takes BGR
    try:
        if not done:
            raise ConfigError(f"{path}: a picture of {list(pixels.shape)} cannot be encoded as PNG")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
