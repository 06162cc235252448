"""A camera that delivers one and the same picture for ever: its numbers go on, and nobody looks at the parts any more.

No two pictures of a sensor are the same byte for byte, for light comes in photons. What is the same was repeated by the
camera, its driver or the way between, or is a test pattern; or it is black or saturated all over, and shows no part
either.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from inspectd.config import Camera, GenicamCamera
from inspectd.errors import CameraError
from inspectd.frame import Frame

__all__ = ["FrozenWatch", "RepeatedFrame", "watches_for"]

_LOOKED_AT = 1 << 20
"""Of a larger picture whole rows are left out, to some so many bytes: a checksum of 1 MB takes 0.2 to 0.3 ms."""


class RepeatedFrame(CameraError):
    """A picture is the very one before it."""


class FrozenWatch:
    """Looks at each picture of one camera; the judging thread's, but for what it tells.

    Args:
        most: so many identical pictures in a row are refused from there on; 0 for none ever.

    Attributes:
        refused: pictures that were refused. May be read by any thread, as `is_frozen`.
        is_frozen: whether the latest was.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._latest: tuple[tuple[int, ...], int] | None = None
        self._row = 0
        self.refused = 0
        self.is_frozen = False

    def look(self, frame: Frame) -> None:
        """Take a picture into account.

        Raises:
            RepeatedFrame: it was not taken of this part.
        """
        if not self._most:
            return
        seen = frame.pixels.shape, _checksum(frame.pixels)
        self._row = self._row + 1 if seen == self._latest else 1
        self._latest = seen
        self.is_frozen = self._row >= self._most
        if self.is_frozen:
            self.refused += 1
            raise RepeatedFrame("the picture is the one before it, byte for byte: it was not taken of this part")


def watches_for(cameras: Mapping[str, Camera]) -> dict[str, FrozenWatch]:
    """One for each camera; those whose pictures may repeat refuse nothing."""
    return {
        name: FrozenWatch(camera.refuses_from if isinstance(camera, GenicamCamera) else 0)
        for name, camera in cameras.items()
    }


def _checksum(pixels: NDArray[np.uint8]) -> int:
    """Of a picture uint8 [H, W, C], or of evenly spaced rows of a large one."""
    step = -(-pixels.nbytes // _LOOKED_AT)
    return zlib.crc32(np.ascontiguousarray(pixels[::step]).data)
