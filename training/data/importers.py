"""Datasets from the files of annotation tools: COCO JSON and LabelMe JSON.

Both write split.csv, the masks as PNG (0 and 255), and copies of the images; a fault anywhere means that
nothing is written, and all faults are reported together. What is held out for measuring is in `holdout`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from inspectd import __version__
from inspectd.dataset import DEFECT_FREE_ROLES, ROLES, Dataset
from inspectd.dataset_writing import SplitWriter, write_dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.picture import IMAGE_SUFFIXES

from . import shapes
from .holdout import NO_HOLD_OUT, HoldOut

__all__ = ["import_coco", "import_labelme"]

Progress = Callable[[int, int], None]
_Mask = NDArray[np.bool_]
_Model = TypeVar("_Model", bound=BaseModel)


class _Runs(BaseModel):
    counts: list[int] | str
    size: tuple[int, int]


class _CocoImage(BaseModel):
    id: int
    file_name: str = Field(min_length=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class _CocoCategory(BaseModel):
    id: int
    name: str


class _CocoAnnotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    segmentation: Annotated[list[list[float]] | _Runs | None, Field(union_mode="left_to_right")] = None


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


class _LabelmeShape(BaseModel):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _Labelme(BaseModel):
    imagePath: str = Field(min_length=1)  # noqa: N815 (the file's own name)
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815
    shapes: list[_LabelmeShape]


def import_coco(
    json: Path,
    images: Path,
    out: Path,
    *,
    role: str = "ref",
    held: HoldOut = NO_HOLD_OUT,
    link: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Write a dataset from COCO JSON: polygons of one or several parts, and run lengths of both kinds.

    Categories become defects; an image's annotations of one category become one mask. Images without
    annotations are good parts: `ok_test` if `role` is `test`, `free` otherwise.

    Args:
        json: the annotations ("instances" format).
        images: folder that `file_name` is relative to.
        out: folder to write; it must not exist, or be empty.
        role: role of the images with defects: ref, extra, simulated or test.
        held: what is held out for measuring.
        link: hard-link the images where possible instead of copying them.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: a share is held out of a role that none can be held out of.
        DatasetError: `out` is not empty, `role` is none for defects, or the annotations have faults (all named).
    """
    good = _good_role(role, held)
    coco = _load(_Coco, json)
    faults = _coco_faults(coco, json)
    defects = {category.id: category.name for category in coco.categories}
    annotations: defaultdict[int, list[_CocoAnnotation]] = defaultdict(list)
    for annotation in coco.annotations:
        annotations[annotation.image_id].append(annotation)

    def fill(writer: SplitWriter) -> None:
        writer.faults += faults
        for done, image in enumerate(coco.images, start=1):
            name = PurePosixPath(image.file_name)
            if name.is_absolute() or ".." in name.parts:
                writer.faults.append(f"{json}: the file_name {image.file_name} leads out of {images}")
            elif (shape := _expected_size(writer, images / name, image.height, image.width)) is not None:
                masks: dict[str, _Mask] = {}
                for annotation in annotations[image.id]:
                    where = f"{json}: annotation {annotation.id} on {image.file_name}"
                    defect = defects.get(annotation.category_id, "")
                    _merge(masks, defect, partial(_coco_mask, annotation, shape), where, writer.faults)
                writer.add(images / name, name, role if masks else good, masks)
            if progress is not None:
                progress(done, len(coco.images))
        writer.rows = held.apply(writer.rows, writer.faults)

    return write_dataset(out, fill, _provenance("coco", json, role, held), link=link)


def import_labelme(
    folder: Path,
    out: Path,
    *,
    role: str = "ref",
    held: HoldOut = NO_HOLD_OUT,
    link: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Write a dataset from a folder of LabelMe JSON files and images, sub-folders included.

    Takes polygons, rectangles and circles; labels become defects. Images without a JSON file, or with one that
    holds no shape, are good parts: `ok_test` if `role` is `test`, `free` otherwise.

    Args:
        folder: the JSON files; the images are where `imagePath` says, or beside the JSON file under its name.
        out: folder to write; it must not exist, or be empty.
        role: role of the images with defects: ref, extra, simulated or test.
        held: what is held out for measuring.
        link: hard-link the images where possible instead of copying them.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: a share is held out of a role that none can be held out of.
        DatasetError: `out` is not empty, `role` is none for defects, or the files have faults (all named).
    """
    good = _good_role(role, held)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected LabelMe JSON files and images")
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise DatasetError(f"{folder}: no LabelMe JSON file; expected one beside each labelled image")

    def fill(writer: SplitWriter) -> None:
        labelled: dict[Path, Path] = {}
        pictures = {path.resolve() for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
        total = max(len(files), len(pictures))
        for done, file in enumerate(files, start=1):
            if (image := _import_labelme(file, folder, writer, role, good)) is not None:
                first = labelled.setdefault(image.resolve(), file)
                if first != file:
                    writer.faults.append(f"{file}: its image {image} already belongs to {first}")
            if progress is not None:
                progress(done, total)
        for done, image in enumerate(sorted(pictures - set(labelled)), start=len(files) + 1):
            if writer.size(image) is not None:
                writer.add(image, PurePosixPath(image.relative_to(folder.resolve()).as_posix()), good, {})
            if progress is not None:
                progress(min(done, total), total)
        writer.rows = held.apply(writer.rows, writer.faults)

    return write_dataset(out, fill, _provenance("labelme", folder, role, held), link=link)


def _import_labelme(file: Path, folder: Path, writer: SplitWriter, role: str, good: str) -> Path | None:
    """Add the image of one JSON file; its path, or None and a fault."""
    try:
        labels = _load(_Labelme, file)
    except DatasetError as error:
        writer.faults.append(str(error))
        return None
    image = _labelme_image(file, labels.imagePath)
    if image is None:
        writer.faults.append(f"{file}: its image {labels.imagePath} is missing, and none of its name lies beside it")
        return None
    shape = _expected_size(writer, image, labels.imageHeight, labels.imageWidth)
    if shape is not None:
        masks: dict[str, _Mask] = {}
        for number, given in enumerate(labels.shapes, start=1):
            where = f"{file}: shape {number} ({given.label!r})"
            _merge(masks, given.label, partial(_labelme_mask, given, shape), where, writer.faults)
        name = file.relative_to(folder).with_suffix(image.suffix).as_posix()
        writer.add(image, PurePosixPath(name), role if masks else good, masks)
    return image


def _labelme_image(file: Path, stated: str) -> Path | None:
    """The image of a JSON file: where it says (in either system's way of writing), or its neighbour of that name."""
    said = file.parent / PurePosixPath(PureWindowsPath(stated).as_posix())
    beside = (file.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    return next((path for path in (said, *beside) if path.is_file()), None)


def _labelme_mask(given: _LabelmeShape, shape: tuple[int, int]) -> _Mask:
    points = np.array(given.points, np.float64).reshape(-1, 2)
    match given.shape_type:
        case "polygon":
            return shapes.polygon(points, shape)
        case "rectangle":
            return shapes.rectangle(points, shape)
        case "circle":
            return shapes.circle(points, shape)
        case other:
            raise ValueError(f"a {other!r} has no area that can be imported; draw a polygon, rectangle or circle")


def _coco_mask(annotation: _CocoAnnotation, shape: tuple[int, int]) -> _Mask:
    segmentation = annotation.segmentation
    if not segmentation:
        raise ValueError("it has no segmentation; a box alone is not a mask")
    if isinstance(segmentation, _Runs):
        if segmentation.size != shape:
            raise ValueError(f"its run lengths are for {segmentation.size}, the image is {shape} (height, width)")
        counts = segmentation.counts
        return shapes.from_counts(shapes.decode_counts(counts) if isinstance(counts, str) else counts, shape)
    mask = np.zeros(shape, np.bool_)
    for part in segmentation:
        if len(part) % 2:
            raise ValueError(f"a polygon has {len(part)} coordinates, expected pairs of x and y")
        mask |= shapes.polygon(np.array(part, np.float64).reshape(-1, 2), shape)
    return mask


def _coco_faults(coco: _Coco, json: Path) -> list[str]:
    """What is wrong with the references between images, categories and annotations."""
    faults = []
    for kind, ids in (
        ("images", [image.id for image in coco.images]),
        ("categories", [category.id for category in coco.categories]),
        ("annotations", [annotation.id for annotation in coco.annotations]),
    ):
        faults += [f"{json}: the id {twice} occurs twice in {kind}" for twice in _twice(ids)]
    faults += [
        f"{json}: the file_name {twice} occurs twice" for twice in _twice(image.file_name for image in coco.images)
    ]
    faults += [f"{json}: the category name {twice!r} occurs twice" for twice in _twice(c.name for c in coco.categories)]
    images = {image.id for image in coco.images}
    categories = {category.id for category in coco.categories}
    for annotation in coco.annotations:
        if annotation.image_id not in images:
            faults.append(f"{json}: annotation {annotation.id} is on image {annotation.image_id}, which is not listed")
        if annotation.category_id not in categories:
            faults.append(
                f"{json}: annotation {annotation.id} has the category {annotation.category_id}, which is not listed"
            )
    return faults


_T = TypeVar("_T", int, str)


def _twice(values: Iterable[_T]) -> list[_T]:
    return [value for value, count in Counter(values).items() if count > 1]


def _merge(masks: dict[str, _Mask], defect: str, make: Callable[[], _Mask], where: str, faults: list[str]) -> None:
    """Add what `make` gives to the mask of a defect, or a fault."""
    if not defect or defect != defect.strip() or "+" in defect:
        faults.append(f"{where}: the defect's name {defect!r} is empty, has outer spaces or holds a '+'")
        return
    try:
        mask = make()
    except ValueError as error:
        faults.append(f"{where}: {error}")
        return
    if not mask.any():
        faults.append(f"{where}: covers no pixel of the image")
        return
    masks[defect] = masks[defect] | mask if defect in masks else mask


def _expected_size(writer: SplitWriter, image: Path, height: int | None, width: int | None) -> tuple[int, int] | None:
    """(height, width) of an image that is as large as its annotations say, px; otherwise None, and a fault."""
    shape = writer.size(image)
    if shape is not None and None not in (height, width) and shape != (height, width):
        writer.faults.append(
            f"{image}: is {shape[1]} x {shape[0]} px, but was annotated as {width} x {height} px (width x height); "
            "resized or turned since?"
        )
        return None
    return shape


def _provenance(kind: str, source: Path, role: str, held: HoldOut) -> dict[str, Any]:
    """What decided the content besides the labels."""
    return {
        "made_by": f"inspectd {__version__}, inspectd-train import {kind}",
        "labels": source.resolve().name,
        "role": role,
        "test_share": held.share,
        "seed": held.seed,
        "part": held.part,
    }


def _good_role(role: str, held: HoldOut) -> str:
    if role not in ROLES or role in DEFECT_FREE_ROLES:
        allowed = ", ".join(name for name in ROLES if name not in DEFECT_FREE_ROLES)
        raise DatasetError(f"the role {role!r} is not one for images with defects; expected one of {allowed}")
    if held.share and role in {"test", "simulated"}:
        why = "all of it is measured on" if role == "test" else "a network is measured on real defects"
        raise ConfigError(f"--test-share {held.share}: nothing is held out of the role {role!r}, {why}; leave it out")
    return "ok_test" if role == "test" else "free"


def _load(model: type[_Model], path: Path) -> _Model:
    """A JSON file as a model; DatasetError with every fault."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines = [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in found[:8]]
        more = [f"and {len(found) - 8} more"] if len(found) > 8 else []
        raise DatasetError(f"{path}: not the JSON expected: {'; '.join(lines + more)}") from None
