"""Writing a dataset in the split.csv format."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import COLUMNS, SPLIT_FILE, Dataset, open_dataset
from inspectd.errors import DatasetError
from inspectd.picture import read_pixels
from inspectd.resumable import PROVENANCE

__all__ = ["Row", "SplitWriter", "require_new", "split_text", "take", "write_dataset", "write_png", "write_split"]

Row = tuple[str, str, str, str, str]
"""image, mask, defect, role, tile: a row of split.csv."""


def split_text(rows: Iterable[Row]) -> str:
    """The text of a split.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def write_split(root: Path, rows: Iterable[Row]) -> None:
    """Write split.csv, whole or not at all."""
    partial = root / f".{SPLIT_FILE}.partial"
    partial.write_text(split_text(rows), encoding="utf-8", newline="")
    partial.replace(root / SPLIT_FILE)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] RGB or [H, W] grey as PNG, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(cv2.imencode(".png", np.ascontiguousarray(stored))[1].tobytes())
    partial.replace(path)


def take(source: Path, target: Path, *, link: bool) -> None:
    """Take a file over as a hard link, where that is asked for and possible, or as a copy; folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system, or one without links: the copy below does the same
            pass
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def require_new(out: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        DatasetError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: already there and not an empty folder; nothing is overwritten, name another")


def write_dataset(
    out: Path, fill: Callable[[SplitWriter], None], provenance: Mapping[str, Any], *, link: bool = False
) -> Dataset:
    """Write a dataset through a `SplitWriter`; `out` appears when it is complete, or not at all.

    Args:
        out: folder to make; it may exist if it is empty.
        fill: adds every image, and collects faults in `SplitWriter.faults`.
        provenance: what decided the content, as JSON values; written beside it.
        link: hard-link the images instead of copying them, where the file system allows it.

    Raises:
        DatasetError: `out` is not empty, or any fault was collected; the message names every one.
    """
    require_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        staging = Path(folder) / "dataset"
        staging.mkdir()
        writer = SplitWriter(staging, link=link)
        fill(writer)
        if not writer.rows and not writer.faults:
            writer.faults.append("no images were found")
        if writer.faults:
            listed = "\n  ".join(writer.faults)
            raise DatasetError(f"nothing was written to {out}, {len(writer.faults)} faults:\n  {listed}")
        (staging / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        write_split(staging, writer.rows)
        staging.replace(out)
    return open_dataset(out)


class SplitWriter:
    """Collects images with their masks into a folder, and every fault on the way.

    Attributes:
        rows: rows of split.csv.
        faults: one line each; a dataset with any is not kept.
    """

    def __init__(self, root: Path, *, link: bool = False) -> None:
        self.rows: list[Row] = []
        self.faults: list[str] = []
        self._root = root
        self._link = link
        self._names: set[str] = set()
        self._folders: dict[str, str] = {}

    def size(self, source: Path) -> tuple[int, int] | None:
        """(height, width) of an image that can be read, px; otherwise None, and a fault."""
        try:
            pixels = read_pixels(source)
        except DatasetError as error:
            self.faults.append(str(error))
            return None
        return pixels.shape[0], pixels.shape[1]

    def add(self, source: Path, name: PurePosixPath, role: str, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        """Take an image over as images/`name`, with its masks bool [H, W] by defect."""
        image = PurePosixPath("images") / name
        if str(image) in self._names:
            self.faults.append(f"{source}: two images would be {image}; rename one")
            return
        self._names.add(str(image))
        take(source, self._root / image, link=self._link)
        if not masks:
            self.rows.append((str(image), "", "", role, ""))
        for defect, mask in masks.items():
            folder = self._folder(defect)
            path = PurePosixPath("masks") / folder / name.with_name(f"{name.name}.png")
            write_png(self._root / path, mask.astype(np.uint8) * 255)
            self.rows.append((str(image), str(path), defect, role, ""))

    def _folder(self, defect: str) -> str:
        """Folder name of a defect's masks; two defects that would share one are a fault."""
        folder = re.sub(r"[^\w.-]+", "_", defect)
        owner = self._folders.setdefault(folder, defect)
        if owner != defect:
            self.faults.append(f"the defects {owner!r} and {defect!r} are too alike for file names; rename one")
        return folder
