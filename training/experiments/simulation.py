"""The training sets of an experiment: one list of placements, and what each way paints there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from inspectd.bundle import explain
from inspectd.dataset import open_dataset
from inspectd.errors import ConfigError
from inspectd.resumable import PROVENANCE
from inspectd.simulation.parts import Backgrounds, as_reference, folders_of, read_exemplars
from inspectd.simulation.placement import VARIED, PlacementSettings, write_placements
from inspectd.simulation.planning import plan
from inspectd.simulation.simulate import PLACEMENTS, is_complete
from inspectd.training.carded import card_of, kind_of
from inspectd.training.devices import Hardware, device_of, fast_precision
from inspectd.training.notes import read_object
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.style.cyclegan import CycleGanSettings
from inspectd.training.style.dst import DST_PRESETS, DstSettings
from inspectd.training.style.simulate import NETWORKS, SimulateSettings, Work, simulate
from inspectd.training.style.train import train_dst

from .leftovers import clear_damaged
from .variants import Variant

__all__ = ["DatasetTask", "ExperimentSettings", "NetworkTask", "Report", "Simulation", "painters"]

_NETWORKS = "networks"
"""Folder of those that paint, of each variant and reference."""
Report = Callable[[str, int, int], None]
"""Called with (what is done, number done, number in all)."""


class ExperimentSettings(BaseModel):
    """What all trainings of an experiment have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: int = Field(3, ge=1)
    """Trainings of each entry."""
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

    def resolved(self, accelerator: str) -> ExperimentSettings:
        """The same with one arithmetic for all, where it was left to each machine."""
        precision = self.segment.precision
        given = {"precision": fast_precision(accelerator) if precision == "auto" else precision}
        segment = self.segment.model_copy(update=given)
        return self.model_copy(update={"segment": segment, "dst": given | self.dst, "cyclegan": given | self.cyclegan})


@dataclass(frozen=True, slots=True)
class Simulation:
    """Where the training sets of an experiment are, and how they come about."""

    data: Path
    out: Path
    settings: ExperimentSettings
    accelerator: str

    def place(self, progress: Callable[[int, int], None]) -> None:
        """Draw the one list of placements, where it is not there yet."""
        if (self.out / PLACEMENTS).is_file():
            return
        dataset = open_dataset(self.data)
        bits = self.settings.segment.bits
        exemplars = sorted(read_exemplars(dataset, bits=bits), key=lambda exemplar: exemplar.name)
        references = [as_reference(exemplar) for exemplar in exemplars]
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
        """What is trained on."""
        return self.data if variant.method is None else self.out / "simulated" / variant.folder

    def networks(self, variants: Iterable[Variant]) -> list[NetworkTask]:
        """The trainings of the networks that these variants paint by, each once."""
        names = folders_of(read_exemplars(open_dataset(self.data), bits=self.settings.segment.bits))
        painted = {variant.networks: variant for variant in variants if variant.method in NETWORKS}
        return [
            NetworkTask(self, variant, reference, self._folder(variant, name))
            for variant in painted.values()
            for reference, name in names.items()
        ]

    def datasets(self, variants: Iterable[Variant]) -> list[DatasetTask]:
        """The datasets of these variants; their networks have to be there."""
        names = folders_of(read_exemplars(open_dataset(self.data), bits=self.settings.segment.bits))
        return [
            DatasetTask(self, variant, tuple(self._folder(variant, name) for name in names.values()))
            for variant in variants
            if variant.method is not None
        ]

    def _folder(self, variant: Variant, name: str) -> Path:
        return self.out / _NETWORKS / variant.networks / name


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """The training of the network that paints one reference's defect."""

    simulation: Simulation
    variant: Variant
    reference: str
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it is trained."""
        return kind_of(self.folder) == "dst"

    def run(self) -> None:
        """Train it, from the state that an earlier run left where there is one."""
        settings = self.simulation.settings_of(self.variant)
        dataset = open_dataset(self.simulation.data)
        exemplars = read_exemplars(dataset, bits=settings.bits)
        clear_damaged(self.folder, "dst")
        train_dst(
            next(exemplar for exemplar in exemplars if exemplar.name == self.reference),
            Backgrounds(dataset, bits=settings.bits),
            self.folder,
            settings,
            hardware=Hardware(accelerator=self.simulation.accelerator),
            resume=self.folder.exists(),
            console=Console(quiet=True),
        )


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """The pictures that a variant simulates, and the real ones."""

    simulation: Simulation
    variant: Variant
    networks: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """What it makes."""
        return self.simulation.dataset(self.variant)

    @property
    def ready(self) -> bool:
        """Whether the networks that it is painted by are there."""
        return self.variant.method not in NETWORKS or all(kind_of(network) == "dst" for network in self.networks)

    @property
    def done(self) -> bool:
        """Whether it is complete."""
        if not is_complete(self.folder):
            return False
        # Else `run` finds that it is of something else, and says so. Of the networks' files it holds digests, but a
        # network that was made again, after a disk's fault, is another file with the same weights.
        stored = read_object(self.folder / PROVENANCE) or {}
        settings = self._settings().model_dump(mode="json")
        placements = hashlib.sha256((self.simulation.out / PLACEMENTS).read_bytes()).hexdigest()
        return settings | stored.get("settings", {}) == settings and stored.get("placements_sha256") == placements

    def run(self) -> None:
        """Write it, from the picture where an earlier run was stopped."""
        simulation, method = self.simulation, self.variant.method
        simulate(
            Work(
                simulation.data,
                self.folder,
                self.networks if method in NETWORKS else (),
                device=device_of(simulation.accelerator),
            ),
            self._settings(),
            placements=simulation.out / PLACEMENTS,
            # What this process may use of the cores.
            workers=torch.get_num_threads(),
        )

    def _settings(self) -> SimulateSettings:
        settings, method = self.simulation.settings, self.variant.method
        if method is None:
            raise ValueError(f"{self.variant.name}: nothing is simulated there")
        return SimulateSettings(
            method=method,
            count=settings.count,
            placement=settings.placement,
            varied=self.variant.varied,
            roles=tuple(role for role in settings.segment.roles if role != "simulated"),
            bits=settings.segment.bits,
        )


def painters(out: Path, variants: Iterable[Variant]) -> str:
    """What the networks that paint are by now, in one sentence; empty where there are none.

    Args:
        out: folder of the experiment.
        variants: whose networks are meant.
    """
    told = []
    for name in dict.fromkeys(variant.networks for variant in variants if variant.method in NETWORKS):
        cards = [card for path in sorted((out / _NETWORKS / name).glob("*/")) if (card := card_of(path)) is not None]
        if not cards:
            continue
        updates = sorted({int(card.provenance.get("updates", 0)) for card in cards})
        of = f"{updates[0]}" if len(updates) == 1 else f"{updates[0]} to {updates[-1]}"
        text = f"{name}, {len(cards)} of {of} updates from random weights"
        replaced = {pair for card in cards for pair in card.provenance.get("layers_replaced", {}).items()}
        if replaced:
            listed = ", ".join(f"{there} for {missing}" for missing, there in sorted(replaced))
            text += f", losses on a VGG-19 whose file ends early: {listed}"
        told.append(text)
    return f"Networks that paint, one for each reference: {'; '.join(told)}." if told else ""


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested changes."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
