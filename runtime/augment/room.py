"""Room for what is written on the site: a quota for the folder, and a floor of free space on its disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from inspectd.config import Augment

__all__ = ["Room", "size_of"]

GIB = 2**30
_AGAIN_S = 5.0
"""Between two looks through the folder; what is written in between is a few MB."""


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take, each once however many names it has; 0 where there is none."""
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                        continue
                    # Not the entry's own: on some systems that has no number.
                    told = entry.stat(follow_symlinks=False)
                    if (told.st_dev, told.st_ino) not in seen:
                        seen.add((told.st_dev, told.st_ino))
                        total += told.st_size
        except FileNotFoundError:  # deleted meanwhile
            continue
    return total


class Room:
    """Whether there is room.

    Args:
        settings: the section `augment`, with `out`.
        clock: s, monotonic.
    """

    def __init__(self, settings: Augment, *, clock: Callable[[], float] = time.monotonic) -> None:
        if settings.out is None:
            raise ValueError("augment.out is not set")
        self._folder = settings.out
        self._settings = settings
        self._clock = clock
        self._size = 0
        self._next_s = float("-inf")

    def lack(self) -> str:
        """Why nothing more may be written, for people; empty while there is room.

        Raises:
            OSError: the disk does not say.
        """
        settings = self._settings
        there = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < settings.keep_free_gib * GIB:
            return (
                f"{self._folder}: {free / GIB:.2f} GiB are free on its disk, of which {settings.keep_free_gib:g} are "
                "to stay free; make room, or lower augment.keep_free_gib"
            )
        if (now_s := self._clock()) >= self._next_s:
            self._next_s = now_s + _AGAIN_S
            self._size = size_of(self._folder)
        if self._size >= settings.max_gib * GIB:
            # Somebody may delete: then it should not take long.
            self._next_s = now_s
            return (
                f"{self._folder}: holds {self._size / GIB:.2f} GiB, and may hold {settings.max_gib:g}; take away "
                "what was fetched, or raise augment.max_gib"
            )
        return ""
