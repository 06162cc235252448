"""The training of one network that paints defects, from a reference and good pictures to a checkpoint.

It lives in a folder: `checkpoint.safetensors` at its end, `resume.pt` for going on after a stop, `settings.json`,
`log.csv`, TensorBoard's events and `previews/`. Placements, order and weights are functions of the seed and the
update alone, so that a training that was killed and resumed gives the weights of one that ran through.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import platform
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

import inspectd
from inspectd.bundle import ModelCard
from inspectd.dataset_writing import write_png
from inspectd.errors import DatasetError
from inspectd.preprocess import Preprocess
from inspectd.sheet import Tile, contact_sheet
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import Backgrounds, as_reference, located
from inspectd.simulation.region import BoolMask
from inspectd.training.carded import CHECKPOINT
from inspectd.training.code import code_digest
from inspectd.training.devices import Hardware, fast_precision, interruption, launch
from inspectd.training.files import locked, written_whole
from inspectd.training.log import training_log
from inspectd.training.notes import STATE
from inspectd.training.resumed import DAMAGED, begin, read_state

from .checkpoint import save_dst
from .cyclegan import CycleGanLearner, CycleGanSettings
from .dst import DstSettings, WindowSettings
from .learner import Learner, TransferLearner
from .windows import Windows, WindowsBatch

__all__ = ["train_dst"]

_SHOWN = 6
"""Windows of a preview."""


def train_dst(
    exemplar: Exemplar,
    backgrounds: Backgrounds,
    out: Path,
    settings: DstSettings | CycleGanSettings,
    *,
    region: BoolMask | None = None,
    hardware: Hardware | None = None,
    resume: bool = False,
    preview_every: int = 200,
    console: Console | None = None,
) -> Path:
    """Train a network that paints one reference's defect: DST's, or a CycleGAN to compare it with.

    Args:
        exemplar: the reference.
        backgrounds: the good pictures.
        out: folder of the training; must be new or empty unless `resume`.
        settings: what decides the result.
        region: of the reference's part, bool [h, w]; found by itself if not given.
        hardware: what it runs on; one device.
        resume: go on with the training in `out`, where there is one.
        preview_every: updates between two previews; 0 for none.
        console: where progress is shown.

    Returns:
        The checkpoint.

    Raises:
        DatasetError: the reference or a background cannot be used, a loss is not finite (with the update and the
            terms), or the state is damaged.
        ConfigError: `out` is in use, or was started with other settings.
    """
    hardware, console = hardware or Hardware(), console or Console(stderr=True)
    precision = fast_precision(hardware.accelerator) if settings.precision == "auto" else settings.precision
    settings = settings.model_copy(update={"precision": precision})
    exemplar = located(exemplar, region)
    reference = as_reference(exemplar)
    data = hashlib.sha256(backgrounds.digest().encode())
    for part in (exemplar.image, exemplar.mask, reference.region):
        data.update(np.ascontiguousarray(part).tobytes())
    note = {"reference": exemplar.name, "data": data.hexdigest(), **settings.model_dump(mode="json")}
    begin(out, note, resume=resume)
    checkpoint = out / CHECKPOINT
    if checkpoint.is_file():
        return checkpoint
    fabric = launch(hardware, precision)
    windows = Windows(exemplar, reference, backgrounds, settings)
    learner: Learner = (
        TransferLearner(fabric, settings, exemplar)
        if isinstance(settings, DstSettings)
        else CycleGanLearner(fabric, settings, exemplar)
    )
    state = read_state(out, "precision", "step") if resume and (out / STATE).is_file() else {}
    if state:
        try:
            learner.load(state)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise DatasetError(f"{out / STATE}: {DAMAGED}") from error
        fabric.strategy.precision.load_state_dict(state["precision"])
    step, trained_s, begun = int(state.get("step", 0)), float(state.get("trained_s", 0.0)), time.monotonic()
    steps = settings.epochs * settings.updates(len(backgrounds))

    def save() -> None:
        kept = learner.state() | {
            "precision": fabric.strategy.precision.state_dict(),
            "step": step,
            "trained_s": trained_s + time.monotonic() - begun,
        }
        with written_whole(out / STATE) as draft, draft.open("wb") as file:
            torch.save(kept, file)

    fields = (*learner.fields, "windows_per_s")
    what = f"{exemplar.defect} ({exemplar.name})"
    with (
        locked(out),
        training_log(out, console, fields, steps=steps, done=step, what=what) as report,
        interruption() as interrupted,
    ):
        last = time.monotonic()
        for number, batch in windows.batches(step):
            if interrupted():
                save()
                raise KeyboardInterrupt
            moved = batch.to(fabric.device)
            figures, painted = learner.update(moved, number, steps)
            step = number + 1
            now = time.monotonic()
            speed = len(batch.label) / (now - last)
            last = now
            parts = "  ".join(f"{name} {figures[name]:.3g}" for name in learner.fields[1:])
            shown = f"{learner.fields[0]} {figures[learner.fields[0]]:.4g} ({parts})  {speed:.1f} windows/s"
            report(step, figures | {"windows_per_s": speed}, shown)
            if preview_every and (step % preview_every == 0 or step == steps):
                write_png(out / "previews" / f"update-{step:06}.png", _preview(exemplar, batch, painted))
            if step % hardware.save_every == 0 and step < steps:
                save()

    card = _card(exemplar, backgrounds, settings, learner)
    provenance = card.provenance | {
        "updates": steps,
        "windows": steps * settings.batch,
        "training_s": round(trained_s + time.monotonic() - begun, 3),
    }
    save()
    save_dst(
        checkpoint,
        learner.network,
        card.model_copy(update={"provenance": provenance}),
        exemplar,
    )
    return checkpoint


def _preview(exemplar: Exemplar, batch: WindowsBatch, painted: Tensor) -> NDArray[np.uint8]:
    """Reference, good surface with L, coarse and painted windows."""
    rows, columns = np.nonzero(exemplar.mask)
    around = 24
    box = (
        slice(max(int(rows.min()) - around, 0), int(rows.max()) + around),
        slice(max(int(columns.min()) - around, 0), int(columns.max()) + around),
    )
    tiles = []
    for index in range(min(_SHOWN, len(batch.label))):
        shown = [
            np.clip(np.rint((part[index].detach().float().cpu().permute(1, 2, 0).numpy() + 1) * 127.5), 0, 255)
            for part in (batch.good, batch.coarse, painted)
        ]
        surface, first, second = (np.asarray(picture, np.uint8) for picture in shown)
        mask = batch.label[index].cpu().numpy().astype(np.uint8)
        tiles += [
            Tile(exemplar.image[box], f"reference: {exemplar.defect}"),
            Tile(surface, "good, label", mask),
            Tile(first, "coarse"),
            Tile(second, "painted"),
        ]
    return contact_sheet(tiles, columns=4)


def _card(exemplar: Exemplar, backgrounds: Backgrounds, settings: WindowSettings, learner: Learner) -> ModelCard:
    return ModelCard(
        kind="dst",
        name=exemplar.name,
        classes=(exemplar.defect,),
        preprocess=Preprocess(height=settings.window, width=settings.window),
        thresholds=(0.5,),
        network=learner.architecture(),
        provenance={
            "reference": exemplar.name,
            "seen_through": exemplar.veil,
            "backgrounds": len(backgrounds),
            **learner.provenance(),
            "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
            "versions": {
                "inspectd": inspectd.__version__,
                "code": code_digest(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "opencv": cv2.__version__,
            },
        },
    )
