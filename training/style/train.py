"""The training of one DST network, from a reference and good pictures to a checkpoint.

It lives in a folder: `checkpoint.safetensors` at its end, `resume.pt` for going on after a stop, `settings.json`,
`log.csv`, TensorBoard's events and `previews/`. Placements, order and weights are functions of the seed and the
update alone, so that a training that was killed and resumed gives the weights of one that ran through.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import pickle
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

import inspectd
from inspectd.bundle import ModelCard
from inspectd.errors import ConfigError, DatasetError
from inspectd.preprocess import Preprocess
from inspectd.training.carded import CHECKPOINT
from inspectd.training.data.sheet import Tile, contact_sheet
from inspectd.training.data.writing import write_png
from inspectd.training.devices import Hardware, fast_precision, interruption, launch
from inspectd.training.files import locked, written_whole
from inspectd.training.log import training_log

from .checkpoint import save_dst
from .coarse import Exemplar
from .dst import DstSettings
from .features import VGG19, load_vgg19
from .objective import Objective
from .painting import beneath, coarse_scene, lit_region
from .parts import Backgrounds, as_reference, located
from .placement import Placement
from .planning import plan
from .region import BoolMask
from .settings import TERMS, LossSettings
from .site import Reference
from .transfernet import TransferNet, fuse, gaussian_mask
from .window import fit, to_tensor

__all__ = ["train_dst"]

_RESUME = "resume.pt"
_SHOWN = 6
"""Windows of a preview."""


def train_dst(
    exemplar: Exemplar,
    backgrounds: Backgrounds,
    out: Path,
    settings: DstSettings,
    *,
    region: BoolMask | None = None,
    hardware: Hardware | None = None,
    resume: bool = False,
    preview_every: int = 200,
    console: Console | None = None,
) -> Path:
    """Train a transfer network for one reference.

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
    _prepare(out, note, resume=resume)
    checkpoint = out / CHECKPOINT
    if checkpoint.is_file():
        return checkpoint
    fabric = launch(hardware, precision)
    windows = _Windows(exemplar, reference, backgrounds, settings)
    vgg = load_vgg19(settings.loss.layers, settings.vgg).to(fabric.device)
    vgg = vgg.to(memory_format=torch.channels_last)
    torch.manual_seed(settings.seed)
    network = TransferNet(settings.channels, settings.head, settings.blocks).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate)
    state = _load_state(out / _RESUME) if resume else {}
    if state:
        network.load_state_dict(state["network"])
    module, optimiser = fabric.setup(network, optimiser)
    losses = Objective(fabric, vgg, settings, exemplar)
    if state:
        optimiser.load_state_dict(state["optimiser"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        losses.settings = LossSettings.model_validate(state["loss"])
    step, trained_s, begun = int(state.get("step", 0)), float(state.get("trained_s", 0.0)), time.monotonic()
    count = settings.pictures or len(backgrounds)
    steps = settings.epochs * math.ceil(count / settings.batch)

    def save() -> None:
        kept = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "loss": losses.settings.model_dump(mode="json"),
            "step": step,
            "trained_s": trained_s + time.monotonic() - begun,
        }
        with written_whole(out / _RESUME) as draft, draft.open("wb") as file:
            torch.save(kept, file)

    taken = (name for name in TERMS if getattr(settings.loss.weights, name))
    fields = ("loss", *taken, "windows_per_s")
    what = f"{exemplar.defect} ({exemplar.name})"
    with (
        locked(out),
        training_log(out, console, fields, steps=steps, done=step, what=what) as report,
        interruption() as interrupted,
    ):
        last = time.monotonic()
        for number, batch in windows.batches(step, count):
            if interrupted():
                save()
                raise KeyboardInterrupt
            good, coarse, label = (part.to(fabric.device) for part in batch)
            share = gaussian_mask(label[:, None], settings.sigma_px)
            painted = fuse(module(coarse), beneath(settings, good, coarse), share)
            value = losses(painted, good, coarse, label)
            figures = {"loss": float(value.total.detach())} | {name: float(term) for name, term in value.terms.items()}
            if not all(math.isfinite(figure) for figure in figures.values()):
                shown = ", ".join(f"{name} {figure:g}" for name, figure in figures.items())
                raise DatasetError(
                    f"{exemplar.name}: the loss is not finite at update {number + 1} ({shown}); "
                    "lower --rate, or use --precision 32-true"
                )
            optimiser.zero_grad(set_to_none=True)
            fabric.backward(value.total)
            if settings.clip:
                fabric.clip_gradients(module, optimiser, max_norm=settings.clip)
            optimiser.step()
            step = number + 1
            now = time.monotonic()
            figures["windows_per_s"] = len(label) / (now - last)
            last = now
            parts = "  ".join(f"{name} {figures[name]:.3g}" for name in value.terms)
            report(step, figures, f"loss {figures['loss']:.4g} ({parts})  {figures['windows_per_s']:.1f} windows/s")
            if preview_every and (step % preview_every == 0 or step == steps):
                write_png(
                    out / "previews" / f"update-{step:06}.png", _preview(exemplar, (good, coarse, label), painted)
                )
            if step % hardware.save_every == 0 and step < steps:
                save()

    card = _card(exemplar, backgrounds, settings, losses.settings, vgg)
    provenance = card.provenance | {
        "updates": steps,
        "windows": steps * settings.batch,
        "training_s": round(trained_s + time.monotonic() - begun, 1),
    }
    save()
    save_dst(
        checkpoint,
        network,
        card.model_copy(update={"provenance": provenance}),
        exemplar,
    )
    return checkpoint


_Batch = tuple[Tensor, Tensor, Tensor]
"""S and y, float [N, 3, side, side] in -1..1, and L, bool [N, side, side]."""


class _Windows:
    """The training windows, each a function of the seed and its number."""

    def __init__(
        self, exemplar: Exemplar, reference: Reference, backgrounds: Backgrounds, settings: DstSettings
    ) -> None:
        self._exemplar, self._reference = exemplar, reference
        self._backgrounds, self._settings = backgrounds, settings

    def batches(self, first: int, count: int) -> Iterator[tuple[int, _Batch]]:
        """The updates from `first` on, with their batches; `count` placements a pass."""
        size = self._settings.batch
        per_epoch = math.ceil(count / size)
        for epoch in range(first // per_epoch, self._settings.epochs):
            placements = self._placements(epoch, per_epoch * size)
            for number in range(max(first, epoch * per_epoch), (epoch + 1) * per_epoch):
                start = (number - epoch * per_epoch) * size
                yield number, self._batch(placements[start : start + size])

    def _placements(self, epoch: int, count: int) -> tuple[Placement, ...]:
        settings = self._settings
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        single = settings.placement.model_copy(update={"per_image": (1, 1)})
        return plan([self._reference], self._backgrounds, count, single, seed).placements

    def _batch(self, placements: tuple[Placement, ...]) -> _Batch:
        fitted = []
        for placement in placements:
            scene, coarse = coarse_scene(
                self._backgrounds.picture(placement.background),
                self._exemplar,
                placement,
                self._settings,
                lit_region(self._settings.coarse, self._backgrounds, placement),
            )
            fitted.append(fit(scene, coarse, self._settings.window))
        good, coarse_pixels = (
            to_tensor(np.stack([getattr(item, name) for item in fitted])) for name in ("good", "coarse")
        )
        return good, coarse_pixels, torch.from_numpy(np.stack([item.label for item in fitted]))


def _preview(exemplar: Exemplar, batch: _Batch, painted: Tensor) -> NDArray[np.uint8]:
    """Reference, good surface with L, coarse and painted windows."""
    good, coarse, label = batch
    rows, columns = np.nonzero(exemplar.mask)
    around = 24
    box = (
        slice(max(int(rows.min()) - around, 0), int(rows.max()) + around),
        slice(max(int(columns.min()) - around, 0), int(columns.max()) + around),
    )
    tiles = []
    for index in range(min(_SHOWN, len(label))):
        shown = [
            np.clip(np.rint((part[index].detach().float().cpu().permute(1, 2, 0).numpy() + 1) * 127.5), 0, 255)
            for part in (good, coarse, painted)
        ]
        surface, first, second = (np.asarray(picture, np.uint8) for picture in shown)
        mask = label[index].cpu().numpy().astype(np.uint8)
        tiles += [
            Tile(exemplar.image[box], f"reference: {exemplar.defect}"),
            Tile(surface, "good, label", mask),
            Tile(first, "coarse"),
            Tile(second, "DST"),
        ]
    return contact_sheet(tiles, columns=4)


def _prepare(out: Path, now: dict[str, Any], *, resume: bool) -> None:
    """Make the folder, or see that it is the one to go on with.

    Raises:
        ConfigError: it is in use, or of a training with other settings.
        DatasetError: its settings are damaged.
    """
    note = out / "settings.json"
    if not resume and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise ConfigError(f"{out}: exists and is not empty; name a new folder, or go on with it by --resume")
    if not note.is_file():
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(note) as draft:
            draft.write_text(json.dumps(now, indent=2) + "\n")
        return
    try:
        before = dict(json.loads(note.read_text()))
    except ValueError as error:
        raise DatasetError(f"{note}: is damaged; start the training anew in another folder") from error
    names = [*now, *(before.keys() - now.keys())]
    if changed := [f"{n} {before.get(n)!r} -> {now.get(n)!r}" for n in names if before.get(n) != now.get(n)]:
        raise ConfigError(f"{out}: was started with other settings: {', '.join(changed)}")


def _load_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        state["network"], state["optimiser"], state["precision"], state["step"], state["loss"]
    except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise DatasetError(f"{path}: is damaged; start the training anew in another folder") from error
    return state


def _card(
    exemplar: Exemplar, backgrounds: Backgrounds, settings: DstSettings, losses: LossSettings, vgg: VGG19
) -> ModelCard:
    return ModelCard(
        kind="dst",
        name=exemplar.name,
        classes=(exemplar.defect,),
        preprocess=Preprocess(height=settings.window, width=settings.window),
        thresholds=(0.5,),
        network={
            "architecture": "transfernet",
            "channels": settings.channels,
            "head": settings.head,
            "blocks": settings.blocks,
            "sigma_px": settings.sigma_px,
        },
        provenance={
            "reference": exemplar.name,
            "seen_through": exemplar.veil,
            "backgrounds": len(backgrounds),
            "settings": settings.model_dump(mode="json") | {"vgg": Path(settings.vgg).name},
            "losses": losses.model_dump(mode="json"),
            "layers_replaced": dict(vgg.replaced),
            "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
            "versions": {
                "inspectd": inspectd.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "opencv": cv2.__version__,
            },
        },
    )
