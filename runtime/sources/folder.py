"""A folder of pictures as a camera."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import FolderCamera
from inspectd.errors import CameraError, EndOfFrames
from inspectd.frame import Frame

from .damaged import DamagedFrame, stand_in
from .pace import Pace

__all__ = ["IMAGE_SUFFIXES", "FolderSource", "decode_picture"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


class FolderSource:
    """Delivers the pictures of a folder in the natural order of their names (part2 before part10)."""

    def __init__(
        self,
        name: str,
        camera: FolderCamera,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._camera = camera
        self._clock = clock
        self._utc = utc
        self._pace = Pace(camera.fps, clock=clock, sleep=sleep)
        self._files: list[Path] = []
        self._delivered = 0

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""
        return self._name

    @property
    def files(self) -> tuple[Path, ...]:
        """The pictures, in their order; known once it is open."""
        return tuple(self._files)

    def open(self) -> None:
        """List the pictures.

        Raises:
            CameraError: there is no such folder, or no picture in it.
        """
        folder, pattern = self._camera.path, self._camera.pattern
        if not folder.is_dir():
            raise CameraError(f"camera {self._name!r}: {folder} is not a folder; set cameras.{self._name}.path")
        try:
            found = [path for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        except (ValueError, NotImplementedError) as error:
            raise CameraError(f"camera {self._name!r}: pattern {pattern!r} is not a glob below {folder}") from error
        if not found:
            raise CameraError(
                f"camera {self._name!r}: no picture matches {pattern!r} in {folder}; "
                f"expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self._files = sorted(found, key=_natural)

    def read(self, timeout_s: float) -> Frame:
        """The next picture; see `FrameSource.read`.

        Raises:
            FrameTimeout: it is not due yet.
            DamagedFrame: the file is gone, truncated or no picture.
            EndOfFrames: it was the last, and the camera does not loop.
        """
        if not self._files or (self._delivered >= len(self._files) and not self._camera.loop):
            raise EndOfFrames(f"camera {self._name!r}: all {self._delivered} pictures of {self._camera.path} delivered")
        self._pace.wait(timeout_s, self._name)
        path = self._files[self._delivered % len(self._files)]
        self._delivered += 1
        received_ns, acquired_ns = self._clock(), self._utc()
        try:
            pixels = decode_picture(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DamagedFrame(
                f"{path}: {error}",
                stand_in(self._name, self._delivered, acquired_ns=acquired_ns, received_ns=received_ns),
            ) from error
        return Frame(self._name, self._delivered, pixels, acquired_ns=acquired_ns, received_ns=received_ns)

    def close(self) -> None:
        """Forget the list."""
        self._files = []


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """A picture file as uint8 [H, W, 3] RGB or [H, W, 1] grey; alpha is dropped, 16-bit samples lose their low byte.

    OpenCV fills what is missing from a truncated PNG or JPEG with grey or black and says nothing; a part
    must not be judged by that, so the structure is checked first.

    Raises:
        ValueError: the data is truncated, damaged or no picture.
    """
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("truncated: the JPEG has no end marker")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    if decoded is None:
        raise ValueError("damaged, or not a picture")
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"samples are {decoded.dtype}, expected 8 or 16 bits")
    if decoded.dtype == np.uint16:
        decoded = np.asarray(decoded // 256, np.uint8)
    pixels = decoded[..., None] if decoded.ndim == 2 else decoded[..., ::-1]
    return np.ascontiguousarray(pixels, np.uint8)


def _check_png(data: bytes) -> None:
    """Walks the chunks of a PNG (ISO/IEC 15948, section 5) and their checksums."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"damaged: the PNG has a wrong checksum at byte {end}")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise ValueError("truncated: the PNG has no end chunk")


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"(\d+)", str(path))
    return tuple((int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts))
