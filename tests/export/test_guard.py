"""What a network overflows on is no good surface: the part is not inspected."""

from __future__ import annotations

import json
import logging

import numpy as np
import onnx
import pytest

from inspectd.bundle import GUARD_CHECK, HALF_MODEL, MODEL, PARITY, decode_png, load_bundle, write_bundle
from inspectd.cpu import CPU_WAYS, open_graph
from inspectd.errors import BundleError, IncompatibleEngine, InferenceError
from inspectd.export import bundler
from inspectd.export.bundler import export_bundle
from inspectd.runtime.engine import GraphEngine, Opened, open_engine

from ..runtime.overflow import overflowing  # noqa: TID252 - tests are no package

WAYS = [way for way in CPU_WAYS if way.precision == "fp32"]
KINDS = [np.nan, np.inf, -np.inf]


def opened(way, model):
    if way.library == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'inspectd[openvino]'")
    return open_graph(model, way, threads=1)


def golden(bundle):
    return np.stack([np.atleast_3d(decode_png(bundle.read(one.input), one.input)) for one in bundle.golden().samples])


@pytest.fixture(scope="module")
def pictures(bundle):
    return golden(bundle)[:2], np.asarray(bundle.card.thresholds, np.float32)


@pytest.mark.parametrize("file", [MODEL, HALF_MODEL])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_not_finite_anywhere_is_not_inspected(bundle, pictures, way, file):
    images, thresholds = pictures
    count = len(bundle.card.classes) + 1
    assert count > 2, "more than one defect"
    for value in KINDS:
        for classes in [*((number,) for number in range(count)), tuple(range(count))]:
            graph = opened(way, overflowing(bundle.read(file), value, classes=classes))
            with GraphEngine(bundle, Opened(graph, str(way), way.precision)) as engine:
                for batch in (images[:1], images):
                    with pytest.raises(InferenceError, match="scores that are no probabilities"):
                        engine.infer(batch, thresholds)
            # The other picture of the batch is what it was.
            _, _, scores = graph.run({"images": images, "thresholds": thresholds})
            assert not (scores[0] >= 0).any(), (value, classes)
            assert ((scores[1] >= 0) & (scores[1] <= 1)).all(), (value, classes)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_guard_changes_no_bit_of_what_is_finite(bundle, pictures, way):
    images, thresholds = pictures
    guarded, before = (opened(way, model) for model in (bundle.read(MODEL), unguarded(bundle.read(MODEL))))
    for at in (thresholds, np.zeros_like(thresholds), np.full_like(thresholds, 1e-3)):
        given = (graph.run({"images": images, "thresholds": at}) for graph in (guarded, before))
        for new, old in zip(*given, strict=True):
            assert new.tobytes() == old.tobytes()


def unguarded(model: bytes) -> bytes:
    """The graph as it was before there was a guard."""
    graph = (changed := onnx.load_from_string(model)).graph
    by_output = {name: node for node in graph.node for name in node.output}
    subtraction = by_output["scores"]
    assert subtraction.op_type == "Sub"
    highest = by_output[subtraction.input[0]]
    assert highest.op_type == "ReduceMax"
    graph.node.remove(subtraction)
    highest.output[0] = "scores"
    return changed.SerializeToString()


def changed_bundle(bundle, path, files):
    write_bundle(path, bundle.card, {name: bundle.read(name) for name in bundle.files} | files, version="test")
    return load_bundle(path)


def test_an_engine_that_loses_the_guard_is_refused(bundle, tmp_path):
    assert bundle.guarded()
    lost = changed_bundle(bundle, tmp_path / "lost", {MODEL: unguarded(bundle.read(MODEL))})
    with pytest.raises(IncompatibleEngine, match="loses numbers that are not finite"):
        open_engine(lost)


def test_a_bundle_of_before_is_run_with_a_warning(bundle, tmp_path, caplog):
    certificate = json.loads(bundle.read(PARITY))
    certificate["checks"] = [check for check in certificate["checks"] if GUARD_CHECK not in check["name"]]
    files = {MODEL: unguarded(bundle.read(MODEL)), PARITY: json.dumps(certificate).encode()}
    before = changed_bundle(bundle, tmp_path / "before", files)
    assert not before.guarded()
    with caplog.at_level(logging.WARNING, "inspectd.line"), open_engine(before, threads=1):
        pass
    assert "has no guard against numbers that are not finite" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "inspectd.line"), open_engine(bundle, threads=1):
        pass
    assert caplog.text == ""


def test_the_certificate_vouches_for_the_guard_of_each_graph_and_way(bundle, trained, tmp_path):
    checks = json.loads(bundle.read(PARITY))["checks"]
    vouched = [check for check in checks if GUARD_CHECK in check["name"]]
    assert [check["name"] for check in vouched] == [GUARD_CHECK, f"fp16 graph: {GUARD_CHECK}"]
    assert all(check["passed"] for check in vouched)
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'inspectd[openvino]'")
    certificate = export_bundle(trained, tmp_path / "out", openvino=True).certificate
    for way, its in certificate.ways.items():
        assert [check.passed for check in its if GUARD_CHECK in check.name] in ([True], []), way
    assert [check.name for check in certificate.ways["OpenVINO fp32"]].count(f"OpenVINO fp32: {GUARD_CHECK}") == 1


def test_a_graph_without_a_guard_gets_no_certificate(trained, tmp_path, monkeypatch):
    whole = bundler.to_onnx
    monkeypatch.setattr(bundler, "to_onnx", lambda *given: unguarded(whole(*given)))
    with pytest.raises(BundleError, match=GUARD_CHECK):
        export_bundle(trained, tmp_path / "out")
