"""Work that any number of processes share: each task is one process's alone, and is skipped where it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import cv2
import torch

from inspectd.errors import DatasetError
from inspectd.training.files import InUseError, locked

__all__ = ["Task", "run_tasks"]

_POLL_S = 2.0


class Task(Protocol):
    """A piece of work that leaves something behind; it goes to other processes whole, so it holds no open files."""

    @property
    def place(self) -> Path:
        """Folder that is locked while it runs."""

    @property
    def done(self) -> bool:
        """Whether what it makes is there."""

    def run(self) -> None:
        """Do it, from where an earlier process stopped; nothing where it is done."""


def run_tasks(tasks: Sequence[Task], *, jobs: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Do what is not done; several side by side, each in a process with its share of the cores.

    Other processes may run the same tasks: each task is one's alone, and all return when all tasks are done.

    Args:
        tasks: that do not need each other.
        jobs: processes.
        progress: called with (tasks done, tasks in all).

    Raises:
        DatasetError: a process was killed, or what a task raised; the others go on when they are run again.
    """
    waiting = [task for task in tasks if not task.done]
    done = len(tasks) - len(waiting)
    if progress is not None:
        progress(done, len(tasks))
    if not waiting:
        return
    with _runner(min(jobs, len(waiting))) as run:
        while waiting:
            held = []
            for task, ran in run(waiting):
                if not ran:
                    held.append(task)
                    continue
                done += 1
                if progress is not None:
                    progress(done, len(tasks))
            waiting = held
            if waiting:
                # By other processes: they end, or are killed and leave their tasks to this one.
                time.sleep(_POLL_S)


@contextmanager
def _runner(jobs: int) -> Iterator[Callable[[Sequence[Task]], Iterator[tuple[Task, bool]]]]:
    """What tries to run each of some tasks and says whether it is done now; its processes stay until the end."""
    if jobs == 1:
        yield lambda tasks: ((task, _run(task)) for task in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_share, initargs=(threads,)) as pool:

        def side_by_side(tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
            futures = {pool.submit(_run, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()

        try:
            yield side_by_side
        except BrokenProcessPool:
            raise DatasetError("a process was killed (out of memory?); run again with fewer --jobs") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _share(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)


def _run(task: Task) -> bool:
    """Whether it is done now; false where another process is at it."""
    task.place.mkdir(parents=True, exist_ok=True)
    try:
        with locked(task.place):
            task.run()
    except InUseError:
        return False
    return True
