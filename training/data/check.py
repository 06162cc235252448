"""What is in a dataset, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from inspectd.dataset import ROLES, Dataset, Sample, scan
from inspectd.errors import DatasetError
from inspectd.picture import IMAGE_SUFFIXES, Pixels, read_mask, read_pixels

__all__ = ["CheckReport", "DefectAreas", "check"]

# Photographs of one part may stand in several of these: what is fitted to one of them may be fitted to another.
_SHARED_TILES = frozenset({"ref", "extra", "simulated"})
# A mask that covers this share of its image is more likely inverted than a defect.
_INVERTED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class DefectAreas:
    """Areas of one defect type's masks, px: the number of masks, the smallest, the median, the largest."""

    masks: int
    smallest_px: int
    median_px: int
    largest_px: int
    median_share: float
    """Median share of the image, 0 to 1."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found.

    Attributes:
        root: folder of the dataset.
        layout: "split.csv" or "mvtec".
        images: number of images.
        roles: images by role.
        defects: images by (role, defect); the defect of good parts is "". An image with two defects counts in both.
        sizes: images by (width, height), px.
        depths: images by kind, such as "8-bit grey".
        areas: by defect.
        faults: what makes the dataset unusable, one line each with the file.
        warnings: what deserves a look.
    """

    root: Path
    layout: str
    images: int
    roles: dict[str, int]
    defects: dict[tuple[str, str], int]
    sizes: dict[tuple[int, int], int]
    depths: dict[str, int]
    areas: dict[str, DefectAreas]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def text(self) -> str:
        """The report as plain text, tables aligned, without a newline at its end."""
        blocks = [f"{self.root}: {self.layout}, {self.images} images"]
        if self.images:
            blocks += [self._counts(), self._pictures()]
        if self.areas:
            blocks.append(self._areas())
        if self.warnings:
            blocks.append("\n".join([f"Warnings ({len(self.warnings)}):", *(f"  {line}" for line in self.warnings)]))
        if self.faults:
            blocks.append("\n".join([f"Faults ({len(self.faults)}):", *(f"  {line}" for line in self.faults)]))
        else:
            blocks.append("No faults.")
        return "\n\n".join(blocks)

    def _counts(self) -> str:
        columns = sorted({defect for _, defect in self.defects})
        rows = [["role", *(column or "good" for column in columns), "images"]]
        for role, total in self.roles.items():
            counts = (self.defects.get((role, column), 0) for column in columns)
            rows.append([role, *(str(count or "-") for count in counts), str(total)])
        return _table(rows)

    def _pictures(self) -> str:
        common = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
        if len(common) <= 4:
            sizes = ", ".join(f"{width} x {height} ({count})" for (width, height), count in common)
        else:
            widths, heights = zip(*self.sizes, strict=True)
            sizes = f"{len(common)} different, {min(widths)}-{max(widths)} x {min(heights)}-{max(heights)}"
        depths = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.depths.items()))
        return f"Sizes, px (width x height): {sizes}\nDepths: {depths}"

    def _areas(self) -> str:
        rows = [["defect", "masks", "smallest px", "median px", "largest px", "median share"]]
        for defect, areas in self.areas.items():
            numbers = (areas.masks, areas.smallest_px, areas.median_px, areas.largest_px)
            rows.append([defect, *map(str, numbers), f"{areas.median_share:.2%}"])
        return _table(rows)


def check(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Read every image and mask of a dataset and report what is there and every fault at once.

    Args:
        root: folder of the dataset.
        progress: called with (images done, images in all) after each image.

    Raises:
        DatasetError: the folder holds no dataset; every other fault is in the report.
    """
    dataset, faults = scan(Path(root))
    survey = _Survey(dataset.root, faults)
    for done, sample in enumerate(dataset.samples, start=1):
        survey.add(sample)
        if progress is not None:
            progress(done, len(dataset.samples))
    survey.faults += _repeated(survey.pictures)
    warnings = [*survey.warnings, *_copies(survey.pictures), *_shared(dataset), *_ignored(dataset)]
    roles = Counter(sample.role for sample in dataset.samples)
    order = [role for role in ROLES if role in roles] + sorted(set(roles) - set(ROLES))
    return CheckReport(
        root=dataset.root,
        layout=dataset.layout,
        images=len(dataset.samples),
        roles={role: roles[role] for role in order},
        defects=dict(survey.defects),
        sizes=dict(survey.sizes),
        depths=dict(survey.depths),
        areas={defect: _summary(survey.areas[defect]) for defect in sorted(survey.areas)},
        faults=tuple(survey.faults),
        warnings=tuple(warnings),
    )


class _Survey:
    """What is counted while the images go by."""

    def __init__(self, root: Path, faults: list[str]) -> None:
        self._root = root
        self.faults = faults
        self.warnings: list[str] = []
        self.defects: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.depths: Counter[str] = Counter()
        self.areas: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self.pictures: defaultdict[str, list[Sample]] = defaultdict(list)

    def add(self, sample: Sample) -> None:
        self.defects.update((sample.role, name) for name in {name for name, _ in sample.masks} or {""})
        shape: tuple[int, int] | None = None
        try:
            pixels = read_pixels(sample.image)
        except DatasetError as error:
            self.faults.append(self._local(error))
        else:
            shape = (pixels.shape[0], pixels.shape[1])
            self.sizes[shape[1], shape[0]] += 1
            self.depths[_depth(pixels)] += 1
            self.pictures[_digest(pixels)].append(sample)
        for defect, path in sample.masks:
            self._add_mask(sample, defect, path, shape)

    def _local(self, text: DatasetError | Path) -> str:
        """Files as split.csv names them."""
        return str(text).removeprefix(f"{self._root}{os.sep}")

    def _add_mask(self, sample: Sample, defect: str, path: Path, shape: tuple[int, int] | None) -> None:
        try:
            mask = read_mask(path)
        except DatasetError as error:
            self.faults.append(self._local(error))
            return
        area = int(mask.sum())
        if shape is not None and mask.shape != shape:
            self.faults.append(
                f"{self._local(path)}: the mask is {mask.shape[1]} x {mask.shape[0]} px, "
                f"but its image {sample.name} is {shape[1]} x {shape[0]} px (width x height)"
            )
        elif area == 0:
            self.faults.append(f"{self._local(path)}: the mask of {defect!r} on {sample.name} is empty")
        else:
            share = area / mask.size
            self.areas[defect].append((area, share))
            if share > _INVERTED_SHARE:
                self.warnings.append(
                    f"{self._local(path)}: the mask covers {share:.0%} of {sample.name}; is it inverted?"
                )


def _depth(pixels: Pixels) -> str:
    return f"{pixels.dtype.itemsize * 8}-bit {'grey' if pixels.shape[2] == 1 else 'colour'}"


def _digest(pixels: Pixels) -> str:
    """A key of the decoded picture: the same one saved as PNG and as BMP is the same picture."""
    header = f"{pixels.dtype} {pixels.shape} ".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def _repeated(pictures: dict[str, list[Sample]]) -> list[str]:
    """Pictures in several roles: what is tested on was trained on."""
    return [
        f"the same picture in several roles: {', '.join(f'{sample.name} ({sample.role})' for sample in samples)}"
        for samples in pictures.values()
        if len({sample.role for sample in samples}) > 1
    ]


def _copies(pictures: dict[str, list[Sample]]) -> list[str]:
    """Pictures that occur several times in one role."""
    return [
        f"the same picture {len(samples)} times in {samples[0].role}: {', '.join(sample.name for sample in samples)}"
        for samples in pictures.values()
        if len(samples) > 1 and len({sample.role for sample in samples}) == 1
    ]


def _shared(dataset: Dataset) -> list[str]:
    """Physical parts in several roles, and masks of several images."""
    roles: defaultdict[str, set[str]] = defaultdict(set)
    users: defaultdict[str, list[str]] = defaultdict(list)
    for sample in dataset.samples:
        if sample.tile:
            roles[sample.tile].add(sample.role)
        for _, path in sample.masks:
            users[path.relative_to(dataset.root).as_posix()].append(sample.name)
    lines = [
        f"tile {tile} is in several roles: {', '.join(sorted(found))}; one physical part in two roles can leak"
        for tile, found in sorted(roles.items())
        if len(found) > 1 and not found <= _SHARED_TILES
    ]
    lines += [
        f"{path}: one mask of several images: {', '.join(names)}" for path, names in users.items() if len(names) > 1
    ]
    return lines


def _ignored(dataset: Dataset) -> Iterable[str]:
    """Files beside the images of a tree that were not taken."""
    if dataset.layout != "mvtec":
        return
    for folder in sorted({sample.image.parent for sample in dataset.samples}):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES and not path.name.startswith("."):
                yield f"{path.relative_to(dataset.root).as_posix()}: ignored, not an image of a known kind"


def _summary(areas: Sequence[tuple[int, float]]) -> DefectAreas:
    pixels = [area for area, _ in areas]
    middle = median(share for _, share in areas)
    return DefectAreas(len(areas), min(pixels), round(median(pixels)), max(pixels), middle)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
