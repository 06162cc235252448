"""`inspectd journal`: what a station has kept."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["app"]

app = typer.Typer(name="journal", help="See and export what a station has kept.", no_args_is_help=True)

At = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Configuration, state folder or journal.db of the station, or demo; else ./state.",
    ),
]


@app.command(short_help="Write results, alarms or requests into a file.")
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv, .jsonl or .parquet.")],
    at: At = None,
    table: Annotated[
        Literal["results", "states", "alarms", "requests"], typer.Option(help="What is written.")
    ] = "results",
    since: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="Leave out what was written before, UTC.")
    ] = None,
) -> None:
    """Write what a station has kept into a file: also while it runs, which it does not notice.

    Parquet needs an extra: pip install 'inspectd[parquet]'.

    \b
    Examples:
      inspectd journal export results.csv
      inspectd journal export alarms.jsonl --table alarms --at line.toml
      inspectd journal export today.parquet --since 2026-11-26
    """  # noqa: D301
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from inspectd.errors import ConfigError

    from .ctl import journal_file
    from .journal import JournalReader
    from .journal.export import Format
    from .journal.export import export as write

    forms: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
    if target.suffix not in forms:
        raise ConfigError(f"{target}: expected a name that ends in {', '.join(forms)}")
    since_ns = 0 if since is None else int(since.replace(tzinfo=timezone.utc).timestamp()) * 1_000_000_000
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"))
    started = time.monotonic()
    with (
        JournalReader(journal_file(at)) as reader,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("", total=None)
        rows = write(
            reader,
            target,
            table=table,
            form=forms[target.suffix],
            since_ns=since_ns,
            told=lambda done: progress.update(task, completed=done),
        )
    console.print(f"{target}: {rows} rows in {time.monotonic() - started:.1f} s", highlight=False, markup=False)


@app.command(short_help="See what is kept.")
def show(at: At = None) -> None:
    """See what a station has kept: its starts, and how far each stream has come.

    \b
    Example:
      inspectd journal show --at line.toml
    """  # noqa: D301
    from rich.console import Console
    from rich.table import Table

    from inspectd.wire import STATION_STREAM

    from .ctl import journal_file
    from .journal import JournalReader

    path = journal_file(at)
    with JournalReader(path) as reader:
        table = Table("epoch", "stream", "oldest", "last", box=None)
        for held in reader.held():
            stream = "station" if held.stream == STATION_STREAM else str(held.stream)
            table.add_row(str(held.epoch), stream, str(held.oldest), str(held.last))
    console = Console(highlight=False)
    console.print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB", markup=False)
    console.print(table)
