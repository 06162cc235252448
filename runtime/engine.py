"""Engines: what runs a bundle's network. ONNX Runtime is the embedded one and needs nothing but a CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import CARD_KEY, MODEL, Bundle, decode_png
from inspectd.errors import BundleError, ConfigError, IncompatibleEngine, InferenceError

__all__ = ["BACKENDS", "Engine", "EngineResult", "OnnxEngine", "open_engine", "self_test"]

BACKENDS = ("onnxruntime",)

INPUTS = {"images": "tensor(uint8)", "thresholds": "tensor(float)"}
OUTPUTS = {"labels": "tensor(uint8)", "confidence": "tensor(uint8)", "scores": "tensor(float)"}


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
    """Runs a network. One thread at a time."""

    def infer(self, images: NDArray[np.uint8], thresholds: NDArray[np.float32]) -> EngineResult:
        """Segment pictures.

        Args:
            images: uint8 [N, H, W, C] as `Preprocess.image` gives them.
            thresholds: float32 [classes]; probability from which on a pixel belongs to each class.

        Raises:
            InferenceError: the input does not fit, the engine failed, or a score is not a probability.
        """

    def close(self) -> None:
        """Let go of device memory. May be called twice."""


class OnnxEngine:
    """The bundle's fp32 graph on ONNX Runtime's CPU provider."""

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Load the graph.

        Args:
            bundle: whose model.onnx to run.
            threads: threads for one picture; 0 takes all cores that this process may use.

        Raises:
            IncompatibleEngine: the graph cannot be loaded, or its inputs and outputs are not the card's.
            ChecksumError: the bundle's card is not the one that was exported with the graph.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        # Threads that spin between frames would take the cores from the camera and the publisher.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.read(MODEL), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except BundleError:
            raise
        except Exception as error:
            # ONNX Runtime's exceptions have no common base below Exception.
            raise IncompatibleEngine(f"{bundle.path}: {MODEL} cannot be loaded by ONNX Runtime: {error}") from error
        for kind, expected, got in (
            ("inputs", INPUTS, {node.name: node.type for node in self._session.get_inputs()}),
            ("outputs", OUTPUTS, {node.name: node.type for node in self._session.get_outputs()}),
        ):
            if got != expected:
                raise IncompatibleEngine(f"{bundle.path}: {MODEL} has {kind} {got}, expected {expected}")
        # The graph is under a checksum, the card is not: it holds the checksums.
        bundle.check_card(self._session.get_modelmeta().custom_metadata_map.get(CARD_KEY))
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
            labels, confidence, scores = self._session.run(list(OUTPUTS), {"images": images, "thresholds": thresholds})
        except Exception as error:
            # As above: whatever the engine raises, the part was not inspected.
            raise InferenceError(f"ONNX Runtime failed: {error}") from error
        result = EngineResult(labels, confidence, scores)
        _check(result, len(images), self._shape[:2], self._classes)
        return result

    def close(self) -> None:
        """Nothing to let go of: the session ends with the object."""


def _check(result: EngineResult, count: int, size: tuple[int, ...], classes: int) -> None:
    expected = {"labels": (count, *size), "confidence": (count, *size), "scores": (count, classes)}
    for name, shape in expected.items():
        if (got := getattr(result, name).shape) != shape:
            raise InferenceError(f"the engine gave {name} of {list(got)}, expected {list(shape)}")
    # Written so that NaN fails as well.
    if not ((result.scores >= 0) & (result.scores <= 1.0001)).all():
        raise InferenceError(f"the engine gave scores that are no probabilities: {result.scores.tolist()}")
    if (highest := int(result.labels.max())) > classes:
        raise InferenceError(f"the engine gave label {highest}, but there are {classes} classes")


def open_engine(
    bundle: Bundle, *, backend: str = "onnxruntime", threads: int = 0, allow_uncertified: bool = False
) -> Engine:
    """The engine of a name of `BACKENDS`.

    Raises:
        ConfigError: an unknown name, or a bundle that does not segment.
        BundleError: its certificate failed, and that is not allowed.
        IncompatibleEngine: it cannot run this bundle.
        ChecksumError: the bundle's card is not the one that was exported.
    """
    if bundle.card.kind != "seg":
        raise ConfigError(f"{bundle.path}: is a bundle of kind {bundle.card.kind!r}; the line runs kind 'seg'")
    if (failed := bundle.uncertified()) and not allow_uncertified:
        raise BundleError(
            f"{bundle.path}: its certificate says that it is not the network that was trained: {'; '.join(failed)}; "
            "export it again, or set allow_uncertified in [model] and answer for it"
        )
    match backend:
        case "onnxruntime":
            return OnnxEngine(bundle, threads=threads)
        case _:
            raise ConfigError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def self_test(engine: Engine, bundle: Bundle) -> None:
    """Run the golden samples: the engine must still give what it gave at export.

    Raises:
        BundleError: it does not; the message names the sample.
        InferenceError: the engine failed.
    """
    golden = bundle.golden()
    thresholds = np.asarray(golden.thresholds, np.float32)
    for sample in golden.samples:
        picture = decode_png(bundle.read(sample.input), sample.input)
        expected = decode_png(bundle.read(sample.labels), sample.labels)
        result = engine.infer(np.atleast_3d(picture)[None], thresholds)
        differing = float((result.labels[0] != expected).mean())
        if differing > golden.pixel_tolerance:
            raise BundleError(
                f"{bundle.path}: self-test failed: {sample.input} differs from its golden mask in "
                f"{100 * differing:.3f} % of the pixels (at most {100 * golden.pixel_tolerance:g} %)"
            )
        off = float(np.abs(result.scores[0] - np.asarray(sample.scores, np.float32)).max())
        if off > golden.score_tolerance:
            raise BundleError(
                f"{bundle.path}: self-test failed: a score of {sample.input} is off by {off:.3f} "
                f"(at most {golden.score_tolerance:g})"
            )
