"""Files that are replaced as a whole or not at all, also over a power cut; and how damage to a .zip shows."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from pathlib import Path

__all__ = ["ZIP_DAMAGE", "replace_file", "sync_folder"]

ZIP_DAMAGE = (OSError, KeyError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile)
"""What is raised of a damaged .zip. RuntimeError is an encryption or compression that nobody asked for, or a later
version of the format; ValueError a name that is no text."""


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that whoever reads finds the old one or the new one; on the disk when this returns.

    Args:
        path: its place; its folder has to be there.
        data: its contents.
        mode: its permissions, which it has from the start.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    draft = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: the disk refused.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
