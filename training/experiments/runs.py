"""A grid of trainings from beginning to end, with a report from the first training on."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from inspectd.errors import ConfigError, InspectdError
from inspectd.training.files import locked

from .experiment import Cells, Found, Watch, run_experiment
from .grid import Grid
from .report import write_overlays, write_report
from .simulation import Report

__all__ = ["run_grid"]


def run_grid(
    data: Path,
    out: Path,
    grid: Grid,
    *,
    name: str,
    command: str,
    jobs: int = 1,
    accelerator: str = "auto",
    progress: Report | None = None,
    watch: Watch | None = None,
) -> str:
    """Train networks, simulate, train and measure for each place of a grid and each seed; what is done is kept.

    Args:
        data: dataset with the roles that are trained on and measured.
        out: folder of the experiment; gets report.html, report.md, report.json, report.png and figure7.png.
        grid: what is trained.
        name: of the data in the report.
        command: that the report says it is of.
        jobs: trainings side by side.
        accelerator: auto, cpu or gpu.
        progress: called with (what is done, number done, number in all).
        watch: told the cells before they run.

    Returns:
        The report, as Markdown.

    Raises:
        DatasetError: the data cannot be used, or `out` is of an experiment with other settings or data.
        ConfigError: nothing to train, settings that DST does not know, or a file that cannot be written.
    """
    if not grid.entries:
        raise ConfigError(f"{grid.title}: nothing is given that could be trained")
    text, drawn = "", False
    seen: tuple[Cells, Found] | None = None
    # What `auto` stands for on this machine is a part of what is reported.
    grid = replace(grid, settings=grid.settings.resolved(accelerator))

    def report(cells: Cells, found: Found) -> None:
        nonlocal text, seen
        seen = cells, found
        text = write_report(out, name, grid, found, command=command, overlays=drawn)
        if not drawn and all(cells[entry][0].done for entry in grid.shown):
            show(cells, found)

    def show(cells: Cells, found: Found) -> None:
        """Behind the figures, which need no network."""
        nonlocal text, drawn
        drawn = write_overlays(out, data, grid, cells)
        text = write_report(out, name, grid, found, command=command, overlays=drawn)

    try:
        run_experiment(
            data,
            out,
            grid.settings,
            grid.entries,
            report=report,
            jobs=jobs,
            accelerator=accelerator,
            progress=progress,
            watch=watch,
        )
    except InspectdError:
        # What has failed keeps the others from being seen as little as from being done.
        if seen is not None and not drawn:
            with contextlib.suppress(InspectdError), locked(out.resolve(), wait=True, beside=True):
                show(*seen)
        raise
    return text
