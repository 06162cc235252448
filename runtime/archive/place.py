"""The folder of an archive: there, writable, and nobody else's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from inspectd.errors import ConfigError

from .layout import LOCK

__all__ = ["ArchiveFolder", "why_not"]


class ArchiveFolder:
    """Holds the lock of an archive, so that no two processes count and delete in it.

    Args:
        root: the archive.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = -1
        self._device: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is there and ours; it may have been deleted since it was opened."""
        if self._lock < 0:
            return False
        try:
            ours, there = os.fstat(self._lock), (self.root / LOCK).stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def open(self) -> None:
        """Make it if need be, and lock it. May be called again where it is not held any more.

        Raises:
            ConfigError: another process holds it, it cannot be made or written, or its disk is not there any more.
        """
        self.close()
        try:
            self._make()
            self._take_lock()
        except OSError as error:
            raise ConfigError(why_not(self.root, error)) from error

    def try_room(self, size: int) -> None:
        """Try whether a file of so many bytes can be written, and leave nothing behind.

        Raises:
            OSError: it cannot.
        """
        probe = self.root / f"{LOCK}.probe"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(descriptor, 0, max(1, size))
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                probe.unlink()

    def close(self) -> None:
        """Let go of the lock. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _make(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        device = (self.root if self.root.exists() else self.root.parent).stat().st_dev
        # A disk that was unmounted leaves its empty mount point: the system's own disk must not be filled instead.
        if self._device is not None and device != self._device:
            raise ConfigError(
                f"archive {self.root}: lies on another file system than before; mount its disk again, or start the "
                f"station anew if it is to stay here"
            )
        self.root.mkdir(exist_ok=True)
        self._device = device

    def _take_lock(self) -> None:
        path = self.root / LOCK
        # For reading, so that the disk can be set read-only while the lock is held.
        lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise ConfigError(
                f"archive {self.root}: another station writes to it (process {holder}); give each its own archive.path"
            ) from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        # A disk that takes no number gives the lock all the same; whether it takes parts is found out with parts.
        with contextlib.suppress(OSError):
            path.write_text(f"{os.getpid()}\n", encoding="ascii")


def why_not(root: Path, error: OSError, doing: str = "pictures cannot be written") -> str:
    """What is wrong with an archive, and what to do."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "make room on its disk, or lower archive.max_gib"
        case errno.EROFS:
            remedy = "its disk is mounted read-only, perhaps after an error: see the system's log, and mount it anew"
        case errno.EACCES | errno.EPERM:
            remedy = "give the station's user the right to write there, or set another archive.path"
        case errno.ENOENT | errno.ENOTDIR | errno.EEXIST:
            remedy = "make the folder, mount its disk, or set another archive.path"
        case errno.EIO:
            remedy = "the disk fails: replace it"
        case _:
            remedy = "see what is wrong with its disk, or set another archive.path"
    return f"archive {root}: {doing}: {error.strerror}; {remedy}"
