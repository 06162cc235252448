"""From a checkpoint to a bundle: graph, certificate, self-test, checksums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import inspectd
from inspectd.bundle import (
    GOLDEN,
    MODEL,
    PARITY,
    Golden,
    GoldenSample,
    ModelCard,
    encode_png,
    load_bundle,
    write_bundle,
)
from inspectd.errors import BundleError, DatasetError
from inspectd.training.data.dataset import open_dataset, read_image
from inspectd.training.segmentation.checkpoint import load_checkpoint

from .certificate import Certificate, Outputs, certify
from .graph import Inspector, to_onnx

__all__ = ["export_bundle"]

CALIBRATION_ROLES = ("ok_calibration", "free", "ref", "extra", "simulated")


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    calibration: Path | None = None,
    limit: int = 64,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Export a checkpoint.

    Args:
        checkpoint: the file, or the folder of its training.
        out: folder of the bundle, or a name ending in .zip; replaced when it is a bundle already.
        name: what people will call it; the training's dataset if not given.
        calibration: a dataset whose pictures the certificate compares on, besides the checkpoint's golden ones.
        limit: number of them.
        stage: called with the name of each stage as it begins.
        progress: called with (done, all) pictures of the comparison.

    Returns:
        The certificate that the bundle carries.

    Raises:
        DatasetError: the checkpoint or the dataset cannot be used.
        BundleError: a check failed, or the bundle cannot be written.
        MissingDependencyError: onnx or onnxscript is missing.
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
    if calibration is not None:
        more = _pictures(calibration, card, limit)
        images = np.concatenate([images, more])
        images_from += f", {len(more)} of {calibration.resolve().name}"
    stage("exporting ONNX")
    inspector = Inspector(trained.network, card)
    model = to_onnx(inspector, card)
    stage("comparing with the trained network")
    certificate, outputs = certify(inspector, model, card, images, images_from=images_from, progress=progress)
    if not certificate.passed:
        failed = "; ".join(
            f"{check.name}: {check.value} ({check.bound})" for check in certificate.checks if not check.passed
        )
        raise BundleError(f"{out}: not written, since the exported graph is not the trained network: {failed}")
    stage("writing the bundle")
    files = {
        MODEL: model,
        PARITY: (certificate.model_dump_json(indent=2) + "\n").encode(),
        **_golden(trained.golden, outputs, card),
    }
    write_bundle(out, card, files, version=inspectd.__version__)
    load_bundle(out)
    return certificate


def _pictures(root: Path, card: ModelCard, limit: int) -> NDArray[np.uint8]:
    """Up to `limit` pictures of a dataset at the network's size, evenly spread; never of a test role."""
    samples = open_dataset(root).select(*CALIBRATION_ROLES)
    if not samples:
        raise DatasetError(f"{root}: holds no picture of the roles {', '.join(CALIBRATION_ROLES)}")
    chosen = np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(int)
    bits = int(card.provenance.get("settings", {}).get("bits", 16))
    return np.stack([card.preprocess.image(read_image(samples[index].image, bits=bits)) for index in chosen])


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
