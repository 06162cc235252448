"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from inspectd.errors import ConfigError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file; on the disk it is the old one or the new one, never a part. Folders on the way are made.

    Raises:
        ConfigError: it cannot be written; what was there stays as it was.
    """
    contents = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            draft = Path(file.name)
            try:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
                # Made for its writer alone; a line runs as another user.
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be written: {why}; name another place, or make room there") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """So that the new name is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
