"""Work that any number of processes share: each task is one process's alone, and is skipped where it is done."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import cv2
import torch

from inspectd.errors import DatasetError, InspectdError
from inspectd.resumable import end_with
from inspectd.training.files import InUseError, locked

__all__ = ["Failure", "Task", "run_tasks", "tell"]

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


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that could not be done, and why."""

    task: Task
    reason: str


def run_tasks(
    tasks: Sequence[Task], *, jobs: int, progress: Callable[[int, int], None] | None = None
) -> tuple[Failure, ...]:
    """Do what is not done; several side by side, each in a process with its share of this one's threads.

    Other processes may run the same tasks: each task is one's alone, and all return when all tasks are done. One that
    fails, whatever it raises, does not keep the others from being done.

    Args:
        tasks: that do not need each other.
        jobs: processes.
        progress: called with (tasks done, tasks in all).

    Returns:
        Those that failed.

    Raises:
        DatasetError: a process was killed.
    """
    waiting = [task for task in tasks if not task.done]
    done = len(tasks) - len(waiting)
    failed: list[Failure] = []
    if progress is not None:
        progress(done, len(tasks))
    if not waiting:
        return ()
    with _runner(min(jobs, len(waiting))) as run:
        while waiting:
            held = []
            for task, outcome in run(waiting):
                if isinstance(outcome, str):
                    failed.append(Failure(task, outcome))
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
    return tuple(failed)


def tell(failed: Sequence[Failure], *, left_out: int = 0, also: str = "") -> None:
    """Tell of the tasks that failed, if there are any, when the others are done.

    Args:
        failed: in their order; the first one is told with its reason.
        left_out: how many others need what these were to make.
        also: what else went wrong.

    Raises:
        DatasetError: some did.
    """
    if failed:
        first, needing = failed[0], f", {left_out} that need them were left out" if left_out else ""
        raise DatasetError(
            f"{first.task.folder}: {first.reason} ({len(failed)} failed{needing}; the others are done){also}"
        )


_Outcome = bool | str
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
    end_with(parent)


def _run(task: Task) -> _Outcome:
    try:
        with locked(task.folder, beside=True):
            # Another process may have done it while this one waited for its turn.
            if not task.done:
                task.run()
    except InUseError:
        return False
    except InspectdError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a user's network, a GPU's memory, a disk: the other tasks need none of it
        return f"{type(error).__name__}: {error}{_traceback(task)}"
    _traceback_file(task).unlink(missing_ok=True)
    return True


def _traceback(task: Task) -> str:
    """Keep the traceback of what was just raised; words that say where, empty where it cannot be written."""
    path = _traceback_file(task)
    with suppress(OSError):
        path.write_text(traceback.format_exc())
        return f"; its traceback is in {path}"
    return ""


def _traceback_file(task: Task) -> Path:
    """Beside the folder: what claims its folder takes nothing that is there before."""
    return task.folder.with_name(f"{task.folder.name}.traceback.txt")
