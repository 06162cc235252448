"""Other ways to run a network on a processor: OpenVINO and integers, certified one by one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import INT8_MODEL, MODEL, decode_png, load_bundle
from inspectd.cpu import CPU_WAYS, CpuWay, card_in, open_graph
from inspectd.errors import BundleError, ConfigError, IncompatibleEngine, InferenceError, MissingDependencyError
from inspectd.export import bundler
from inspectd.export.bundler import export_bundle
from inspectd.export.checks import Outputs, certify_way
from inspectd.export.cli import main
from inspectd.runtime.engine import open_engine, self_test

OPENVINO = [way for way in CPU_WAYS if way.library == "openvino"]
pytest.importorskip("openvino", reason="these need OpenVINO: pip install 'inspectd[openvino]'")


def calculates_bf16():
    import openvino

    # OpenVINO names it where a processor is fast in it; with AVX-512 alone it calculates in it all the same.
    is_named = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return is_named or "avx512bw" in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="session")
def several(buttons, learnt, tmp_path_factory):
    """A bundle that was compared in all ways."""
    out = tmp_path_factory.mktemp("several") / "bundle"
    exported = export_bundle(learnt, out, calibration=buttons, limit=12, openvino=True, int8=True)
    return load_bundle(out), exported


def golden(bundle):
    pictures = [decode_png(bundle.read(sample.input), sample.input) for sample in bundle.golden().samples]
    return np.stack([np.atleast_3d(picture) for picture in pictures])


def test_each_way_is_compared_and_named_in_the_certificate(several):
    bundle, exported = several
    ways = json.loads(bundle.read("parity.json"))["ways"]
    assert list(ways) == ["ONNX Runtime int8", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8"]
    assert bundle.unproven("OpenVINO fp32") == ()
    assert bool(bundle.unproven("OpenVINO bf16")) != calculates_bf16()
    assert INT8_MODEL in exported.sizes
    assert exported.sizes[INT8_MODEL] < 0.45 * exported.sizes[MODEL]
    with open_engine(bundle) as engine:
        found = engine.infer(golden(bundle), np.asarray(bundle.card.thresholds, np.float32)).labels
    assert found.any(), "what finds nothing proves nothing"
    # The drop of IoU is measured on labelled pictures: integers are certified by nothing less.
    drops = [check for check in ways["ONNX Runtime int8"] if "IoU" in check["name"]]
    assert any(isinstance(check["value"], float) for check in drops)


@pytest.mark.parametrize("way", [way for way in CPU_WAYS if way.precision != "bf16"], ids=str)
def test_every_way_gives_the_networks_answers(several, way):
    bundle, _ = several
    images, thresholds = golden(bundle), np.asarray(bundle.card.thresholds, np.float32)
    with (
        open_engine(bundle) as reference,
        open_engine(bundle, backend=way.library, precision=way.precision, threads=1, allow_uncertified=True) as engine,
    ):
        assert engine.name == str(way)
        self_test(engine, bundle)
        expected, found = reference.infer(images, thresholds), engine.infer(images, thresholds)
        again = engine.infer(images[:1], thresholds)
        tolerance = 0.25 if way.precision == "int8" else 1e-3
        assert np.abs(found.scores - expected.scores).max() <= tolerance
        assert (found.labels == expected.labels).mean() >= 0.995
        # Answers are the caller's own: the next one does not write over them.
        kept = found.labels.copy()
        engine.infer(255 - images, thresholds)
        assert np.array_equal(found.labels, kept)
        assert np.array_equal(again.labels[0], found.labels[0])


def test_bf16_runs_where_a_processor_calculates_in_it_and_nowhere_else(several):
    bundle, _ = several
    asked = {"backend": "openvino", "precision": "bf16", "allow_uncertified": True}
    if calculates_bf16():
        with open_engine(bundle, **asked) as engine:
            self_test(engine, bundle)
    else:
        with pytest.raises(IncompatibleEngine, match=r'does not calculate in it, .*; set .*"fp32"'):
            open_engine(bundle, **asked)


def test_what_was_not_compared_is_not_run(bundle):
    """This bundle was exported without a word of OpenVINO or integers."""
    with pytest.raises(BundleError, match=r"does not vouch for OpenVINO fp32: it was not compared.*--target openvino"):
        open_engine(bundle, backend="openvino")
    with pytest.raises(BundleError, match=r"does not vouch for ONNX Runtime int8.*--int8"):
        open_engine(bundle, precision="int8")
    with pytest.raises(BundleError, match=f"has no {INT8_MODEL}"):
        open_engine(bundle, precision="int8", allow_uncertified=True)
    with open_engine(bundle, backend="openvino", allow_uncertified=True) as engine:
        self_test(engine, bundle)


def test_ways_that_there_are_not(several):
    with pytest.raises(ConfigError, match="backend 'onnxruntime' has no precision 'bf16', only fp32, int8"):
        open_engine(several[0], precision="bf16")
    with pytest.raises(ConfigError, match="backend 'torch' is not one of onnxruntime, openvino"):
        open_engine(several[0], backend="torch")
    with pytest.raises(ConfigError, match="the ways of a processor are"):
        open_graph(several[0].read(MODEL), CpuWay("onnxruntime", "bf16"))


def test_integers_that_lose_defects_stay_out_and_the_bundle_says_why(buttons, learnt, tmp_path, monkeypatch, capsys):
    quantise = bundler.to_int8

    def on_darkness(model, images, thresholds, *, progress=None):
        # Ranges of black pictures: whatever is brighter is cut off.
        return quantise(model, np.zeros_like(images), thresholds, progress=progress)

    monkeypatch.setattr(bundler, "to_int8", on_darkness)
    monkeypatch.setattr(
        sys, "argv",
        ["export-trt", str(learnt), "--out", str(tmp_path / "b"), "--calibration", str(buttons), "--int8"],
    )  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        main()
    told = capsys.readouterr().err
    assert "ONNX Runtime int8: not to be run so: " in told
    bundle = load_bundle(tmp_path / "b")
    assert INT8_MODEL not in bundle.files
    assert bundle.uncertified() == ()
    with pytest.raises(BundleError, match=r"does not vouch for ONNX Runtime int8: ONNX Runtime int8: (pixels|drop)"):
        open_engine(bundle, precision="int8")


def test_integers_need_labelled_pictures(several):
    bundle, _ = several
    images, thresholds = golden(bundle), np.asarray(bundle.card.thresholds, np.float32)
    result = open_engine(bundle).infer(images, thresholds)
    outputs = Outputs(labels=result.labels, confidence=result.confidence, scores=result.scores)
    checks = certify_way(CpuWay("onnxruntime", "int8"), bundle.read(INT8_MODEL), bundle.card, images, outputs)
    failed = [check for check in checks if not check.passed]
    assert failed
    assert all(check.value == "no labelled picture" for check in failed)


def test_the_card_travels_in_the_graph_of_integers(several):
    bundle, _ = several
    bundle.check_card(card_in(bundle.read(INT8_MODEL)))


def test_a_graph_that_is_none_is_refused_by_either_library():
    for way in (CPU_WAYS[0], OPENVINO[0]):
        with pytest.raises(IncompatibleEngine, match="cannot be loaded by"):
            open_graph(b"no graph", way)


def test_a_missing_openvino_is_told_with_its_remedy(several, trained, buttons, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[openvino\]'"):
        open_engine(several[0], backend="openvino")
    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[openvino\]'"):
        export_bundle(trained, tmp_path / "b", calibration=buttons, openvino=True)
    assert not (tmp_path / "b").exists()


def test_pictures_that_do_not_fit_are_refused_before_openvino_sees_them(several):
    bundle, _ = several
    thresholds = np.asarray(bundle.card.thresholds, np.float32)
    with open_engine(bundle, backend="openvino") as engine:
        with pytest.raises(InferenceError, match="expected pictures of uint8"):
            engine.infer(np.zeros((1, 8, 8, 3), np.uint8), thresholds)
        with pytest.raises(InferenceError, match="expected thresholds of float32"):
            engine.infer(golden(bundle), thresholds.astype(np.float64))
