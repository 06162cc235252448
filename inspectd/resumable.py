"""Datasets that are written file by file: a run that was stopped is continued, never mixed with another."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from inspectd.errors import DatasetError
from inspectd.picture import read_mask, read_pixels

__all__ = ["PROVENANCE", "claim", "end_with", "in_processes", "is_whole"]

PROVENANCE = "provenance.json"
_POLL_S = 2.0
_Job = TypeVar("_Job")


def claim(out: Path, provenance: dict[str, Any], what: str) -> None:
    """Make a folder and write its provenance, or find the same one there.

    Args:
        out: the folder.
        provenance: what decides its content; values as JSON gives them back.
        what: what error messages call the content.

    Raises:
        DatasetError: the folder holds something else.
    """
    path = out / PROVENANCE
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DatasetError(f"{out}: already there and not a folder of {what}; name another")
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f".{PROVENANCE}.partial"
        partial.write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}); name another folder, or delete this one") from None
    if found != provenance:
        differing = [key for key in provenance if not isinstance(found, dict) or found.get(key) != provenance[key]]
        raise DatasetError(
            f"{out}: holds {what} with another {', '.join(differing) or 'layout'}; "
            "name another folder, or delete this one"
        )


def is_whole(image: Path, masks: Sequence[Path], size: tuple[int, int] | None = None) -> bool:
    """Whether a picture and its masks are there from an earlier run, whole and of one size (`size`, if it is given)."""
    files = [image, *masks]
    if not all(path.is_file() for path in files):
        return False
    try:
        sizes = {read_pixels(image).shape[:2], *(read_mask(path).shape for path in masks)}
    except DatasetError:
        return False
    return len(sizes) == 1 and (size is None or sizes == {tuple(size)})


@contextmanager
def in_processes(
    function: Callable[[_Job], None],
    jobs: Sequence[_Job],
    workers: int,
    prepare: Callable[[], None],
    *,
    out: Path,
) -> Iterator[Iterator[None]]:
    """Does the jobs while the iterator is consumed; in this process where `workers` is 1 or jobs are few.

    The processes end with this one, also where it is killed.

    Args:
        function: does a job.
        jobs: what it is called with.
        workers: processes.
        prepare: called once in each process before its first job.
        out: the folder that is written, for the error's message.

    Raises:
        DatasetError: a process was killed.
    """
    if workers == 1 or len(jobs) < 2 * workers:
        if jobs:
            prepare()
        yield map(function, jobs)
        return
    # spawn: OpenCV's threads do not survive a fork.
    begun = prepare, os.getpid()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=begun) as pool:
        try:
            yield pool.map(function, jobs, chunksize=4)
        except BrokenProcessPool:
            raise DatasetError(
                f"{out}: a working process was killed (out of memory?) or could not start; "
                "run again with fewer workers, it continues"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def end_with(parent: int) -> None:
    """End this process within seconds of `parent`, which started it, however that one ends.

    A pool's process that waits for its next job does not learn that nobody is left to give it one.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        # What a job holds is locked as long as its process lives, and nobody would take the result.
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _begin(prepare: Callable[[], None], parent: int) -> None:
    end_with(parent)
    prepare()
