"""A folder of pictures as a camera."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from inspectd.config import FolderCamera
from inspectd.errors import CameraError, DatasetError, EndOfFrames
from inspectd.frame import Frame
from inspectd.picture import IMAGE_SUFFIXES, read_image

from .damaged import DamagedFrame, stand_in
from .pace import PacedSource

__all__ = ["FolderSource"]


class FolderSource(PacedSource):
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
        super().__init__(name, camera.fps, clock=clock, utc=utc, sleep=sleep)
        self._camera = camera
        self._files: list[Path] = []

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
        try:
            if not folder.is_dir():
                raise CameraError(f"camera {self._name!r}: {folder} is not a folder; set cameras.{self._name}.path")
            found = [path for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        except (ValueError, NotImplementedError) as error:
            raise CameraError(f"camera {self._name!r}: pattern {pattern!r} is not a glob below {folder}") from error
        except OSError as error:
            raise CameraError(f"camera {self._name!r}: {folder} cannot be listed: {error.strerror}") from error
        if not found:
            raise CameraError(
                f"camera {self._name!r}: no picture matches {pattern!r} in {folder}; "
                f"expected files ending in {' '.join(IMAGE_SUFFIXES)}"
            )
        self._files = sorted(found, key=_natural)

    def read(self, timeout_s: float) -> Frame:
        """The next picture; see `FrameSource.read`.

        Raises:
            FrameTimeout: it is not due yet.
            DamagedFrame: the file is gone, truncated or no picture.
            EndOfFrames: it was the last, and the camera does not loop.
        """
        if self._stopped:
            raise EndOfFrames(f"camera {self._name!r} is stopped")
        if not self._files or (self._delivered >= len(self._files) and not self._camera.loop):
            raise EndOfFrames(f"camera {self._name!r}: all {self._delivered} pictures of {self._camera.path} delivered")
        self._pace.wait(timeout_s, self._name)
        path = self._files[self._delivered % len(self._files)]
        self._delivered += 1
        received_ns, acquired_ns = self._clock(), self._utc()
        source = path.relative_to(self._camera.path).as_posix()
        try:
            pixels = read_image(path, bits=self._camera.bits)
        except DatasetError as error:
            raise DamagedFrame(
                str(error),
                stand_in(self._name, self._delivered, acquired_ns=acquired_ns, received_ns=received_ns, source=source),
            ) from error
        return Frame(
            self._name, self._delivered, pixels, acquired_ns=acquired_ns, received_ns=received_ns, source=source
        )

    def close(self) -> None:
        """Forget the list."""
        self._files = []


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"(\d+)", str(path))
    return tuple((int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts))
