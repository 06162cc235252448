"""Engines: real builds of TensorRT-RTX, which needs no GPU for them, and what keeps an engine out of a bundle."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from inspectd.bundle import ENGINES, GPU_INT8_MODEL, HALF_MODEL, MODEL, PARITY, load_bundle, write_bundle
from inspectd.errors import BundleError, ChecksumError, ConfigError, MissingDependencyError
from inspectd.export import bundler, checks
from inspectd.export.bundler import export_bundle
from inspectd.export.cli import main
from inspectd.export.engines import EngineWish, build_engine, prepared, rebuild
from inspectd.runtime.engine import open_engine, self_test

rtx = pytest.importorskip("tensorrt_rtx", reason="engines are built by pip install 'inspectd[tensorrt-rtx]'")
WISH = EngineWish("rtx", ("8.6",), (1, 1, 4))


@pytest.fixture
def alone(monkeypatch):
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)


@pytest.mark.parametrize(
    ("capabilities", "batch"), [(("8.6",), (1, 1, 1)), (("7.5", "8.9", "12.0"), (1, 2, 8))], ids=["static", "dynamic"]
)
def test_an_engine_is_built_for_the_gpus_that_it_is_told(bundle, capabilities, batch):
    seen = []
    graph = bundle.read(HALF_MODEL)
    built = build_engine(graph, EngineWish("rtx", capabilities, batch), progress=lambda *at: seen.append(at))
    # Weights in half precision, and code for each GPU.
    assert len(built.data) > 0.9 * len(graph)
    description = built.description
    assert (description.flavour, description.version) == ("tensorrt_rtx", rtx.__version__)
    assert (description.compute_capabilities, description.batch) == (capabilities, batch)
    assert description.file.endswith(f"-sm{'-'.join(capabilities).replace('.', '')}.engine")
    assert description.checked_on is None
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert all(done <= total for done, total in seen)


def test_what_cannot_be_built_is_answered(bundle, alone):
    graph = bundle.read(HALF_MODEL)
    with pytest.raises(ConfigError, match=r"no GPU of .* by --compute-capability; .* has 7\.5, .*12\.0"):
        build_engine(graph, EngineWish("rtx"))
    with pytest.raises(ConfigError, match=r"compute capability 8\.7: tensorrt_rtx .* has 7\.5, 8\.0"):
        build_engine(graph, EngineWish("rtx", ("8.7",)))
    with pytest.raises(ConfigError, match="--batch 4,1,8: expected three rising numbers"):
        build_engine(graph, EngineWish("rtx", ("8.6",), (4, 1, 8)))
    with pytest.raises(BundleError, match=r"tensorrt_rtx .* does not take the graph"):
        build_engine(b"nothing", EngineWish("rtx", ("8.6",)))
    other = bundle.read(HALF_MODEL).replace(b"confidence", b"confidenCe")
    with pytest.raises(BundleError, match=r"reads inputs and outputs .*confidenCe.*expected"):
        build_engine(other, EngineWish("rtx", ("8.6",)))


def test_faults_in_the_wish_come_before_the_work(bundle, tmp_path, alone):
    said = []
    for wish, message in (
        (EngineWish("rtx", ("86",)), "compute capability 86"),
        (EngineWish("rtx", ("8.6",), (4, 1, 8)), "--batch 4,1,8"),
        (EngineWish("rtx"), "no GPU"),
    ):
        with pytest.raises(ConfigError, match=message):
            rebuild(bundle.path, tmp_path / "bundle", wish, stage=said.append)
        with pytest.raises(ConfigError, match=message):
            export_bundle(tmp_path / "nothing", tmp_path / "bundle", engine=wish, stage=said.append)
    assert not said
    assert prepared(EngineWish("rtx", ("12.0", "8.6", "12.0"))).capabilities == ("8.6", "12.0")


def test_tensorrt_without_a_gpu_is_an_error_before_its_builder_is_made(bundle, monkeypatch, alone):
    """TensorRT's builder gives a bare TypeError there."""
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__name__="tensorrt", __version__="10.3.0"))
    with pytest.raises(ConfigError, match=r"no GPU of this machine answers .*TensorRT builds on the machine"):
        build_engine(bundle.read(HALF_MODEL), EngineWish("tensorrt"))


def test_tensorrt_that_is_missing_is_answered_with_the_pip_command(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[tensorrt\]'"):
        build_engine(bundle.read(HALF_MODEL), EngineWish("tensorrt"))


def test_a_bundle_takes_engines_more_and_stays_what_it_was(bundle, tmp_path):
    out = tmp_path / "bundle"
    rebuild(bundle.path, out, WISH)
    sizes, listed = rebuild(out, out, EngineWish("rtx", ("8.9", "12.0")))
    found = load_bundle(out)
    assert found.engines() == listed
    assert [engine.compute_capabilities for engine in listed] == [("8.9", "12.0"), ("8.6",)], "the latest comes first"
    assert set(sizes) == {MODEL, HALF_MODEL, *(engine.file for engine in listed)}
    assert all(len(found.read(engine.file)) == sizes[engine.file] for engine in listed)
    again = rebuild(out, out, WISH)[1]
    assert [engine.file for engine in again] == [listed[1].file, listed[0].file], "one for the same GPUs is replaced"
    # By its CPU engine, where there is no GPU.
    self_test(open_engine(load_bundle(out), threads=1), load_bundle(out))


def test_an_engine_that_is_damaged_or_missing_is_refused(bundle, tmp_path):
    out = tmp_path / "bundle"
    file = rebuild(bundle.path, out, WISH)[1][0].file
    found = load_bundle(out)
    files = {name: found.read(name) for name in found.files}
    data = bytearray(files[file])
    data[len(data) // 2] ^= 1
    (out / file).write_bytes(data)
    with pytest.raises(ChecksumError, match=r"\.engine was changed after export"):
        load_bundle(out)
    del files[file]
    write_bundle(out, found.card, files, version="test")
    with pytest.raises(BundleError, match=r"engines\.json names engines/.*, which is not part of the bundle"):
        load_bundle(out).engines()
    write_bundle(out, found.card, {**files, ENGINES: b"{"}, version="test")
    with pytest.raises(BundleError, match=r"engines\.json is not valid"):
        load_bundle(out).engines()
    del files[HALF_MODEL], files[ENGINES]
    write_bundle(out, found.card, files, version="test")
    with pytest.raises(BundleError, match=r"has no model-fp16\.onnx.*export it again"):
        rebuild(out, out, WISH)


def test_ctrl_c_ends_a_build_and_leaves_nothing(bundle, tmp_path):
    seen = []

    def press(done, _total):
        seen.append(done)
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rebuild(bundle.path, tmp_path / "bundle", WISH, progress=press)
    assert not list(tmp_path.iterdir())
    assert len(seen) < 20, "the library went on building"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_command_builds_an_engine_again_without_torch(bundle, tmp_path):
    out = tmp_path / "bundle.zip"
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'torchvision'):\n    sys.modules[name] = None\n"
        "from inspectd.export.cli import main\nmain()\n"
    )
    options = ("--target", "rtx", "--compute-capability", "8.6", "--batch", "1,1,2", "--out", str(out))
    done = subprocess.run(
        [sys.executable, "-c", script, "--from-onnx", str(bundle.path), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "for compute capability 8.6: fp16, built in" in done.stderr
    assert "not run on a device" in done.stderr
    found = load_bundle(out)
    assert json.loads(found.read(ENGINES))["engines"][0]["batch"] == [1, 1, 2]
    for arguments, message in (
        ((), "give a CHECKPOINT, or a bundle by --from-onnx"),
        (("CHECKPOINT", "--from-onnx", "B"), "give a CHECKPOINT, or a bundle by --from-onnx"),
        (("CHECKPOINT",), "say where the bundle goes: --out BUNDLE"),
        (("--from-onnx", str(bundle.path), "--target", "onnx"), "--from-onnx builds an engine: give --target"),
        (
            ("--from-onnx", str(bundle.path), "--target", "rtx", "--batch", "1,2"),
            "--batch 1,2: expected three numbers",
        ),
        (("C", "--out", "B", "--target", "onnx", "--compute-capability", "8.6"), "are of an engine"),
        (
            ("--from-onnx", str(bundle.path), "--name", "n"),
            "are of an export; --from-onnx and --certify take the bundle",
        ),
        (("--certify", "B", "--target", "rtx"), "--certify compares the engine that the bundle has"),
        (("--certify", "B"), "B: no such bundle"),
    ):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr


def test_integers_for_gpus_are_built_too_where_the_certificate_vouches_for_them(learnt, buttons, tmp_path, monkeypatch):
    # One pixel of the few that are labelled on twelve pictures of 64 px is 0.003 to 0.006, and this network, which each
    # processor trains a little differently, loses two.
    monkeypatch.setattr(checks, "IOU_DROP", 0.02)
    out = tmp_path / "bundle"
    exported = export_bundle(learnt, out, calibration=buttons, limit=12, engine=WISH, int8=True)
    bundle = load_bundle(out)
    assert [engine.precision for engine in exported.engines] == ["int8", "fp16"]
    assert [engine.file.endswith("-int8.engine") for engine in bundle.engines()] == [True, False]
    digests = {"fp16": bundle.sha256(HALF_MODEL), "int8": bundle.sha256(GPU_INT8_MODEL)}
    assert {engine.precision: engine.graph_sha256 for engine in bundle.engines()} == digests
    measured = json.loads(bundle.read(PARITY))["ways"]["TensorRT int8"]
    assert all(check["passed"] for check in measured)
    assert {check["name"].partition(":")[0] for check in measured} == {"TensorRT int8"}
    graph = onnx.load_from_string(bundle.read(GPU_INT8_MODEL))
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    zeros = {node.input[2] for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert {kinds[name] for name in zeros} == {onnx.TensorProto.INT8}, "no unsigned numbers, no bias in integers"
    again = tmp_path / "again"
    main_of("--from-onnx", str(out), "--int8", "--target", "rtx", "--compute-capability", "8.9", "--out", str(again))
    assert [engine.precision for engine in load_bundle(again).engines()] == ["int8", "int8", "fp16"]


def main_of(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export-trt", *arguments])
        with pytest.raises(SystemExit, match="0"):
            main()


def test_integers_that_lose_defects_get_no_engine(learnt, buttons, tmp_path, monkeypatch):
    quantise = bundler.to_int8
    monkeypatch.setattr(
        bundler, "to_int8", lambda model, images, at, **kwargs: quantise(model, np.zeros_like(images), at, **kwargs)
    )
    exported = export_bundle(learnt, tmp_path / "b", calibration=buttons, limit=12, engine=WISH, int8=True)
    assert [engine.precision for engine in exported.engines] == ["fp16"]
    bundle = load_bundle(tmp_path / "b")
    assert GPU_INT8_MODEL not in bundle.files
    assert bundle.unproven("TensorRT int8")
    with pytest.raises(BundleError, match="its certificate does not vouch for TensorRT int8"):
        open_engine(bundle, backend="tensorrt", precision="int8")
    with pytest.raises(BundleError, match=r"has no model-int8-gpu.onnx.*export it again with --int8"):
        rebuild(bundle.path, tmp_path / "c", dataclasses.replace(WISH, precision="int8"))
