"""From a checkpoint to a bundle: graph, certificate, self-test, checksums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import inspectd
from inspectd.bundle import (
    GOLDEN,
    GPU_INT8_MODEL,
    HALF_MODEL,
    INT8_MODEL,
    MODEL,
    PARITY,
    Bundle,
    EngineFile,
    Golden,
    GoldenPainting,
    GoldenPaintings,
    GoldenSample,
    ModelCard,
    decode_png,
    encode_png,
    is_bundle,
    load_bundle,
    write_bundle,
)
from inspectd.cpu import CPU_WAYS, GPU_INT8, CpuWay, card_in, open_graph
from inspectd.dataset import Sample, open_dataset, read_image, read_labels
from inspectd.errors import BundleError, ConfigError, DatasetError, IncompatibleEngine
from inspectd.mask import ClassMap
from inspectd.optional import require
from inspectd.preprocess import SIZE_LIMIT, SIZE_STEP, nearest_size
from inspectd.training.carded import kind_of
from inspectd.training.segmentation.checkpoint import Checkpoint, load_checkpoint
from inspectd.training.segmentation.unfold import unfold
from inspectd.training.style.checkpoint import load_dst

from .certificate import HalfGraph, certify, certify_painter, in_torch
from .checks import FULL, Certificate, Check, Outputs, certify_painting_way, certify_way, joined, parity
from .engines import EngineWish, prepared, sizes_of, with_engine
from .fold import Half, fold_batch_norms
from .graph import Inspector, to_onnx
from .painter import Painter, painter_to_onnx, windows_of
from .quantize import to_int8

__all__ = ["Exported", "export_bundle"]

_GOLDEN_PAINTINGS = 8
_GPU_INT8_AS = CpuWay("onnxruntime", "int8")
"""What runs the graph of engines in integers where there is no GPU."""
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
    openvino: bool = False,
    int8: bool = False,
    size: tuple[int, int] | None = None,
    allow_uncertified: bool = False,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Export a checkpoint.

    Args:
        checkpoint: the file, the folder of its training, or a bundle of a network that segments: its own network is
            exported again, and held against the graph that the bundle had.
        out: folder of the bundle, or a name ending in .zip; replaced when it is a bundle already.
        name: what people will call it; the training's dataset if not given.
        calibration: a dataset whose pictures the certificate compares on, besides the checkpoint's golden ones.
        limit: number of them.
        engine: to be built as well.
        openvino: compare with OpenVINO too, which a station may then run it by.
        int8: make a graph in integers for processors too, and with `engine` a graph and an engine in integers for
            GPUs; left out where its checks fail.
        size: height and width that the graph takes, px; those of the training if not given.
        allow_uncertified: write the bundle also where a check failed; `inspectd run` refuses it unless it is told.
        stage: called with the name of each stage as it begins.
        progress: called with (done, all) of what the stage counts.

    Returns:
        The certificate that the bundle carries, and what else is in it.

    Raises:
        DatasetError: the checkpoint or the dataset cannot be used.
        ConfigError: an engine that cannot be built so.
        BundleError: a check failed, an engine could not be built, or the bundle cannot be written.
        MissingDependencyError: onnx, onnxscript, OpenVINO or the engine's library is missing.
    """
    stage = stage or (lambda _: None)
    if engine is not None:
        # Its faults come before minutes of comparing.
        engine = prepared(engine)
    stage("reading the checkpoint")
    libraries = ("onnxruntime", "openvino") if openvino else ("onnxruntime",)
    ways = tuple(way for way in CPU_WAYS[1:] if way.library in libraries and (int8 or way.precision != "int8"))
    job = _Job(
        checkpoint,
        out,
        name,
        calibration,
        limit,
        ways,
        size,
        int8 and engine is not None,
        allow_uncertified,
        stage,
        progress,
    )
    if openvino:
        require("openvino", extra="openvino")
    if kind_of(checkpoint) == "dst":
        if int8:
            raise ConfigError("--int8 is for networks that segment; this one paints defects")
        drafted = _painting(job)
    else:
        drafted = _segmenting(job)
    files = drafted.files
    engines: tuple[EngineFile, ...] = ()
    wishes = [] if engine is None else [engine]
    if engine is not None and GPU_INT8_MODEL in files:
        wishes.append(replace(engine, precision="int8"))
    for wish in wishes:
        files, engines = with_engine(files, engines, wish, kind=drafted.card.kind, stage=stage, progress=progress)
    stage("writing the bundle")
    write_bundle(out, drafted.card, files, version=inspectd.__version__)
    load_bundle(out)
    return Exported(drafted.certificate, sizes_of(files), engines)


@dataclass(frozen=True, slots=True)
class _Job:
    """What `export_bundle` was given."""

    checkpoint: Path
    out: Path
    name: str | None
    calibration: Path | None
    limit: int
    ways: tuple[CpuWay, ...]
    size: tuple[int, int] | None
    gpu_int8: bool
    allow_uncertified: bool
    stage: Callable[[str], None]
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A bundle that only engines may be missing from."""

    card: ModelCard
    files: dict[str, bytes]
    certificate: Certificate


def _segmenting(job: _Job) -> _Draft:
    """Of a network that segments."""
    before = load_bundle(job.checkpoint) if is_bundle(job.checkpoint) else None
    trained = load_checkpoint(job.checkpoint) if before is None else _unfolded(before)
    if (architecture := trained.card.network.get("architecture")) != "buttonlab":
        raise DatasetError(
            f"{job.checkpoint}: holds a {architecture}, which is there to be compared with; "
            "only a buttonlab is exported"
        )
    card = _renamed(trained.card, job.name, job.size)
    if not len(trained.golden):
        raise DatasetError(f"{job.checkpoint}: holds no golden inputs; train it again with this version")
    golden, images_from = trained.golden, f"{len(trained.golden)} pictures of the training set"
    images = golden
    labels: list[NDArray[np.uint8] | None] = [None] * len(golden)
    if job.calibration is not None:
        more, their_labels = _pictures(job.calibration, card, job.limit)
        if job.size is None:
            images, labels = np.concatenate([golden, more]), labels + their_labels
            images_from += f", {len(more)} of {job.calibration.resolve().name}"
        else:
            # The pictures in the checkpoint are of its own size.
            images, labels, golden = more, their_labels, more[: len(golden)]
            images_from = f"{len(more)} pictures of {job.calibration.resolve().name}"
    elif job.size is not None:
        raise ConfigError(
            "--size needs --calibration DATA: the pictures in the checkpoint are of the size of its training"
        )
    job.stage("exporting ONNX in fp32")
    inspector = Inspector(trained.network, card).eval()
    model = to_onnx(inspector, card)
    job.stage("exporting ONNX in fp16")
    halved = Inspector(Half(fold_batch_norms(trained.network)), card).eval()
    half = HalfGraph(halved, to_onnx(halved, card))
    job.stage("comparing with the trained network")
    certificate, outputs = certify(
        inspector,
        model,
        card,
        images,
        images_from=images_from,
        half=half,
        labels=labels,
        rounded=len(golden),
        progress=job.progress,
    )
    if before is not None:
        job.stage("comparing with the bundle before")
        checks = _as_before(before, trained, images if job.size is None else trained.golden)
        certificate = certificate.model_copy(update={"checks": (*certificate.checks, *checks)})
    _require(certificate, job)
    graphs = {MODEL: model, HALF_MODEL: half.model}
    if job.ways:
        compared = _Compared(card, model, images, outputs, labels)
        certificate, more_graphs = _other_ways(job, certificate, compared)
        graphs |= more_graphs
    files = {
        **graphs,
        PARITY: (certificate.model_dump_json(indent=2) + "\n").encode(),
        **_golden(golden, outputs, card),
    }
    return _Draft(card, files, certificate)


def _unfolded(bundle: Bundle) -> Checkpoint:
    """The network of a bundle and its golden inputs, as its checkpoint would hold them.

    Compared with nothing but its own graph, a bundle that is not the network that was trained would come out certified:
    so it must be one that a station takes.
    """
    if bundle.card.kind != "seg":
        raise DatasetError(
            f"{bundle.path}: is a bundle of kind {bundle.card.kind!r}; one of those is exported from its checkpoint"
        )
    bundle.check_card(card_in(bundle.read(MODEL)))
    if failed := bundle.uncertified():
        raise BundleError(
            f"{bundle.path}: its certificate says that it is not the network that was trained: {'; '.join(failed)}; "
            "export the checkpoint again"
        )
    inputs = [np.atleast_3d(decode_png(bundle.read(sample.input), sample.input)) for sample in bundle.golden().samples]
    golden = np.stack(inputs)
    return Checkpoint(unfold(bundle, golden).eval(), bundle.card, golden)


def _as_before(bundle: Bundle, network: Checkpoint, images: NDArray[np.uint8]) -> tuple[Check, ...]:
    """What the network that was taken from a bundle gives, against the graph that it was taken from.

    Args:
        bundle: the bundle.
        network: taken from it.
        images: uint8 [N, H, W, C] at the bundle's own size, whatever the new graph's is.
    """
    graph, thresholds = open_graph(bundle.read(MODEL), CPU_WAYS[0]), np.asarray(bundle.card.thresholds, np.float32)
    inspector = Inspector(network.network, network.card).eval()
    given = [graph.run({"images": image[None], "thresholds": thresholds}) for image in images]
    taken = [in_torch(inspector, image[None], thresholds) for image in images]
    return tuple(parity("the bundle before", joined(given), joined(taken), FULL))


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """The graph in fp32, and what it gave for pictures of which some have labels."""

    card: ModelCard
    model: bytes
    images: NDArray[np.uint8]
    outputs: Outputs
    labels: list[NDArray[np.uint8] | None]


def _other_ways(job: _Job, certificate: Certificate, compared: _Compared) -> tuple[Certificate, dict[str, bytes]]:
    """The certificate with the other ways to run the network on a processor, and the graphs that some of them need."""
    card, images = compared.card, compared.images
    graphs = {MODEL: compared.model}
    if any(way.file == INT8_MODEL for way in job.ways):
        job.stage("measuring the ranges of int8")
        graphs[INT8_MODEL] = to_int8(
            compared.model, images, np.asarray(card.thresholds, np.float32), progress=job.progress
        )
    ways = {}
    for way in job.ways:
        compare = partial(
            certify_way,
            model=graphs[way.file],
            card=card,
            images=images,
            exported=compared.outputs,
            labels=compared.labels,
            progress=job.progress,
        )
        ways[str(way)] = _compared_by(way, job, compare)
    files = {str(way): way.file for way in job.ways}
    if job.gpu_int8:
        job.stage("measuring the ranges of int8 for GPUs")
        at = np.asarray(card.thresholds, np.float32)
        graphs[GPU_INT8_MODEL] = to_int8(compared.model, images, at, gpu=True, progress=job.progress)
        compare = partial(compare, model=graphs[GPU_INT8_MODEL], name=GPU_INT8, fused=False)
        files[GPU_INT8], ways[GPU_INT8] = GPU_INT8_MODEL, _compared_by(_GPU_INT8_AS, job, compare)
    vouched = {file for way, file in files.items() if all(check.passed for check in ways[way])}
    kept = {file: graphs[file] for file in (INT8_MODEL, GPU_INT8_MODEL) if file in vouched}
    return certificate.model_copy(update={"ways": ways}), kept


def _compared_by(way: CpuWay, job: _Job, compare: Callable[[CpuWay], tuple[Check, ...]]) -> tuple[Check, ...]:
    """The checks of a way, of which there is one where this processor does not calculate so."""
    job.stage(f"comparing {way}")
    try:
        return compare(way)
    except IncompatibleEngine as error:
        return (Check(name=f"{way}: compared", value=str(error), bound="compared", passed=False),)


def _painting(job: _Job) -> _Draft:
    """Of a network that paints defects."""
    trained = load_dst(job.checkpoint)
    if (architecture := trained.card.network.get("architecture")) == "cyclegan":
        raise DatasetError(
            f"{job.checkpoint}: holds a {architecture}, which is there to be compared with; train one by dst"
        )
    if job.calibration is None:
        raise ConfigError("a network that paints defects is compared on good parts: give --calibration DATA")
    if job.size is not None and job.size[0] != job.size[1]:
        raise ConfigError(f"--size {job.size[0]}x{job.size[1]}: windows of a network that paints defects are square")
    card = _renamed(trained.card, job.name, job.size)
    windows = windows_of(trained, job.calibration, card.preprocess.height, job.limit)
    own = trained.network, trained.settings.sigma_px
    painters = Painter(*own).eval(), Painter(*own, half=True).eval()
    models = []
    for painter, precision in zip(painters, ("fp32", "fp16"), strict=True):
        job.stage(f"exporting ONNX in {precision}")
        models.append(painter_to_onnx(painter, card))
    job.stage("comparing with the trained network")
    certificate, painted = certify_painter(
        painters,
        (models[0], models[1]),
        windows.inputs,
        windows.own,
        images_from=f"{len(windows.own)} windows of {job.calibration.resolve().name}",
        progress=job.progress,
    )
    _require(certificate, job)
    compare = partial(
        certify_painting_way, model=models[0], windows=windows.inputs, exported=painted, progress=job.progress
    )
    certificate = certificate.model_copy(
        update={"ways": {str(way): _compared_by(way, job, compare) for way in job.ways}}
    )
    files = {
        MODEL: models[0],
        HALF_MODEL: models[1],
        PARITY: (certificate.model_dump_json(indent=2) + "\n").encode(),
        "reference/image.png": encode_png(trained.exemplar.image),
        "reference/mask.png": encode_png(trained.exemplar.mask.astype(np.uint8) * 255),
    }
    if trained.exemplar.region is not None:
        files["reference/region.png"] = encode_png(trained.exemplar.region.astype(np.uint8) * 255)
    samples = []
    for index in range(min(_GOLDEN_PAINTINGS, len(painted))):
        arrays = {key: array[index] for key, array in windows.inputs.items()} | {"painted": painted[index]}
        arrays["mask"] = arrays["mask"] * np.uint8(255)
        names = {key: f"golden/{index:03d}-{key}.png" for key in arrays}
        files |= {names[key]: encode_png(array) for key, array in arrays.items()}
        samples.append(GoldenPainting(**names))
    files[GOLDEN] = (GoldenPaintings(samples=tuple(samples)).model_dump_json(indent=2) + "\n").encode()
    return _Draft(card, files, certificate)


def _renamed(card: ModelCard, name: str | None, size: tuple[int, int] | None) -> ModelCard:
    """The card under another name, for another size."""
    changes: dict[str, object] = {} if name is None else {"name": name}
    if size is not None:
        if any(side % SIZE_STEP or not 0 < side <= SIZE_LIMIT for side in size):
            raise ConfigError(
                f"--size {size[0]}x{size[1]}: expected multiples of {SIZE_STEP} up to {SIZE_LIMIT}; the nearest: "
                f"{nearest_size(size[0])}x{nearest_size(size[1])}"
            )
        changes["preprocess"] = card.preprocess.model_copy(update={"height": size[0], "width": size[1]})
    return card.model_copy(update=changes)


def _require(certificate: Certificate, job: _Job) -> None:
    """Refuse to write what did not pass."""
    if not (certificate.passed or job.allow_uncertified):
        failed = "; ".join(
            f"{check.name}: {check.value} ({check.bound})" for check in certificate.checks if not check.passed
        )
        raise BundleError(f"{job.out}: not written, since the exported graph is not the trained network: {failed}")


def _pictures(root: Path, card: ModelCard, limit: int) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8] | None]]:
    """Up to `limit` pictures of a dataset at the network's size, and their labels; of no test role."""
    dataset = open_dataset(root)
    samples = dataset.select(*CALIBRATION_ROLES)
    if not samples:
        raise DatasetError(f"{root}: holds no picture of the roles {', '.join(CALIBRATION_ROLES)}")
    # Half of them labelled, where there are so many, and of each type in turn: IoU needs them.
    turns: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        turns.setdefault(tuple(defect for defect, _ in sample.masks), []).append(sample)
    rounds = zip_longest(*(of for defects, of in sorted(turns.items()) if defects))
    labelled = [sample for row in rounds for sample in row if sample is not None]
    bare = [sample for sample in samples if not sample.masks]
    wanted = max(min(len(labelled), (limit + 1) // 2), limit - len(bare))
    bare_at = np.linspace(0, len(bare) - 1, min(limit - min(wanted, len(labelled)), len(bare))).astype(int)
    chosen = [*labelled[:wanted], *(bare[index] for index in bare_at)]
    bits = int(card.provenance.get("settings", {}).get("bits", 16))
    # Defects that the network does not know by name cannot be compared class by class.
    binary = len(card.classes) == 1
    known = binary or set(dataset.defects) <= set(card.classes)
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8] | None] = []
    for sample in chosen:
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
