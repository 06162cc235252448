"""Files that only their user may read, or may change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from inspectd.errors import ConfigError

__all__ = ["check_secret", "check_unshared"]


def check_secret(path: Path) -> None:
    """A secret that others can read is none; nor is one that somebody else may replace.

    Raises:
        ConfigError: it is so, or cannot be looked at.
    """
    status = _status(path)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"{path}: others can read it; it is secret: `chmod 600 {path}`, and make a new one if it was read"
        )
    _check_owner(path, status)


def check_unshared(path: Path, says: str) -> None:
    """Whoever can write a file, or the folder that it is in, decides what it says; so does who can turn a link to it.

    Args:
        path: the file.
        says: what it says, for the error.

    Raises:
        ConfigError: others can, or it cannot be looked at.
    """
    _status(path)  # of a circle of links this says so
    folders = [path.parent, *(link.parent for link in _links(path)), path.resolve().parent]
    for each in dict.fromkeys((path, *folders)):
        status = _status(each)
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise ConfigError(f"{each}: others can write to it, and so say {says}: `chmod go-w {each}`")
        _check_owner(each, status)


def _links(path: Path) -> Iterator[Path]:
    """The symbolic links on the way to a file, in the order in which the system follows them."""
    here, left = Path("/"), [*reversed(path.absolute().parts[1:])]
    while left:
        name = left.pop()
        step = here.parent if name == ".." else here / name
        if not step.is_symlink():
            here = step
            continue
        yield step
        target = step.readlink()
        here = Path("/") if target.is_absolute() else here
        left += reversed(target.relative_to(target.anchor).parts)


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.getuid(), 0):
        raise ConfigError(f"{path}: belongs to another user; `chown` it to the one who runs inspectd")
