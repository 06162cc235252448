"""Simulated datasets: placements, painted by one of several methods onto good pictures, with their labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing import parent_process
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from inspectd import __version__
from inspectd.dataset import Dataset, Sample, open_dataset
from inspectd.errors import DatasetError
from inspectd.training.data.resumable import claim, in_processes, is_whole
from inspectd.training.data.sheet import Tile, contact_sheet, dataset_sheet
from inspectd.training.data.writing import Row, take, write_png, write_split

from .checkpoint import DstCheckpoint, load_dst
from .coarse import paint, scene_of, with_gain
from .cyclegan import CycleGanSettings
from .dst import DstSettings, WindowSettings
from .histmatch import Method, Space
from .painting import coarse_scene, needed_region, painted_by
from .parts import Backgrounds, MaskFolders, as_reference, file_name, located, read_exemplars
from .placement import VARIED, Placement, PlacementSettings, read_placements, write_placements
from .planning import plan
from .region import BoolMask
from .site import Reference

__all__ = [
    "METHODS",
    "NETWORKS",
    "PLACEMENTS",
    "Painted",
    "Painter",
    "SimulateSettings",
    "Way",
    "Work",
    "simulate",
]

Way = Literal["dst", "cyclegan", "histmatch", "histmatch-gauss", "cutpaste", "poisson", "relit"]
METHODS: tuple[Way, ...] = get_args(Way)

NETWORKS: Mapping[Way, type[WindowSettings]] = {"dst": DstSettings, "cyclegan": CycleGanSettings}
"""Methods that need trained networks, and the settings of those."""

PLACEMENTS = "placements.jsonl"
_SHEET, _PANEL = "contact-sheet.png", "figure3.png"
_WORTH = 50
"""Pictures for which a further process, which has to load torch, is worth its while."""
_MARGIN_PX = 8
_AROUND_PX = 24


class SimulateSettings(BaseModel):
    """What decides a simulated dataset, beside its data and networks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Way = "dst"
    """How the defects are painted."""
    count: int = Field(2167, ge=1)
    """Simulated pictures; the paper's 2167."""
    placement: PlacementSettings = VARIED
    """Where defects are put, and how strong they are."""
    varied: bool = True
    """Whether the placements' gain and hue are used, for defects that one sees the surface through: those are painted
    as S + gain (painted - S), and by `dst` and `relit` in another hue."""
    sigma_px: float = Field(1.0, ge=0)
    """Of the Gaussian mask of the methods without a network that have one; a network has its own."""
    partial: bool = False
    """Whether references without a network may be left out."""
    histogram: Method = "quantile"
    """Histogram matching of the methods without a network."""
    space: Space = "rgb"
    """Of histogram matching."""
    roles: tuple[str, ...] = ("ref", "free", "test", "ok_test", "ok_calibration")
    """Roles of the data that are taken over, so that the dataset can be trained and measured on as it is."""
    bits: int = Field(16, ge=9, le=16)
    """Bits that 16-bit files really use."""
    seed: int = Field(0, ge=0)
    """Of the placements."""


@dataclass(frozen=True, slots=True)
class Work:
    """Where everything is; what a process needs to paint.

    Attributes:
        data: the dataset with references and good pictures.
        out: the folder to write.
        networks: checkpoints, for the methods of `NETWORKS`.
        masks: regions and forbidden pixels.
        device: that the networks run on.
    """

    data: Path
    out: Path
    networks: tuple[Path, ...] = ()
    masks: MaskFolders = field(default_factory=MaskFolders)
    device: str = "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A simulated picture uint8 [H, W, C], and the label of each defect type, bool [H, W]."""

    image: NDArray[np.uint8]
    labels: dict[str, BoolMask]


class Painter:
    """Paints placements; one for each process."""

    def __init__(self, work: Work, settings: SimulateSettings) -> None:
        """Read references and networks.

        Raises:
            DatasetError: the data or a network cannot be used.
        """
        self._settings, self._device = settings, work.device
        self.dataset, self._masks = open_dataset(work.data), work.masks
        self.backgrounds = Backgrounds(self.dataset, work.masks, bits=settings.bits)
        self._networks: dict[str, DstCheckpoint] = {}
        if settings.method in NETWORKS:
            found = sorted(map(load_dst, work.networks), key=lambda network: network.exemplar.name)
            self._networks = {network.exemplar.name: network for network in found}
            if len(self._networks) < len(found):
                raise DatasetError("two networks of one reference are given; name one folder of `inspectd-train dst`")
            kind = NETWORKS[settings.method]
            if wrong := [network for network in found if not isinstance(network.settings, kind)]:
                raise DatasetError(
                    f"{wrong[0].exemplar.name}: its network is a {wrong[0].card.network.get('architecture')}; "
                    f"the method {settings.method} needs others"
                )
            if other := [network for network in found if network.settings.bits != settings.bits]:
                raise DatasetError(
                    f"{other[0].exemplar.name}: its network was trained with --bits {other[0].settings.bits}, "
                    f"this simulates with {settings.bits}; use the same"
                )
            missing = [sample.name for sample in self.dataset.select("ref") if sample.name not in self._drawn()]
            if missing and not settings.partial:
                raise DatasetError(
                    f"{len(missing)} references of {work.data} have no network, {missing[0]} for one; go on with "
                    "`inspectd-train dst --resume`, or say --partial"
                )
            for network in self._networks.values():
                network.network.to(work.device).to(memory_format=torch.channels_last)
            self.exemplars = {name: network.exemplar for name, network in self._networks.items()}
        else:
            labelled = sorted(read_exemplars(self.dataset, bits=settings.bits), key=attrgetter("name"))
            samples = {sample.name: sample for sample in self.dataset.select("ref")}
            self.exemplars = {
                exemplar.name: located(exemplar, self._masks.region(samples[exemplar.sample], _shape(exemplar.image)))
                for exemplar in labelled
            }

    def _drawn(self) -> set[str]:
        """Names of the pictures whose defects have networks."""
        return {name.partition("#")[0] for name in self._networks} | set(self._networks)

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of each network's file, by its reference."""
        return {name: network.digest for name, network in self._networks.items()}

    def references(self) -> list[Reference]:
        """The references with their regions, by name: the order decides the placements, the method must not."""
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
        settings = self._settings
        exemplar = self.exemplars.get(placement.reference)
        if exemplar is None:
            known = ", ".join(sorted(self.exemplars))
            raise DatasetError(f"no reference {placement.reference!r} here, only {known}; these are other placements")
        # A chip or a crack has no strength: half of one would let the old surface shine through.
        if not (settings.varied and exemplar.veil):
            placement = dataclasses.replace(placement, gain=1.0, hue_deg=0.0)
        # Two comparisons, which a type checker follows.
        if settings.method == "dst" or settings.method == "cyclegan":  # noqa: PLR1714
            network = self._networks[placement.reference]
            scene, coarse = coarse_scene(
                picture,
                exemplar,
                placement,
                network.settings,
                needed_region(network.settings.coarse, exemplar, self.backgrounds, placement),
            )
            (patch,) = painted_by(network.network, network.settings, [(scene, coarse)], self._device)
        else:
            way = settings.method
            region = needed_region(way, exemplar, self.backgrounds, placement)
            scene = scene_of(picture, exemplar, placement, margin_px=_MARGIN_PX, region=region)
            patch = paint(
                way,
                scene,
                exemplar,
                sigma_px=settings.sigma_px,
                method=settings.histogram,
                space=settings.space,
            )
        patch = with_gain(patch, scene.good, placement.gain)
        return scene.rows, scene.columns, patch, scene.label


def simulate(
    work: Work,
    settings: SimulateSettings,
    *,
    placements: Path | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Write a dataset of simulated defects: images, masks, split.csv, provenance, placements and sheets.

    The folder holds `images/` and `masks/` of the role simulated, the pictures of `settings.roles` as links or copies,
    `placements.jsonl`, `provenance.json`, `contact-sheet.png`, and `figure3.png`: reference, background with its label,
    histogram matching, and this method. A run that was stopped is continued: whole samples are kept.

    Args:
        work: where everything is.
        settings: what decides the result.
        placements: a list to use instead of drawing one, of another method's run for instance.
        workers: processes that paint; one a core if not given.
        progress: called with (what is done, number done, number in all).

    Raises:
        DatasetError: the data, a network or the list cannot be used, or `work.out` holds something else.
    """
    if settings.method in NETWORKS and not work.networks:
        command = "dst" if settings.method == "dst" else f"experiment methods --methods {settings.method}"
        raise DatasetError(
            f"the method {settings.method} needs networks: train them with `inspectd-train {command}`, "
            "and give --dst FOLDER"
        )
    painter = Painter(work, settings)
    given = None if placements is None else hashlib.sha256(placements.read_bytes()).hexdigest()
    claim(work.out, _provenance(settings, painter, given), "simulated defects")
    listed = _placements(work.out, settings, painter, placements, progress)
    samples = [tuple(group) for _, group in groupby(listed, key=attrgetter("sample"))]
    pending = [sample for sample in samples if not is_whole(*_files(work.out, sample))]
    done = len(samples) - len(pending)
    prepare = functools.partial(_prepare, work, settings)
    # One context on a GPU is enough; a process with few pictures would load torch for nothing.
    processes = 1 if work.device != "cpu" else workers or max(1, min(os.cpu_count() or 1, len(pending) // _WORTH))
    with in_processes(_write, pending, processes, prepare, out=work.out) as written:
        if progress is not None:
            progress("painting", done, len(samples))
        for _ in written:
            done += 1
            if progress is not None:
                progress("painting", done, len(samples))
    dataset = painter.dataset
    tiles = {sample.name: sample.tile for sample in dataset.samples}
    rows: list[Row] = []
    for sample in samples:
        image, masks = _names(sample)
        tile = tiles[sample[0].background]
        rows += [(str(image), str(mask), defect, "simulated", tile) for defect, mask in masks.items()]
    rows += [row for sample in dataset.select(*settings.roles) for row in _taken_over(sample, work.out)]
    # Last, so that a folder with a split.csv is complete.
    write_split(work.out, rows)
    made = open_dataset(work.out)
    write_png(work.out / _SHEET, dataset_sheet(made, bits=settings.bits))
    write_png(work.out / _PANEL, _panel(painter, samples, settings))
    return made


def _placements(
    out: Path,
    settings: SimulateSettings,
    painter: Painter,
    given: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[Placement, ...]:
    """The list: what an earlier run drew, the one given, or a new one."""
    path = out / PLACEMENTS
    if path.is_file():
        return read_placements(path)
    if given is not None:
        listed = tuple(p for p in read_placements(given) if p.sample < settings.count)
        if not listed or len({p.sample for p in listed}) < settings.count:
            raise DatasetError(
                f"{given}: holds {len({p.sample for p in listed})} samples, {settings.count} are wanted; lower --count"
            )
    else:
        placing = None if progress is None else functools.partial(progress, "placing")
        references, backgrounds = painter.references(), painter.backgrounds
        listed = plan(
            references, backgrounds, settings.count, settings.placement, settings.seed, progress=placing
        ).placements
    write_placements(path, listed)
    return listed


def _provenance(settings: SimulateSettings, painter: Painter, given: str | None) -> dict[str, object]:
    dataset = painter.dataset
    content: dict[str, object] = {
        "made_by": f"inspectd {__version__}, inspectd-train simulate",
        "simulated": True,
        "data": dataset.root.resolve().name,
        "data_sha256": painter.backgrounds.digest(*dataset.select("ref")),
        "settings": settings.model_dump(mode="json"),
        "networks": painter.digests,
        "placements_sha256": given,
    }
    return dict(json.loads(json.dumps(content)))


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


_PAINTERS: dict[str, tuple[Painter, Path]] = {}
"""The painter of this process, under one key: processes get functions, not objects with networks."""


def _prepare(work: Work, settings: SimulateSettings) -> None:
    if parent_process() is not None:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
    _PAINTERS["painter"] = Painter(work, settings), work.out


def _write(sample: tuple[Placement, ...]) -> None:
    painter, out = _PAINTERS["painter"]
    painted = painter.paint(sample)
    image, masks = _names(sample)
    for defect, path in masks.items():
        write_png(out / path, painted.labels[defect].astype(np.uint8) * 255)
    # The picture last: a sample whose picture is there is whole.
    write_png(out / image, painted.image if painted.image.shape[2] == 3 else painted.image[..., 0])


def _panel(painter: Painter, samples: Sequence[Sequence[Placement]], settings: SimulateSettings) -> NDArray[np.uint8]:
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
            Tile(painted.image[box], settings.method),
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
