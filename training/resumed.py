"""A training's folder: begun, or gone on with where it was stopped."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inspectd.errors import ConfigError, DatasetError

from .files import written_whole
from .notes import NOTE, STATE, by_content, changes, read_object

__all__ = ["DAMAGED", "begin", "read_state"]

DAMAGED = "is damaged; start the training anew in another folder"


def begin(out: Path, settings: Mapping[str, Any], *, resume: bool, defaults: Mapping[str, Any] | None = None) -> None:
    """Make the folder with a note of the settings, or see that it is the one to go on with.

    Args:
        out: folder of the training.
        settings: what is trained.
        resume: whether it may be there already.
        defaults: of settings that the note of an earlier version does not have.

    Raises:
        ConfigError: it is in use, or of a training with other settings.
        DatasetError: its note is damaged.
    """
    note = out / NOTE
    # A note that was being written when an earlier run was killed is nothing.
    unfinished = f".{NOTE}.part"
    if not resume and (out.is_file() or (out.is_dir() and any(path.name != unfinished for path in out.iterdir()))):
        raise ConfigError(f"{out}: exists and is not empty; name a new folder, or go on with it by --resume")
    if not note.is_file():
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(note) as draft:
            draft.write_text(json.dumps(by_content(settings), indent=2) + "\n")
        return
    before = read_object(note)
    if before is None:
        raise DatasetError(f"{note}: {DAMAGED}")
    if changed := changes({**(defaults or {}), **before}, settings):
        raise ConfigError(f"{out}: was started with other settings: {', '.join(changed)}")


def read_state(out: Path, *needed: str) -> dict[str, Any]:
    """How far a training is.

    Args:
        out: its folder.
        needed: what the state must have.

    Raises:
        DatasetError: it is damaged, or not there.
    """
    path = out / STATE
    if not path.is_file():
        # Where one of several devices does not see it, it would go on from the beginning, and the others not.
        raise DatasetError(f"{path}: is not there; all devices of a training need the same folder")
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise DatasetError(f"{path}: {DAMAGED}") from error
    if not all(name in state for name in needed):
        raise DatasetError(f"{path}: {DAMAGED}")
    return state
