"""A cell of an experiment: one training and its evaluation, in a folder of its own, skipped where it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from inspectd.mask import ClassMap
from inspectd.training.carded import CHECKPOINT
from inspectd.training.data.dataset import open_dataset
from inspectd.training.devices import Hardware
from inspectd.training.files import written_whole
from inspectd.training.log import last_step
from inspectd.training.segmentation.checkpoint import Checkpoint, load_checkpoint
from inspectd.training.segmentation.evaluate import evaluate
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import train

__all__ = ["METRICS", "Cell"]

METRICS = "metrics.json"
_TRAINING = "training"


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
    def place(self) -> Path:
        """Its folder."""
        return self.folder

    @property
    def checkpoint(self) -> Path:
        """File of the trained network."""
        return self.folder / _TRAINING / CHECKPOINT

    @property
    def done(self) -> bool:
        """Whether it was measured."""
        return (self.folder / METRICS).is_file()

    @property
    def steps(self) -> int:
        """Updates that it has got by now, as its log says."""
        return last_step(self.folder / _TRAINING)

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
        if self.done:
            return
        training = self.folder / _TRAINING
        if not self.checkpoint.is_file():
            hardware = Hardware(accelerator=self.accelerator)
            resume = (training / "settings.json").is_file()
            train(self.data, training, self.settings, hardware=hardware, resume=resume, console=Console(quiet=True))
        found = self.trained()
        samples = open_dataset(self.measured).select(*self.roles)
        begun = time.monotonic()
        result = evaluate(
            samples,
            TorchPredictor(found.network, found.card),
            ClassMap(found.card.classes),
            thresholds=found.card.thresholds,
            bits=self.settings.bits,
            resamples=0,
            provenance={"card": found.card.model_dump(mode="json"), "roles": list(self.roles)},
        )
        # Reading, network and counting; of one picture at a time.
        result.provenance["measured_s"] = round(time.monotonic() - begun, 2)
        with written_whole(self.folder / METRICS) as draft:
            draft.write_text(result.to_json())
        # The state of the training is three times its weights, and no longer needed.
        (training / "resume.pt").unlink(missing_ok=True)
