"""What a training tells while it runs: progress bar, log.csv and TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from inspectd.errors import ConfigError

from .files import written_whole

__all__ = ["Report", "last_step", "training_log"]

# A row has less.
_TAIL_BYTES = 400

Report = Callable[[int, Mapping[str, float], str], None]
"""Called after each update with its number from 1 on, its figures, and what the progress bar shows of them."""


@contextlib.contextmanager
def training_log(
    out: Path,
    console: Console,
    fields: tuple[str, ...],
    *,
    steps: int,
    done: int,
    what: str = "training",
    active: bool = True,
) -> Iterator[Report]:
    """Open the logs of a training.

    Args:
        out: its folder, which gets `log.csv` and `tensorboard/`.
        console: where progress is shown: a bar on a terminal, else about fifty lines.
        fields: names of the figures; the columns of log.csv after `step`.
        steps: updates in all.
        done: updates done before; what was logged after them is dropped.
        what: shown before the bar.
        active: false on all devices but the first, which then stay silent.

    Raises:
        ConfigError: the log cannot be written.
    """
    if not active:
        yield lambda *_: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
    )
    _cut_log(out / "log.csv", done)
    try:
        with (
            bar,
            (out / "log.csv").open("a", newline="") as file,
            contextlib.closing(SummaryWriter(out / "tensorboard", purge_step=done + 1)) as board,
        ):
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(("step", *fields))
            task = bar.add_task(what, total=steps, completed=done, shown="")

            def report(step: int, figures: Mapping[str, float], shown: str) -> None:
                bar.update(task, completed=step, shown=shown)
                writer.writerow((step, *(f"{figures.get(name, math.nan):.6g}" for name in fields)))
                # Each row at once: what a saved state has behind it must be in the log when the process is killed.
                file.flush()
                if step % 10 == 0 or step == steps:
                    for name, value in figures.items():
                        board.add_scalar(name, value, step)
                if not console.is_terminal and (step % max(1, steps // 50) == 0 or step == steps):
                    console.print(f"{what}: update {step} of {steps}  {shown}")

            yield report
    except OSError as error:
        # A write that fails names no file, and fails again when the file is closed.
        raise ConfigError(f"{out}: the log cannot be written: {error.strerror}; then go on with --resume") from error


def last_step(out: Path) -> int:
    """The last update that `log.csv` of a training tells of; 0 where there is none yet."""
    try:
        with (out / "log.csv").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            last = file.read().decode(errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return 0
    step = last.partition(",")[0]
    return int(step) if step.isdigit() else 0


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the state that the training goes on from."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        return
    kept = [line for line in lines[1:] if line.partition(",")[0].isdigit() and int(line.partition(",")[0]) <= step]
    with written_whole(path) as draft:
        draft.write_text("\n".join([lines[0], *kept]) + "\n")
