"""What a camera's own numbers of its frames (GenTL block ids) say of frames that never came.

They begin at 0 or 1 with each connection, and with most cameras at each start. Those of 16 bits begin anew after 65535:
at 1 where 0 is not used (GigE Vision 1.x), else at 0 (CoaXPress). Some producers number nothing, and give the same
number with every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_MISSED", "FrameIds", "Step"]

MOST_MISSED = 1000
"""A gap of more frames than that is no 16-bit counter that begins anew, and no start of a count."""
_BITS_16 = 1 << 16


@dataclass(frozen=True, slots=True)
class Step:
    """From one frame's number to the next.

    Attributes:
        previous: number of the frame before; None for the first of a connection.
        frame_id: number of this one.
        is_first: whether it is the first since a start, so that nothing says where its count began.
        missing: so many frames are missing in between; None where the numbers do not tell.
    """

    previous: int | None
    frame_id: int
    is_first: bool
    missing: int | None

    @property
    def is_stray(self) -> bool:
        """Whether it does not follow the frame before, by any count: a number again, or one that went back."""
        return self.missing is None and not self.is_first


class FrameIds:
    """The numbers of one camera's frames, over its connections and starts."""

    def __init__(self) -> None:
        self._previous: int | None = None
        self._is_first = True
        self._is_counting = False
        self._has_zero = False
        self._begins_anew = False  # with each start, as far as is known

    def connect(self) -> None:
        """The camera was opened anew, and counts anew."""
        self._previous = None
        self._is_first, self._is_counting = True, False

    def pause(self) -> None:
        """It acquires no more; at the next start some cameras begin to count anew, some go on."""
        self._is_first = True

    def take(self, frame_id: int, *, damaged: bool = False) -> Step:
        """The next frame came.

        Args:
            frame_id: its number.
            damaged: whether it came in part; it may have come without its number then, which reads 0.
        """
        previous, is_first = self._previous, self._is_first
        if damaged and frame_id == 0 and previous and not is_first:
            frame_id = previous + 1
        self._has_zero |= frame_id == 0 and not damaged
        missing = self._missing(previous, frame_id)
        self._is_counting |= previous is not None and not is_first and frame_id != previous
        self._previous, self._is_first = frame_id, False
        return Step(previous, frame_id, is_first, missing)

    def _missing(self, previous: int | None, frame_id: int) -> int | None:
        if previous is None:
            return self._before_the_first(frame_id)
        between = self._between(previous, frame_id)
        if self._is_first:
            if between == 0 and not self._begins_anew:
                return 0
            self._begins_anew |= frame_id <= previous
            # Else it goes on and lost some, or began anew and lost more: nobody knows.
            return self._before_the_first(frame_id) if self._begins_anew else None
        return 0 if frame_id == previous and not self._is_counting else between

    def _before_the_first(self, frame_id: int) -> int | None:
        missing = max(0, frame_id - (0 if self._has_zero else 1))
        return missing if missing <= MOST_MISSED else None

    def _between(self, previous: int, frame_id: int) -> int | None:
        missing = frame_id - previous - 1
        if missing < 0 and previous < _BITS_16:
            missing += _BITS_16 if self._has_zero else _BITS_16 - 1
            return missing if 0 <= missing <= MOST_MISSED else None
        return missing if missing >= 0 else None
