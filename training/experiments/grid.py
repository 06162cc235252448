"""A grid of trainings: what its places are, and how its report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .experiment import Entry
from .simulation import ExperimentSettings

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is trained, in rows and columns; without columns each row is one training, and its figures stand beside it.

    Attributes:
        title: of its report.
        corner: what its rows are.
        settings: what all trainings have in common.
        entries: what is trained.
        shown: entries whose networks are shown at work.
        along_rows: whether the entries of a row compete, or those of a column.
        note: what its report says of rows and columns.
        names: of rows, where they are more than the rows' own.
        axis: what its columns count, where they are numbers.
        stated: the paper's pooled F1 on its own photographs, by row and column.
    """

    title: str
    corner: str
    settings: ExperimentSettings
    entries: tuple[Entry, ...]
    shown: tuple[Entry, ...]
    along_rows: bool = False
    note: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    axis: str = ""
    stated: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def has_columns(self) -> bool:
        """Whether an entry is a place in a row, and not all of it."""
        return any(entry.column for entry in self.entries)

    def name(self, row: str) -> str:
        """A row's, in tables and plots."""
        return self.names.get(row, row)

    def label(self, entry: Entry) -> str:
        """An entry's, where each has a line of its own."""
        place = " ".join(part for part in (entry.column, self.axis) if part)
        return f"{entry.row}, {place}" if entry.column else entry.row

    def stated_of(self, entry: Entry) -> float | None:
        """The paper's pooled F1 of an entry."""
        return self.stated.get((entry.row, entry.column))
