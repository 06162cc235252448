"""What the archive's process tells of itself: a line of JSON each half second."""

from __future__ import annotations

import json
from dataclasses import dataclass

from inspectd.errors import ProtocolError

__all__ = ["BEAT_S", "MAX_FAULT", "Beat"]

BEAT_S = 0.5
"""Between two beats. They come from a thread of their own, also while the disk does not answer."""
MAX_FAULT = 900
"""Signs of a fault, of four bytes at most: a beat has to fit into what a pipe takes in one piece (PIPE_BUF)."""


@dataclass(frozen=True, slots=True)
class Beat:
    """How the archive is, and what it has done since its process began.

    Attributes:
        written: parts that lie whole on the disk.
        refused: parts that reached the process and could not be written.
        deleted: parts that were deleted to keep the limits.
        size_bytes: of the archive; until the process has looked through it, at its start, of what it has written alone.
        fault: why nothing is written now, for people; empty while all is well.
    """

    written: int = 0
    refused: int = 0
    deleted: int = 0
    size_bytes: int = 0
    fault: str = ""

    def to_line(self) -> bytes:
        """The line, with its end."""
        values = {
            "kind": "beat",
            "written": self.written,
            "refused": self.refused,
            "deleted": self.deleted,
            "bytes": self.size_bytes,
            "fault": self.fault[:MAX_FAULT],
        }
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Beat:
        """Read a line; what a later version adds is passed over.

        Raises:
            ProtocolError: it is no beat.
        """
        try:
            values = json.loads(line)
            if values["kind"] != "beat":
                raise ValueError(f"kind {values['kind']!r}")
            written, refused, deleted, size = (int(values[name]) for name in ("written", "refused", "deleted", "bytes"))
            return cls(written, refused, deleted, size, str(values["fault"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"archive: expected a beat, got {line[:80]!r} ({error!r})") from error
