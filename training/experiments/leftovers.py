"""What an earlier run left of a training: whole, or damaged by a power cut, a full disk or a copy that was stopped."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

from inspectd.training.carded import CHECKPOINT, kind_of
from inspectd.training.notes import NOTE, STATE

__all__ = ["clear_damaged", "read_object"]


def read_object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where it is missing, damaged or holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def clear_damaged(training: Path, kind: Literal["seg", "dst"]) -> None:
    """Remove what nothing can go on from, so that it is made again: a checkpoint, or all where there is no state.

    Args:
        training: folder of a training; need not be there.
        kind: of the network whose checkpoint it is to hold.
    """
    settings, state = training / NOTE, training / STATE
    # torch writes a zip file, whose directory is at its end.
    if (settings.is_file() and read_object(settings) is None) or (state.is_file() and not zipfile.is_zipfile(state)):
        shutil.rmtree(training)
    elif kind_of(training / CHECKPOINT) != kind:
        (training / CHECKPOINT).unlink(missing_ok=True)
