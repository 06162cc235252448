"""Networks that paint defects, from a checkpoint to a bundle."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

from inspectd.bundle import HALF_MODEL, MODEL, PARITY, decode_png, load_bundle
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.export.bundler import export_bundle
from inspectd.export.engines import build_engine
from inspectd.export.painter import windows_of
from inspectd.runtime.engine import open_engine
from inspectd.training.data.dataset import open_dataset
from inspectd.training.devices import Hardware
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.style.checkpoint import load_dst
from inspectd.training.style.cyclegan import CycleGanSettings
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.parts import Backgrounds, read_exemplars
from inspectd.training.style.train import train_dst

SHORT = {"channels": 4, "blocks": 1, "epochs": 2, "pictures": 6, "batch": 2, "precision": "32-true"}


def painter_of(parts, out, settings):
    dataset = open_dataset(parts)
    exemplar, backgrounds = read_exemplars(dataset)[0], Backgrounds(dataset)
    hardware, quiet = Hardware(accelerator="cpu"), Console(quiet=True)
    return train_dst(exemplar, backgrounds, out, settings, hardware=hardware, console=quiet)


@pytest.fixture(scope="module")
def painter(parts, vgg_file, tmp_path_factory):
    return painter_of(parts, tmp_path_factory.mktemp("dst") / "out", DstSettings(vgg=str(vgg_file), **SHORT))


@pytest.fixture(scope="module")
def painting(painter, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(painter, out, calibration=parts, limit=5)
    return load_bundle(out)


def test_the_graphs_paint_what_simulate_paints(painting, painter, parts):
    checks = {check["name"]: check for check in json.loads(painting.read(PARITY))["checks"]}
    for name, bound in (
        ("torch fp32 and ONNX Runtime fp32: largest difference, grey levels", 1),
        ("torch fp32 and ONNX Runtime fp16: largest difference, grey levels", 2),
        ("torch fp32 and torch fp16: largest difference, grey levels", 2),
        ("torch fp32 and inspectd-train simulate: largest difference, grey levels", 1),
    ):
        assert checks[name]["value"] <= bound
        assert checks[name]["bound"] == f"<= {bound}"
    assert checks["fp16 graph: statistics in"]["value"] == "FLOAT"
    windows = windows_of(load_dst(painter), parts, 64, 5)
    for name in (MODEL, HALF_MODEL):
        session = onnxruntime.InferenceSession(painting.read(name), providers=["CPUExecutionProvider"])
        painted = session.run(None, dict(windows.inputs))[0]
        for index, own in enumerate(windows.own):
            assert own is not None
            assert np.abs(painted[index].astype(int) - own).max() <= 2
            changed = np.abs(painted[index].astype(int) - windows.inputs["good"][index]).max(axis=2) > 0
            assert changed[windows.inputs["mask"][index] > 0].any(), "a defect is painted"
            assert not changed[0].any(), "and nothing far from it"


def test_its_bundle_has_the_reference_and_a_self_test(painting, painter):
    reference = load_dst(painter).exemplar
    assert (decode_png(painting.read("reference/image.png"), "") == reference.image).all()
    assert ((decode_png(painting.read("reference/mask.png"), "") > 0) == reference.mask).all()
    assert ((decode_png(painting.read("reference/region.png"), "") > 0) == reference.region).all()
    session = onnxruntime.InferenceSession(painting.read(MODEL), providers=["CPUExecutionProvider"])
    for sample in painting.paintings().samples:
        fed = {name: decode_png(painting.read(getattr(sample, name)), "")[None] for name in ("good", "coarse", "mask")}
        fed["mask"] = (fed["mask"] > 0).astype(np.uint8)
        expected = decode_png(painting.read(sample.painted), "")
        assert np.abs(session.run(None, fed)[0][0].astype(int) - expected).max() <= painting.paintings().level_tolerance
    with pytest.raises(BundleError, match=r"golden.json is not valid"):
        painting.golden()
    with pytest.raises(ConfigError, match="is a bundle of kind 'dst'; the line runs kind 'seg'"):
        open_engine(painting)


def test_an_engine_is_built_of_it(painting):
    pytest.importorskip("tensorrt_rtx", reason="engines are built by pip install 'inspectd[tensorrt-rtx]'")
    graph = painting.read(HALF_MODEL)
    built = build_engine(graph, "rtx", kind="dst", capabilities=("8.9",), batch=(1, 4, 8))
    assert len(built.data) > len(graph) / 2
    with pytest.raises(BundleError, match="reads inputs and outputs"):
        build_engine(graph, "rtx", capabilities=("8.9",))


def test_another_size_is_another_graph(painter, trained, parts, buttons, tmp_path):
    export_bundle(painter, tmp_path / "large", calibration=parts, limit=3, size=(96, 96))
    large = load_bundle(tmp_path / "large")
    assert large.card.preprocess.size == (96, 96)
    assert decode_png(large.read(large.paintings().samples[0].painted), "").shape == (96, 96, 3)
    export_bundle(trained, tmp_path / "seg", calibration=buttons, limit=3, size=(96, 64))
    found = load_bundle(tmp_path / "seg")
    assert (load_checkpoint(trained).card.preprocess.size, found.card.preprocess.size) == ((64, 96), (96, 64))
    assert open_engine(found).infer(
        np.zeros((1, 96, 64, 3), np.uint8), np.full(len(found.card.classes), 0.5, np.float32)
    ).labels.shape == (1, 96, 64)


def test_what_cannot_be_exported_is_answered(painter, trained, parts, tmp_path):
    out = tmp_path / "bundle"
    for checkpoint, options, error, message in (
        (painter, {}, ConfigError, "give --calibration DATA"),
        (painter, {"calibration": parts, "size": (96, 64)}, ConfigError, "are square"),
        (trained, {"size": (64, 64)}, ConfigError, "--size needs --calibration DATA"),
        (trained, {"calibration": parts, "size": (60, 64)}, ConfigError, "the nearest: 64x64"),
    ):
        with pytest.raises(error, match=message):
            export_bundle(checkpoint, out, **options)
    gan = painter_of(parts, tmp_path / "gan", CycleGanSettings(**SHORT))
    with pytest.raises(DatasetError, match="holds a cyclegan, which is there to be compared with"):
        export_bundle(gan, out, calibration=parts)
    assert not out.exists()


def test_a_painter_that_half_precision_breaks_gets_no_bundle(painter, parts, tmp_path, monkeypatch):
    """Features beyond 65504, which the norm behind them would bring back: fine in fp32 alone."""
    found = load_dst(painter)
    with torch.no_grad():
        found.network.full[1].weight *= 1e7
        found.network.out[1].weight.normal_(0, 1)
    monkeypatch.setattr("inspectd.export.bundler.load_dst", lambda _: found)
    with pytest.raises(BundleError, match="torch fp16: largest difference, grey levels"):
        export_bundle(painter, tmp_path / "bundle", calibration=parts, limit=3)
    assert not (tmp_path / "bundle").exists()
