"""From a checkpoint to a bundle that the runtime takes, and what keeps one from being written."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import nn

from inspectd.bundle import HALF_MODEL, MODEL, PARITY, decode_png, load_bundle, write_bundle
from inspectd.dataset import open_dataset, read_image
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.export.bundler import export_bundle
from inspectd.export.certificate import certify
from inspectd.export.checks import Outputs, iou_drops, parity
from inspectd.export.cli import main
from inspectd.export.fold import fold_batch_norms
from inspectd.export.graph import Inspector, to_onnx
from inspectd.runtime.engine import open_engine, self_test
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.graph_predictor import GraphPredictor
from inspectd.training.segmentation.measure import measure
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import Hardware, normalise, train
from inspectd.training.segmentation.unfold import unfold


def test_the_runtime_finds_what_the_trained_network_finds(bundle, trained, buttons):
    checkpoint = load_checkpoint(trained)
    predict = TorchPredictor(checkpoint.network, checkpoint.card)
    engine = open_engine(bundle, threads=1)
    threshold = 0.02  # low, so that a barely trained network marks something
    thresholds = np.full(len(bundle.card.classes), threshold, np.float32)
    marked = 0
    for sample in open_dataset(buttons).select("test", "ok_test"):
        pixels = read_image(sample.image)
        result = engine.infer(bundle.card.preprocess.image(pixels)[None], thresholds)
        probabilities = predict(pixels)
        excess = probabilities - threshold
        expected = np.where(excess.max(axis=0) >= 0, excess.argmax(axis=0) + 1, 0)
        got = bundle.card.preprocess.letterbox(pixels.shape[:2]).restore(result.labels[0])
        assert (got != expected).mean() < 1e-3
        # The graph's scores are those of its input, with the margins of the letterbox.
        assert (result.scores[0] >= probabilities.max(axis=(1, 2)) - 1e-4).all()
        marked += int((got > 0).sum())
    assert marked > 0


def test_a_training_goes_on_from_a_bundle(bundle, trained, buttons, tmp_path):
    checkpoint = load_checkpoint(trained)
    unfolded = unfold(bundle, checkpoint.golden)
    inputs = normalise(torch.from_numpy(checkpoint.golden).permute(0, 3, 1, 2), bundle.card.preprocess)
    with torch.no_grad():
        assert torch.allclose(unfolded.eval()(inputs), checkpoint.network(inputs), atol=1e-3)
        # In training mode it must normalise by what it measured: the same pictures, in one batch.
        assert torch.allclose(unfolded.train()(inputs), unfolded.eval()(inputs), atol=0.05)
    settings = SegmentSettings(
        backbone="slim", height=64, width=96, batch=4, steps=1, classes="types", fill=90, rate=1e-12,
        start=str(bundle.path),
    )  # fmt: skip
    out = train(buttons, tmp_path / "out", settings, hardware=Hardware(accelerator="cpu"), console=Console(quiet=True))
    gone_on = load_checkpoint(out)
    assert gone_on.card.provenance["start"]["updates"] == 30
    assert torch.allclose(
        gone_on.network.state_dict()["classify.weight"], checkpoint.network.state_dict()["classify.weight"], atol=1e-6
    )


def test_thresholds_are_an_input(bundle):
    engine = open_engine(bundle, threads=1)
    images = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), dtype=np.uint8)
    count = len(bundle.card.classes)
    everything = engine.infer(images, np.full(count, 1e-6, np.float32))
    nothing = engine.infer(images, np.ones(count, np.float32))
    assert (everything.labels > 0).all()
    assert not nothing.labels.any()
    one = np.ones(count, np.float32)
    one[2] = 1e-6
    assert set(np.unique(engine.infer(images, one).labels)) == {3}


def test_batches_of_any_size(bundle):
    engine = open_engine(bundle, threads=1)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8)
    thresholds = np.full(len(bundle.card.classes), 0.3, np.float32)
    together = engine.infer(images, thresholds)
    for index in range(3):
        alone = engine.infer(images[index : index + 1], thresholds)
        assert together.scores[index] == pytest.approx(alone.scores[0], abs=1e-4)


def test_the_certificate_tells_what_was_compared(bundle):
    certificate = json.loads(bundle.read(PARITY))
    assert certificate["images"] == 8 + 5
    assert "5 of buttons" in certificate["images_from"]
    assert all(check["passed"] for check in certificate["checks"])
    names = " ".join(check["name"] for check in certificate["checks"])
    for part in ("onnx.checker", "opset", "inputs and outputs", "same class", "flips", "finite"):
        assert part in names


def test_the_card_travels_in_the_graph(bundle):
    model = onnx.load_from_string(bundle.read(MODEL))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["inspectd.card"]) == bundle.card.model_dump(mode="json")


def test_another_network_gets_no_certificate(trained, bundle):
    checkpoint = load_checkpoint(trained)
    inspector = Inspector(checkpoint.network, checkpoint.card).eval()
    model = bundle.read(MODEL)
    with torch.no_grad():
        checkpoint.network.classify.bias[1:] += 3.0
    certificate, _ = certify(inspector, model, checkpoint.card, checkpoint.golden, images_from="golden")
    assert not certificate.passed
    failed = {check.name for check in certificate.checks if not check.passed}
    assert "largest difference of a score" in failed


def test_thresholds_that_are_built_in_get_no_certificate(trained):
    class Deaf(Inspector):
        """Hears no thresholds but the card's."""

        def forward(self, images, thresholds):
            return super().forward(images, thresholds * 0 + 0.5)

    checkpoint = load_checkpoint(trained)
    model = to_onnx(Deaf(checkpoint.network, checkpoint.card).eval(), checkpoint.card)
    inspector = Inspector(checkpoint.network, checkpoint.card).eval()
    certificate, _ = certify(inspector, model, checkpoint.card, checkpoint.golden, images_from="golden")
    assert [check.name for check in certificate.checks if not check.passed] == [
        "the same in a batch of two, at thresholds of 0.001"
    ]


def test_numbers_that_are_not_finite_get_no_bundle(trained, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(trained, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    tensors["classify.bias"][1] = float("nan")
    save_file(tensors, tmp_path / "checkpoint.safetensors", metadata=metadata)
    with pytest.raises(BundleError, match="not the trained network"):
        export_bundle(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_self_test_passes_and_fails_where_it_must(bundle):
    class Blind:
        """An engine that finds nothing."""

        name, precision = "blind", "fp32"

        def infer(self, images, thresholds):
            result = open_engine(bundle, threads=1).infer(images, thresholds)
            return type(result)(result.labels * 0, result.confidence * 0, result.scores * 0)

        def close(self):
            pass

    self_test(open_engine(bundle, threads=1), bundle)
    with pytest.raises(BundleError, match="self-test failed"):
        self_test(Blind(), bundle)


def test_a_bundle_can_be_given_a_name(trained, tmp_path):
    export_bundle(trained, tmp_path / "named", name="buttons, station 3")
    named = load_bundle(tmp_path / "named")
    assert named.card.name == "buttons, station 3"
    open_engine(named)  # the graph carries the same card


def test_the_command(trained, tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-m", "inspectd.export.cli"]
    done = subprocess.run([*command, str(trained), "--out", str(tmp_path / "b.zip")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "b.zip").card.name == "buttons"
    monkeypatch.setattr(sys, "argv", ["export-trt", str(tmp_path), "--out", str(tmp_path / "c")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.fullmatch("export-trt: error: .* no such checkpoint.*\n", capsys.readouterr().err)


def test_a_training_and_its_bundle_are_not_taken_for_each_other(trained, bundle, tmp_path):
    for path in (trained, trained.parent):
        with pytest.raises(BundleError, match=f"{path}: is a trained network, not a bundle; export-trt {path} --out"):
            load_bundle(path)
    export_bundle(trained, tmp_path / "b.zip")
    for path in (bundle.path, tmp_path / "b.zip"):
        with pytest.raises(DatasetError, match=f"{path}: is a bundle already"):
            load_checkpoint(path)


def test_a_dataset_without_pictures_for_comparison_is_refused(trained, tmp_path, buttons):
    (tmp_path / "split.csv").write_text("image,mask,defect,role,tile\n")
    with pytest.raises(DatasetError):
        export_bundle(trained, tmp_path / "b", calibration=tmp_path)


def test_a_bundle_is_measured_by_its_own_graph(bundle, trained, buttons, tmp_path):
    packed = tmp_path / "packed.zip"
    export_bundle(trained, packed, calibration=buttons, limit=5)
    options = {"threshold": 0.02, "minimum_area_px": 2}
    of_torch = measure(trained, buttons, **options)
    for path in (bundle.path, packed):
        found = measure(path, buttons, **options, out=tmp_path / "evaluation")
        assert found.provenance["bundle_sha256"] == load_bundle(path).digest
        assert "checkpoint_sha256" not in found.provenance
        assert found.provenance["card"] == of_torch.provenance["card"]
        assert found.pooled_all.pixels.tp + found.pooled_all.pixels.fp > 0
        assert found.pooled_all.pixels.f1 == pytest.approx(of_torch.pooled_all.pixels.f1, abs=1e-3)
        for one, other in zip(found.images, of_torch.images, strict=True):
            assert one.score == pytest.approx(other.score, abs=2e-3)


def test_the_graph_measured_is_the_graph_that_runs(bundle, buttons):
    """Its probabilities, decided by a threshold, are the mask of the line; to the pixel, unlike torch's."""
    predict, engine = GraphPredictor(bundle), open_engine(bundle, threads=1)
    thresholds = np.full(len(bundle.card.classes), 0.02, np.float32)
    for sample in open_dataset(buttons).select("test", "ok_test"):
        pixels = read_image(sample.image)
        excess = predict(pixels) - thresholds[:, None, None]
        labels = engine.infer(bundle.card.preprocess.image(pixels)[None], thresholds).labels[0]
        expected = bundle.card.preprocess.letterbox(pixels.shape[:2]).restore(labels)
        np.testing.assert_array_equal(np.where(excess.max(axis=0) >= 0, excess.argmax(axis=0) + 1, 0), expected)


def test_bundles_that_cannot_be_measured_are_refused(bundle, buttons, tmp_path):
    with pytest.raises(ConfigError, match="the graph of a bundle is measured on the cpu"):
        measure(bundle.path, buttons, device="cuda")
    graph = onnx.load_from_string(bundle.read(MODEL))
    for node in graph.graph.node:
        if "scores" in node.output:
            node.op_type = "ReduceMin"
    files = {name: bundle.read(name) for name in bundle.files} | {MODEL: graph.SerializeToString()}
    write_bundle(tmp_path / "other", bundle.card, files, version="test")
    with pytest.raises(BundleError, match="does not take its scores from probabilities"):
        measure(tmp_path / "other", buttons)


def test_the_graph_in_half_precision_is_in_the_bundle_and_finds_the_same(bundle):
    half = onnx.load_from_string(bundle.read(HALF_MODEL))
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    weights = {kinds[node.input[1]] for node in half.graph.node if node.op_type == "Conv"}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert len(bundle.read(HALF_MODEL)) < 0.6 * len(bundle.read(MODEL))
    session = onnxruntime.InferenceSession(bundle.read(HALF_MODEL), providers=["CPUExecutionProvider"])
    engine = open_engine(bundle, threads=1)
    thresholds = np.full(len(bundle.card.classes), 0.02, np.float32)
    for sample in bundle.golden().samples:
        picture = np.atleast_3d(decode_png(bundle.read(sample.input), sample.input))[None]
        labels, _, scores = session.run(None, {"images": picture, "thresholds": thresholds})
        expected = engine.infer(picture, thresholds)
        assert (labels != expected.labels).mean() < 2e-3
        assert np.abs(scores - expected.scores).max() < 2e-3


def test_the_certificate_measures_half_precision_on_labelled_pictures(bundle):
    checks = {check["name"]: check for check in json.loads(bundle.read(PARITY))["checks"]}
    assert checks["fp16 graph: weights of convolutions"]["value"] == "FLOAT16"
    assert checks["fp16 graph: softmax in"]["value"] == "FLOAT"
    assert checks["torch fp16: pictures whose decision flips, of 8"]["passed"]
    assert checks["ONNX Runtime fp16: pictures whose decision flips, of 13"]["passed"]
    drops = [check for name, check in checks.items() if "drop of IoU" in name]
    assert len(drops) == len(bundle.card.classes)
    # A barely trained network marks nothing, so its IoU is 0 before and after; other classes have no label here.
    assert {check["value"] for check in drops} <= {0.0, "no labelled picture"}
    assert 0.0 in {check["value"] for check in drops}


def test_what_half_precision_breaks_gets_no_bundle(trained, tmp_path, monkeypatch):
    """Logits beyond 65504: fine in fp32, infinite in fp16."""
    checkpoint = load_checkpoint(trained)
    with torch.no_grad():
        checkpoint.network.classify.weight *= 1e6
        checkpoint.network.classify.bias *= 1e6
    monkeypatch.setattr("inspectd.export.bundler.load_checkpoint", lambda _: checkpoint)
    with pytest.raises(BundleError, match=r"not the trained network: .*torch fp16: "):
        export_bundle(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    export_bundle(trained, tmp_path / "bundle", allow_uncertified=True)
    found = load_bundle(tmp_path / "bundle")
    assert any(line.startswith("torch fp16: ") for line in found.uncertified())
    with pytest.raises(
        BundleError, match=r"not the network that was trained: .*torch fp16: .*set allow_uncertified in"
    ):
        open_engine(found)
    open_engine(found, allow_uncertified=True)
    files = {name: found.read(name) for name in found.files} | {PARITY: b"{}"}
    write_bundle(tmp_path / "bundle", found.card, files, version="test")
    with pytest.raises(BundleError, match=r"parity.json is no certificate: KeyError\('checks'\)"):
        open_engine(load_bundle(tmp_path / "bundle"))


def test_batch_normalisation_is_folded_exactly_or_refused(trained):
    checkpoint = load_checkpoint(trained)
    inputs = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(checkpoint.network)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        assert torch.allclose(folded(inputs), checkpoint.network(inputs), atol=1e-4)
    with pytest.raises(BundleError, match="1: a batch normalisation that stands behind no convolution"):
        fold_batch_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


def _outputs(labels, scores):
    return Outputs(labels=labels, confidence=labels, scores=np.array(scores, np.float32))


def _passed(checks):
    return {check.name.partition(": ")[2]: check.passed for check in checks}


def test_the_bounds_of_half_precision_hold_just_inside_and_fail_just_outside():
    trained = np.zeros((200, 10, 10), np.uint8)
    trained[:, 0, 0] = 1
    scores = np.full((200, 1), 0.5)

    def judged(change, scores_now=scores):
        found = trained.copy()
        change(found)
        return _passed(parity("half", _outputs(trained, scores), _outputs(found, scores_now)))

    def differ(count):
        def change(found):
            found.reshape(-1)[50 : 50 + count * 100 : 100] = 1

        return change

    def flip(count):
        def change(found):
            found[:count] = 0

        return change

    assert all(judged(lambda _: None).values())
    # 20 000 pixels, of which 0.1 % may have another class.
    assert judged(differ(20))["pixels with the same class"]
    assert not judged(differ(21))["pixels with the same class"]
    # One in a hundred pictures may change its verdict.
    assert judged(flip(2))["pictures whose decision flips, of 200"]
    assert not judged(flip(3))["pictures whose decision flips, of 200"]
    assert judged(lambda _: None, scores + 0.0199)["largest difference of a score"]
    assert not judged(lambda _: None, scores + 0.0201)["largest difference of a score"]
    broken = judged(lambda _: None, np.where(np.arange(200)[:, None] == 7, np.nan, scores))
    assert not broken["all scores finite"]
    assert not broken["largest difference of a score"]


def test_a_drop_of_iou_is_measured_for_each_class_against_the_labels(trained):
    card = load_checkpoint(trained).card.model_copy(update={"classes": ("a", "b"), "thresholds": (0.5, 0.5)})
    label = np.zeros((20, 100), np.uint8)
    label[0], label[1] = 1, 2
    labels = [None, label]
    found = np.stack([label, label])
    for missing, passed in ((0, True), (1, False)):
        half = found.copy()
        # One of 100 pixels: IoU of 0.99.
        half[1, 0, :missing] = 0
        # What has no label does not count.
        half[0] = 0
        checks = iou_drops("half", card, labels, found, half)
        assert [check.passed for check in checks] == [passed, True]
        assert checks[0].value == pytest.approx(0.01 * missing)
    assert [check.value for check in iou_drops("half", card, [None, None], found, found)] == ["no labelled picture"] * 2
