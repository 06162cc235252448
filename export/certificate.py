"""The certificate: the exported graph still computes what was trained.

Compared are the masks, decisions and scores of torch (fp32) and of the graph on the same uint8 inputs.
Each check is a measurement with its bound; one that fails keeps the bundle from being written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from inspectd.bundle import ModelCard
from inspectd.optional import require

from .graph import INPUTS, OPSET, OUTPUTS, Inspector

__all__ = ["Certificate", "Check", "Outputs", "certify"]

# Bounds of fp32 against fp32: only the order of additions differs.
MASK_AGREEMENT = 0.9999
SCORE_DIFFERENCE = 1e-3
# Low, so that a graph with the card's thresholds built in shows: they are an input, and a station sets its own.
OTHER_THRESHOLD = 1e-3

_EXPECTED_IO = {
    "images": ("UINT8", 4),
    "thresholds": ("FLOAT", 1),
    "labels": ("UINT8", 3),
    "confidence": ("UINT8", 3),
    "scores": ("FLOAT", 2),
}


class Check(BaseModel):
    """One measurement and its bound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | int | str
    bound: str
    passed: bool


class Certificate(BaseModel):
    """What was compared, on what, and how it came out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    """Number of pictures compared."""
    images_from: str
    """Where they come from."""
    thresholds: tuple[float, ...]
    versions: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True when every check is."""
        return all(check.passed for check in self.checks)


class Outputs(BaseModel):
    """Labels uint8 [N, H, W], confidence uint8 [N, H, W] and scores float32 [N, C]."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    scores: NDArray[np.float32]


def certify(
    inspector: Inspector,
    model: bytes,
    card: ModelCard,
    images: NDArray[np.uint8],
    *,
    images_from: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Certificate, Outputs]:
    """Compare a graph with the network that it was made from.

    Args:
        inspector: the network with its pre- and post-processing, in torch.
        model: the graph.
        card: the network's card; its thresholds are the ones compared at.
        images: uint8 [N, H, W, C] at the network's size.
        images_from: where they come from; goes into the certificate.
        progress: called with (done, all) pictures.

    Returns:
        The certificate, and what the graph gave: the expected answers of the self-test.
    """
    onnx = require("onnx", extra="export")
    onnxruntime = require("onnxruntime", extra="export")
    checks = [*_structure(onnx, model)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    thresholds = np.asarray(card.thresholds, np.float32)

    def both(pictures: NDArray[np.uint8], at: NDArray[np.float32]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        with torch.inference_mode():
            answer = inspector(torch.from_numpy(pictures), torch.from_numpy(at))
        return [part.numpy() for part in answer], session.run(
            list(OUTPUTS), dict(zip(INPUTS, (pictures, at), strict=True))
        )

    torch_side, graph_side = [], []
    for index, image in enumerate(images):
        trained_part, exported_part = both(image[None], thresholds)
        torch_side.append(trained_part)
        graph_side.append(exported_part)
        if progress is not None:
            progress(index + 1, len(images))
    trained, exported = _joined(torch_side), _joined(graph_side)
    checks += _parity(trained, exported)
    pair = images[[0, -1]]
    checks.append(_elsewhere(*both(pair, np.full_like(thresholds, OTHER_THRESHOLD))))
    certificate = Certificate(
        images=len(images),
        images_from=images_from,
        thresholds=card.thresholds,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        checks=tuple(checks),
    )
    return certificate, exported


def _joined(parts: list[list[NDArray[Any]]]) -> Outputs:
    labels, confidence, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outputs(labels=labels, confidence=confidence, scores=scores)


def _structure(onnx: Any, model: bytes) -> list[Check]:  # noqa: ANN401 - the module
    """onnx.checker, and what engines rely on."""
    try:
        onnx.checker.check_model(model, full_check=True)
        verdict = "valid"
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        verdict = " ".join(str(error).split())[:300]
    graph = onnx.load_from_string(model)
    opset = next((entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    name_of = onnx.TensorProto.DataType.Name
    found = {
        value.name: (name_of(value.type.tensor_type.elem_type), len(value.type.tensor_type.shape.dim))
        for value in (*graph.graph.input, *graph.graph.output)
    }
    foreign = sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"})
    return [
        Check(name="onnx.checker", value=verdict, bound="valid", passed=verdict == "valid"),
        Check(name="opset", value=opset, bound=f"= {OPSET}", passed=opset == OPSET),
        Check(name="inputs and outputs", value=str(found), bound=str(_EXPECTED_IO), passed=found == _EXPECTED_IO),
        Check(name="operator domains besides ONNX", value=", ".join(foreign), bound="none", passed=not foreign),
    ]


def _elsewhere(trained: list[NDArray[Any]], exported: list[NDArray[Any]]) -> Check:
    """Two pictures in one batch, at other thresholds than the card's."""
    agreement = float((trained[0] == exported[0]).mean())
    return Check(
        name=f"the same in a batch of two, at thresholds of {OTHER_THRESHOLD:g}",
        value=agreement,
        bound=f">= {MASK_AGREEMENT}",
        passed=agreement >= MASK_AGREEMENT,
    )


def _parity(trained: Outputs, exported: Outputs) -> list[Check]:
    finite = bool(np.isfinite(exported.scores).all() and np.isfinite(trained.scores).all())
    agreement = float((trained.labels == exported.labels).mean())
    flips = int((trained.labels.any(axis=(1, 2)) != exported.labels.any(axis=(1, 2))).sum())
    score = float(np.abs(trained.scores - exported.scores).max())
    confidence = int(np.abs(trained.confidence.astype(np.int16) - exported.confidence.astype(np.int16)).max())
    return [
        Check(name="all scores finite", value=str(finite), bound="True", passed=finite),
        Check(
            name="pixels with the same class, torch fp32 and ONNX Runtime fp32",
            value=agreement,
            bound=f">= {MASK_AGREEMENT}",
            passed=agreement >= MASK_AGREEMENT,
        ),
        Check(name="pictures whose decision flips", value=flips, bound="= 0", passed=flips == 0),
        Check(
            name="largest difference of a score",
            value=score,
            bound=f"<= {SCORE_DIFFERENCE}",
            passed=score <= SCORE_DIFFERENCE,
        ),
        Check(
            name="largest difference of the confidence map, of 255",
            value=confidence,
            bound="<= 1",
            passed=confidence <= 1,
        ),
    ]
