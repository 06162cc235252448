"""Engines: what runs a bundle's network. ONNX Runtime is the embedded one and needs nothing but a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import ENGINE_GRAPHS, Bundle, EnginePrecision, Golden, GoldenSample, decode_png
from inspectd.cpu import CPU_WAYS, GPU_INT8, TABLES, CpuWay, card_in, guards, open_graph
from inspectd.errors import BundleError, ConfigError, IncompatibleEngine, InferenceError, InspectdError
from inspectd.gpu import open_gpu_graph

__all__ = [
    "BACKENDS",
    "Engine",
    "EngineResult",
    "Graph",
    "GraphEngine",
    "Opened",
    "golden_checks",
    "open_certified",
    "open_engine",
    "self_test",
]

BACKENDS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp16", "int8"),
}
"""What may run a network, and in which arithmetic; the first is its own. `tensorrt` is TensorRT-RTX too."""
_UNGUARDED = (
    "its graph has no guard against numbers that are not finite: a place of a picture on which the network overflows "
    "would pass as good surface; export it again with this version of export-trt"
)
"""Of bundles of before (`Bundle.guarded`)."""
_ANSWER = "or set allow_uncertified in [model] and answer for it"
_INT8_PIXELS, _INT8_SCORE = 0.005, 0.25
"""How far integers may stray in the self-test, which looks for broken engines: what they cost is in the certificate."""
_ROUNDING = 0.01
"""How far labels and scores may be apart around a threshold: bf16 rounds both by up to 1/512."""
_log = logging.getLogger("inspectd.line")


@dataclass(frozen=True, slots=True, eq=False)
class EngineResult:
    """What a network says of N pictures.

    Attributes:
        labels: uint8 [N, H, W]; 0 good, k is the k-th class of the card.
        confidence: uint8 [N, H, W]; probability of the likeliest defect class times 255, rounded up.
        scores: float32 [N, C]; highest probability of each class, the margins of the letterbox included.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    scores: NDArray[np.float32]


class Engine(Protocol):
    """Runs a network. One thread at a time. A context manager: it is closed at the end.

    Attributes:
        name: what people and the certificate call it.
        precision: its arithmetic.
        failure: why it infers nothing more until it is opened anew; None while it does.
    """

    name: str
    precision: str

    @property
    def failure(self) -> str | None:
        """See above."""

    def infer(self, images: NDArray[np.uint8], thresholds: NDArray[np.float32]) -> EngineResult:
        """Segment pictures.

        Args:
            images: uint8 [N, H, W, C] as `Preprocess.image` gives them.
            thresholds: float32 [classes]; probability from which on a pixel belongs to each class.

        Raises:
            InferenceError: the input does not fit, the engine failed, a score is not a probability (what was not finite
                shows there), or labels and scores are not of the same pictures.
        """

    def close(self) -> None:
        """Let go of device memory. May be called twice."""

    def __enter__(self) -> Engine:
        """Itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


class Graph(Protocol):
    """What runs the tensors of a bundle's graph (`cpu.CpuGraph`, `gpu.GpuGraph`)."""

    @property
    def failure(self) -> str | None:
        """Why it runs no more; None while it does."""

    def run(self, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs, in the order of `cpu.TABLES`. Raises whatever it raises."""

    def close(self) -> None:
        """Let go of what it holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A graph that is ready to run, what people call what runs it, and its arithmetic."""

    graph: Graph
    name: str
    precision: str


class GraphEngine:
    """A bundle's graph, wherever it runs, with what goes in and comes out checked."""

    def __init__(self, bundle: Bundle, opened: Opened) -> None:
        """Wrap a graph of a bundle that is ready to run."""
        self._graph, self.name, self.precision = opened.graph, opened.name, opened.precision
        preprocess = bundle.card.preprocess
        self._shape = (*preprocess.size, preprocess.channels)
        self._classes = len(bundle.card.classes)

    def infer(self, images: NDArray[np.uint8], thresholds: NDArray[np.float32]) -> EngineResult:
        """See `Engine.infer`."""
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise InferenceError(
                f"expected pictures of uint8 [N, {', '.join(map(str, self._shape))}], "
                f"got {images.dtype} {list(images.shape)}"
            )
        if thresholds.dtype != np.float32 or thresholds.shape != (self._classes,):
            raise InferenceError(
                f"expected thresholds of float32 [{self._classes}], got {thresholds.dtype} {list(thresholds.shape)}"
            )
        try:
            labels, confidence, scores = self._graph.run({"images": images, "thresholds": thresholds})
        except InferenceError:
            raise
        except Exception as error:
            # Whatever the library raises, the part was not inspected.
            raise InferenceError(f"{self.name} failed: {error}") from error
        result = EngineResult(labels, confidence, scores)
        _check(result, len(images), self._shape[:2], thresholds)
        return result

    def guards(self) -> bool:
        """Whether it shows in the scores that a number was not finite.

        Raises:
            InferenceError: it failed.
        """
        try:
            return guards(self._graph.run, self._shape, self._classes)
        except InferenceError:
            raise
        except Exception as error:
            raise InferenceError(f"{self.name} failed: {error}") from error

    @property
    def failure(self) -> str | None:
        """See `Engine`."""
        return self._graph.failure

    def close(self) -> None:
        """See `Engine.close`."""
        self._graph.close()

    def __enter__(self) -> GraphEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(result: EngineResult, count: int, size: tuple[int, ...], thresholds: NDArray[np.float32]) -> None:
    classes = len(thresholds)
    expected = {"labels": (count, *size), "confidence": (count, *size), "scores": (count, classes)}
    for name, shape in expected.items():
        if (got := getattr(result, name).shape) != shape:
            raise InferenceError(f"the engine gave {name} of {list(got)}, expected {list(shape)}")
    # Written so that NaN fails as well, in which a graph with a guard shows what was not finite anywhere in a picture.
    if not ((result.scores >= 0) & (result.scores <= 1.0001)).all():
        raise InferenceError(f"the engine gave scores that are no probabilities: {result.scores.tolist()}")
    if (highest := int(result.labels.max())) > classes:
        raise InferenceError(f"the engine gave label {highest}, but there are {classes} classes")
    for labels, scores in zip(result.labels, result.scores, strict=True):
        _check_labels(labels, scores, thresholds)


def _check_labels(labels: NDArray[np.uint8], scores: NDArray[np.float32], thresholds: NDArray[np.float32]) -> None:
    """Labels and scores come of the same probabilities in two ways: where they disagree, one of them was lost."""
    if not labels.any():
        reached, what = scores >= thresholds + _ROUNDING, "no pixel of any class"
    else:
        below = scores < thresholds - _ROUNDING
        reached = np.array([low and bool((labels == number).any()) for number, low in enumerate(below, 1)])
        what = f"pixels of class {int(np.argmax(reached)) + 1}"
    if reached.any():
        raise InferenceError(f"the engine gave {what} at scores of {scores.tolist()}, thresholds {thresholds.tolist()}")


def open_engine(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    precision: str | None = None,
    threads: int = 0,
    allow_uncertified: bool = False,
) -> Engine:
    """The engine of a name of `BACKENDS`.

    Args:
        bundle: that segments.
        backend: the name.
        precision: arithmetic; None takes the backend's own: fp32, of tensorrt fp16.
        threads: of a processor's; 0 takes all cores that this process may use.
        allow_uncertified: also what the bundle's certificate does not vouch for.

    Raises:
        ConfigError: an unknown name, an arithmetic that it does not have, or a bundle that does not segment.
        MissingDependencyError: what it needs is not installed.
        DeviceError: there is no GPU, or it cannot be used.
        BundleError: its certificate failed or says nothing of this engine, and that is not allowed.
        IncompatibleEngine: it cannot run this bundle, or loses what is not finite; of tensorrt also one that was never
            compared on a device.
        ChecksumError: the bundle's card is not the one that was exported.
        InferenceError: it fails at once.
    """
    if bundle.card.kind != "seg":
        raise ConfigError(f"{bundle.path}: is a bundle of kind {bundle.card.kind!r}; the line runs kind 'seg'")
    opened = open_certified(bundle, backend, precision, threads=threads, allow_uncertified=allow_uncertified)
    engine = GraphEngine(bundle, opened)
    try:
        _check_guard(engine, bundle)
    except InspectdError:
        engine.close()
        raise
    return engine


def _check_guard(engine: GraphEngine, bundle: Bundle) -> None:
    if not bundle.guarded():
        _log.warning("%s: %s", bundle.path, _UNGUARDED)
    elif not engine.guards():
        raise IncompatibleEngine(
            f"{bundle.path}: {engine.name} loses numbers that are not finite, and would call what the network "
            "overflowed on good surface; take another backend or precision"
        )


def open_certified(
    bundle: Bundle, backend: str, precision: str | None, *, threads: int, allow_uncertified: bool
) -> Opened:
    """The graph of a bundle of either kind, ready to run; see `open_engine`."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    known = BACKENDS[backend]
    if precision is None:
        precision = known[0]
    elif precision not in known:
        raise ConfigError(f"backend {backend!r} has no precision {precision!r}, only {', '.join(known)}")
    if not allow_uncertified and (failed := bundle.uncertified()):
        raise BundleError(
            f"{bundle.path}: its certificate says that it is not the network that was trained: {'; '.join(failed)}; "
            f"export it again, {_ANSWER}"
        )
    if backend == "tensorrt":
        return _on_gpu(bundle, "int8" if precision == "int8" else "fp16", allow_uncertified=allow_uncertified)
    way = next(way for way in CPU_WAYS if (way.library, way.precision) == (backend, precision))
    if way != CPU_WAYS[0] and not allow_uncertified and (why := bundle.unproven(str(way))):
        wanted = "--int8" if precision == "int8" else "--target openvino"
        raise BundleError(
            f"{bundle.path}: its certificate does not vouch for {way}: {'; '.join(why)}; "
            f"export it again with `export-trt {wanted}`, take another precision, {_ANSWER}"
        )
    return _on_processor(bundle, way, threads)


def _on_processor(bundle: Bundle, way: CpuWay, threads: int) -> Opened:
    model = bundle.read(way.file)
    try:
        graph = open_graph(model, way, threads=threads, table=TABLES[bundle.card.kind])
    except IncompatibleEngine as error:
        raise IncompatibleEngine(f"{bundle.path}: {way.file} {error}") from error
    # The graph is under a checksum, the card is not: it holds the checksums.
    bundle.check_card(graph.card)
    return Opened(graph, str(way), way.precision)


def _on_gpu(bundle: Bundle, precision: EnginePrecision, *, allow_uncertified: bool) -> Opened:
    if precision == "int8" and not allow_uncertified and (why := bundle.unproven(GPU_INT8)):
        raise BundleError(
            f"{bundle.path}: its certificate does not vouch for {GPU_INT8}: {'; '.join(why)}; "
            f"export it again with `export-trt --int8 --target tensorrt`, take fp16, {_ANSWER}"
        )
    # An engine has no card: it is of the graph that it was built from.
    bundle.check_card(card_in(bundle.read(ENGINE_GRAPHS[precision])))
    graph, engine = open_gpu_graph(bundle, precision=precision)
    if engine.checked_on is None and not allow_uncertified:
        graph.close()
        raise IncompatibleEngine(
            f"{bundle.path}: {engine.file} was never compared with the graph on a device; "
            f"run `export-trt --certify {bundle.path}{' --int8' if precision == 'int8' else ''}` on this machine, "
            f"{_ANSWER}"
        )
    return Opened(graph, f"{engine.flavour} {engine.version} {precision}, {graph.device}", precision)


def self_test(engine: Engine, bundle: Bundle) -> None:
    """Run the golden samples: the engine must still give what it gave at export.

    Raises:
        BundleError: it does not; the message names the sample.
        InferenceError: the engine failed.
    """
    for check in golden_checks(engine, bundle):
        check()


def golden_checks(engine: Engine, bundle: Bundle) -> Iterator[Callable[[], None]]:
    """The self-test in pieces: each reads a sample, and gives what has the engine judge it.

    Raises:
        BundleError: the bundle cannot be read, or, by what was given, as `self_test`.
        InferenceError: by what was given, as `self_test`.
    """
    golden = bundle.golden()
    for sample in golden.samples:
        picture = decode_png(bundle.read(sample.input), sample.input)
        expected = decode_png(bundle.read(sample.labels), sample.labels)
        yield partial(_check_sample, engine, golden, sample, of=bundle.path, picture=picture, expected=expected)


def _check_sample(
    engine: Engine,
    golden: Golden,
    sample: GoldenSample,
    *,
    of: Path,
    picture: NDArray[np.uint8],
    expected: NDArray[np.uint8],
) -> None:
    pixels, score = golden.pixel_tolerance, golden.score_tolerance
    if engine.precision == "int8":
        pixels, score = max(pixels, _INT8_PIXELS), max(score, _INT8_SCORE)
    result = engine.infer(np.atleast_3d(picture)[None], np.asarray(golden.thresholds, np.float32))
    differing = float((result.labels[0] != expected).mean())
    if differing > pixels:
        raise BundleError(
            f"{of}: self-test failed: {sample.input} differs from its golden mask in "
            f"{100 * differing:.3f} % of the pixels (at most {100 * pixels:g} %)"
        )
    off = float(np.abs(result.scores[0] - np.asarray(sample.scores, np.float32)).max())
    if off > score:
        raise BundleError(f"{of}: self-test failed: a score of {sample.input} is off by {off:.3f} (at most {score:g})")
