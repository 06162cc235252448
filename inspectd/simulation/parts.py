"""References and backgrounds of a dataset, with the regions of their parts."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import Dataset, Sample, read_image
from inspectd.errors import DatasetError
from inspectd.picture import IMAGE_SUFFIXES, read_mask

from .coarse import Exemplar
from .region import BoolMask, find_region, read_region, reference_region
from .site import Background, Reference

__all__ = ["Backgrounds", "MaskFolders", "as_reference", "file_name", "folders_of", "located", "read_exemplars"]

_KEPT_BYTES = 1 << 30
"""Memory for pictures and what is known of them."""
_BYTES_PER_PIXEL = 16
"""Picture, region, depth and the masks of a site."""


@dataclass(frozen=True, slots=True)
class MaskFolders:
    """Where masks of the part's region and of forbidden pixels are, if anywhere.

    A mask has the name of its picture with the ending .png, in the same subfolders or in none. A picture without one
    has its region found by itself, or no forbidden pixel.
    """

    regions: Path | None = None
    forbidden: Path | None = None

    def __post_init__(self) -> None:
        for folder in (self.regions, self.forbidden):
            if folder is not None and not folder.is_dir():
                raise DatasetError(f"{folder}: no such folder; expected masks named like the pictures, with .png")

    def check(self, samples: Sequence[Sample]) -> None:
        """See that the folders are for these pictures.

        Raises:
            DatasetError: a folder none of whose masks is named like a picture, or a mask that several are named like.
        """
        repeated = {name for name, count in Counter(_base(sample) for sample in samples).items() if count > 1}
        for folder in (self.regions, self.forbidden):
            found = [(sample, path) for sample in samples if (path := _like(folder, sample)) is not None]
            if folder is not None and not found:
                raise DatasetError(
                    f"{folder}: no mask is named like a picture; expected {Path(samples[0].name).with_suffix('.png')}"
                )
            for sample, path in found:
                if path.parent == folder and "/" in sample.name and _base(sample) in repeated:
                    raise DatasetError(f"{path}: {_base(sample)} is the name of several pictures; use their subfolders")

    def digest(self, samples: Sequence[Sample]) -> str | None:
        """What tells the masks of these pictures from others; None without any."""
        content = hashlib.sha256()
        paths = [
            path for sample in samples for folder in (self.regions, self.forbidden) if (path := _like(folder, sample))
        ]
        for path in paths:
            content.update(f"{path.name}\0".encode() + path.read_bytes())
        return content.hexdigest() if paths else None

    def region(self, sample: Sample, shape: tuple[int, int]) -> BoolMask | None:
        """The region given for a picture."""
        path = _like(self.regions, sample)
        return None if path is None else read_region(path, shape)

    def barred(self, sample: Sample, shape: tuple[int, int]) -> BoolMask | None:
        """The forbidden pixels given for a picture.

        Raises:
            DatasetError: an unusable mask, or one of another size.
        """
        path = _like(self.forbidden, sample)
        if path is None:
            return None
        mask = read_mask(path) > 0
        if mask.shape != shape:
            raise DatasetError(
                f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} px, but {sample.image} is "
                f"{shape[1]} x {shape[0]} px (width x height)"
            )
        return mask


def _base(sample: Sample) -> str:
    return f"{Path(sample.name).stem}.png"


def _like(folder: Path | None, sample: Sample) -> Path | None:
    if folder is None:
        return None
    name = Path(sample.name).with_suffix(".png")
    return next((path for path in (folder / name, folder / name.name) if path.is_file()), None)


def read_exemplars(dataset: Dataset, *, bits: int = 16) -> tuple[Exemplar, ...]:
    """Every labelled defect of the role ref; a picture with several defects gives several.

    Raises:
        DatasetError: there is none, one without a mask, or one whose files cannot be used.
    """
    samples = dataset.select("ref")
    if not samples:
        raise DatasetError(f"{dataset.root}: holds no picture of the role ref; label one photograph per defect type")
    if bare := [sample for sample in samples if not sample.masks]:
        raise DatasetError(f"{bare[0].image}: a reference without a mask; label its defect, or give it another role")
    found = []
    for sample in samples:
        image = read_image(sample.image, bits=bits)
        for defect, path in sample.masks:
            name = sample.name if len(sample.masks) == 1 else f"{sample.name}#{defect}"
            mask = read_mask(path) > 0
            if mask.shape != image.shape[:2] or not mask.any():
                what = "is empty" if mask.shape == image.shape[:2] else "has another size than its picture"
                raise DatasetError(f"{path}: the mask of {sample.name} {what}; label the defect's pixels again")
            found.append(Exemplar(name, defect, image, mask, sample.name))
    return tuple(found)


def located(exemplar: Exemplar, region: BoolMask | None = None) -> Exemplar:
    """The exemplar with the region of its part: the one given, the one that it has, or one found by itself."""
    return replace(exemplar, region=_region(exemplar) if region is None else region)


def as_reference(exemplar: Exemplar) -> Reference:
    """The exemplar as placement takes it; its region is found by itself where it has none."""
    return Reference(exemplar.name, exemplar.defect, exemplar.mask, _region(exemplar))


def _region(exemplar: Exemplar) -> BoolMask:
    return reference_region(exemplar.image, exemplar.mask) if exemplar.region is None else exemplar.region


def file_name(name: str) -> str:
    """A name, or a path inside a dataset, as that of one file or folder; a picture's ending is left out."""
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in IMAGE_SUFFIXES else name
    return re.sub(r"[^\w.-]+", "_", stem)


def folders_of(exemplars: Sequence[Exemplar]) -> dict[str, str]:
    """A folder name for each reference of a dataset: short where that tells them apart.

    Raises:
        DatasetError: two names that no file name tells apart.
    """
    for shorten in (lambda name: Path(name).name, lambda name: name):
        found = {exemplar.name: file_name(shorten(exemplar.name)) for exemplar in exemplars}
        if len(set(found.values())) == len(found):
            return found
    raise DatasetError(f"the references {', '.join(found)} are too alike for file names; rename one")


class Backgrounds(Sequence[Background]):
    """The defect-free pictures of the role free; read, and their regions found, when they are asked for."""

    def __init__(
        self, dataset: Dataset, masks: MaskFolders | None = None, *, bits: int = 16, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        """List them; `kept_bytes` of memory at most are for those that were read, or four of them.

        Raises:
            DatasetError: there is none, or the first cannot be read.
        """
        self.samples = dataset.select("free")
        if not self.samples:
            raise DatasetError(f"{dataset.root}: holds no picture of the role free; good parts are what is painted on")
        self._masks, self._bits = masks or MaskFolders(), bits
        self._masks.check(dataset.samples)
        self._numbers = {sample.name: number for number, sample in enumerate(self.samples)}
        height, width = self._read(0).shape[:2]
        kept = max(4, kept_bytes // (_BYTES_PER_PIXEL * height * width))
        self._picture: Callable[[int], NDArray[np.uint8]] = functools.lru_cache(kept)(self._read)
        self._background: Callable[[int], Background] = functools.lru_cache(kept)(self._find)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Background: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Background]: ...
    def __getitem__(self, index: int | slice) -> Background | Sequence[Background]:
        """A background with its region."""
        if isinstance(index, slice):
            return [self._background(number) for number in range(*index.indices(len(self)))]
        return self._background(range(len(self))[index])

    def digest(self, *more: Sample) -> str:
        """What tells these pictures, and `more`, with their masks from others: sha256 of all of it."""
        content = hashlib.sha256()
        for sample in (*self.samples, *more):
            content.update(f"{sample.name}\0".encode() + sample.image.read_bytes())
            for defect, path in sample.masks:
                content.update(f"{defect}\0".encode() + path.read_bytes())
        content.update(str(self._masks.digest((*self.samples, *more))).encode())
        return content.hexdigest()

    def picture(self, name: str) -> NDArray[np.uint8]:
        """The picture of a name, uint8 [H, W, C]; not to be written to.

        Raises:
            DatasetError: no background has the name, or its file cannot be used.
        """
        if name not in self._numbers:
            raise DatasetError(f"no background is named {name!r}; draw the placements for this dataset")
        return self._picture(self._numbers[name])

    def region(self, name: str) -> BoolMask:
        """The part in the picture of a name, bool [H, W].

        Raises:
            DatasetError: no background has the name, or its file or mask cannot be used.
        """
        self.picture(name)
        return self._background(self._numbers[name]).region

    def _read(self, number: int) -> NDArray[np.uint8]:
        return read_image(self.samples[number].image, bits=self._bits)

    def _find(self, number: int) -> Background:
        sample, picture = self.samples[number], self._picture(number)
        shape = picture.shape[0], picture.shape[1]
        region = self._masks.region(sample, shape)
        found = find_region(picture) if region is None else region
        return Background(sample.name, found, self._masks.barred(sample, shape))
