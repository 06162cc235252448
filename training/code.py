"""Which code painted and trained: what a folder's results are of, beside data and settings."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import inspectd

__all__ = ["code_digest"]

_DECISIVE = (
    *("simulation", "training/style", "training/segmentation"),
    *("dataset.py", "mask.py", "picture.py", "preprocess.py"),
)
"""Folders and files of the package that decide what is painted, trained and measured."""


@functools.cache
def code_digest() -> str:
    """Twelve hexadecimal digits of the sha256 of all sources that decide a result, as they are on the disk.

    A commit would not tell of changes that nobody has committed, and an installed package has none.
    """
    root, content = Path(inspectd.__file__).parent, hashlib.sha256()
    for name in _DECISIVE:
        files = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        for file in files:
            content.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return content.hexdigest()[:12]
