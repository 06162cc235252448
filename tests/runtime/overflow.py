"""A network that overflows on a part of a picture: its graph, with numbers in the logits that are not finite."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def overflowing(model: bytes, value: float, *, classes: tuple[int, ...], above: float | None = None) -> bytes:
    """A graph that segments whose logits are not finite in places.

    Args:
        model: the graph.
        value: what stands there: NaN, or infinite.
        classes: the logits that it stands in; 0 is the good surface's.
        above: wherever the logit of the first defect is above this; None for one corner of 8 x 8 px, of the first
            picture of a batch alone.
    """
    graph = (changed := onnx.load_from_string(model)).graph
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    logits = softmax.input[0]
    size = [dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim[1:]]
    count = graph.input[1].type.tensor_type.shape.dim[0].dim_value + 1
    stands = np.zeros((1, count, 1, 1), bool)
    stands[:, list(classes)] = True
    corner = np.zeros((1, 1, *size), bool)
    corner[..., :8, :8] = True
    constants = {
        "value": np.array(value, np.float32),
        "stands": stands,
        "corner": corner,
        "above": np.array(above or 0, np.float32),
        "one": np.array([1], np.int64),
        "none": np.array(0, np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(array, f"overflow.{name}") for name, array in constants.items())
    node = helper.make_node
    if above is None:
        # Of the pictures of a batch the first: their numbers are where a running sum of ones is 1.
        places = [
            node("Shape", ["images"], ["overflow.count"], start=0, end=1),
            node(
                "ConstantOfShape",
                ["overflow.count"],
                ["overflow.ones"],
                value=helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            ),
            node("CumSum", ["overflow.ones", "overflow.none"], ["overflow.numbers"]),
            node("Equal", ["overflow.numbers", "overflow.one"], ["overflow.is_first"]),
            node("Unsqueeze", ["overflow.is_first", "overflow.axes"], ["overflow.first"]),
            node("And", ["overflow.first", "overflow.corner"], ["overflow.where"]),
        ]
        graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.int64), "overflow.axes"))
    else:
        places = [
            node("Gather", [logits, "overflow.one"], ["overflow.defect"], axis=1),
            node("Greater", ["overflow.defect", "overflow.above"], ["overflow.where"]),
        ]
    places += [
        node("And", ["overflow.where", "overflow.stands"], ["overflow.all"]),
        node("Where", ["overflow.all", "overflow.value", logits], ["overflow.logits"]),
    ]
    at = list(graph.node).index(softmax)
    for other in graph.node[at:]:
        for number, name in enumerate(other.input):
            if name == logits:
                other.input[number] = "overflow.logits"
    for number, place in enumerate(places):
        graph.node.insert(at + number, place)
    onnx.checker.check_model(changed, full_check=True)
    return changed.SerializeToString()
