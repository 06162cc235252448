"""What an earlier run left of a training: whole, or damaged by a power cut, a full disk or a copy that was stopped."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Literal

from inspectd.training.carded import CHECKPOINT, kind_of
from inspectd.training.notes import NOTE, STATE, read_object

__all__ = ["clear_damaged"]


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
