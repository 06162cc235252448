"""Files that appear whole or not at all, and folders that one process writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from inspectd.errors import ConfigError

__all__ = ["InUseError", "locked", "written_whole"]


class InUseError(ConfigError):
    """Another process writes in a folder."""


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False, beside: bool = False) -> Iterator[None]:
    """Keep a folder for this process; the lock goes with the process, however that ends.

    Args:
        folder: it must be there, but for `beside`.
        wait: until another process has left it.
        beside: lock a file next to the folder, which need not be there yet and in which nothing else may be.

    Raises:
        InUseError: another process writes there.
        ConfigError: the file system has no locks, or the folder's own cannot be made.
    """
    path = folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"
    try:
        if beside:
            path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InUseError(f"{folder}: another process writes there; wait for it, or end it") from error
        except OSError as error:
            # Not a lock that another holds: to wait for that one would be to wait for ever.
            raise ConfigError(f"{folder}: cannot be locked: {error.strerror}; name a folder on another disk") from error
        yield


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of `path` when it is complete and on the disk.

    Raises:
        ConfigError: it could not be written; nothing is left of it, and `path` is as it was.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        # torch.save hides the system's words behind its own.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise ConfigError(f"{path}: cannot be written: {cause}") from error
