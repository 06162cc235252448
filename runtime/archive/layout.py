"""What lies where in an archive, and what a sidecar says.

    DIR/.lock                                      held by the one process that writes
    DIR/2026-11-26/cam1/7-1042.png                 the picture that was inspected (.jpg where the format is jpeg)
    DIR/2026-11-26/cam1/7-1042.mask.png            labels, 8 bits grey; of parts that were inspected
    DIR/2026-11-26/cam1/7-1042.overlay.png         where the configuration asks for it
    DIR/2026-11-26/cam1/7-1042.json                the sidecar: without it there is no part

The day is that of the station's clock, UTC; 7 is the epoch, 1042 the seq. A station that counts its epochs anew can
give the same numbers again: such a part is 7-1042~2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from inspectd.wire import CAMERA_NAME

__all__ = [
    "DAY_NAME",
    "ENDINGS",
    "LOCK",
    "PARTIAL",
    "SIDECAR",
    "FrameFacts",
    "PartName",
    "Sidecar",
    "StoredFile",
    "camera_folders",
    "is_leftover",
]

LOCK = ".lock"
SIDECAR = ".json"
PARTIAL = ".partial"
"""Ending of what is being written."""
DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")
ENDINGS = (SIDECAR, ".png", ".jpg", ".mask.png", ".overlay.png")
"""Of the files that a part may have."""
_FILE_NAME = re.compile(rf"(\d{{1,10}})-(\d{{1,20}})(?:~(\d{{1,6}}))?({'|'.join(map(re.escape, ENDINGS))})")
_PARTIAL_NAME = re.compile(rf"\.{_FILE_NAME.pattern}{re.escape(PARTIAL)}")


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """What the names of a part's files have in common; in the order in which a station gives them.

    Attributes:
        epoch: of the verdict.
        seq: of the verdict.
        again: 1, or higher where an archive has a part of these numbers already.
    """

    epoch: int
    seq: int
    again: int = 1

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}" + (f"~{self.again}" if self.again > 1 else "")

    @classmethod
    def of_file(cls, name: str) -> tuple[PartName, str] | None:
        """The part and the ending of a file's name; None of a file that is not the archive's."""
        if (match := _FILE_NAME.fullmatch(name)) is None:
            return None
        return cls(int(match[1]), int(match[2]), int(match[3] or 1)), match[4]


def is_leftover(name: str) -> bool:
    """Whether a file's name is one that only a part has that is being written."""
    return _PARTIAL_NAME.fullmatch(name) is not None


def camera_folders(day: Path) -> list[Path]:
    """The folders of the cameras in the folder of a day, by name; other things in it are passed over.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in day.iterdir() if re.fullmatch(CAMERA_NAME, path.name) and path.is_dir())


class _Model(BaseModel):
    # What a later version adds is passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class StoredFile(_Model):
    """A file of a part, beside its sidecar."""

    name: str = Field(pattern=r"^[0-9~-]+\.[a-z.]+$")
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class FrameFacts(_Model):
    """What the line knew of the frame beside its pixels; see `Frame`."""

    frame_id: int = Field(ge=0)
    acquired_ns: int
    trigger_id: int = Field(ge=0)
    source: str
    camera_clock: bool
    serial: str = ""
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3]


class Sidecar(_Model):
    """What is known of a part; JSON beside its picture."""

    format: Literal[1] = 1
    camera: str = Field(pattern=CAMERA_NAME)
    verdict: Literal["OK", "NG", "REVIEW", "NOT_INSPECTED"]
    epoch: int = Field(ge=0)
    stream: int = Field(ge=0)
    seq: int = Field(ge=1)
    bundle_digest: str
    """sha256 of the bundle that judged, hexadecimal."""
    archived_ns: int
    """When it was archived, UTC ns; never earlier than that of a part before it, whatever the clock says."""
    frame: FrameFacts
    header: dict[str, int]
    """The fields of the verdict's header, by their names in docs/protocol.md."""
    body: dict[str, Any]
    """The verdict's body, as it was published."""
    lossless: bool
    """Whether the picture is, pixel by pixel, the one that was inspected."""
    classes: tuple[str, ...] | None
    """`classes[k - 1]` is the class of label k in the mask; None where there is none."""
    picture: StoredFile
    mask: StoredFile | None = None
    overlay: StoredFile | None = None
