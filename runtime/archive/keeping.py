"""What lies in an archive and how much of it may: the oldest parts go where there are too many.

The archive is looked through once when its process begins, and then once an hour, for people delete things too; between
that it is known. All of it is done in small steps, between two parts that are written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ConfigError

from .layout import DAY_NAME, ENDINGS, SIDECAR, PartName, camera_folders, is_leftover

__all__ = ["Keeper", "Kept"]

GIB = 2**30
LOOK_AGAIN_S = 3600.0
_ENTRIES = 500
"""Of a folder that are looked at in one step: some ms."""
_DAY_NS = 86_400 * 10**9


class Kept(NamedTuple):
    """A part in the archive, in the order of their age.

    Attributes:
        stamp_ns: when it was archived; see `Keeper.stamp`.
        name: what its files' names have in common.
        folder: its folder within the archive.
        size: bytes of its files.
    """

    stamp_ns: int
    name: PartName
    folder: str
    size: int


@dataclass(slots=True)
class _Seen:
    """Files of one part, found while looking through a folder."""

    size: int = 0
    stamp_ns: int | None = None
    endings: tuple[str, ...] = ()


class Keeper:
    """Knows the parts of an archive and deletes the oldest; used from one thread, by the one process that writes.

    Args:
        root: the archive.
        settings: its limits.
        clock: s, monotonic.
        utc: ns since 1970.

    Attributes:
        bytes: size of all parts that are known.
        deleted: parts that were deleted to keep the limits.
    """

    def __init__(
        self,
        root: Path,
        settings: ArchiveSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self._root = root
        self._max_bytes = int(settings.max_gib * GIB)
        self._keep_free = int(settings.keep_free_gib * GIB)
        self._retention_ns = int(settings.retention_days * _DAY_NS)
        self._clock = clock
        self._utc = utc
        self.deleted = 0
        self.bytes = 0
        self._parts: deque[Kept] = deque()
        self._in_folder: Counter[str] = Counter()
        self._latest_ns = 0
        self._looking: Iterator[None] | None = None
        self._looked_s = 0.0
        self._meanwhile: list[Kept] = []
        self.look_again()

    @property
    def parts(self) -> int:
        """How many are known."""
        return len(self._parts)

    @property
    def is_looking(self) -> bool:
        """Whether it is still looking through the archive; nothing is deleted meanwhile."""
        return self._looking is not None

    @property
    def free(self) -> int:
        """Bytes that are free on the archive's disk, for this user.

        Raises:
            OSError: the archive is not there.
        """
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def look_again(self) -> None:
        """Look through the whole archive anew, step by step."""
        self._looking = self._look()

    def stamp(self) -> int:
        """The time to give to the next part, UTC ns: the clock's, but later than that of all parts before it.

        A clock that was set back must not make the newest parts the oldest, which are deleted first.
        """
        return max(self._utc(), self._latest_ns + 1000)

    def add(self, kept: Kept) -> None:
        """Take note of a part that was written."""
        self._latest_ns = max(self._latest_ns, kept.stamp_ns)
        self.bytes += kept.size
        self._parts.append(kept)
        self._in_folder[kept.folder] += 1
        if self._looking is not None:
            self._meanwhile.append(kept)

    def step(self, most: int = 8) -> bool:
        """Do a little of what is to be done: look through some files, or delete up to `most` parts that are too many.

        Returns:
            Whether there is more to do at once.

        Raises:
            OSError: the archive cannot be read, or a part cannot be deleted.
        """
        if self._looking is not None:
            try:
                next(self._looking)
            except StopIteration:
                self._looking = None
                self._looked_s = self._clock()
            except OSError:
                self.look_again()
                raise
            return True
        if self._clock() - self._looked_s > LOOK_AGAIN_S:
            self.look_again()
            return True
        for _ in range(most):
            if not self._parts or not self._too_much():
                return False
            self._delete_oldest()
        return True

    def lacks_room(self, size: int) -> bool:
        """Whether less would be free than is to be kept free, once `size` bytes are written.

        Raises:
            OSError: the archive is not there.
        """
        return self.free - size < self._keep_free

    def make_room(self, size: int, most: int = 64) -> bool:
        """Delete the oldest parts until `size` bytes can be written, but not more than `most`, which takes some ms.

        Returns:
            Whether something was deleted.

        Raises:
            OSError: a part cannot be deleted.
        """
        deleted = 0
        while self._parts and not self.is_looking and deleted < most and self.lacks_room(size):
            self._delete_oldest()
            deleted += 1
        return deleted > 0

    def give_way(self, size: int) -> bool:
        """Delete the oldest parts that took as many bytes as are needed: of a disk that is full, whatever it says.

        Returns:
            Whether something was deleted.

        Raises:
            OSError: a part cannot be deleted.
        """
        given = 0
        while self._parts and not self.is_looking and given < size:
            given += self._parts[0].size
            self._delete_oldest()
        return given > 0

    def check_floor(self) -> None:
        """Refuse a floor that would cost the whole archive and be missed all the same.

        Raises:
            ConfigError: the whole disk is smaller.
            OSError: the archive is not there.
        """
        disk = os.statvfs(self._root)
        if (size := disk.f_blocks * disk.f_frsize) <= self._keep_free:
            raise ConfigError(
                f"archive {self._root}: its disk has {size / GIB:.1f} GiB, and {self._keep_free / GIB:g} are to be "
                f"kept free; lower archive.keep_free_gib"
            )

    def _too_much(self) -> bool:
        return (
            self.bytes > self._max_bytes
            or self._utc() - self._parts[0].stamp_ns > self._retention_ns
            or self.lacks_room(0)
        )

    def _delete_oldest(self) -> None:
        # One that cannot be deleted is not tried again before all is looked through anew: the next ones go instead.
        kept = self._parts.popleft()
        folder = self._root / kept.folder
        # The sidecar first: from then on there is no such part.
        for ending in ENDINGS:
            (folder / f"{kept.name}{ending}").unlink(missing_ok=True)
        self.bytes -= kept.size
        self.deleted += 1
        self._in_folder[kept.folder] -= 1
        if not self._in_folder[kept.folder]:
            del self._in_folder[kept.folder]
            # Whatever people have put there stays, and so does its folder.
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()

    def _look(self) -> Iterator[None]:
        """Look through the archive, a piece for each step; what a crash has left behind is cleared away."""
        self._meanwhile = []
        found: list[Kept] = []
        days = sorted(path for path in self._root.iterdir() if DAY_NAME.fullmatch(path.name) and path.is_dir())
        for day in days:
            for folder in camera_folders(day):
                yield from self._look_into(folder, found)
        # Parts that were written meanwhile may have been seen or not.
        written = {(kept.folder, kept.name) for kept in self._meanwhile}
        found = [kept for kept in found if (kept.folder, kept.name) not in written]
        found += self._meanwhile
        found.sort()
        self._parts = deque(found)
        self._in_folder = Counter(kept.folder for kept in found)
        self.bytes = sum(kept.size for kept in found)
        self._latest_ns = max(self._latest_ns, found[-1].stamp_ns if found else 0)
        self._meanwhile = []

    def _look_into(self, folder: Path, found: list[Kept]) -> Iterator[None]:
        seen: dict[PartName, _Seen] = {}
        written = self._meanwhile
        before = len(written)
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries, 1):
                if number % _ENTRIES == 0:
                    yield
                if is_leftover(entry.name):
                    Path(entry.path).unlink(missing_ok=True)
                elif (file := PartName.of_file(entry.name)) is not None:
                    self._note(entry, seen.setdefault(file[0], _Seen()), file[1])
        within = f"{folder.parent.name}/{folder.name}"
        # A picture may have been seen whose sidecar came later.
        fresh = {kept.name for kept in written[before:] if kept.folder == within}
        for name, part in seen.items():
            if part.stamp_ns is not None:
                found.append(Kept(part.stamp_ns, name, within, part.size))
            elif name not in fresh:
                for ending in part.endings:
                    (folder / f"{name}{ending}").unlink(missing_ok=True)
        if not seen:
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()
        yield

    @staticmethod
    def _note(entry: os.DirEntry[str], part: _Seen, ending: str) -> None:
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        part.size += stat.st_size
        part.endings = (*part.endings, ending)
        if ending == SIDECAR:
            part.stamp_ns = stat.st_mtime_ns
