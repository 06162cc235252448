"""Bundles whose network is a formula: what a picture's pixels say is the probability, so that a test can paint it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from inspectd.bundle import CARD_KEY, GOLDEN, MODEL, PARITY, Golden, GoldenSample, ModelCard, encode_png, write_bundle
from inspectd.preprocess import Preprocess

SIZE = 32


def write_toy_bundle(path: Path, classes: tuple[str, ...], provenance: dict | None = None) -> Path:
    """A bundle at 32 px. With s the sum of the channels of the classes / 255, at most 1, a defect has the probability
    s (2 - s), which is fine near 1, and its classes share it as the channels do."""
    card = ModelCard(
        name="toy",
        classes=classes,
        preprocess=Preprocess(height=SIZE, width=SIZE),
        thresholds=(0.6, 0.7, 0.5)[: len(classes)],
        network={},
        provenance=provenance or {},
    )
    sample = np.zeros((SIZE, SIZE, 3), np.uint8)
    golden = Golden(
        samples=(GoldenSample(input="golden/0.png", labels="golden/0-labels.png", scores=(0.0,) * len(classes)),),
        thresholds=card.thresholds,
    )
    files = {
        MODEL: _graph(card),
        PARITY: b'{"checks": []}',
        GOLDEN: golden.model_dump_json().encode(),
        "golden/0.png": encode_png(sample),
        "golden/0-labels.png": encode_png(sample[..., 0]),
    }
    write_bundle(path, card, files, version="test")
    return path


def _graph(card: ModelCard) -> bytes:
    count = len(card.classes)
    make = helper.make_node
    constants = {
        "first": np.array([0], np.int64),
        "last": np.array([count], np.int64),
        "axis": np.array([1], np.int64),
        "pixels": np.array([2, 3], np.int64),
        "column": np.array([1, count, 1, 1], np.int64),
        "white": np.array(255, np.float32),
        "one": np.array(1, np.float32),
        "two": np.array(2, np.float32),
        "tiny": np.array(1e-6, np.float32),
        "zero": np.array(0, np.float32),
        "label_one": np.array(1, np.int64),
        "label_none": np.array(0, np.int64),
    }
    nodes = [
        make("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        make("Transpose", ["float"], ["channels"], perm=[0, 3, 1, 2]),
        make("Slice", ["channels", "first", "last", "axis"], ["own"]),
        make("ReduceSum", ["own", "axis"], ["sum"], keepdims=1),
        make("Div", ["sum", "white"], ["share"]),
        make("Min", ["share", "one"], ["s"]),
        make("Sub", ["two", "s"], ["rest"]),
        make("Mul", ["s", "rest"], ["defect"]),
        make("Max", ["sum", "tiny"], ["divisor"]),
        make("Div", ["own", "divisor"], ["part"]),
        make("Mul", ["part", "defect"], ["probabilities"]),
        make("Reshape", ["thresholds", "column"], ["limits"]),
        make("Sub", ["probabilities", "limits"], ["excess"]),
        make("ArgMax", ["excess"], ["best"], axis=1, keepdims=0),
        make("Add", ["best", "label_one"], ["label"]),
        make("ReduceMax", ["excess", "axis"], ["most"], keepdims=0),
        make("GreaterOrEqual", ["most", "zero"], ["over"]),
        make("Where", ["over", "label", "label_none"], ["wide"]),
        make("Cast", ["wide"], ["labels"], to=TensorProto.UINT8),
        make("ReduceMax", ["probabilities", "axis"], ["likeliest"], keepdims=0),
        make("Mul", ["likeliest", "white"], ["scaled"]),
        make("Ceil", ["scaled"], ["up"]),
        make("Cast", ["up"], ["confidence"], to=TensorProto.UINT8),
        make("ReduceMax", ["probabilities", "pixels"], ["scores"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
        helper.make_tensor_value_info("thresholds", TensorProto.FLOAT, [count]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", SIZE, SIZE]),
        helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", SIZE, SIZE]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", count]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    return model.SerializeToString()


def blob(rng: np.random.Generator, channel: int, level: int, side: int, size: int = SIZE) -> np.ndarray:
    """A black picture with one square of a level in a channel."""
    pixels = np.zeros((size, size, 3), np.uint8)
    y, x = rng.integers(0, size - side + 1, 2)
    pixels[y : y + side, x : x + side, channel] = level
    return pixels


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
