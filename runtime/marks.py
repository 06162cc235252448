"""Defects that the line missed and somebody marked: a dataset of references on the site.

    OUT/marked/split.csv           roles ref, the marked parts, and free, good parts that a defect can be learnt on
    OUT/marked/images/NAME.png     the archived picture, byte for byte
    OUT/marked/masks/DEFECT/NAME.png
    OUT/marked/marks/NAME.DEFECT.json     who marked it, when and how: what split.csv is made of
    OUT/marked/free/NAME.png

NAME is the part's in the archive: camera, day, epoch and seq.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from inspectd.bundle import encode_png
from inspectd.dataset import SPLIT_FILE
from inspectd.dataset_writing import Row, split_text
from inspectd.durable import replace_file
from inspectd.errors import DatasetError, RequestError
from inspectd.resumable import PROVENANCE
from inspectd.runtime.archive import Part
from inspectd.simulation.parts import file_name

__all__ = ["MARKED", "Mark", "Marks", "marked_pictures"]

MARKED = "marked"
"""Folder of the dataset, in `augment.out`."""
FREE_PARTS = 50
"""Good parts of each camera that the dataset has beside its references."""
_MARKS = "marks"
_log = logging.getLogger("inspectd.station")


class Mark(BaseModel):
    """One defect on one part, and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    """Of the part here."""
    picture: str
    """File of the picture, in the dataset."""
    mask: str
    """File of the mask, in the dataset."""
    defect: str
    camera: str
    epoch: int
    stream: int
    seq: int
    verdict: str
    """What the line said of the part."""
    judged_by: str
    """Digest of the bundle that judged."""
    picture_sha256: str
    lossless: bool
    marked_by: str
    """Name of the client."""
    marked_ns: int
    """When; UTC, ns."""
    how: str
    """How the mask came about, for people."""


class Marks:
    """The dataset of a site; one thread's.

    Args:
        top: the folder `augment.out`.
    """

    def __init__(self, top: Path) -> None:
        self.root = top / MARKED

    def all(self) -> list[Mark]:
        """What was marked, by name.

        Raises:
            RequestError: a file of it is damaged.
            OSError: it cannot be read.
        """
        found = []
        for path in sorted((self.root / _MARKS).glob("*.json")):
            try:
                found.append(Mark.model_validate_json(path.read_bytes()))
            except ValidationError as error:  # noqa: PERF203 - each file is named
                raise RequestError(f"{path}: is damaged ({error.error_count()} faults); mark the part again") from error
        return found

    def keep(self, part: Part, defect: str, mask: NDArray[np.bool_], *, by: str, how: str, now_ns: int) -> Mark:
        """Keep a part with the label of a defect that was missed; again with the same label it changes nothing.

        It is in the dataset once that is written (`write`).

        Args:
            part: of the archive.
            defect: its type.
            mask: bool [H, W] of the picture's size.
            by: who has marked it.
            how: how the mask came about, for people.
            now_ns: UTC, ns.

        Raises:
            RequestError: the mask does not fit, or the part is marked otherwise already.
            DatasetError: the picture is not the one that was archived.
            OSError: the disk does not take it.
        """
        _check(part, defect, mask)
        data, sidecar = part.picture(), part.sidecar
        name = name_of(part)
        picture = f"images/{name}{Path(sidecar.picture.name).suffix}"
        mark = Mark(
            name=name,
            picture=picture,
            mask=f"masks/{file_name(defect)}/{name}.png",
            defect=defect,
            camera=sidecar.camera,
            epoch=sidecar.epoch,
            stream=sidecar.stream,
            seq=sidecar.seq,
            verdict=sidecar.verdict,
            judged_by=sidecar.bundle_digest,
            picture_sha256=sidecar.picture.sha256,
            lossless=sidecar.lossless,
            marked_by=by,
            marked_ns=now_ns,
            how=how,
        )
        label = encode_png(mask.astype(np.uint8) * 255)
        record = self.root / _MARKS / f"{name}.{file_name(defect)}.json"
        if record.is_file():
            before = Mark.model_validate_json(record.read_bytes())
            if before.defect != defect or (self.root / before.mask).read_bytes() != label:
                raise RequestError(
                    f"mark: {before.name} is marked with {before.defect!r} already, otherwise; delete {record} to mark "
                    "it anew"
                )
            mark = before
        else:
            self._put(picture, data)
            self._put(mark.mask, label)
            # What the dataset is made of: with it the mark is there.
            self._put(str(record.relative_to(self.root)), (mark.model_dump_json(indent=1) + "\n").encode())
        return mark

    def add_free(self, camera: str, parts: Iterable[Part]) -> None:
        """Fill up the good parts of a camera; those that cannot be read are told and passed over.

        Args:
            camera: its name.
            parts: good ones of it, in the order in which they are taken; no more are asked for than there is room for.

        Raises:
            OSError: the disk does not take them.
        """
        free = self.root / "free"
        there = {path.stem for path in free.glob("*")} if free.is_dir() else set()
        room, ahead = FREE_PARTS - sum(_camera_of(name) == camera for name in there), iter(parts)
        while room > 0 and (part := next(ahead, None)) is not None:
            name = name_of(part)
            if name in there:
                continue
            try:
                data = part.picture()
            except DatasetError as error:
                _log.warning("%s", error)
                continue
            there.add(name)
            self._put(f"free/{name}{Path(part.sidecar.picture.name).suffix}", data)
            room -= 1

    def write(self) -> int:
        """Write what the dataset consists of anew; how many marks there are.

        Raises:
            RequestError, OSError: as `all`.
        """
        marks = self.all()
        marked = {mark.picture_sha256 for mark in marks}
        rows: list[Row] = [(mark.picture, mark.mask, mark.defect, "ref", mark.name) for mark in marks]
        for path in sorted((self.root / "free").glob("[!.]*")):
            # What somebody has found a defect on is no good part any more.
            if hashlib.sha256(path.read_bytes()).hexdigest() in marked:
                path.unlink()
            else:
                rows.append((f"free/{path.name}", "", "", "free", path.stem))
        provenance = {"made_by": "inspectd, mark", "simulated": False, "marks": [mark.model_dump() for mark in marks]}
        self._put(PROVENANCE, (json.dumps(provenance, indent=1) + "\n").encode())
        self._put(SPLIT_FILE, split_text(rows).encode())
        return len(marks)

    def _put(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def name_of(part: Part) -> str:
    """The name of an archived part in a dataset: camera, day, epoch and seq."""
    return f"{part.sidecar.camera}-{part.path.parent.parent.name}-{part.path.stem}"


def _camera_of(name: str) -> str:
    # After it come year, month, day, epoch and seq; it may hold dashes itself.
    return name.rsplit("-", 5)[0]


def marked_pictures(top: Path) -> Collection[str]:
    """sha256 of the pictures that a defect was marked on: they show no good parts, whatever their verdict was.

    Args:
        top: the folder `augment.out`.

    Raises:
        RequestError, OSError: as `Marks.all`.
    """
    return frozenset(mark.picture_sha256 for mark in Marks(top).all())


def _check(part: Part, defect: str, mask: NDArray[np.bool_]) -> None:
    facts = part.sidecar.frame
    if defect != defect.strip() or not re.fullmatch(r"[^.+\x00-\x1f][^+\x00-\x1f]*", defect):
        raise RequestError(
            f"mark: a defect named {defect!r}: expected a name without '+', outer spaces and a dot in front",
            code="bad_request",
            field="defect",
        )
    if mask.shape != (facts.height, facts.width):
        raise RequestError(
            f"mark: the mask is {mask.shape[1]} x {mask.shape[0]} px and the picture {facts.width} x {facts.height} px "
            "(width x height); expected the same size",
            code="bad_request",
            field="mask",
        )
    if not mask.any() or mask.all():
        what = "is empty" if not mask.any() else "covers the whole picture"
        raise RequestError(f"mark: the mask {what}; mark the pixels of the defect", code="bad_request", field="mask")
