"""The training of Buttonlab, from a dataset to a checkpoint: one recipe that reads from top to bottom.

Lightning Fabric gives devices, precision and data parallelism; the loop is ours. A training lives in a
folder: `checkpoint.safetensors` at its end, `resume.pt` for going on after a stop, `settings.json`,
`log.csv` and TensorBoard's events.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import math
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import inspectd
from inspectd.bundle import ModelCard
from inspectd.dataset import Dataset, Sample, open_dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.mask import ClassMap
from inspectd.preprocess import Preprocess
from inspectd.training.carded import CHECKPOINT
from inspectd.training.code import code_digest
from inspectd.training.devices import Hardware, agree, average, fast_precision, interruption, launch, on_first
from inspectd.training.files import written_whole
from inspectd.training.log import training_log
from inspectd.training.notes import NOTE, STATE
from inspectd.training.resumed import begin, read_state

from .backbones import load_weights
from .buttonlab import Crop
from .checkpoint import save_checkpoint
from .feed import Batch, Pictures, loader, normalise, one_opencv_thread, training_samples
from .loss import segmentation_loss
from .networks import build_network
from .settings import SegmentSettings
from .trained import load_trained

__all__ = ["Hardware", "normalise", "train", "training_step"]

GOLDEN_SAMPLES = 8
_LOG_FIELDS = ("loss", "rate", "pictures_per_s")


def training_step(network: nn.Module, batch: Batch, preprocess: Preprocess, settings: SegmentSettings) -> Tensor:
    """The loss of a batch, a scalar."""
    images = normalise(batch.images, preprocess)
    if preprocess.channels == 1:
        images = images.expand(-1, 3, -1, -1)
    images = images.contiguous(memory_format=torch.channels_last)
    size = batch.labels.shape[-2], batch.labels.shape[-1]
    crop = None if size == images.shape[-2:] else Crop(size, batch.offsets)
    logits: Tensor = network(images, crop)
    return segmentation_loss(logits, batch.labels, settings.defect_weight, settings.peak_weight)


def train(
    data: Path,
    out: Path,
    settings: SegmentSettings,
    *,
    hardware: Hardware | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train Buttonlab on a dataset.

    Args:
        data: folder of the dataset.
        out: folder of the training; must be new or empty unless `resume`.
        settings: what decides the result.
        hardware: what it runs on.
        resume: go on with the training in `out`.
        console: where progress is shown.

    Returns:
        The checkpoint.

    Raises:
        DatasetError: the data cannot be trained on, or there is nothing to resume.
        ConfigError: `out` is in use, or was started with other settings.
        BundleError: the bundle to start from is damaged.
    """
    hardware = hardware or Hardware()
    console = console or Console(stderr=True)
    precision = settings.precision
    if precision == "auto":
        precision = fast_precision(hardware.accelerator)
        settings = settings.model_copy(update={"precision": precision})
    dataset = open_dataset(data)
    samples = training_samples(dataset, settings)
    class_map = _classes(dataset, settings, samples)
    preprocess = Preprocess(height=settings.height, width=settings.width, fill=settings.fill)
    pictures = Pictures(samples, class_map if settings.classes == "types" else None, preprocess, settings)
    torch.manual_seed(settings.seed)
    network = build_network(settings.network, settings.backbone, classes=len(class_map))
    pretrained = {}
    if settings.weights != "none":
        pretrained = load_weights(network.pretrained_parts(), settings.backbone, settings.weights)
    begun_from = {} if settings.start is None else _start(network, Path(settings.start), settings, class_map, pictures)
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)

    fabric = launch(hardware, precision)
    world, rank = fabric.world_size, fabric.global_rank
    on_first(fabric, lambda: _begin(out, settings, resume=resume))
    steps = settings.steps or max(1, math.ceil(settings.epochs * len(samples) / (settings.batch * world)))
    # What must be the same for a training to go on as if it had never been stopped.
    extent: dict[str, int | str] = {"steps": steps, "devices": world, "pictures": len(samples)}
    extent |= {"hard examples": pictures.hard_source.get("sha256", "none")}
    state = _read_state(out, extent) if fabric.broadcast((out / STATE).exists()) else {}
    if state:
        network.load_state_dict(state["network"])
    module, optimiser = fabric.setup(network, optimiser)
    if state:
        # After the set-up: its tensors belong on the device of the network.
        optimiser.load_state_dict(state["optimiser"])
        if "precision" in state:
            fabric.strategy.precision.load_state_dict(state["precision"])
    step, trained_s, smoothed = state.get("step", 0), state.get("trained_s", 0.0), state.get("smoothed")
    del state
    checkpoint = out / CHECKPOINT
    if step == steps and fabric.broadcast(checkpoint.is_file()):
        if rank == 0:
            console.print(f"{out}: the training is complete, {steps} updates; nothing to resume", soft_wrap=True)
        return checkpoint
    module.train()
    begun = time.monotonic()

    def save() -> None:
        state = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "step": step,
            "trained_s": trained_s + time.monotonic() - begun,
            "smoothed": smoothed,
        }
        with written_whole(out / STATE) as draft, draft.open("wb") as file:
            torch.save(state | extent, file)

    batches = loader(pictures, rank=rank, world=world, steps=range(step, steps), workers=hardware.workers)
    with (
        training_log(out, console, _LOG_FIELDS, steps=steps, done=step, active=rank == 0) as report,
        interruption() as interrupted,
        one_opencv_thread(),
    ):
        last = time.monotonic()
        for batch in batches:
            failed, stopped = agree(fabric, isinstance(batch, DatasetError), interrupted())
            if stopped:
                on_first(fabric, save)
                raise KeyboardInterrupt
            if isinstance(batch, DatasetError):
                raise batch
            if failed:
                raise SystemExit(2)
            rate = _rate(settings, step, steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            moved = Batch(batch.images.to(fabric.device), batch.labels.to(fabric.device), batch.offsets)
            loss = training_step(module, moved, preprocess, settings)
            value = average(fabric, loss)
            if not math.isfinite(value):
                on_first(fabric, functools.partial(_diverged, value, step))
            optimiser.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimiser.step()
            step += 1
            smoothed = value if smoothed is None else 0.98 * smoothed + 0.02 * value
            now = time.monotonic()
            speed = settings.batch * world / (now - last)
            report(
                step,
                {"loss": value, "rate": rate, "pictures_per_s": speed},
                f"loss {smoothed:.4f}  rate {rate:.1e}  {speed:.1f} pictures/s",
            )
            last = now
            if step % hardware.save_every == 0 and step < steps:
                on_first(fabric, save)

    def finish() -> None:
        card = _card(dataset, samples, settings, class_map, preprocess)
        provenance = card.provenance | {
            "updates": steps,
            "devices": world,
            "pretrained_tensors": pretrained,
            "start": begun_from,
            "hard": pictures.hard_source,
            "final_loss": smoothed,
            "training_s": round(trained_s + time.monotonic() - begun, 3),
        }
        save_checkpoint(
            checkpoint, network, card.model_copy(update={"provenance": provenance}), pictures.spread(GOLDEN_SAMPLES)
        )
        save()

    on_first(fabric, finish)
    return checkpoint


def _diverged(loss: float, step: int) -> None:
    raise DatasetError(f"the loss became {loss} at update {step}; lower --rate, or use --precision 32-true")


def _classes(dataset: Dataset, settings: SegmentSettings, samples: Sequence[Sample]) -> ClassMap:
    if settings.classes == "binary":
        return ClassMap(("defect",))
    learnt = {name for sample in samples for name, _ in sample.masks}
    if unseen := set(dataset.defects) - learnt:
        raise DatasetError(
            f"{dataset.root}: {', '.join(sorted(unseen))} occur in other roles than {', '.join(settings.roles)} alone; "
            "a class cannot be learnt without a picture: label one, or use --classes binary"
        )
    return ClassMap(dataset.defects)


def _start(
    network: nn.Module, path: Path, settings: SegmentSettings, class_map: ClassMap, pictures: Pictures
) -> dict[str, Any]:
    """Take the weights of a checkpoint or a bundle over; its provenance, which becomes part of ours.

    Classes that it does not know begin at random, beside those that it does.
    """
    learnt, card = load_trained(path, lambda _: pictures)
    wanted = {"architecture": settings.network, "backbone": settings.backbone}
    tensors = learnt.state_dict()
    widened = card.classes != class_map.names and settings.network == "buttonlab"
    known = set(card.classes) <= set(class_map.names) if widened else card.classes == class_map.names
    if card.network != wanted or not known:
        raise ConfigError(
            f"{path}: is a {' '.join(map(str, card.network.values()))} for {', '.join(card.classes)}; "
            f"this training is of a {' '.join(wanted.values())} for {', '.join(class_map.names)}"
        )
    if widened:
        logits = [0, *map(class_map.label, card.classes)]
        for name in ("classify.weight", "classify.bias"):
            rows = network.state_dict()[name].clone()
            rows[logits] = tensors[name]
            tensors[name] = rows
    network.load_state_dict(tensors)
    return card.provenance


def _begin(out: Path, settings: SegmentSettings, *, resume: bool) -> None:
    """Make the folder, or see that it is the one to go on with."""
    if resume and not (out / NOTE).is_file():
        raise DatasetError(f"{out}: nothing to resume: there is no {NOTE}; start without --resume")
    # What an earlier version did not know had the effect of today's default.
    begin(out, settings.model_dump(mode="json"), resume=resume, defaults=SegmentSettings().model_dump(mode="json"))


def _rate(settings: SegmentSettings, step: int, steps: int) -> float:
    """The rate of an update; one cycle as Smith and Topin (2017): up over 30 %, then down by a cosine to nearly 0."""
    if settings.schedule == "constant":
        return settings.rate
    rise = 0.3 * steps
    if step < rise:
        share, low, high = step / rise, settings.rate / 25, settings.rate
    else:
        share, low, high = (step - rise) / max(1.0, steps - rise), settings.rate, settings.rate / 1e4
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def _read_state(out: Path, extent: dict[str, int | str]) -> dict[str, Any]:
    """How far it is, of a training of the same extent."""
    state = read_state(out, "network", "optimiser", "step")
    # States of earlier versions name the updates alone.
    before = {name: state.get(name, number) for name, number in extent.items()}
    if before != extent:
        changed = ", ".join(f"{before[name]} {name}" for name in extent if before[name] != extent[name])
        now = ", ".join(f"{extent[name]}" for name in extent if before[name] != extent[name])
        raise ConfigError(
            f"{out / STATE}: is of a training with {changed}, this would be {now}; "
            "use the same data and number of devices"
        )
    return state


def _card(
    dataset: Dataset,
    samples: Sequence[Sample],
    settings: SegmentSettings,
    class_map: ClassMap,
    preprocess: Preprocess,
) -> ModelCard:
    listing = hashlib.sha256()
    for sample in samples:
        listing.update(sample.image.read_bytes())
        for _, mask in sample.masks:
            listing.update(mask.read_bytes())
    return ModelCard(
        name=dataset.root.resolve().name,
        classes=class_map.names,
        preprocess=preprocess,
        # A weight w in the loss moves the probability of an even chance from 1/2 to w / (1 + w).
        thresholds=(settings.defect_weight / (1 + settings.defect_weight),) * len(class_map),
        network={"architecture": settings.network, "backbone": settings.backbone},
        provenance={
            "dataset": dataset.root.resolve().name,
            "pictures": dict(sorted(Counter(sample.role for sample in samples).items())),
            "defects": dict(sorted(Counter(sample.defect for sample in samples if sample.masks).items())),
            "data_sha256": listing.hexdigest(),
            # Names, not paths: the card travels to other machines.
            "settings": settings.model_dump(mode="json")
            | {"weights": Path(settings.weights).name, "start": settings.start and Path(settings.start).name}
            | {"hard": settings.hard and Path(settings.hard).name},
            "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
            "versions": {
                "inspectd": inspectd.__version__,
                "code": code_digest(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )
