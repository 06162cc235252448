"""What the commands have in common on their command lines."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["CONTEXT", "LOG_EVERY_S", "VERSION_HELP", "bar", "run_command", "stages", "validated", "version_of"]

_T = TypeVar("_T")

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of every command's context."""
VERSION_HELP = "Show the version, and exit."
LOG_EVERY_S = 60.0
"""Between two lines about the progress where there is no terminal."""


def version_of(program: str) -> Callable[[bool], None]:
    """What `--version` of a program does: the eager callback of the option."""

    def show(wanted: bool) -> None:
        if wanted:
            from inspectd import __version__

            sys.stdout.write(f"{program} {__version__}\n")
            sys.exit(0)

    return show


def run_command(app: Callable[[], object], program: str) -> None:
    """Run a program's app: every error that inspectd raises on purpose becomes one line and exit status 2."""
    from inspectd.errors import InspectdError

    # OpenCV would tell of each damaged picture as well, in its own several lines.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    try:
        app()
    except (InspectdError, OSError) as error:
        # OSError: a full disk or a folder without permission; the system's words name the file.
        sys.stderr.write(f"{program}: error: {error}\n")
        sys.exit(2)


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """How far work in stages is: called with (what is done, number done, number in all).

    A bar on a terminal; elsewhere, in a log for example, a line a minute.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        tasks = {}
        said = time.monotonic()

        def report(what: str, done: int, total: int) -> None:
            nonlocal said
            if not console.is_terminal:
                if time.monotonic() - said >= LOG_EVERY_S:
                    said = time.monotonic()
                    console.print(f"{what} {done} of {total}", soft_wrap=True, highlight=False, markup=False)
                return
            if what not in tasks:
                # What an earlier run has done says nothing of how fast this one is.
                tasks[what] = progress.add_task(what, total=total, completed=done)
            progress.update(tasks[what], completed=done, total=total)

        yield report


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """`stages` for work of one: called with (number done, number in all)."""
    with stages() as report:
        yield lambda done, total: report(what, done, total)


def validated(make: Callable[[], _T]) -> _T:
    """What `make` gives.

    Raises:
        ConfigError: settings that pydantic refused, in one line.
    """
    from pydantic import ValidationError

    from inspectd.bundle import explain
    from inspectd.errors import ConfigError

    try:
        return make()
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
