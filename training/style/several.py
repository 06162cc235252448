"""Several trainings side by side, each in a process of its own that runs the same command for one reference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.carded import CHECKPOINT
from inspectd.training.log import last_step

__all__ = ["train_side_by_side"]

_POLL_S = 0.5


def train_side_by_side(
    folders: Mapping[str, Path], defects: Mapping[str, str], *, jobs: int, resume: bool, console: Console | None = None
) -> None:
    """Run this program's own command line once for each reference, `jobs` of them at a time.

    The cores are shared among them. The first that fails stops the others, whose states stay.

    Args:
        folders: of each reference's training.
        defects: type of each reference.
        jobs: processes at a time.
        resume: whether the command line says so; finished trainings are then skipped.
        console: where progress is shown.

    Raises:
        ConfigError: a folder is in use.
        DatasetError: one of them failed; its output is in its folder's `output.txt`.
        KeyboardInterrupt: Ctrl-C, after the processes have saved their states.
    """
    console = console or Console(stderr=True)
    if not resume and (used := [folder for folder in folders.values() if folder.exists()]):
        raise ConfigError(f"{used[0]}: exists; name a new --out, or go on with it by --resume")
    waiting = [name for name, folder in folders.items() if not (resume and (folder / CHECKPOINT).is_file())]
    running: dict[str, subprocess.Popen[bytes]] = {}
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"))
    done = len(folders) - len(waiting)
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("references", total=len(folders), completed=done, shown="")
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    running[name] = _start(name, folders[name], threads, resume=resume)
                time.sleep(_POLL_S)
                for name, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    if process.returncode:
                        log = _log(folders[name])
                        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                        raise DatasetError(f"{name}: {last[0]} (all of it in {log}; the others go on with --resume)")
                    done += 1
                    bar.update(task, completed=done)
                    console.print(f"{folders[name] / CHECKPOINT}", highlight=False)
                bar.update(
                    task, shown="  ".join(f"{defects[name]} {last_step(folders[name]) or '...'}" for name in running)
                )
        finally:
            for process in running.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            for process in running.values():
                process.wait()


def _start(name: str, folder: Path, threads: str, *, resume: bool) -> subprocess.Popen[bytes]:
    arguments = [*_without(sys.argv[1:], "--jobs"), "--jobs", "1", "--exactly", name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _log(folder).open("ab" if resume else "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "inspectd.training.cli", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            # A terminal's Ctrl-C is this process's to hand on: twice would end them before they have saved.
            start_new_session=True,
        )


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.output.txt")


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments without an option and its value, and without those that choose references."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in (option, "--reference", "--defect"):
            skip = True
        elif not argument.startswith((f"{option}=", "--reference=", "--defect=")):
            kept.append(argument)
    return kept
