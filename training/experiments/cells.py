"""A cell of an experiment: one training and its evaluation, in a folder of its own, skipped where it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from rich.console import Console

from inspectd.errors import DatasetError
from inspectd.mask import ClassMap
from inspectd.training.carded import CHECKPOINT
from inspectd.training.data.dataset import open_dataset
from inspectd.training.devices import Hardware
from inspectd.training.files import InUseError, locked, written_whole
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.evaluate import evaluate
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import train

__all__ = ["METRICS", "Cell", "run_cells"]

METRICS = "metrics.json"
_TRAINING = "training"
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        folder: of the cell; `metrics.json` in it says that it is done.
        data: dataset that is trained on.
        measured: dataset that is measured on.
        roles: roles that are measured.
        settings: of the training.
        accelerator: auto, cpu or gpu.
    """

    folder: Path
    data: Path
    measured: Path
    roles: tuple[str, ...]
    settings: SegmentSettings
    accelerator: str = "auto"

    @property
    def done(self) -> bool:
        """Whether it was measured."""
        return (self.folder / METRICS).is_file()

    def run(self) -> None:
        """Train, from the state that an earlier run left where there is one, and measure.

        Raises:
            DatasetError: the data cannot be used.
            ConfigError: the folder is of a training with other settings.
        """
        if self.done:
            return
        training = self.folder / _TRAINING
        checkpoint = training / CHECKPOINT
        if not checkpoint.is_file():
            hardware = Hardware(accelerator=self.accelerator)
            resume = (training / "settings.json").is_file()
            train(self.data, training, self.settings, hardware=hardware, resume=resume, console=Console(quiet=True))
        found = load_checkpoint(checkpoint)
        samples = open_dataset(self.measured).select(*self.roles)
        result = evaluate(
            samples,
            TorchPredictor(found.network, found.card),
            ClassMap(found.card.classes),
            thresholds=found.card.thresholds,
            bits=self.settings.bits,
            resamples=0,
            provenance={"card": found.card.model_dump(mode="json"), "roles": list(self.roles)},
        )
        with written_whole(self.folder / METRICS) as draft:
            draft.write_text(result.to_json())
        # The state of the training is three times its weights, and no longer needed.
        (training / "resume.pt").unlink(missing_ok=True)


def run_cells(cells: Sequence[Cell], *, jobs: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Run what is not done; several side by side, each in a process with its share of the cores.

    Other processes may run the same cells: each cell is one's alone, and all return when all cells are done.

    Args:
        cells: of the experiment.
        jobs: processes.
        progress: called with (cells done, cells in all).

    Raises:
        DatasetError: a process was killed, or what a cell raised; the others go on when the experiment is run again.
    """
    waiting = [cell for cell in cells if not cell.done]
    done = len(cells) - len(waiting)
    if progress is not None:
        progress(done, len(cells))
    with _runner(jobs) as run:
        while waiting:
            held = []
            for cell, ran in run(waiting):
                if not ran:
                    held.append(cell)
                    continue
                done += 1
                if progress is not None:
                    progress(done, len(cells))
            waiting = held
            if waiting:
                # By other processes: they end, or are killed and leave their cells to this one.
                time.sleep(_POLL_S)


@contextmanager
def _runner(jobs: int) -> Iterator[Callable[[Sequence[Cell]], Iterator[tuple[Cell, bool]]]]:
    """What tries to run each of some cells and says whether it is done now; its processes stay until the end."""
    if jobs == 1:
        yield lambda cells: ((cell, _run(cell)) for cell in cells)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_share, initargs=(threads,)) as pool:

        def side_by_side(cells: Sequence[Cell]) -> Iterator[tuple[Cell, bool]]:
            futures = {pool.submit(_run, cell): cell for cell in cells}
            for future in as_completed(futures):
                yield futures[future], future.result()

        try:
            yield side_by_side
        except BrokenProcessPool:
            raise DatasetError("a training was killed (out of memory?); run again with fewer --jobs") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _share(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)


def _run(cell: Cell) -> bool:
    """Whether it is done now; false where another process is at it."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(cell.folder):
            cell.run()
    except InUseError:
        return False
    return True
