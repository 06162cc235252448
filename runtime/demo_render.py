"""The renderer process of the demo: parts onto the feed of the simulated camera."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

from inspectd.buttons import line_part

from .simcam.feed import FrameFeed

if TYPE_CHECKING:
    Truths = Queue[tuple[int, str, str | None]]

__all__ = ["render_parts"]

_POLL_S = 0.05


def render_parts(
    feed_path: Path, *, seed: int, defect_rate: float, size_px: int, ahead: int, pause_at: int | None, truths: Truths,
    stop: Event,
) -> None:  # fmt: skip
    """Render the line `seed` until `stop` is set or the parent process is gone.

    Args:
        feed_path: file of the feed, made here.
        seed: production line.
        defect_rate: share of parts with a defect, 0..1.
        size_px: side of the picture.
        ahead: parts that may wait before the camera.
        pause_at: after so many parts, render no more until the camera has taken them all, so that a short run is
            not slowed down by parts that nobody waits for.
        truths: gets (index, product line, defect or None) of each part before the part is placed.
        stop: set by the parent.
    """
    truths.cancel_join_thread()
    parent = multiprocessing.parent_process()

    def is_over() -> bool:
        return stop.is_set() or parent is None or not parent.is_alive()

    with FrameFeed(feed_path, size_px, size_px, channels=3, slots=ahead) as feed:
        index = 0
        while not is_over():
            if index == pause_at and feed.consumed < index:
                time.sleep(_POLL_S)
                continue
            part = line_part(index, seed, defect_rate, size=size_px)
            truths.put((index, part.line, part.defect))
            while not feed.put(part.image, _POLL_S):
                if is_over():
                    return
            index += 1
