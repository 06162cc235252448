"""Networks that paint defects, from a checkpoint to a bundle."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

from inspectd.bundle import (
    ENGINES,
    HALF_MODEL,
    MODEL,
    PARITY,
    Engines,
    decode_png,
    encode_png,
    load_bundle,
    write_bundle,
)
from inspectd.dataset import open_dataset
from inspectd.errors import BundleError, ConfigError, DatasetError, IncompatibleEngine, InferenceError
from inspectd.export.bundler import export_bundle
from inspectd.export.engines import EngineWish, build_engine, certify_engine
from inspectd.export.painter import windows_of
from inspectd.runtime.engine import open_engine
from inspectd.runtime.painter import check_paintings, open_painter
from inspectd.simulation.parts import Backgrounds, read_exemplars
from inspectd.training.devices import Hardware
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.style.checkpoint import load_dst
from inspectd.training.style.cyclegan import CycleGanSettings
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.train import train_dst

from ..runtime.simulated_gpu import engine_content  # noqa: TID252 - tests are no package
from ..runtime.test_gpu import Machine, described, on_this_machine  # noqa: TID252

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
            changed = np.abs(painted[index].astype(int) - windows.good[index]).max(axis=2) > 0
            assert changed[windows.inputs["mask"][index] > 0].any(), "a defect is painted"
            assert not changed[0].any(), "and nothing far from it"


def test_its_bundle_has_the_reference_and_a_self_test(painting, painter):
    reference = load_dst(painter).exemplar
    assert (decode_png(painting.read("reference/image.png"), "") == reference.image).all()
    assert ((decode_png(painting.read("reference/mask.png"), "") > 0) == reference.mask).all()
    assert ((decode_png(painting.read("reference/region.png"), "") > 0) == reference.region).all()
    session = onnxruntime.InferenceSession(painting.read(MODEL), providers=["CPUExecutionProvider"])
    for sample in painting.paintings().samples:
        fed = {
            name: decode_png(painting.read(getattr(sample, name)), "")[None] for name in ("beneath", "coarse", "mask")
        }
        fed["mask"] = (fed["mask"] > 0).astype(np.uint8)
        expected = decode_png(painting.read(sample.painted), "")
        assert np.abs(session.run(None, fed)[0][0].astype(int) - expected).max() <= painting.paintings().level_tolerance
    with pytest.raises(BundleError, match=r"golden.json is not valid"):
        painting.golden()
    with pytest.raises(ConfigError, match="is a bundle of kind 'dst'; the line runs kind 'seg'"):
        open_engine(painting)


@pytest.fixture
def windows(painter, parts):
    return windows_of(load_dst(painter), parts, 64, 5).inputs


def test_it_is_run_by_onnx_runtime_and_openvino_and_paints_what_it_painted(painter, parts, windows, tmp_path):
    pytest.importorskip("openvino", reason="needs pip install 'inspectd[openvino]'")
    export_bundle(painter, tmp_path / "bundle", calibration=parts, limit=3, openvino=True)
    bundle = load_bundle(tmp_path / "bundle")
    ways = json.loads(bundle.read(PARITY))["ways"]
    assert ways["OpenVINO fp32"][0]["value"] <= 1
    assert set(ways) == {"OpenVINO fp32", "OpenVINO bf16"}
    painted = []
    for backend in ("onnxruntime", "openvino"):
        with open_painter(bundle, backend=backend, threads=1) as engine:
            check_paintings(engine, bundle)
            painted.append(engine.paint(**windows))
            one = np.concatenate([engine.paint(**{k: v[i : i + 1] for k, v in windows.items()}) for i in range(5)])
            assert np.abs(painted[-1].astype(int) - one).max() <= 1
    assert np.abs(painted[0].astype(int) - painted[1]).max() <= 1
    assert (painted[0] != windows["beneath"]).any(axis=(1, 2, 3)).all()
    if not all(check["passed"] for check in ways["OpenVINO bf16"]):
        with pytest.raises(BundleError, match="does not vouch for OpenVINO bf16"):
            open_painter(bundle, backend="openvino", precision="bf16")


def test_what_a_painter_is_given_must_fit(painting, windows):
    with open_painter(painting, threads=1) as engine:
        for change, message in (
            ({"beneath": windows["beneath"][:, :32]}, r"expected beneath of uint8 \[5, 64, 64, 3\]"),
            ({"coarse": windows["coarse"][:4]}, r"expected coarse of uint8 \[5, 64, 64, 3\], got uint8 \[4, 64"),
            ({"mask": windows["mask"] * 255}, "a mask of 0 and 1, got one up to 255"),
            ({"mask": windows["mask"].astype(bool)}, "expected mask of uint8"),
            ({name: array[:0] for name, array in windows.items()}, "expected beneath"),
        ):
            with pytest.raises(InferenceError, match=message):
                engine.paint(**{**windows, **change})


def test_a_self_test_that_differs_is_named(painting, tmp_path):
    files = {name: painting.read(name) for name in painting.files}
    name = painting.paintings().samples[0].painted
    files[name] = encode_png(np.clip(decode_png(files[name], name).astype(int) + 3, 0, 255).astype(np.uint8))
    write_bundle(tmp_path / "other", painting.card, files, version="test")
    other = load_bundle(tmp_path / "other")
    with (
        open_painter(other, threads=1) as engine,
        pytest.raises(BundleError, match=f"self-test failed: {name} is off by 3 grey levels"),
    ):
        check_paintings(engine, other)


def test_a_bundle_that_segments_paints_nothing(bundle):
    with pytest.raises(ConfigError, match="is a bundle of kind 'seg'; defects are painted by kind 'dst'"):
        open_painter(bundle)


def on_a_gpu(painting, path):
    """The bundle with an engine for the simulated GPU."""
    files = {name: painting.read(name) for name in painting.files}
    engine = described(painting, checked_on=None)
    files |= {engine.file: engine_content(painting), ENGINES: Engines(engines=(engine,)).model_dump_json().encode()}
    write_bundle(path, painting.card, files, version="test")
    return load_bundle(path)


def test_its_engine_runs_on_a_gpu_once_it_was_compared_there(painting, windows, tmp_path, monkeypatch):
    machine = Machine()
    on_this_machine(monkeypatch, machine)
    bundle = on_a_gpu(painting, tmp_path / "gpu")
    with pytest.raises(IncompatibleEngine, match="never compared"):
        open_painter(bundle, backend="tensorrt")
    engine, checks = certify_engine(bundle.path, bundle.path)
    assert engine.checked_on == "Simulated GPU"
    assert [check.name for check in checks] == [
        f"{how}: largest difference, grey levels" for how in ("one by one", "all in one call")
    ]
    bundle = load_bundle(bundle.path)
    with open_painter(painting, threads=1) as processor, open_painter(bundle, backend="tensorrt") as gpu:
        check_paintings(gpu, bundle)
        for count in (1, 5, 5, 3):
            some = {name: array[:count] for name, array in windows.items()}
            assert np.abs(gpu.paint(**some).astype(int) - processor.paint(**some)).max() <= 1


def test_windows_that_a_gpu_did_not_write_are_refused(painting, windows, tmp_path, monkeypatch):
    on_this_machine(monkeypatch, Machine(writes_nothing=True))
    bundle = on_a_gpu(painting, tmp_path / "gpu")
    with (
        open_painter(bundle, backend="tensorrt", allow_uncertified=True) as engine,
        pytest.raises(InferenceError, match="gave 5 windows with nothing in them"),
    ):
        engine.paint(**windows)


def test_an_engine_is_built_of_it(painting):
    pytest.importorskip("tensorrt_rtx", reason="engines are built by pip install 'inspectd[tensorrt-rtx]'")
    graph = painting.read(HALF_MODEL)
    built = build_engine(graph, EngineWish("rtx", ("8.9",), (1, 4, 8)), kind="dst")
    assert len(built.data) > len(graph) / 2
    with pytest.raises(BundleError, match="reads inputs and outputs"):
        build_engine(graph, EngineWish("rtx", ("8.9",)))


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
