"""How far an experiment is: what is prepared, the grid of trainings, and the time that is left.

It looks at the folders of the cells, so it shows also what other processes and machines do for the same experiment.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inspectd.command import LOG_EVERY_S

from .cells import Cell
from .experiment import Cells, Entry

__all__ = ["View"]

_BAR_COLUMNS = 30


class View:
    """The grid on a terminal; elsewhere, in a log for example, a line a minute.

    It is the `progress` and, by `watch`, the `watch` of `run_experiment`.
    """

    def __init__(self, console: Console | None = None, *, log_every_s: float = LOG_EVERY_S) -> None:
        self._console = console or Console(stderr=True)
        self._log_every_s = log_every_s
        self._stages: dict[str, tuple[int, int]] = {}
        self._cells: Cells = {}
        self._f1: dict[Path, float | None] = {}
        self._begun, self._at_first = 0.0, 0
        self._closed = threading.Event()
        terminal = self._console.is_terminal
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=1, transient=True)
        self._log = None if terminal else threading.Thread(target=self._write_lines, daemon=True)

    def __enter__(self) -> View:
        if self._log is None:
            self._live.start()
        else:
            self._log.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._log is None:
            self._live.stop()
        else:
            self._log.join()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of a stage."""
        self._stages[what] = done, total

    def watch(self, cells: Cells) -> None:
        """Take note of the cells, whose folders are looked at from now on."""
        self._begun, self._at_first = time.monotonic(), sum(map(_updates, _all(cells)))
        self._cells = cells

    def line(self) -> str:
        """How far it is, in one line."""
        if not self._cells:
            what, (done, total) = list(self._stages.items())[-1] if self._stages else ("reading", (0, 1))
            return f"{what} {done} of {total}"
        every = _all(self._cells)
        done, total = sum(map(_updates, every)), sum(map(_steps, every))
        return (
            f"training {sum(cell.done for cell in every)} of {len(every)}, {100 * done / total:.0f} % of all updates"
            f"{self._left(done, total)}"
        )

    def _left(self, done: int, total: int) -> str:
        """The time left at the speed since this process began to look."""
        new = done - self._at_first
        if new <= 0:
            return ""
        seconds = (time.monotonic() - self._begun) / new * (total - done)
        return f", about {dt.timedelta(seconds=round(seconds))} left"

    def _write_lines(self) -> None:
        while not self._closed.wait(self._log_every_s):
            self._console.print(self.line(), soft_wrap=True, highlight=False, markup=False)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        for what, (done, total) in list(self._stages.items()):
            if not self._cells and done < total:
                bar = Table.grid(padding=(0, 1))
                bar.add_row(what, ProgressBar(total=total, completed=done, width=_BAR_COLUMNS), f"{done}/{total}")
                parts.append(bar)
        if self._cells:
            parts += [self._grid(), Text(self.line())]
        return Group(*parts)

    def _grid(self) -> Table:
        rows = list(dict.fromkeys(entry.row for entry in self._cells))
        columns = list(dict.fromkeys(entry.column for entry in self._cells))
        places = {(entry.row, entry.column): entry for entry in self._cells}
        table = Table("", *columns, title="pooled F1 and seeds that are done", title_style="dim")
        for row in rows:
            shown = [places.get((row, column)) for column in columns]
            table.add_row(row, *("" if entry is None else self._place(entry) for entry in shown))
        return table

    def _place(self, entry: Entry) -> str:
        """What is there of an entry: `0.713 2/3 45%`."""
        cells = self._cells[entry]
        for cell in cells:
            if cell.folder not in self._f1 and (measured := cell.found) is not None:
                self._f1[cell.folder] = measured.pooled.pixels.f1
        found = [f1 for cell in cells if (f1 := self._f1.get(cell.folder)) is not None]
        parts = [f"{sum(found) / len(found):.3f}"] if found else []
        parts.append(f"{sum(cell.done for cell in cells)}/{len(cells)}")
        running = [cell for cell in cells if not cell.done and cell.steps]
        parts += [f"{100 * cell.steps // _steps(cell)}%" for cell in running]
        return " ".join(parts)


def _all(cells: Cells) -> list[Cell]:
    return [cell for of in cells.values() for cell in of]


def _steps(cell: Cell) -> int:
    return cell.settings.steps or 1


def _updates(cell: Cell) -> int:
    return _steps(cell) if cell.done else cell.steps
