"""Simulated datasets of a training: placements, painted by one of several methods onto good pictures."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from inspectd import __version__
from inspectd.dataset import Dataset, open_dataset
from inspectd.errors import DatasetError
from inspectd.resumable import in_processes
from inspectd.simulation.coarse import Coarse, Exemplar, Scene, paint, scene_of
from inspectd.simulation.histmatch import Method, Space
from inspectd.simulation.painting import coarse_scene, needed_region
from inspectd.simulation.parts import Backgrounds, MaskFolders, located, read_exemplars
from inspectd.simulation.placement import VARIED, Placement, PlacementSettings
from inspectd.simulation.simulate import Lot, Painter, PaintPatch, Placed, write_simulated

from .checkpoint import DstCheckpoint, load_dst
from .cyclegan import CycleGanSettings
from .dst import DstSettings, WindowSettings
from .painting import painted_by

__all__ = ["METHODS", "NETWORKS", "SimulateSettings", "Way", "Work", "painter_of", "simulate"]

Way = Literal["dst", "cyclegan", "histmatch", "histmatch-gauss", "cutpaste", "poisson", "relit"]
METHODS: tuple[Way, ...] = get_args(Way)

NETWORKS: Mapping[Way, type[WindowSettings]] = {"dst": DstSettings, "cyclegan": CycleGanSettings}
"""Methods that need trained networks, and the settings of those."""

_WORTH = 50
"""Pictures for which a further process, which has to load torch, is worth its while."""
_MARGIN_PX = 8


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


def painter_of(work: Work, settings: SimulateSettings) -> Painter:
    """What paints by a method, with its references and networks read.

    Raises:
        DatasetError: the data or a network cannot be used.
    """
    dataset = open_dataset(work.data)
    backgrounds = Backgrounds(dataset, work.masks, bits=settings.bits)
    if settings.method == "dst" or settings.method == "cyclegan":  # noqa: PLR1714 - a type checker follows two comparisons
        networks = _networks(dataset, work, settings)
        return Painter(
            dataset,
            backgrounds,
            {name: network.exemplar for name, network in networks.items()},
            _by_network(networks, backgrounds, work.device),
            varied=settings.varied,
            digests={name: network.digest for name, network in networks.items()},
        )
    labelled = sorted(read_exemplars(dataset, bits=settings.bits), key=attrgetter("name"))
    samples = {sample.name: sample for sample in dataset.select("ref")}
    exemplars = {
        exemplar.name: located(exemplar, work.masks.region(samples[exemplar.sample], exemplar.mask.shape))
        for exemplar in labelled
    }
    return Painter(
        dataset, backgrounds, exemplars, _by_hand(settings.method, settings, backgrounds), varied=settings.varied
    )


def _networks(dataset: Dataset, work: Work, settings: SimulateSettings) -> dict[str, DstCheckpoint]:
    found = sorted(map(load_dst, work.networks), key=lambda network: network.exemplar.name)
    networks = {network.exemplar.name: network for network in found}
    if len(networks) < len(found):
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
    # Also by the pictures whose defects have networks.
    drawn = {name.partition("#")[0] for name in networks} | set(networks)
    missing = [sample.name for sample in dataset.select("ref") if sample.name not in drawn]
    if missing and not settings.partial:
        raise DatasetError(
            f"{len(missing)} references of {work.data} have no network, {missing[0]} for one; go on with "
            "`inspectd-train dst --resume`, or say --partial"
        )
    for network in networks.values():
        network.network.to(work.device).to(memory_format=torch.channels_last)
    return networks


def _by_network(networks: Mapping[str, DstCheckpoint], backgrounds: Backgrounds, device: str) -> PaintPatch:
    def patch(picture: NDArray[np.uint8], exemplar: Exemplar, placement: Placement) -> tuple[Scene, NDArray[np.uint8]]:
        network = networks[placement.reference]
        region = needed_region(network.settings.coarse, exemplar, backgrounds, placement)
        scene, coarse = coarse_scene(picture, exemplar, placement, network.settings.brush, region)
        (painted,) = painted_by(network.network, network.settings, [(scene, coarse)], device)
        return scene, painted

    return patch


def _by_hand(way: Coarse, settings: SimulateSettings, backgrounds: Backgrounds) -> PaintPatch:
    def patch(picture: NDArray[np.uint8], exemplar: Exemplar, placement: Placement) -> tuple[Scene, NDArray[np.uint8]]:
        region = needed_region(way, exemplar, backgrounds, placement)
        scene = scene_of(picture, exemplar, placement, margin_px=_MARGIN_PX, region=region)
        painted = paint(
            way, scene, exemplar, sigma_px=settings.sigma_px, method=settings.histogram, space=settings.space
        )
        return scene, painted

    return patch


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
    painter = painter_of(work, settings)
    given = None if placements is None else hashlib.sha256(placements.read_bytes()).hexdigest()

    def paint_all(pending: Sequence[Placed]) -> AbstractContextManager[Iterator[None]]:
        # One context on a GPU is enough; a process with few pictures would load torch for nothing.
        few = max(1, min(os.cpu_count() or 1, len(pending) // _WORTH))
        processes = 1 if work.device != "cpu" else workers or few
        prepare = functools.partial(_prepare, work, settings)
        return in_processes(_write, pending, processes, prepare, out=work.out)

    return write_simulated(
        work.out,
        painter,
        Lot(settings.method, settings.count, settings.placement, settings.seed, settings.roles, settings.bits),
        _provenance(settings, painter, given),
        placements=placements,
        paint_all=paint_all,
        progress=progress,
    )


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


_PAINTERS: dict[str, tuple[Painter, Path]] = {}
"""The painter of this process, under one key: processes get functions, not objects with networks."""


def _prepare(work: Work, settings: SimulateSettings) -> None:
    if parent_process() is not None:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
    _PAINTERS["painter"] = painter_of(work, settings), work.out


def _write(sample: Placed) -> None:
    painter, out = _PAINTERS["painter"]
    painter.write(out, sample)
