"""A cell of an experiment: one training and its evaluation, in a folder of its own, skipped where it is done."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from inspectd.dataset import open_dataset
from inspectd.errors import DatasetError
from inspectd.mask import ClassMap
from inspectd.training.carded import CHECKPOINT
from inspectd.training.devices import Hardware, device_of
from inspectd.training.files import written_whole
from inspectd.training.log import last_step
from inspectd.training.notes import NOTE, STATE, by_content, changes, read_object
from inspectd.training.segmentation.checkpoint import Checkpoint, load_checkpoint
from inspectd.training.segmentation.evaluate import evaluate
from inspectd.training.segmentation.networks import code_sha256
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.results import Evaluation, read_evaluation
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import train

from .leftovers import clear_damaged
from .machine import machine

__all__ = ["METRICS", "Cell"]

METRICS = "metrics.json"
_TRAINING, _NOTE = "training", "cell.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        folder: of the cell; `metrics.json` in it says that it is done.
        data: dataset that is trained on.
        measured: dataset that is measured on.
        roles: roles that are measured.
        settings: of the training.
        variant: what it learns from, by its name.
        accelerator: auto, cpu or gpu.
    """

    folder: Path
    data: Path
    measured: Path
    roles: tuple[str, ...]
    settings: SegmentSettings
    variant: str
    accelerator: str = "auto"

    @property
    def checkpoint(self) -> Path:
        """File of the trained network."""
        return self.folder / _TRAINING / CHECKPOINT

    @property
    def done(self) -> bool:
        """Whether it was measured."""
        return self.found is not None

    @property
    def found(self) -> Evaluation | None:
        """What was measured; None where nothing was yet, or where its file is damaged and has to be made again."""
        path = self.folder / METRICS
        try:
            status = path.stat()
        except OSError:
            return None
        return _read(path, status.st_mtime_ns, status.st_size)

    @property
    def steps(self) -> int:
        """Updates that it has got by now, as its log says."""
        return last_step(self.folder / _TRAINING)

    def check(self) -> None:
        """See that what is in the folder, if there is anything, is of this cell.

        Raises:
            DatasetError: it is of another.
        """
        before, now = read_object(self.folder / _NOTE), self._identity()
        if before is None:
            # Not there, or damaged: the training's own note has all but what it learnt from.
            before = read_object(self.folder / _TRAINING / NOTE) or {}
            now = {name: value for name, value in now.items() if name in before}
        if changed := changes(before, now):
            raise DatasetError(f"{self.folder}: is of another training: {', '.join(changed)}; name another --out")

    def _identity(self) -> dict[str, Any]:
        """All that decides the result, but for the data, which the experiment claims."""
        own = {"code_sha256": code_sha256(self.settings.network)} if ":" in self.settings.network else {}
        return {"variant": self.variant, **self.settings.model_dump(mode="json"), **own}

    def trained(self) -> Checkpoint:
        """The trained network.

        Raises:
            DatasetError: there is none, or it is damaged.
        """
        return load_checkpoint(self.checkpoint, own=self.settings.network)

    def run(self) -> None:
        """Train, from the state that an earlier run left where there is one, and measure.

        Raises:
            DatasetError: the data cannot be used.
            ConfigError: the folder is of a training with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.folder / _NOTE) as draft:
            draft.write_text(json.dumps(by_content(self._identity()), indent=1) + "\n")
        training = self.folder / _TRAINING
        clear_damaged(training, "seg")
        if not self.checkpoint.is_file():
            hardware = Hardware(accelerator=self.accelerator)
            resume = (training / NOTE).is_file()
            train(self.data, training, self.settings, hardware=hardware, resume=resume, console=Console(quiet=True))
        found = self.trained()
        samples = open_dataset(self.measured).select(*self.roles)
        device = device_of(self.accelerator)
        begun = time.monotonic()
        result = evaluate(
            samples,
            TorchPredictor(found.network, found.card, device=device),
            ClassMap(found.card.classes),
            thresholds=found.card.thresholds,
            bits=self.settings.bits,
            resamples=0,
            provenance={"card": found.card.model_dump(mode="json"), "roles": list(self.roles), "machine": machine()},
        )
        # Reading, network (in fp32) and counting; of one picture at a time.
        result.provenance["measured_by"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        result.provenance["measured_s"] = round(time.monotonic() - begun, 2)
        with written_whole(self.folder / METRICS) as draft:
            draft.write_text(result.to_json())
        # The state of the training is three times its weights, and no longer needed.
        (training / STATE).unlink(missing_ok=True)


@functools.lru_cache(maxsize=1024)
def _read(path: Path, _mtime_ns: int, _size: int) -> Evaluation | None:
    """A file of metrics, read once as long as it is the same."""
    try:
        return read_evaluation(path)
    except DatasetError:
        return None
