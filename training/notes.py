"""Notes of the settings that a folder is of: a file that they name counts by what it holds, wherever it lies."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["NOTE", "STATE", "by_content", "changes"]

NOTE, STATE = "settings.json", "resume.pt"
"""In the folder of a training: what is trained, and how far it is."""

_FILES = ("weights", "start", "hard", "vgg")
"""Settings that may name a file."""


def by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a note has them: instead of a file's path its sha256, which is the same on every machine."""
    found = dict(settings)
    for name in _FILES:
        value = found.get(name)
        if isinstance(value, str) and (path := Path(value)).is_file():
            status = path.stat()
            found[name] = f"sha256:{_digest(path.resolve(), status.st_mtime_ns, status.st_size)}"
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How settings differ from those of a note, as `name before -> now`, by the names that `now` has.

    Args:
        before: the note; one of an earlier version has paths.
        now: the settings, with paths.
    """
    noted = by_content(now)
    return [
        f"{name} {before.get(name)!r} -> {now[name]!r}"
        for name in now
        if before.get(name) not in (noted[name], now[name])
    ]


@functools.lru_cache(maxsize=16)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()
