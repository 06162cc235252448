"""Export tests need torch and onnx."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="export needs torch: pip install 'inspectd[export]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install 'inspectd[export]'")
torch.set_num_threads(1)

from rich.console import Console  # noqa: E402 - comes with inspectd

from inspectd.bundle import load_bundle  # noqa: E402
from inspectd.export.bundler import export_bundle  # noqa: E402 - needs torch
from inspectd.training.segmentation.settings import SegmentSettings  # noqa: E402
from inspectd.training.segmentation.train import Hardware, train  # noqa: E402 - needs torch


@pytest.fixture(scope="session")
def trained(buttons, tmp_path_factory):
    settings = SegmentSettings(
        backbone="slim", height=64, width=96, batch=4, steps=30, classes="types", precision="32-true", fill=90
    )
    out = tmp_path_factory.mktemp("trained") / "out"
    return train(buttons, out, settings, hardware=Hardware(accelerator="cpu"), console=Console(quiet=True))


@pytest.fixture(scope="session")
def bundle(buttons, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(trained, out, calibration=buttons, limit=5)
    return load_bundle(out)


@pytest.fixture(scope="session")
def learnt(buttons, tmp_path_factory):
    """A network that finds the defects of its pictures: of one that finds nothing all ways say the same."""
    settings = SegmentSettings(
        backbone="slim", height=64, width=64, batch=8, steps=150, rate=4e-3, schedule="onecycle", precision="32-true",
        augment="flips", defect_share=0.7, defect_weight=6.0, crop_bias=1.0,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("learnt") / "out"
    return train(buttons, out, settings, hardware=Hardware(accelerator="cpu"), console=Console(quiet=True))
