"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from inspectd.durable import sync_folder

from .layout import PARTIAL

__all__ = ["make_folder", "place", "put"]


def put(path: Path, data: bytes | memoryview, *, stamp_ns: int | None = None) -> Path:
    """Write a file beside its place, so that it is on the disk; `place` gives it its name.

    Args:
        path: its place.
        data: its contents.
        stamp_ns: the time of change that it gets, ns since 1970; else the clock's.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if stamp_ns is not None:
            os.utime(descriptor, ns=(stamp_ns, stamp_ns))
        os.fsync(descriptor)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return partial


def place(partial: Path) -> Path:
    """Give a file of `put` its name.

    Raises:
        OSError: that failed.
    """
    return partial.replace(partial.with_name(partial.name[1 : -len(PARTIAL)]))


def make_folder(folder: Path, *, stop: Path) -> None:
    """Make a folder and those above it, but not `stop`, which has to be there.

    Raises:
        OSError: it cannot be made, or `stop` is not there.
    """
    if folder.is_dir():
        return
    if folder.parent != stop:
        make_folder(folder.parent, stop=stop)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
