"""What the training recipe costs beyond its network: an update's time in `train` over that of a bare PyTorch loop.

The recipe is whole: pictures from files, augmentation, crops, Fabric, progress bar, log and TensorBoard. The
bare loop runs the same network, optimiser, precision and batches, which are tensors already. Both are measured
in one process and in turns, from the second pass over the pictures on: the first one reads the files.
"""

from __future__ import annotations

import functools
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.optim import optimizer as optimisers

from inspectd.buttons import DEFECTS, LINES, render
from inspectd.dataset import open_dataset
from inspectd.dataset_writing import Row, write_png, write_split
from inspectd.preprocess import Preprocess
from inspectd.training.devices import fast_precision
from inspectd.training.segmentation import train as recipe
from inspectd.training.segmentation.buttonlab import Buttonlab, Crop
from inspectd.training.segmentation.feed import Pictures, loader
from inspectd.training.segmentation.settings import SegmentSettings

from .measure import Report, compare, table

__all__ = ["BOUND", "PHASES", "run"]

BOUND = 1.10
"""Highest ratio of the time per update that is allowed."""

PHASES = ("feed", "prepare", "forward", "backward", "optimiser", "log")
"""Of an update: waiting for the batch; moving and normalising it; the network; loss, its value and the gradients;
the update of the weights; progress bar, log.csv and TensorBoard."""

WARM_UP = 2
"""Updates of a round that are not counted: together one pass over the pictures, which are read in it."""

_Item = TypeVar("_Item")


class _Ready(NamedTuple):
    """A batch as the bare loop takes it: float [B, 3, H, W], int64 [B, h, w], and where the crops lie."""

    images: Tensor
    labels: Tensor
    crop: Crop


def run(*, settings: SegmentSettings, rounds: int, steps: int, workers: int, accelerator: str) -> Report:
    """Compare the recipe with the bare loop.

    Args:
        settings: of the training; `steps` and `roles` are set here. Its precision is auto, 32-true or bf16-mixed.
        rounds: how often each is run.
        steps: updates of a round that are counted.
        workers: processes that read, of the recipe.
        accelerator: auto, cpu or gpu.
    """
    precision = fast_precision(accelerator) if settings.precision == "auto" else settings.precision
    settings = settings.model_copy(
        update={"steps": WARM_UP + steps, "roles": ("extra", "free"), "precision": precision}
    )
    device = Fabric(accelerator=accelerator, devices=1).device
    hardware = recipe.Hardware(accelerator=accelerator, workers=workers)
    with tempfile.TemporaryDirectory(prefix="inspectd-bench-") as scratch:
        data = _write_buttons(Path(scratch) / "data", settings)
        bare = _Bare(data, settings, device)
        names = iter(range(2 * rounds + 2))

        def recipe_phases(*, apart: bool) -> NDArray[np.float64]:
            out = Path(scratch) / f"training-{next(names)}"
            with _watched(device, WARM_UP + steps, apart=apart) as watch:
                recipe.train(data, out, settings, hardware=hardware, console=Console(file=io.StringIO()))
            return watch.updates_ms()

        def bare_phases(*, apart: bool) -> NDArray[np.float64]:
            with _watched(device, WARM_UP + steps, apart=apart) as watch:
                bare.run(watch)
            return watch.updates_ms()

        rounds_of: dict[str, list[NDArray[np.float64]]] = {"recipe": [], "bare": []}

        def update_ms(name: str, phases: Callable[..., NDArray[np.float64]]) -> float:
            rounds_of[name].append(phases(apart=False))
            # The median: an update that another machine's work on this processor holds up says nothing of either side.
            return float(np.median(rounds_of[name][-1].sum(axis=1)))

        result = compare(
            lambda: update_ms("bare", bare_phases),
            lambda: update_ms("recipe", recipe_phases),
            rounds=rounds,
            bound=BOUND,
        )
        if device.type != "cpu":
            # A GPU works behind the host's back: its phases can be told apart only where each is waited for,
            # which costs time of its own.
            rounds_of = {"recipe": [recipe_phases(apart=True)], "bare": [bare_phases(apart=True)]}
    phases = {
        name: dict(zip(PHASES, np.concatenate(found).mean(axis=0), strict=True)) for name, found in rounds_of.items()
    }
    totals = {name: sum(found.values()) for name, found in phases.items()}
    rows = [
        (name, f"{phases['recipe'][name]:.2f}", _share(phases["recipe"], name), f"{phases['bare'][name]:.2f}")
        for name in PHASES
    ]
    rows.append(("update", f"{totals['recipe']:.2f}", "100.0 %", f"{totals['bare']:.2f}"))
    heading = "where the time goes, mean ms" if device.type == "cpu" else "each phase waited for, mean ms"
    text = "\n".join(
        (
            f"{settings.backbone} {settings.height}x{settings.width}, batch {settings.batch}, {settings.precision}, "
            f"augmentation {settings.augment}, {workers} workers, {device}, {torch.get_num_threads()} threads, "
            f"{rounds} rounds of {steps} updates",
            f"recipe over bare loop: {result.text()}",
            f"recipe: {1000 * settings.batch / median(result.measured_ms):.1f} pictures/s",
            table((heading, "recipe", "share", "bare loop"), rows),
        )
    )
    values = {
        **result.values(),
        "settings": settings.model_dump(mode="json"),
        "workers": workers,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "counted_updates": steps,
        "pictures_per_s": 1000 * settings.batch / median(result.measured_ms),
        "phases_ms": {name: {phase: float(ms) for phase, ms in found.items()} for name, found in phases.items()},
    }
    return Report(text, values, result.passed)


def _share(phases: dict[str, float], name: str) -> str:
    return f"{100 * phases[name] / sum(phases.values()):.1f} %"


class _Watch:
    """Notes the moments of each update; `PHASES` lie between them.

    Args:
        device: what the network runs on.
        updates: of a round, the warm-up included.
        apart: wait for the device at every moment, not only where counting begins and ends.
    """

    def __init__(self, device: torch.device, updates: int, *, apart: bool) -> None:
        self._device = device
        self._apart = apart
        self._edges = {len(PHASES) * update for update in (WARM_UP, updates)}
        self._moments_ns: list[int] = []

    def note(self) -> None:
        """A moment: one phase ends and the next begins."""
        if self._device.type == "cuda" and (self._apart or len(self._moments_ns) in self._edges):
            torch.cuda.synchronize(self._device)
        self._moments_ns.append(time.perf_counter_ns())

    def feed(self, batches: Iterable[_Item]) -> Iterator[_Item]:
        """The batches; an update begins where one is asked for."""
        iterator = iter(batches)
        while True:
            self.note()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.note()
            yield batch

    def updates_ms(self) -> NDArray[np.float64]:
        """Time of each phase of each counted update, [updates, phases], ms."""
        updates = np.diff(np.asarray(self._moments_ns, np.float64)).reshape(-1, len(PHASES))
        return np.asarray(updates[WARM_UP:] / 1e6)


@contextmanager
def _watched(device: torch.device, updates: int, *, apart: bool) -> Iterator[_Watch]:
    """Note the moments of every update that is done meanwhile, the recipe's own included."""
    watch = _Watch(device, updates, apart=apart)
    forward = Buttonlab.forward

    @functools.wraps(loader)
    def watched_loader(*args: Any, **options: Any) -> Iterator[Any]:  # noqa: ANN401 - whatever loader takes
        return watch.feed(loader(*args, **options))

    def watched_forward(network: Buttonlab, images: Tensor, crop: Crop | None = None) -> Tensor:
        watch.note()
        logits = forward(network, images, crop)
        watch.note()
        return logits

    before = optimisers.register_optimizer_step_pre_hook(lambda *_: watch.note())
    after = optimisers.register_optimizer_step_post_hook(lambda *_: watch.note())
    try:
        with patch.object(recipe, "loader", watched_loader), patch.object(Buttonlab, "forward", watched_forward):
            yield watch
    finally:
        before.remove()
        after.remove()


class _Bare:
    """The loop that a tutorial would write, on the batches that the recipe draws."""

    def __init__(self, data: Path, settings: SegmentSettings, device: torch.device) -> None:
        preprocess = Preprocess(height=settings.height, width=settings.width, fill=settings.fill)
        pictures = Pictures(open_dataset(data).select(*settings.roles), None, preprocess, settings)
        torch.manual_seed(settings.seed)
        self._network = Buttonlab(settings.backbone, classes=1).to(memory_format=torch.channels_last).to(device)
        self._network.train()
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay
        )
        self._weights = torch.tensor([1.0, settings.defect_weight], device=device)
        self._device = device
        self._mixed = settings.precision != "32-true"
        self._batches = [
            _Ready(
                recipe.normalise(batch.images.to(device), preprocess).contiguous(memory_format=torch.channels_last),
                batch.labels.to(device),
                Crop(settings.crop_size, batch.offsets),
            )
            for batch in loader(pictures, rank=0, world=1, steps=range(settings.steps or 0), workers=0)
        ]

    def run(self, watch: _Watch) -> None:
        """Go through the batches once."""
        for images, labels, crop in watch.feed(self._batches):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
                logits = self._network(images, crop)
                loss = F.cross_entropy(logits.float(), labels, weight=self._weights)
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self._optimiser.step()


def _write_buttons(root: Path, settings: SegmentSettings) -> Path:
    """As many pictures as the updates of the warm-up take, every second one with a defect."""
    rows: list[Row] = []
    for seed in range(WARM_UP * settings.batch):
        defect = DEFECTS[seed // 2 % len(DEFECTS)] if seed % 2 else ""
        part = render(LINES[seed % len(LINES)], defect or None, seed, max(settings.height, settings.width))
        image, mask = f"images/{seed}.png", f"masks/{seed}.png" if defect else ""
        write_png(root / image, part.image)
        if mask:
            write_png(root / mask, part.mask * 255)
        rows.append((image, mask, defect, "extra" if defect else "free", ""))
    write_split(root, rows)
    return root
