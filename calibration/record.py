"""How a calibration's record is made and written; what it is stands in `inspectd.calibrated.record`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from inspectd import __version__
from inspectd.calibrated import InputFile, Record, Software
from inspectd.errors import ConfigError

from .files import write_whole

__all__ = ["CameraId", "Source", "entry_of", "header", "read_source", "save_record", "utc_now"]


@dataclass(frozen=True, slots=True)
class CameraId:
    """Which camera a calibration is of.

    Attributes:
        serial: its serial number, None where it is not known.
        model: its model, None where it is not known.
    """

    serial: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: its contents, and what the record says of it."""

    path: Path
    data: bytes
    entry: InputFile


def read_source(path: Path) -> Source:
    """Read a file once, for its contents and for its digest: both are of the same bytes.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            # A pipe would be waited for without an end.
            raise ConfigError(f"{path}: is no file; take it out of the pictures, or name another")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; copy it again, or take it out") from error
    return Source(path, data, entry_of(path.name, data))


def entry_of(name: str, data: bytes) -> InputFile:
    """What a record says of a file with these contents."""
    return InputFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def utc_now() -> datetime:
    """The time to write into a record, in whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def header(
    inputs: Iterable[InputFile],
    *,
    made: datetime,
    camera: CameraId = CameraId(),
    width_px: int | None = None,
    height_px: int | None = None,
) -> dict[str, Any]:
    """The fields that all records share, to build one with: `LensRecord(**header(...), ...)`."""
    return {
        "made": made,
        "software": Software(name="inspectd", version=__version__),
        "inputs": tuple(inputs),
        "serial": camera.serial,
        "model": camera.model,
        "width_px": width_px,
        "height_px": height_px,
    }


def save_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(path, record.text())
