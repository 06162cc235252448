"""Simulated datasets: placements, painted onto good pictures by whatever paints, with their labels.

What paints is given: coarse steps and networks of a training in `inspectd.training.style.simulate`, a station's engine
in `inspectd.runtime.augment`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import Dataset, Sample, open_dataset
from inspectd.dataset_writing import Row, take, write_png, write_split
from inspectd.errors import DatasetError
from inspectd.resumable import claim, is_whole
from inspectd.sheet import Tile, contact_sheet, dataset_sheet

from .coarse import Exemplar, Scene, paint, scene_of, with_gain
from .painting import needed_region
from .parts import Backgrounds, as_reference, file_name
from .placement import Placement, PlacementSettings, read_placements, write_placements
from .planning import plan
from .region import BoolMask
from .site import Reference

__all__ = [
    "PLACEMENTS",
    "Lot",
    "PaintAll",
    "PaintPatch",
    "Painted",
    "Painter",
    "Progress",
    "is_complete",
    "write_simulated",
]

PLACEMENTS = "placements.jsonl"
_SHEET, _PANEL = "contact-sheet.png", "figure3.png"
_MARGIN_PX = 8
_AROUND_PX = 24

PaintPatch = Callable[[NDArray[np.uint8], Exemplar, Placement], tuple[Scene, NDArray[np.uint8]]]
"""Paints one defect onto a picture uint8 [H, W, C]: the window, and what it looks like then, uint8 [h, w, C]."""
Placed = tuple[Placement, ...]
"""The placements of one simulated picture."""
PaintAll = Callable[[Sequence[Placed]], AbstractContextManager[Iterator[None]]]
"""Writes pictures, one at each step of the iterator."""
Progress = Callable[[str, int, int], None]
"""Called with (what is done, number done, number in all)."""


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A simulated picture uint8 [H, W, C], and the label of each defect type, bool [H, W]."""

    image: NDArray[np.uint8]
    labels: dict[str, BoolMask]


@dataclass(frozen=True, slots=True)
class Lot:
    """What is simulated, beside what paints it.

    Attributes:
        name: of the method, for people.
        count: simulated pictures.
        placement: where defects are put, and how strong they are.
        seed: of the placements.
        roles: roles of the data that are taken over.
        bits: bits that 16-bit files really use.
    """

    name: str
    count: int
    placement: PlacementSettings
    seed: int
    roles: tuple[str, ...]
    bits: int = 16


class Painter:
    """Paints placements; one for each process.

    Args:
        dataset: with references and good pictures.
        backgrounds: its good pictures.
        exemplars: the references with their regions, by name: the order decides the placements, the method must not.
        patch: paints one defect.
        varied: whether the placements' gain and hue are used, for defects that one sees the surface through: those are
            painted as S + gain (painted - S), and by ways that know of it in another hue.
        digests: sha256 of each network's file, by its reference.
    """

    def __init__(
        self,
        dataset: Dataset,
        backgrounds: Backgrounds,
        exemplars: Mapping[str, Exemplar],
        patch: PaintPatch,
        *,
        varied: bool = True,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self.dataset, self.backgrounds = dataset, backgrounds
        self.exemplars = exemplars
        self.digests = dict(digests or {})
        self._paint, self._varied = patch, varied

    def references(self) -> list[Reference]:
        """The references as placement takes them."""
        return [as_reference(exemplar) for exemplar in self.exemplars.values()]

    def paint(self, placements: Sequence[Placement]) -> Painted:
        """The picture of one sample.

        Raises:
            DatasetError: a placement is of another dataset or other networks.
        """
        picture = self.backgrounds.picture(placements[0].background).copy()
        labels: dict[str, BoolMask] = {}
        for placement in placements:
            rows, columns, patch, label = self._patch(picture, placement)
            picture[rows, columns] = patch
            whole = labels.setdefault(placement.defect, np.zeros(_shape(picture), np.bool_))
            whole[rows, columns] |= label
        return Painted(picture, labels)

    def _patch(
        self, picture: NDArray[np.uint8], placement: Placement
    ) -> tuple[slice, slice, NDArray[np.uint8], BoolMask]:
        exemplar = self.exemplars.get(placement.reference)
        if exemplar is None:
            known = ", ".join(sorted(self.exemplars))
            raise DatasetError(f"no reference {placement.reference!r} here, only {known}; these are other placements")
        # A chip or a crack has no strength: half of one would let the old surface shine through.
        if not (self._varied and exemplar.veil):
            placement = dataclasses.replace(placement, gain=1.0, hue_deg=0.0)
        scene, patch = self._paint(picture, exemplar, placement)
        patch = with_gain(patch, scene.good, placement.gain)
        return scene.rows, scene.columns, patch, scene.label

    def write(self, out: Path, sample: Sequence[Placement]) -> None:
        """Paint one sample, and write its picture and masks, each whole or not at all."""
        painted = self.paint(sample)
        image, masks = _names(sample)
        for defect, path in masks.items():
            write_png(out / path, painted.labels[defect].astype(np.uint8) * 255)
        # The picture last: a sample whose picture is there is whole.
        write_png(out / image, painted.image if painted.image.shape[2] == 3 else painted.image[..., 0])


def write_simulated(
    out: Path,
    painter: Painter,
    lot: Lot,
    provenance: dict[str, Any],
    *,
    placements: Path | None = None,
    paint_all: PaintAll | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Write a dataset of simulated defects: images, masks, split.csv, provenance, placements and sheets.

    The folder holds `images/` and `masks/` of the role simulated, the pictures of `lot.roles` as links or copies,
    `placements.jsonl`, `provenance.json`, `contact-sheet.png`, and `figure3.png`: reference, background with its label,
    histogram matching, and this method. A run that was stopped is continued: whole samples are kept.

    Args:
        out: the folder to write.
        painter: paints.
        lot: what is simulated.
        provenance: what decides the result; values as JSON gives them back.
        placements: a list to use instead of drawing one, of another method's run for instance.
        paint_all: writes the samples that are not there; in this process, one after the other, if not given.
        progress: told of each picture that was placed or painted.

    Raises:
        DatasetError: the data or the list cannot be used, or `out` holds something else.
    """
    told = progress or (lambda _what, _done, _total: None)
    claim(out, provenance, "simulated defects")
    listed = _placements(out, lot, painter, placements, told)
    samples = [tuple(group) for _, group in groupby(listed, key=attrgetter("sample"))]
    pending = [sample for sample in samples if not is_whole(*_files(out, sample))]
    done = len(samples) - len(pending)
    here: PaintAll = lambda some: nullcontext(map(functools.partial(painter.write, out), some))  # noqa: E731
    with (paint_all or here)(pending) as written:
        told("painting", done, len(samples))
        for _ in written:
            done += 1
            told("painting", done, len(samples))
    tiles = {sample.name: sample.tile for sample in painter.dataset.samples}
    rows: list[Row] = []
    for sample in samples:
        image, masks = _names(sample)
        tile = tiles[sample[0].background]
        rows += [(str(image), str(mask), defect, "simulated", tile) for defect, mask in masks.items()]
    rows += [row for sample in painter.dataset.select(*lot.roles) for row in _taken_over(sample, out)]
    # Last, so that a folder with a split.csv is complete.
    write_split(out, rows)
    made = open_dataset(out)
    write_png(out / _SHEET, dataset_sheet(made, bits=lot.bits))
    write_png(out / _PANEL, _panel(painter, samples, lot.name))
    return made


def is_complete(out: Path) -> bool:
    """Whether a folder of `write_simulated` has all that it will have."""
    return (out / _PANEL).is_file()


def _placements(out: Path, lot: Lot, painter: Painter, given: Path | None, progress: Progress) -> tuple[Placement, ...]:
    """The list: what an earlier run drew, the one given, or a new one."""
    path = out / PLACEMENTS
    if path.is_file():
        return read_placements(path)
    if given is not None:
        listed = tuple(p for p in read_placements(given) if p.sample < lot.count)
        if not listed or len({p.sample for p in listed}) < lot.count:
            raise DatasetError(
                f"{given}: holds {len({p.sample for p in listed})} samples, {lot.count} are wanted; lower --count"
            )
    else:
        placing = functools.partial(progress, "placing")
        listed = plan(
            painter.references(), painter.backgrounds, lot.count, lot.placement, lot.seed, progress=placing
        ).placements
    write_placements(path, listed)
    return listed


def _names(sample: Sequence[Placement]) -> tuple[PurePosixPath, dict[str, PurePosixPath]]:
    """Names of a sample's picture, and of the mask of each defect type."""
    defects = list(dict.fromkeys(placement.defect for placement in sample))
    name = f"{sample[0].sample:05}-{file_name('+'.join(defects))}"
    masks = {
        defect: PurePosixPath("masks", "simulated", name if len(defects) == 1 else f"{name}.{file_name(defect)}")
        for defect in defects
    }
    if len(set(masks.values())) < len(masks):
        raise DatasetError(f"the defects {', '.join(defects)} are too alike for file names; rename one")
    image = PurePosixPath("images", "simulated", f"{name}.png")
    return image, {defect: path.with_name(f"{path.name}.png") for defect, path in masks.items()}


def _files(out: Path, sample: Sequence[Placement]) -> tuple[Path, list[Path]]:
    image, masks = _names(sample)
    return out / image, [out / mask for mask in masks.values()]


def _taken_over(sample: Sample, out: Path) -> list[Row]:
    """A picture of the data with its masks in the new dataset; its rows."""
    image = PurePosixPath(sample.role, sample.name)
    if not (out / image).is_file():
        take(sample.image, out / image, link=True)
    if not sample.masks:
        return [(str(image), "", "", sample.role, sample.tile)]
    rows: list[Row] = []
    for defect, mask in sample.masks:
        target = PurePosixPath(sample.role, "masks", file_name(defect), f"{sample.name}{mask.suffix}")
        if not (out / target).is_file():
            take(mask, out / target, link=True)
        rows.append((str(image), str(target), defect, sample.role, sample.tile))
    return rows


def _panel(painter: Painter, samples: Sequence[Sequence[Placement]], method: str) -> NDArray[np.uint8]:
    """Figure 3 of the paper: reference, background with its label, histogram matching, this method."""
    tiles: list[Tile] = []
    for name, exemplar in painter.exemplars.items():
        placement = next((p for sample in samples for p in sample if p.reference == name), None)
        if placement is None:
            continue
        background = painter.backgrounds.picture(placement.background)
        painted = painter.paint([placement])
        label = painted.labels[placement.defect]
        region = needed_region("none", exemplar, painter.backgrounds, placement)
        scene = scene_of(background, exemplar, placement, margin_px=_MARGIN_PX, region=region)
        matched = background.copy()
        matched[scene.rows, scene.columns] = paint("histmatch", scene, exemplar)
        box = _box(label)
        seen = ", seen through" if exemplar.veil else ""
        tiles += [
            Tile(*_cut(exemplar.image, exemplar.mask, _box(exemplar.mask), f"reference: {exemplar.defect}{seen}")),
            Tile(*_cut(background, label, box, "background, label")),
            Tile(matched[box], "hist match"),
            Tile(painted.image[box], method),
        ]
    return contact_sheet(tiles, columns=4)


def _cut(
    image: NDArray[np.uint8], mask: BoolMask, box: tuple[slice, slice], caption: str
) -> tuple[NDArray[np.uint8], str, NDArray[np.uint8]]:
    return image[box], caption, mask[box].astype(np.uint8)


def _box(mask: BoolMask) -> tuple[slice, slice]:
    """A square about a mask with some of its surroundings."""
    rows, columns = np.nonzero(mask)
    half = (max(np.ptp(rows), np.ptp(columns)) + 1) // 2 + _AROUND_PX
    y, x = (int(rows.min()) + int(rows.max())) // 2, (int(columns.min()) + int(columns.max())) // 2
    return slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)


def _shape(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
