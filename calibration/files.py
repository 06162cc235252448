"""Files of calibrations: whole or not at all, and with an error that says what to do."""

from __future__ import annotations

from pathlib import Path

from inspectd.durable import replace_file
from inspectd.errors import ConfigError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file; on the disk it is the old one or the new one, never a part. Folders on the way are made.

    Raises:
        ConfigError: it cannot be written; what was there stays as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data.encode() if isinstance(data, str) else data)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be written: {why}; name another place, or make room there") from error
