"""The certificate: the exported graph still computes what was trained.

Compared are the masks, decisions and scores of torch (fp32) and of the graph on the same uint8 inputs; and of the graph
in half precision, which engines are built from. Each check is a measurement with its bound; one that fails keeps the
bundle from being written.

ONNX Runtime calculates in fp32 where a processor has no half precision, and then shows the rounding of weights
alone. So some pictures go through torch in half precision too, which rounds after every layer as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inspectd.bundle import ModelCard
from inspectd.cpu import INPUTS, OUTPUTS
from inspectd.optional import require

from .checks import (
    HALF_LEVELS,
    MASK_AGREEMENT,
    SCORE_DIFFERENCE,
    Certificate,
    Check,
    Outputs,
    guard,
    iou_drops,
    joined,
    parity,
)
from .graph import OPSET, Inspector

__all__ = ["HalfGraph", "certify", "certify_painter", "in_torch"]

# Low, so that a graph with the card's thresholds built in shows: they are an input, and a station sets its own.
OTHER_THRESHOLD = 1e-3

_SEG_IO = {
    "images": ("UINT8", 4),
    "thresholds": ("FLOAT", 1),
    "labels": ("UINT8", 3),
    "confidence": ("UINT8", 3),
    "scores": ("FLOAT", 2),
}
_DST_IO = {"beneath": ("UINT8", 4), "coarse": ("UINT8", 4), "mask": ("UINT8", 3), "painted": ("UINT8", 4)}


class HalfGraph(NamedTuple):
    """The graph in half precision, and the same in torch."""

    inspector: Inspector
    model: bytes


def certify(
    inspector: Inspector,
    model: bytes,
    card: ModelCard,
    images: NDArray[np.uint8],
    *,
    images_from: str,
    half: HalfGraph | None = None,
    labels: Sequence[NDArray[np.uint8] | None] = (),
    rounded: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Certificate, Outputs]:
    """Compare a graph with the network that it was made from.

    Args:
        inspector: the network with its pre- and post-processing, in torch.
        model: the graph.
        card: the network's card; its thresholds are the ones compared at.
        images: uint8 [N, H, W, C] at the network's size.
        images_from: where they come from; goes into the certificate.
        half: the graph in half precision, to be compared as well.
        labels: classes uint8 [H, W] of each picture, None where it has no label; to measure what IoU loses.
        rounded: of the pictures, how many go through torch in half precision, which is slow on a processor.
        progress: called with (done, all) pictures.

    Returns:
        The certificate, and what the graph gave: the expected answers of the self-test.
    """
    onnx = require("onnx", extra="export")
    onnxruntime = require("onnxruntime", extra="export")
    checks = [*_structure(onnx, model)]
    thresholds = np.asarray(card.thresholds, np.float32)
    graph = _session(onnxruntime, model)
    half_graph = None if half is None else _session(onnxruntime, half.model)
    parts: dict[str, list[list[NDArray[Any]]]] = {"torch": [], "graph": [], "half graph": [], "half torch": []}
    for index, image in enumerate(images):
        picture = image[None]
        parts["torch"].append(in_torch(inspector, picture, thresholds))
        parts["graph"].append(_in_graph(graph, picture, thresholds))
        if half is not None and half_graph is not None:
            parts["half graph"].append(_in_graph(half_graph, picture, thresholds))
            if index < rounded:
                parts["half torch"].append(in_torch(half.inspector, picture, thresholds))
        if progress is not None:
            progress(index + 1, len(images))
    found = {name: joined(of) for name, of in parts.items() if of}
    checks += _parity(found["torch"], found["graph"])
    pair = images[[0, -1]]
    low = np.full_like(thresholds, OTHER_THRESHOLD)
    checks.append(_elsewhere(in_torch(inspector, pair, low), _in_graph(graph, pair, low)))
    checks.append(guard("", partial(graph.run, list(OUTPUTS)), card))
    if half is not None and half_graph is not None:
        checks += _half_structure(onnx, half.model)
        checks.append(guard("fp16 graph: ", partial(half_graph.run, list(OUTPUTS)), card))
        checks += parity("ONNX Runtime fp16", found["torch"], found["half graph"])
        checks += parity("torch fp16", found["torch"], found["half torch"])
        checks += iou_drops("ONNX Runtime fp16", card, labels, found["torch"].labels, found["half graph"].labels)
    certificate = Certificate(
        images=len(images),
        images_from=images_from,
        thresholds=card.thresholds,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        checks=tuple(checks),
    )
    return certificate, found["graph"]


def certify_painter(
    painters: tuple[nn.Module, nn.Module],
    models: tuple[bytes, bytes],
    windows: Mapping[str, NDArray[np.uint8]],
    own: Sequence[NDArray[np.uint8] | None],
    *,
    images_from: str,
    rounded: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Certificate, NDArray[np.uint8]]:
    """Compare the graphs of a network that paints defects with the network, in grey levels.

    Args:
        painters: the network with its pre- and post-processing in torch, in fp32 and in fp16.
        models: their graphs.
        windows: its inputs, by name, uint8 [N, ...].
        own: what `inspectd-train simulate` paints in each window, uint8 [H, W, 3]; None where it is not at that scale.
        images_from: where they come from; goes into the certificate.
        rounded: of the windows, how many go through torch in half precision.
        progress: called with (done, all) windows.

    Returns:
        The certificate, and what the graph in fp32 painted: uint8 [N, H, W, 3].
    """
    onnx = require("onnx", extra="export")
    onnxruntime = require("onnxruntime", extra="export")
    checks = [*_structure(onnx, models[0], _DST_IO), *_half_structure(onnx, models[1], _DST_IO)]
    sessions = [_session(onnxruntime, model) for model in models]
    worst = {"ONNX Runtime fp32": 0, "ONNX Runtime fp16": 0, "torch fp16": 0, "inspectd-train simulate": 0}
    painted, compared = [], 0
    count = len(own)
    for index in range(count):
        fed = {name: array[index : index + 1] for name, array in windows.items()}
        tensors = [torch.from_numpy(array) for array in fed.values()]
        with torch.inference_mode():
            trained = painters[0](*tensors).numpy()
            half = painters[1](*tensors).numpy() if index < rounded else trained
        graphs = [session.run(None, fed)[0] for session in sessions]
        painted.append(graphs[0])
        others = {"ONNX Runtime fp32": graphs[0], "ONNX Runtime fp16": graphs[1], "torch fp16": half}
        if (picture := own[index]) is not None:
            others["inspectd-train simulate"] = picture[None]
            compared += 1
        for name, other in others.items():
            worst[name] = max(worst[name], int(np.abs(other.astype(np.int16) - trained.astype(np.int16)).max()))
        if progress is not None:
            progress(index + 1, count)
    for name, value in worst.items():
        # One level is rounding; half precision may be two off.
        bound = HALF_LEVELS if "fp16" in name else 1
        unknown = name == "inspectd-train simulate" and not compared
        checks.append(
            Check(
                name=f"torch fp32 and {name}: largest difference, grey levels",
                value="no window at its own scale" if unknown else value,
                bound=f"<= {bound}",
                passed=value <= bound,
            )
        )
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    certificate = Certificate(
        images=count, images_from=images_from, thresholds=(), versions=versions, checks=tuple(checks)
    )
    return certificate, np.concatenate(painted)


def _session(onnxruntime: Any, model: bytes) -> Any:  # noqa: ANN401 - of the module's
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def in_torch(inspector: Inspector, pictures: NDArray[np.uint8], at: NDArray[np.float32]) -> list[NDArray[Any]]:
    """What a network with its pre- and post-processing gives in torch: labels, confidence, scores."""
    with torch.inference_mode():
        answer = inspector(torch.from_numpy(pictures), torch.from_numpy(at))
    return [part.numpy() for part in answer]


def _in_graph(session: Any, pictures: NDArray[np.uint8], at: NDArray[np.float32]) -> list[NDArray[Any]]:  # noqa: ANN401
    answer: list[NDArray[Any]] = session.run(list(OUTPUTS), dict(zip(INPUTS, (pictures, at), strict=True)))
    return answer


def _structure(onnx: Any, model: bytes, expected: Mapping[str, tuple[str, int]] = _SEG_IO) -> list[Check]:  # noqa: ANN401 - the module
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
        Check(name="inputs and outputs", value=str(found), bound=str(expected), passed=found == expected),
        Check(name="operator domains besides ONNX", value=", ".join(foreign), bound="none", passed=not foreign),
    ]


def _half_structure(onnx: Any, model: bytes, expected: Mapping[str, tuple[str, int]] = _SEG_IO) -> list[Check]:  # noqa: ANN401 - the module
    """The same, and what half precision needs: its weights, fp32 where digits count, no cast that TensorRT refuses."""
    checks = [
        check.model_copy(update={"name": f"fp16 graph: {check.name}"})
        for check in _structure(onnx, model, expected)
        if check.name in ("onnx.checker", "inputs and outputs", "operator domains besides ONNX")
    ]
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    name_of = onnx.TensorProto.DataType.Name
    kinds = {value.name: name_of(value.type.tensor_type.elem_type) for value in (*graph.value_info, *graph.input)}
    kinds |= {tensor.name: name_of(tensor.data_type) for tensor in graph.initializer}
    # The Gaussian of a fusion has one channel, and stays in fp32.
    gaussians = {tensor.name for tensor in graph.initializer if list(tensor.dims[:2]) == [1, 1]}
    weights = {
        kinds.get(node.input[1], "?")
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] not in gaussians
    }
    softmax = {kinds.get(node.input[0], "?") for node in graph.node if node.op_type == "Softmax"}
    norms = {kinds.get(node.input[0], "?") for node in graph.node if node.op_type == "InstanceNormalization"}
    bytes_from = {
        kinds.get(node.input[0], "?")
        for node in graph.node
        if node.op_type == "Cast" and any(a.name == "to" and a.i == onnx.TensorProto.UINT8 for a in node.attribute)
    }
    rules = [("weights of convolutions", weights, {"FLOAT16"}), ("cast to uint8 from", bytes_from, {"FLOAT"})]
    # What fp32 is kept for: the end of a network that segments, the statistics of one that paints.
    rules.append(("softmax in", softmax, {"FLOAT"}) if softmax else ("statistics in", norms, {"FLOAT"}))
    for what, got, wanted in rules:
        shown, bound = ", ".join(sorted(got)), ", ".join(sorted(wanted))
        checks.append(Check(name=f"fp16 graph: {what}", value=shown, bound=bound, passed=got == wanted))
    return checks


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
