"""Frames whose pixels cannot be used."""

from __future__ import annotations

import numpy as np

from inspectd.errors import IncompleteFrame
from inspectd.frame import Frame

__all__ = ["DamagedFrame", "is_stand_in", "stand_in"]


class DamagedFrame(IncompleteFrame):
    """A frame came, and it is known which, but its pixels cannot be used.

    Attributes:
        frame: its numbers and times, with one black pixel in place of the picture.
    """

    def __init__(self, message: str, frame: Frame) -> None:
        super().__init__(message)
        self.frame = frame


def stand_in(camera: str, frame_id: int, *, acquired_ns: int, received_ns: int, source: str = "") -> Frame:
    """A frame of one black pixel for a picture that cannot be used; it must never be inspected."""
    black = np.zeros((1, 1, 1), np.uint8)
    return Frame(camera, frame_id, black, acquired_ns=acquired_ns, received_ns=received_ns, source=source)


def is_stand_in(frame: Frame) -> bool:
    """Whether a frame has no picture of its own, but what `stand_in` puts in its place."""
    return frame.pixels.shape == (1, 1, 1)
