"""Many trainings that differ in one thing or two: what is trained, how far it is, and what came out.

Fairness: the same placements, backgrounds, network, crops, augmentation, updates and optimiser for every entry, but for
what the entry is about; several seeds of the training, one of the placements and of the networks that paint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspectd.dataset import Dataset, open_dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.resumable import PROVENANCE, claim
from inspectd.simulation.parts import Backgrounds
from inspectd.training.files import locked
from inspectd.training.notes import by_content, read_object
from inspectd.training.segmentation.results import Evaluation
from inspectd.training.segmentation.settings import SegmentSettings

from .cells import Cell
from .simulation import ExperimentSettings, Report, Simulation
from .tasks import Failure, Task, run_tasks, tell
from .variants import Variant

__all__ = ["Cells", "Entry", "Found", "Watch", "run_experiment"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is trained once for each seed: a place in the table.

    Attributes:
        row: its row: a network, a strategy.
        column: its column; empty where rows are all there is.
        variant: what it learns from.
        changes: to the settings of a training that all have in common.
    """

    row: str
    column: str
    variant: Variant
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.+=-]+", "_", f"{self.row}-{self.column}" if self.column else self.row)


Cells = Mapping[Entry, Sequence[Cell]]
"""The cells of each entry, by seed."""
Found = Mapping[Entry, Sequence[Evaluation]]
"""The results of each entry, of those seeds that are done; entries without any are left out."""
Watch = Callable[[Cells], None]
"""Told the cells before they run."""


def run_experiment(
    data: Path,
    out: Path,
    settings: ExperimentSettings,
    entries: Sequence[Entry],
    *,
    report: Callable[[Cells, Found], None],
    jobs: int = 1,
    accelerator: str = "auto",
    progress: Report | None = None,
    watch: Watch | None = None,
) -> None:
    """Train networks, simulate, train and measure for each entry and seed; what is done is kept.

    Any number of processes may run the same experiment: they share its work.

    Args:
        data: dataset with the roles ref and free, and those that are trained on and measured.
        out: folder of the experiment.
        settings: what all trainings have in common.
        entries: what is trained; more of them may be given to the same folder later.
        report: called after each training with the cells and what was found by then, by one process at a time.
        jobs: trainings side by side.
        accelerator: auto, cpu or gpu.
        progress: called with (what is done, number done, number in all).
        watch: told the cells before they run.

    Raises:
        DatasetError: the data cannot be used, or `out` is of an experiment with other settings or data.
        ConfigError: settings that DST does not know.
    """
    say = progress or (lambda *_: None)
    out = out.resolve()
    # One arithmetic for all cells, whichever machine trains them.
    settings = settings.resolved(accelerator)
    dataset = open_dataset(data)
    _check_measured(dataset, settings)
    simulation = Simulation(data, out, settings, accelerator)
    variants = list({entry.variant.name: entry.variant for entry in entries}.values())
    cells = {
        entry: [
            Cell(
                folder=out / "cells" / f"{entry.folder}-{seed}",
                data=simulation.dataset(entry.variant),
                measured=data,
                roles=settings.roles,
                settings=_segment(settings.segment, dataset, entry, seed),
                variant=entry.variant.name,
                accelerator=accelerator,
            )
            for seed in range(settings.seeds)
        ]
        for entry in entries
    }
    # All faults in the settings before the first hour of training.
    for variant in variants:
        simulation.settings_of(variant)
    others = [sample for sample in dataset.samples if sample.role != "free"]
    named, content = _claims(settings, Backgrounds(dataset).digest(*others))
    # Quick, so those beside it wait, and find it done.
    with locked(out, wait=True, beside=True):
        # Folders of earlier versions name files by their paths.
        claim(out, named if read_object(out / PROVENANCE) == named else content, "an experiment")
        for cell in (cell for of in cells.values() for cell in of):
            cell.check()
        simulation.place(lambda done, total: say("placing", done, total))

    def done_of(what: str, tasks: Sequence[Task]) -> tuple[Failure, ...]:
        return run_tasks(tasks, jobs=jobs, progress=lambda done, total: say(what, done, total))

    # What fails in one stage keeps those of the next that need it from being done, and no others.
    failed = [*done_of("networks that paint", simulation.networks(variants))]
    datasets = simulation.datasets(variants)
    failed += done_of("simulated datasets", ready := [task for task in datasets if task.ready])
    missing = {task.folder for task in datasets if not task.done}
    unreported: list[Exception] = []

    def trained(done: int, total: int) -> None:
        say("training", done, total)
        unreported.clear()
        if done:
            try:
                with locked(out, wait=True, beside=True):
                    report(cells, _found(cells))
            except Exception as error:  # noqa: BLE001 - it is raised at the end; the trainings do not need the report
                unreported.append(error)

    # By seed: what is there first is one training of everything.
    every = [of[seed] for seed in range(settings.seeds) for of in cells.values()]
    possible = [cell for cell in every if cell.data not in missing]
    if watch is not None:
        watch(cells)
    failed += run_tasks(possible, jobs=jobs, progress=trained)
    if unreported and not failed:
        raise unreported[0]
    also = "".join(f"; and the report could not be written: {error}" for error in unreported)
    tell(failed, left_out=len(datasets) - len(ready) + len(every) - len(possible), also=also)


def _claims(settings: ExperimentSettings, data_sha256: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the folder is of: with files by their paths, as earlier versions had it, and by their content.

    Raises:
        DatasetError: a file of weights that is not there.
    """
    for name, known in (
        (settings.segment.weights, ("none", "imagenet")),
        (settings.dst.get("vgg"), (None, "imagenet")),
    ):
        if name not in known and not Path(str(name)).is_file():
            raise DatasetError(f"{name}: no such file of weights; expected one, or imagenet")
    named = settings.model_dump(mode="json", exclude={"seeds"}) | {"data_sha256": data_sha256}
    return named, named | {part: by_content(named[part]) for part in ("segment", "dst")}


def _check_measured(dataset: Dataset, settings: ExperimentSettings) -> None:
    """See that there is something to measure on, before hours are spent on what is to be measured.

    Raises:
        DatasetError: a role that nobody knows or that no picture has, or nothing defective or nothing good among them.
        ConfigError: no role, or one that is trained on.
    """
    roles, where = settings.roles, f"{dataset.root}: measured are to be {', '.join(settings.roles)}"
    if not roles:
        raise ConfigError("no role is given to measure on; test,ok_test are for that")
    samples = dataset.select(*roles)
    if trained := [role for role in roles if role in settings.segment.roles]:
        raise ConfigError(
            f"role {trained[0]!r} is trained on, so it tells nothing of other pictures; measure on others, "
            "test,ok_test for example"
        )
    if missing := [role for role in roles if not any(sample.role == role for sample in samples)]:
        raise DatasetError(f"{where}, but no picture has the role {missing[0]}; there are {dataset.summary}")
    for what, there, remedy in (
        ("defective", any(sample.masks for sample in samples), "add labelled ones, of the role test for example"),
        ("good", not all(sample.masks for sample in samples), "add some, of the role ok_test for example"),
    ):
        if not there:
            raise DatasetError(f"{where}, but no picture of these is {what}; {remedy}")


def _segment(common: SegmentSettings, dataset: Dataset, entry: Entry, seed: int) -> SegmentSettings:
    """The settings of one training."""
    roles = common.roles
    if entry.variant.method is None and any(sample.role == "simulated" for sample in dataset.samples):
        # What the data itself has of simulated pictures goes into no training set: others take their own way's alone.
        roles = tuple(role for role in roles if role != "simulated")
    return SegmentSettings(**common.model_dump() | {"roles": roles, **entry.changes, "seed": seed})


def _found(cells: Cells) -> Found:
    """What is there by now."""
    found = {entry: [one for cell in of if (one := cell.found) is not None] for entry, of in cells.items()}
    return {entry: results for entry, results in found.items() if results}
