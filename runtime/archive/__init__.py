"""The archive: pictures of parts on the disk, written by a process of its own, so that no disk can hold up the line.

    the line                              ipc://…/archive            the archive's process
    ArchiveSender.offer  ── frame, mask, verdict (handover.py) ──▶  encode, write, delete the oldest (process.py)
    ArchiveProcess       ◀── a beat each 0.5 s (beat.py) ─────────  what it has done, and what is wrong

`Archive` reads what was written. docs/archive.md tells what lies where, and what is promised of it.
"""

from .beat import Beat
from .child import ArchiveProcess
from .handover import ArchiveSender
from .keeper import ArchiveKeeper
from .reader import Archive, Part

__all__ = ["Archive", "ArchiveKeeper", "ArchiveProcess", "ArchiveSender", "Beat", "Part"]
