"""A graph on the processor: ONNX Runtime, which is always there, or OpenVINO, and the arithmetic that it runs in.

What `export-trt` compares with the trained network and what a station runs go through here, so that they are the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import CARD_KEY, INT8_MODEL, MODEL
from inspectd.errors import ConfigError, IncompatibleEngine
from inspectd.optional import require, silence

__all__ = [
    "CPU_WAYS",
    "GPU_INT8",
    "INPUTS",
    "OUTPUTS",
    "TABLES",
    "CpuGraph",
    "CpuWay",
    "Precision",
    "Table",
    "card_in",
    "guards",
    "open_graph",
]

Library = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

INPUTS = {"images": "uint8", "thresholds": "float32"}
OUTPUTS = {"labels": "uint8", "confidence": "uint8", "scores": "float32"}
"""Tensors of a graph that segments, and their types."""


@dataclass(frozen=True, slots=True)
class Table:
    """Tensors of a graph in their order, and their types; the first input says how many pictures a call has."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


TABLES = {
    "seg": Table(INPUTS, OUTPUTS),
    "dst": Table({"beneath": "uint8", "coarse": "uint8", "mask": "uint8"}, {"painted": "uint8"}),
}
"""By the kind of network."""

_OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What the layers that are not quantised are calculated in."""


@dataclass(frozen=True, slots=True)
class CpuWay:
    """A library and the arithmetic that it is told."""

    library: Library
    precision: Precision

    def __str__(self) -> str:
        """As the certificate names it."""
        return f"{'OpenVINO' if self.library == 'openvino' else 'ONNX Runtime'} {self.precision}"

    @property
    def file(self) -> str:
        """The graph in a bundle that it runs."""
        return INT8_MODEL if self.precision == "int8" else MODEL


CPU_WAYS = (
    CpuWay("onnxruntime", "fp32"),
    CpuWay("onnxruntime", "int8"),
    CpuWay("openvino", "fp32"),
    CpuWay("openvino", "bf16"),
    CpuWay("openvino", "int8"),
)
"""All that there are. The first is what `model.onnx` is compared by, and needs no further certificate."""


GPU_INT8 = "TensorRT int8"
"""What the certificate calls the graph of engines in integers; it is compared by ONNX Runtime before they are built."""


class CpuGraph(Protocol):
    """A graph that is ready to run; for one thread at a time.

    Attributes:
        card: JSON of the card that travels in it, None where there is none.
    """

    card: str | None

    @property
    def failure(self) -> None:
        """A graph on a processor goes on after a failure."""

    def run(self, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs, in the order of the table. Raises whatever the library raises."""

    def close(self) -> None:
        """Nothing to let go of: a graph on a processor ends with its object."""


def open_graph(
    model: bytes, way: CpuWay, *, threads: int = 0, table: Table = TABLES["seg"], fused: bool = True
) -> CpuGraph:
    """Make a graph ready.

    Args:
        model: the graph.
        way: library and arithmetic.
        threads: for one call; 0 takes all cores that this process may use.
        table: its tensors, by the kind of network.
        fused: let ONNX Runtime put operators together. Without it, it calculates just what is written: put together,
            integers of 8 bits on both sides overflow on processors without VNNI, which they do not on a GPU.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        ConfigError: a way that is not one of `CPU_WAYS`.
        IncompatibleEngine: the library does not take the graph, its inputs and outputs are others, or this processor
            does not calculate so.
    """
    if way not in CPU_WAYS:
        raise ConfigError(f"{way}: the ways of a processor are {', '.join(map(str, CPU_WAYS))}")
    threads = threads or len(os.sched_getaffinity(0))
    if way.library == "onnxruntime":
        return _OnnxRuntime(model, threads, table, fused)
    return _OpenVino(model, way, threads, table)


def card_in(model: bytes) -> str | None:
    """JSON of the card that travels in a graph; None where there is none.

    Raises:
        IncompatibleEngine: it is no graph that ONNX Runtime reads.
    """
    return _card_of(_session(model, threads=1, optimised=False))


def guards(
    run: Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]], shape: tuple[int, ...], classes: int
) -> bool:
    """Whether what runs a graph that segments shows in its scores that a number was not finite.

    A network cannot be made to overflow by its pictures. Thresholds that are not finite go the same way through the
    graph, and an engine may have lost on it what the graph says.

    Args:
        run: as of `CpuGraph`.
        shape: H, W, C of its pictures.
        classes: number of them.
    """
    images, thresholds = np.zeros((1, *shape), np.uint8), np.full(classes, np.nan, np.float32)
    *_, scores = run({"images": images, "thresholds": thresholds})
    return not (scores >= 0).any()


def _card_of(session: Any) -> str | None:  # noqa: ANN401 - it has no types
    found: str | None = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    return found


def _session(model: bytes, *, threads: int, optimised: bool = True) -> Any:  # noqa: ANN401 - it has no types
    silence()
    import onnxruntime

    # Where it was imported before, by somebody else.
    with contextlib.suppress(AttributeError):  # versions of before have none
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between frames would take the cores from the camera and the publisher.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's exceptions have no common base below Exception.
        raise IncompatibleEngine(f"cannot be loaded by ONNX Runtime: {error}") from error


class _OnnxRuntime:
    """The graph as it is: the arithmetic is written into it."""

    def __init__(self, model: bytes, threads: int, table: Table, fused: bool) -> None:
        self._session = _session(model, threads=threads, optimised=fused)
        self.card = _card_of(self._session)
        # ONNX Runtime has its own words for the two types that there are.
        words = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
        self._outputs = list(table.outputs)
        _check_tensors(
            table,
            {node.name: words.get(node.type, node.type) for node in self._session.get_inputs()},
            {node.name: words.get(node.type, node.type) for node in self._session.get_outputs()},
        )

    def run(self, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `CpuGraph.run`."""
        found: list[NDArray[Any]] = self._session.run(self._outputs, dict(fed))
        return found

    @property
    def failure(self) -> None:
        """See `CpuGraph.failure`."""
        return None

    def close(self) -> None:
        """See `CpuGraph.close`."""


class _OpenVino:
    """Always told its arithmetic: left to itself it chooses bf16 where a processor is fast in it."""

    def __init__(self, model: bytes, way: CpuWay, threads: int, table: Table) -> None:
        openvino = require("openvino", extra="openvino")
        wanted = _OPENVINO_TYPES[way.precision]
        settings = {
            "INFERENCE_PRECISION_HINT": wanted,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Bound to cores it would share them with the camera, whatever the system's scheduler knows.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model=model, weights=b""), "CPU", settings)
            self._request = compiled.create_infer_request()
            calculates = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:
            # RuntimeError with a text, as of 2026; its own classes come and go.
            raise IncompatibleEngine(f"cannot be loaded by OpenVINO: {' '.join(str(error).split())}") from error
        if calculates != wanted:
            raise IncompatibleEngine(
                f"cannot be run in {way.precision}: this processor does not calculate in it, OpenVINO would take "
                f'{calculates}; set precision = "fp32"'
            )
        words = {"u8": "uint8", "f32": "float32"}
        tensors = (
            {port.any_name: words.get(port.element_type.get_type_name(), "another type") for port in side}
            for side in (compiled.inputs, compiled.outputs)
        )
        _check_tensors(table, *tensors)
        self._outputs = list(table.outputs)
        # OpenVINO does not hand out what travels in a graph.
        self.card = card_in(model)

    def run(self, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `CpuGraph.run`."""
        found = self._request.infer(dict(fed), share_outputs=False)
        return [np.asarray(found[name]) for name in self._outputs]

    @property
    def failure(self) -> None:
        """See `CpuGraph.failure`."""
        return None

    def close(self) -> None:
        """See `CpuGraph.close`."""


def _check_tensors(table: Table, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    for kind, expected, got in (("inputs", table.inputs, inputs), ("outputs", table.outputs, outputs)):
        if got != expected:
            raise IncompatibleEngine(f"has {kind} {dict(got)}, expected {dict(expected)}")
