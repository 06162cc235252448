"""From a checkpoint to a bundle: graph, certificate, self-test, checksums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import inspectd
from inspectd.bundle import (
    GOLDEN,
    HALF_MODEL,
    MODEL,
    PARITY,
    EngineFile,
    Golden,
    GoldenSample,
    ModelCard,
    encode_png,
    load_bundle,
    write_bundle,
)
from inspectd.errors import BundleError, DatasetError
from inspectd.mask import ClassMap
from inspectd.training.data.dataset import open_dataset, read_image, read_labels
from inspectd.training.segmentation.checkpoint import load_checkpoint

from .certificate import Certificate, HalfGraph, Outputs, certify
from .engines import EngineWish, sizes_of, with_engine
from .fold import Half, fold_batch_norms
from .graph import Inspector, to_onnx

__all__ = ["Exported", "export_bundle"]

CALIBRATION_ROLES = ("ok_calibration", "free", "ref", "extra", "simulated")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export gave."""

    certificate: Certificate
    sizes: dict[str, int]
    """Bytes of the graphs and the engines in the bundle."""
    engines: tuple[EngineFile, ...] = ()


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    calibration: Path | None = None,
    limit: int = 64,
    engine: EngineWish | None = None,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Export a checkpoint.

    Args:
        checkpoint: the file, or the folder of its training.
        out: folder of the bundle, or a name ending in .zip; replaced when it is a bundle already.
        name: what people will call it; the training's dataset if not given.
        calibration: a dataset whose pictures the certificate compares on, besides the checkpoint's golden ones.
        limit: number of them.
        engine: to be built as well.
        stage: called with the name of each stage as it begins.
        progress: called with (done, all) of what the stage counts.

    Returns:
        The certificate that the bundle carries, and what else is in it.

    Raises:
        DatasetError: the checkpoint or the dataset cannot be used.
        ConfigError: an engine that cannot be built so.
        BundleError: a check failed, an engine could not be built, or the bundle cannot be written.
        MissingDependencyError: onnx, onnxscript or the engine's library is missing.
    """
    stage = stage or (lambda _: None)
    stage("reading the checkpoint")
    trained = load_checkpoint(checkpoint)
    if (architecture := trained.card.network.get("architecture")) != "buttonlab":
        raise DatasetError(
            f"{checkpoint}: holds a {architecture}, which is there to be compared with; only a buttonlab is exported"
        )
    card = trained.card if name is None else trained.card.model_copy(update={"name": name})
    if not len(trained.golden):
        raise DatasetError(f"{checkpoint}: holds no golden inputs; train it again with this version")
    images, images_from = trained.golden, f"{len(trained.golden)} pictures of the training set"
    labels: list[NDArray[np.uint8] | None] = [None] * len(images)
    if calibration is not None:
        more, their_labels = _pictures(calibration, card, limit)
        images, labels = np.concatenate([images, more]), labels + their_labels
        images_from += f", {len(more)} of {calibration.resolve().name}"
    stage("exporting ONNX in fp32")
    inspector = Inspector(trained.network, card).eval()
    model = to_onnx(inspector, card)
    stage("exporting ONNX in fp16")
    halved = Inspector(Half(fold_batch_norms(trained.network)), card).eval()
    half = HalfGraph(halved, to_onnx(halved, card))
    stage("comparing with the trained network")
    certificate, outputs = certify(
        inspector,
        model,
        card,
        images,
        images_from=images_from,
        half=half,
        labels=labels,
        rounded=len(trained.golden),
        progress=progress,
    )
    if not certificate.passed:
        failed = "; ".join(
            f"{check.name}: {check.value} ({check.bound})" for check in certificate.checks if not check.passed
        )
        raise BundleError(f"{out}: not written, since the exported graph is not the trained network: {failed}")
    files = {
        MODEL: model,
        HALF_MODEL: half.model,
        PARITY: (certificate.model_dump_json(indent=2) + "\n").encode(),
        **_golden(trained.golden, outputs, card),
    }
    engines: tuple[EngineFile, ...] = ()
    if engine is not None:
        files, engines = with_engine(files, (), engine, stage=stage, progress=progress)
    stage("writing the bundle")
    write_bundle(out, card, files, version=inspectd.__version__)
    load_bundle(out)
    return Exported(certificate, sizes_of(files), engines)


def _pictures(root: Path, card: ModelCard, limit: int) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8] | None]]:
    """Up to `limit` pictures of a dataset at the network's size, and their labels; evenly spread, of no test role."""
    dataset = open_dataset(root)
    samples = dataset.select(*CALIBRATION_ROLES)
    if not samples:
        raise DatasetError(f"{root}: holds no picture of the roles {', '.join(CALIBRATION_ROLES)}")
    chosen = np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(int)
    bits = int(card.provenance.get("settings", {}).get("bits", 16))
    # Defects that the network does not know by name cannot be compared class by class.
    binary = len(card.classes) == 1
    known = binary or set(dataset.defects) <= set(card.classes)
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8] | None] = []
    for index in chosen:
        sample = samples[index]
        pixels = read_image(sample.image, bits=bits)
        images.append(card.preprocess.image(pixels))
        if not (sample.masks and known):
            labels.append(None)
            continue
        truth = read_labels(sample, None if binary else ClassMap(card.classes), pixels.shape[:2])
        labels.append(card.preprocess.letterbox(truth.shape).apply_mask(truth))
    return np.stack(images), labels


def _golden(inputs: NDArray[np.uint8], outputs: Outputs, card: ModelCard) -> dict[str, bytes]:
    files, samples = {}, []
    for index, picture in enumerate(inputs):
        sample = GoldenSample(
            input=f"golden/{index:03d}-input.png",
            labels=f"golden/{index:03d}-labels.png",
            scores=tuple(float(score) for score in outputs.scores[index]),
        )
        files[sample.input], files[sample.labels] = encode_png(picture), encode_png(outputs.labels[index])
        samples.append(sample)
    golden = Golden(samples=tuple(samples), thresholds=card.thresholds)
    files[GOLDEN] = (golden.model_dump_json(indent=2) + "\n").encode()
    return files
