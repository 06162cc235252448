"""Bundles that paint defects, trained and exported for real, though for moments only."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="bundles that paint are trained: pip install 'inspectd[export]'")
pytest.importorskip("onnx", reason="bundles that paint are exported: pip install 'inspectd[export]'")
torch.set_num_threads(1)

from rich.console import Console  # noqa: E402 - comes with inspectd

from inspectd.dataset import open_dataset  # noqa: E402 - after torch
from inspectd.export.bundler import export_bundle  # noqa: E402 - needs torch
from inspectd.simulation.parts import Backgrounds, read_exemplars  # noqa: E402 - after torch
from inspectd.training.devices import Hardware  # noqa: E402 - needs torch
from inspectd.training.style.dst import DstSettings  # noqa: E402 - needs torch
from inspectd.training.style.train import train_dst  # noqa: E402 - needs torch

SHORT = {"channels": 4, "blocks": 1, "epochs": 2, "pictures": 6, "batch": 2, "precision": "32-true"}


def make_bundles(
    parts: Path, vgg: Path, work: Path, defects: tuple[str, ...], *, openvino: bool = False
) -> tuple[Path, dict[str, Path]]:
    """A folder of bundles, and the checkpoints that they were made of, by defect type."""
    dataset = open_dataset(parts)
    backgrounds, hardware, quiet = Backgrounds(dataset), Hardware(accelerator="cpu"), Console(quiet=True)
    settings = DstSettings(vgg=str(vgg), **SHORT)
    checkpoints = {}
    for exemplar in read_exemplars(dataset):
        if exemplar.defect in defects:
            out = work / "dst" / exemplar.defect
            checkpoints[exemplar.defect] = train_dst(
                exemplar, backgrounds, out, settings, hardware=hardware, console=quiet
            )
            bundle = work / "bundles" / exemplar.defect
            export_bundle(checkpoints[exemplar.defect], bundle, calibration=parts, limit=3, openvino=openvino)
    return work / "bundles", checkpoints
