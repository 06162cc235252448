"""A bundle exported again: it gets what it lacks, and stays the network that it was."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from inspectd.bundle import HALF_MODEL, MODEL, PARITY, load_bundle, write_bundle
from inspectd.errors import BundleError, ChecksumError, DatasetError
from inspectd.export.bundler import export_bundle
from inspectd.export.checks import Certificate
from inspectd.runtime.engine import open_engine


@pytest.fixture
def old(bundle, tmp_path):
    """As versions before half precision wrote it."""
    files = {name: bundle.read(name) for name in bundle.files if name != HALF_MODEL}
    write_bundle(tmp_path / "old", bundle.card, files, version="test")
    return load_bundle(tmp_path / "old")


def test_it_gets_the_graph_that_it_lacks_and_finds_what_it_found(old, buttons, tmp_path):
    exported = export_bundle(old.path, tmp_path / "new", calibration=buttons, limit=5)
    new = load_bundle(tmp_path / "new")
    assert HALF_MODEL in new.files
    assert new.card == old.card
    assert [sample.input for sample in new.golden().samples] == [sample.input for sample in old.golden().samples]
    chained = [check for check in exported.certificate.checks if check.name.startswith("the bundle before")]
    assert len(chained) >= 3
    assert all(check.passed for check in chained)
    assert Certificate.model_validate_json(new.read(PARITY)).checks == exported.certificate.checks
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *new.card.preprocess.size, 3), np.uint8)
    thresholds = np.full(len(new.card.classes), 0.02, np.float32)
    with open_engine(old, threads=1) as before, open_engine(new, threads=1) as after:
        one, other = before.infer(images, thresholds), after.infer(images, thresholds)
    assert one.labels.any()
    assert (one.labels == other.labels).mean() > 0.9999
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_a_network_that_came_out_otherwise_is_not_written(old, tmp_path, monkeypatch):
    from inspectd.export import bundler

    real = bundler.unfold

    def wrong(bundle, images):
        network = real(bundle, images)
        for parameter in network.parameters():
            parameter.data.mul_(1.2)
        return network

    monkeypatch.setattr(bundler, "unfold", wrong)
    with pytest.raises(BundleError, match="the bundle before: "):
        export_bundle(old.path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_bundle_of_another_network_is_refused(old, tmp_path):
    graph = onnx.load_from_string(old.read(MODEL))
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("weight"):
            tensor.name += "s"
    for node in graph.graph.node:
        node.input[:] = [f"{name}s" if name.endswith("weight") else name for name in node.input]
    files = {name: old.read(name) for name in old.files} | {MODEL: graph.SerializeToString()}
    write_bundle(tmp_path / "other", old.card, files, version="test")
    with pytest.raises(DatasetError, match="start from the checkpoint that it was made of"):
        export_bundle(tmp_path / "other", tmp_path / "new")


def test_a_bundle_that_a_station_refuses_is_refused(old, tmp_path):
    """It would be compared with itself alone, and come out certified."""
    files = {name: old.read(name) for name in old.files}
    certificate = json.loads(files[PARITY])
    certificate["checks"][0]["passed"] = False
    write_bundle(tmp_path / "failed", old.card, files | {PARITY: json.dumps(certificate).encode()}, version="test")
    with pytest.raises(BundleError, match="its certificate says that it is not the network that was trained"):
        export_bundle(tmp_path / "failed", tmp_path / "new")
    other = old.card.model_copy(update={"thresholds": tuple(0.9 for _ in old.card.thresholds)})
    write_bundle(tmp_path / "edited", other, files, version="test")
    with pytest.raises(ChecksumError):
        export_bundle(tmp_path / "edited", tmp_path / "new")


def test_another_size_is_held_against_the_graph_at_its_own(old, buttons, tmp_path):
    exported = export_bundle(old.path, tmp_path / "new", calibration=buttons, limit=3, size=(96, 64))
    assert any(check.name.startswith("the bundle before") for check in exported.certificate.checks)
    assert load_bundle(tmp_path / "new").card.preprocess.size == (96, 64)
