"""Ways to simulate defects, compared by what Buttonlab learns from each.

Fairness: the same placements, backgrounds, network, crops, augmentation, updates and optimiser for every
way; several seeds of the training, one of the placements and of DST; and the control `only-real`, which gets as many
updates from the references alone. The default DST also varies the strength and hue of defects that one sees the
surface through, which is a part of it: whether it is that which helps is seen beside `dst-varied`. Of the other ways
only `relit` has a hue to turn; `cutpaste+varied` and the like vary in strength alone.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

import inspectd
from inspectd.bundle import explain
from inspectd.errors import ConfigError
from inspectd.training.data.dataset import open_dataset
from inspectd.training.data.resumable import claim
from inspectd.training.devices import Hardware
from inspectd.training.files import locked, written_whole
from inspectd.training.segmentation.results import Evaluation, read_evaluation
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.style.cyclegan import CycleGanSettings
from inspectd.training.style.dst import DST_PRESETS, DstSettings
from inspectd.training.style.parts import Backgrounds, as_reference, folders_of, read_exemplars
from inspectd.training.style.placement import VARIED, PlacementSettings, write_placements
from inspectd.training.style.planning import plan
from inspectd.training.style.simulate import METHODS, NETWORKS, PLACEMENTS, SimulateSettings, Way, Work, simulate
from inspectd.training.style.train import train_dst

from .cells import METRICS, Cell, run_cells

__all__ = ["ONLY_REAL", "MethodsSettings", "Variant", "compare_methods", "table"]

ONLY_REAL = "only-real"
Report = Callable[[str, int, int], None]


class MethodsSettings(BaseModel):
    """What decides a comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...] = (
        ONLY_REAL,
        "cutpaste",
        "poisson",
        "histmatch",
        "histmatch-gauss",
        "dst-paper",
        "dst",
        "relit+varied",
        "cutpaste+varied",
    )
    """Rows, see `Variant`."""
    seeds: int = Field(3, ge=1)
    """Trainings of each method."""
    count: int = Field(900, ge=1)
    """Simulated pictures of each method."""
    dst: dict[str, Any] = {}
    """Changes to the presets of DST: epochs, pictures, vgg and so on."""
    cyclegan: dict[str, Any] = {}
    """Changes to the settings of CycleGAN: epochs, pictures and so on."""
    placement: PlacementSettings = VARIED
    """Of the one list of placements."""
    segment: SegmentSettings
    """Of each training, but for its seed."""
    roles: tuple[str, ...] = ("test", "ok_test")
    """Roles that are measured; to tune something, `extra` and `ok_calibration`."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the comparison, as its name says it.

    `only-real`, a method of `simulate`, `dst` or `dst-paper` (the presets). Behind a colon, changes to the settings of
    its networks: `dst:style_target=ring;loss.weights.hist=0`. `+varied` or `-varied` at the end says whether the
    placements' gain and hue are used, which only the default DST does by itself.

    Attributes:
        name: all of it.
        base: before the colon.
        changes: to the settings of its networks, nested.
        varied: whether gain and hue are used.
    """

    name: str
    base: str
    changes: dict[str, Any]
    varied: bool

    @classmethod
    def of(cls, name: str) -> Variant:
        """Read a name.

        Raises:
            ConfigError: an unknown method, or changes to one that has no networks.
        """
        text, varied = name, None
        for sign in "+-":
            if text.endswith(f"{sign}varied"):
                text, varied = text.removesuffix(f"{sign}varied"), sign == "+"
        base, _, listed = text.partition(":")
        if base not in (ONLY_REAL, "dst-paper", *METHODS):
            raise ConfigError(
                f"method {name!r}: expected {ONLY_REAL}, dst-paper or one of {', '.join(METHODS)}, "
                "and +varied or -varied behind it for strength and hue"
            )
        if base == ONLY_REAL and varied is not None:
            raise ConfigError(f"method {name!r}: nothing is simulated there that could be varied")
        if listed and base not in ("dst-paper", *NETWORKS):
            raise ConfigError(f"method {name!r}: only dst, dst-paper and cyclegan have settings to change")
        changes: dict[str, Any] = {}
        for part in filter(None, listed.split(";")):
            path, _, value = part.partition("=")
            *outer, last = path.split(".")
            inner = changes
            for key in outer:
                inner = inner.setdefault(key, {})
            try:
                inner[last] = json.loads(value)
            except ValueError:
                inner[last] = value
        return cls(name, base, changes, base == "dst" if varied is None else varied)

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.+=-]+", "_", self.name)

    @property
    def method(self) -> Way | None:
        """Of `simulate`; None where nothing is simulated."""
        if self.base == ONLY_REAL:
            return None
        return next(way for way in METHODS if way == ("dst" if self.base == "dst-paper" else self.base))

    @property
    def networks(self) -> str:
        """Name of the folder of its networks: gain and hue have no part in them."""
        return re.sub(r"[^\w.+=-]+", "_", self.name.removesuffix("+varied").removesuffix("-varied"))


def compare_methods(
    data: Path,
    out: Path,
    settings: MethodsSettings,
    *,
    jobs: int = 1,
    accelerator: str = "auto",
    progress: Report | None = None,
) -> str:
    """Train networks, simulate, train and measure Buttonlab for each method and seed; what is done is kept.

    Args:
        data: dataset with the roles ref and free, and those that are measured.
        out: folder of the experiment.
        settings: what decides the result.
        jobs: trainings side by side.
        accelerator: auto, cpu or gpu.
        progress: called with (what is done, number done, number in all).

    Returns:
        The table, as Markdown; `report.md` and `report.json` in `out` hold it too, from the first training on.

    Raises:
        DatasetError: the data cannot be used, or `out` is of an experiment with other settings or data.
        ConfigError: an unknown method, or settings that DST does not know.
    """
    say = progress or (lambda *_: None)
    variants = {name: Variant.of(name) for name in settings.methods}
    simulation = _Simulation(data, out, settings, accelerator, say)
    # All faults in the settings before the first hour of training.
    for variant in variants.values():
        simulation.settings_of(variant)
    dataset = open_dataset(data)
    others = [sample for sample in dataset.samples if sample.role != "free"]
    content: dict[str, Any] = settings.model_dump(mode="json", exclude={"methods", "seeds"})
    claim(out, content | {"data_sha256": Backgrounds(dataset).digest(*others)}, "an experiment")
    # One process prepares; those beside it wait, and find it done.
    with locked(out, wait=True):
        simulation.place()
        datasets = {name: simulation.dataset(variant) for name, variant in variants.items()}
    cells = {
        (method, seed): Cell(
            folder=out / "cells" / f"{variants[method].folder}-{seed}",
            data=datasets[method],
            measured=data,
            roles=settings.roles,
            settings=settings.segment.model_copy(update={"seed": seed}),
            accelerator=accelerator,
        )
        for seed in range(settings.seeds)
        for method in settings.methods
    }

    def report() -> str:
        """The table of what is there by now."""
        done = {
            method: [
                read_evaluation(cells[method, seed].folder / METRICS)
                for seed in range(settings.seeds)
                if cells[method, seed].done
            ]
            for method in settings.methods
        }
        found = {method: results for method, results in done.items() if results}
        text = table(data.resolve().name, settings, found)
        figures = {method: [_figures(result) for result in results] for method, results in found.items()}
        with locked(out, wait=True):
            with written_whole(out / "report.json") as draft:
                draft.write_text(
                    json.dumps({"settings": settings.model_dump(mode="json"), "figures": figures}, indent=1) + "\n"
                )
            with written_whole(out / "report.md") as draft:
                draft.write_text(text)
        return text

    def trained(done: int, total: int) -> None:
        say("training", done, total)
        if done:
            report()

    run_cells(list(cells.values()), jobs=jobs, progress=trained)
    return report()


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested changes."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


@dataclass(frozen=True, slots=True)
class _Simulation:
    """What all variants share on the way to their datasets."""

    data: Path
    out: Path
    settings: MethodsSettings
    accelerator: str
    say: Report

    def place(self) -> None:
        """Draw the one list of placements, where it is not there yet."""
        if (self.out / PLACEMENTS).is_file():
            return
        dataset = open_dataset(self.data)
        bits = self.settings.segment.bits
        exemplars = sorted(read_exemplars(dataset, bits=bits), key=lambda exemplar: exemplar.name)
        references = [as_reference(exemplar) for exemplar in exemplars]
        progress = functools.partial(self.say, "placing")
        count, placement = self.settings.count, self.settings.placement
        found = plan(references, Backgrounds(dataset, bits=bits), count, placement, 0, progress=progress)
        write_placements(self.out / PLACEMENTS, found.placements)

    def settings_of(self, variant: Variant) -> DstSettings | CycleGanSettings:
        """The settings of a variant's networks, if it has any.

        Raises:
            ConfigError: changes that they do not know.
        """
        bits = {"bits": self.settings.segment.bits}
        preset = DST_PRESETS["paper" if variant.base == "dst-paper" else "default"]
        try:
            if variant.base == "cyclegan":
                return CycleGanSettings(**_merged(self.settings.cyclegan | bits, variant.changes))
            return DstSettings(**_merged(preset.model_dump() | self.settings.dst | bits, variant.changes))
        except ValidationError as error:
            raise ConfigError(f"method {variant.name!r}: {explain(error)}") from error

    def dataset(self, variant: Variant) -> Path:
        """The dataset of a variant, written where it is not there yet."""
        method = variant.method
        if method is None:
            return self.data
        networks = self._networks(variant) if method in NETWORKS else ()
        out = self.out / "simulated" / variant.folder
        simulate(
            Work(self.data, out, networks),
            SimulateSettings(
                method=method,
                count=self.settings.count,
                placement=self.settings.placement,
                varied=variant.varied,
                roles=("ref", "free"),
                bits=self.settings.segment.bits,
            ),
            placements=self.out / PLACEMENTS,
            progress=lambda what, done, total: self.say(f"{what} {variant.name}", done, total),
        )
        return out

    def _networks(self, variant: Variant) -> tuple[Path, ...]:
        """The networks of a variant, trained where they are not there yet."""
        chosen = self.settings_of(variant)
        dataset = open_dataset(self.data)
        exemplars = read_exemplars(dataset, bits=chosen.bits)
        names = folders_of(exemplars)
        backgrounds = Backgrounds(dataset, bits=chosen.bits)
        folders = []
        for number, exemplar in enumerate(exemplars):
            self.say(f"networks {variant.name}", number, len(exemplars))
            folder = self.out / "networks" / variant.networks / names[exemplar.name]
            train_dst(
                exemplar,
                backgrounds,
                folder,
                chosen,
                hardware=Hardware(accelerator=self.accelerator),
                resume=folder.exists(),
                console=Console(quiet=True),
            )
            folders.append(folder)
        self.say(f"networks {variant.name}", len(exemplars), len(exemplars))
        return tuple(folders)


def _figures(result: Evaluation) -> dict[str, float | None]:
    """What the table shows of one training."""
    level = {point.false_reject_rate: point.recall for point in result.image_level.at_false_rejects}
    return {
        "pooled F1": result.pooled.pixels.f1,
        "image F1": result.image_f1.mean,
        "recall at 1 %": level[0.01],
        "AUROC": result.image_level.auroc,
        "best F1": result.pooled.best_f1,
    } | {f"F1 {name}": found.pixels.f1 for name, found in result.types.items()}


def table(name: str, settings: MethodsSettings, found: Mapping[str, Sequence[Evaluation]]) -> str:
    """The comparison as Markdown: mean ± standard deviation over seeds, the best mean of each column in bold.

    A method of which fewer seeds are there has their number beside its name.
    """
    figures = {method: [_figures(result) for result in results] for method, results in found.items()}
    columns = list(next(iter(figures.values()))[0])
    means: dict[tuple[str, str], float] = {}
    cells: dict[tuple[str, str], str] = {}
    for method, results in figures.items():
        for column in columns:
            values = [value for result in results if (value := result[column]) is not None]
            if not values:
                cells[method, column] = "-"
                continue
            means[method, column] = mean(values)
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells[method, column] = f"{mean(values):.3f}{spread}"
    for column in columns:
        whole = [method for method in figures if len(found[method]) == settings.seeds] or list(figures)
        ranked = [method for method in whole if (method, column) in means]
        if ranked:
            best = max(ranked, key=lambda method: means[method, column])
            cells[best, column] = f"**{cells[best, column]}**"
    segment = settings.segment
    height, width = segment.window_size
    names = {
        method: method if len(results) == settings.seeds else f"{method} ({len(results)})"
        for method, results in found.items()
    }
    changed = {key: value for key, value in settings.dst.items() if key != "vgg"}
    schedule = f"DST with {', '.join(f'{key} {value}' for key, value in changed.items())}; " if changed else ""
    if settings.cyclegan:
        schedule += f"CycleGAN with {', '.join(f'{key} {value}' for key, value in settings.cyclegan.items())}; "
    lines = [
        f"## {name}",
        "",
        f"{settings.seeds} seeds, {segment.steps} updates of {segment.batch} windows of {height}x{width} px from "
        f"pictures of {segment.height}x{segment.width} px turned by up to {segment.rotation_deg:g} degrees, "
        f"{segment.network} {segment.backbone}, "
        f"{settings.count} simulated pictures, {schedule}measured on {' + '.join(settings.roles)}; "
        f"mean ± standard deviation over seeds. {dt.datetime.now(dt.timezone.utc).date()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}, inspectd {inspectd.__version__}.",
        "",
        f"| method | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {names[method]} | {' | '.join(cells[method, column] for column in columns)} |" for method in figures),
    ]
    return "\n".join(lines) + "\n"
