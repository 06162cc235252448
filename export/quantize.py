"""The graph in 8-bit integers: explicit quantisation (QDQ format), so that what was measured is what runs.

For processors, convolutions take unsigned activations and signed weights with a scale for each output channel, which is
what ONNX Runtime and OpenVINO calculate in integers. Weights have 7 bits: processors without VNNI add pairs of
products in 16 bits, where 8 would overflow without a word. TensorRT takes neither unsigned activations nor zero points,
nor a bias in integers: for GPUs both sides are signed and symmetric, weights have 8 bits, and the bias stays in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspectd.cpu import INPUTS
from inspectd.optional import require

__all__ = ["to_int8"]


def to_int8(
    model: bytes,
    images: NDArray[np.uint8],
    thresholds: NDArray[np.float32],
    *,
    gpu: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Quantise the convolutions of a graph that segments.

    Args:
        model: the graph in fp32.
        images: what the ranges of the activations are measured on, uint8 [N, H, W, C].
        thresholds: any, float32 [classes].
        gpu: for engines of TensorRT, not for processors.
        progress: called with (done, all) pictures.

    Returns:
        The graph, with the metadata of the one in fp32.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    require("onnx", extra="export")
    quantization = require("onnxruntime.quantization", extra="export")

    class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]  # it has no types
        """Hands them out one by one: ranges are taken over all of them."""

        def __init__(self) -> None:
            self._left: Iterator[tuple[int, NDArray[np.uint8]]] = iter(enumerate(images))

        def get_next(self) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]] | None:
            following = next(self._left, None)
            if following is None:
                return None
            if progress is not None:
                progress(following[0] + 1, len(images))
            return dict(zip(INPUTS, (following[1][None], thresholds), strict=True))

    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (Path(folder) / f"{name}.onnx" for name in ("fp32", "ready", "int8"))
        before.write_bytes(model)
        quantization.shape_inference.quant_pre_process(before, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            after,
            Pictures(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            activation_type=quantization.QuantType.QInt8 if gpu else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=not gpu,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if gpu else {},
        )
        return after.read_bytes()
