"""Notes of the settings that a folder is of: a file that they name counts by what it holds, wherever it lies."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["NOTE", "STATE", "by_content", "changes", "read_object"]

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
    """How settings differ from those of a note, as `name before -> now`.

    Args:
        before: the note; one of an earlier version has paths. What it has and `now` has not is of a later version.
        now: the settings, with paths.
    """
    noted = by_content(now)
    changed = [
        f"{name} {before.get(name)!r} -> {now[name]!r}"
        for name in now
        if before.get(name) not in (noted[name], now[name])
    ]
    return changed + [
        f"{name} {before[name]!r}, which this version does not know" for name in before if name not in now
    ]


def read_object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where it is missing, damaged or holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@functools.lru_cache(maxsize=16)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()
