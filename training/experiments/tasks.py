"""Work that any number of processes share: each task is one process's alone, and is skipped where it is done."""

from __future__ import annotations

import os
import threading
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

from inspectd.errors import DatasetError, InspectdError
from inspectd.training.files import InUseError, locked

__all__ = ["Task", "run_tasks"]

_POLL_S = 2.0


class Task(Protocol):
    """A piece of work that leaves something behind; it goes to other processes whole, so it holds no open files."""

    @property
    def folder(self) -> Path:
        """What it makes; a file beside it is locked while it runs."""

    @property
    def done(self) -> bool:
        """Whether what it makes is there."""

    def run(self) -> None:
        """Do it, from where an earlier process stopped; nothing where it is done."""


def run_tasks(tasks: Sequence[Task], *, jobs: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Do what is not done; several side by side, each in a process with its share of this one's threads.

    Other processes may run the same tasks: each task is one's alone, and all return when all tasks are done. One that
    fails does not keep the others from being done.

    Args:
        tasks: that do not need each other.
        jobs: processes.
        progress: called with (tasks done, tasks in all).

    Raises:
        DatasetError: a process was killed; or some tasks failed, of which the first is told when the others are done.
    """
    waiting = [task for task in tasks if not task.done]
    done = len(tasks) - len(waiting)
    failed: list[tuple[Task, InspectdError]] = []
    if progress is not None:
        progress(done, len(tasks))
    if not waiting:
        return
    with _runner(min(jobs, len(waiting))) as run:
        while waiting:
            held = []
            for task, outcome in run(waiting):
                if isinstance(outcome, InspectdError):
                    failed.append((task, outcome))
                elif outcome:
                    done += 1
                    if progress is not None:
                        progress(done, len(tasks))
                else:
                    held.append(task)
            waiting = held
            if waiting:
                # By other processes: they end, or are killed and leave their tasks to this one.
                time.sleep(_POLL_S)
    if failed:
        task, error = failed[0]
        raise DatasetError(f"{task.folder}: {error} ({len(failed)} of {len(tasks)} failed; the others are done)")


_Outcome = bool | InspectdError
"""True: it is done; false: another process is at it; or why it could not be done."""


@contextmanager
def _runner(jobs: int) -> Iterator[Callable[[Sequence[Task]], Iterator[tuple[Task, _Outcome]]]]:
    """What tries to run each of some tasks and says what came of it; its processes stay until the end."""
    if jobs == 1:
        yield lambda tasks: ((task, _run(task)) for task in tasks)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(threads, os.getpid())) as pool:

        def side_by_side(tasks: Sequence[Task]) -> Iterator[tuple[Task, _Outcome]]:
            futures = {pool.submit(_run, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()

        try:
            yield side_by_side
        except BrokenProcessPool:
            raise DatasetError("a process was killed (out of memory?); run again with fewer --jobs") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int, parent: int) -> None:
    """Take a share of the threads, and end with the process that all this is for, however that one ends."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        # What a task holds is locked as long as its process lives, and nobody would take the result.
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run(task: Task) -> _Outcome:
    try:
        with locked(task.folder, beside=True):
            # Another process may have done it while this one waited for its turn.
            if not task.done:
                task.run()
    except InUseError:
        return False
    except InspectdError as error:
        return error
    return True
