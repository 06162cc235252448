"""What `inspectd-train evaluate` does: a checkpoint or a bundle, measured on the pictures of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import inspectd
from inspectd.bundle import ModelCard, load_bundle
from inspectd.dataset import open_dataset
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.mask import ClassMap
from inspectd.training.carded import CHECKPOINT

from .checkpoint import load_checkpoint
from .evaluate import Evaluation, Predictor, evaluate
from .graph_predictor import GraphPredictor
from .predict import TorchPredictor
from .trained import is_bundle

__all__ = ["measure"]


class _Measured(NamedTuple):
    predictor: Predictor
    card: ModelCard
    origin: dict[str, str]
    """Its digest, as metrics.json names it."""


def measure(
    network: Path,
    data: Path,
    *,
    roles: tuple[str, ...] = ("test", "ok_test"),
    threshold: float | None = None,
    minimum_area_px: int = 1,
    together: bool = False,
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a trained network on a dataset.

    Args:
        network: folder of a training, its checkpoint (both in torch), or a bundle (its graph in ONNX Runtime).
        data: folder of the dataset.
        roles: what to measure on.
        threshold: probability from which on a pixel is a defect; None takes the card's of each class.
        minimum_area_px: smaller regions are ignored, px of the photograph.
        together: take all classes for one, as `evaluate`.
        device: of a checkpoint, cpu or cuda.
        seed: of the resampling behind the intervals.
        out: folder for metrics, tables and pictures; None writes none.
        note: called with what the figures must not be read without.
        progress: called with (pictures done, pictures in all).

    Raises:
        DatasetError: no such checkpoint, or no picture to measure on.
        BundleError: a damaged bundle.
        ConfigError: settings that cannot be used.
    """
    predictor, card, origin = _load(network, device)
    dataset = open_dataset(data)
    samples = dataset.select(*roles)
    if not samples:
        raise DatasetError(
            f"{data}: holds no picture of the roles {', '.join(roles)} to measure on, only {dataset.summary}; "
            "give some pictures these roles in split.csv, or import anew with a larger --test-share"
        )
    settings: dict[str, Any] = card.provenance.get("settings", {})
    if known := sorted(set(roles) & set(settings.get("roles", ()))):
        note(f"the network was trained on {', '.join(known)}")
    return evaluate(
        samples,
        predictor,
        ClassMap(card.classes),
        thresholds=card.thresholds if threshold is None else threshold,
        minimum_area_px=minimum_area_px,
        bits=int(settings.get("bits", 16)),
        together=together,
        out=out,
        provenance={
            **origin,
            "dataset": dataset.root.resolve().name,
            "roles": list(roles),
            "seed": seed,
            "versions": {"inspectd": inspectd.__version__, "torch": torch.__version__},
            "card": card.model_dump(mode="json"),
        },
        seed=seed,
        progress=progress,
    )


def _load(network: Path, device: str) -> _Measured:
    if not is_bundle(network):
        trained = load_checkpoint(network)
        file = network / CHECKPOINT if network.is_dir() else network
        origin = {"checkpoint_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        return _Measured(TorchPredictor(trained.network, trained.card, device=device), trained.card, origin)
    if device != "cpu":
        raise ConfigError(f"--device {device}: the graph of a bundle is measured on the cpu; leave --device out")
    bundle = load_bundle(network)
    if bundle.card.kind != "seg":
        raise BundleError(f"{network}: is a bundle of kind {bundle.card.kind!r}; expected one that segments (seg)")
    return _Measured(GraphPredictor(bundle), bundle.card, {"bundle_sha256": bundle.digest})
