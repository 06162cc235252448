"""Predictions of a bundle's graph in the camera's pixels: what is shipped is what evaluation measures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import MODEL, Bundle
from inspectd.errors import BundleError, IncompatibleEngine
from inspectd.optional import require

__all__ = ["GraphPredictor"]


class GraphPredictor:
    """Probabilities of the defect classes for pictures of any size, by ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the graph.

        Raises:
            BundleError: it has no scores to take the probabilities from.
            IncompatibleEngine: ONNX Runtime cannot load it.
            MissingDependencyError: onnx is not installed.
        """
        onnxruntime = require("onnxruntime", extra="export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model, self._output = _with_probabilities(bundle)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime's exceptions have no common base below Exception.
            raise IncompatibleEngine(f"{bundle.path}: {MODEL} cannot be loaded by ONNX Runtime: {error}") from error
        self._preprocess = bundle.card.preprocess
        # An input of the graph, which the probabilities do not hang on.
        self._thresholds = np.asarray(bundle.card.thresholds, np.float32)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [h, w, 1 or 3] -> float32 [C, h, w], restored by nearest pixel as the line does."""
        inputs = {"images": self._preprocess.image(pixels)[None], "thresholds": self._thresholds}
        (probabilities,) = self._session.run([self._output], inputs)  # float32 [1, C, H, W]
        letterbox = self._preprocess.letterbox(pixels.shape[:2])
        return np.stack([letterbox.restore(channel) for channel in probabilities[0]])


def _with_probabilities(bundle: Bundle) -> tuple[bytes, str]:
    """The graph with its probabilities as one more output, and the name of that.

    The graph's own outputs are a mask and a confidence in 255 steps: too coarse for curves over the threshold.
    """
    onnx = require("onnx", extra="export")
    model = onnx.load_from_string(bundle.read(MODEL))
    # The scores are the highest probabilities of each picture, less what its guard found.
    makers = {output: node for node in model.graph.node for output in node.output}
    maker = makers.get("scores")
    if maker is not None and maker.op_type == "Sub":
        maker = makers.get(maker.input[0])
    if maker is None or maker.op_type != "ReduceMax":
        raise BundleError(
            f"{bundle.path}: {MODEL} does not take its scores from probabilities as export-trt writes them; "
            "export it again with this version, or measure the checkpoint"
        )
    probabilities: str = maker.input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(probabilities, onnx.TensorProto.FLOAT, None))
    data: bytes = model.SerializeToString()
    return data, probabilities
