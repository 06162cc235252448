"""How the demo shows what its subscriber receives: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Display", "Row"]

_ROWS = 14
_STYLES = {"OK": "bold green", "NG": "bold red", "REVIEW": "bold yellow", "NOT_INSPECTED": "bold magenta"}


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict as it was received.

    Attributes:
        seq: its number in the stream.
        verdict: OK, NG, REVIEW or NOT_INSPECTED.
        found: the defects in words, or why the part was not inspected.
        truth: what was rendered, in words; empty where that is not known.
        latency_ms: from the frame's arrival to publishing.
    """

    seq: int
    verdict: str
    found: str
    truth: str
    latency_ms: float


class Display:
    """A live table of the latest rows on a terminal; a line for each row elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: deque[Row] = deque(maxlen=_ROWS)
        self._counts: Counter[str] = Counter()
        self._state = ""
        self._live = Live(console=console, refresh_per_second=10) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Something that happened once."""
        self._console.print(f"inspectd: {text}", markup=False, highlight=False, soft_wrap=True)

    def state(self, label: str) -> None:
        """The station's state."""
        self._state = label
        if self._live is None:
            self.note(f"state {label}")
        else:
            self._live.update(self._table())

    def show(self, row: Row) -> None:
        """One more verdict."""
        self._rows.append(row)
        self._counts[row.verdict] += 1
        if self._live is not None:
            self._live.update(self._table())
            return
        truth = f"  [rendered: {row.truth}]" if row.truth else ""
        self._console.print(
            f"received {row.seq:5d}  {row.verdict:13s} {row.latency_ms:6.1f} ms  {row.found}{truth}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _table(self) -> Table:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self._counts.items())
        caption = f"{self._state or 'starting'}: {counts or '-'}"
        table = Table(title="verdicts received over ZeroMQ", caption=caption, expand=True)
        table.add_column("seq", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("found", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("rendered", no_wrap=True)
        table.add_column("latency", justify="right", no_wrap=True)
        for row in self._rows:
            verdict = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
            table.add_row(str(row.seq), verdict, row.found, row.truth, f"{row.latency_ms:.0f} ms")
        return table
