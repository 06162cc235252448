"""What a network overflows on is no good surface, and what an engine gives is held against itself."""

from __future__ import annotations

import numpy as np
import pytest

from inspectd.bundle import MODEL, decode_png, load_bundle
from inspectd.cpu import CPU_WAYS, open_graph
from inspectd.errors import InferenceError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Verdict
from inspectd.runtime.engine import GraphEngine, Opened
from inspectd.runtime.inspector import Inspector
from inspectd.runtime.models import rule_for
from inspectd.runtime.station import demo_bundle

from .conftest import SIZE
from .overflow import overflowing

IMAGES = np.zeros((2, SIZE, SIZE, 3), np.uint8)
AT = np.array([0.6], np.float32)


class Says:
    """A graph that gives what it was told, whatever it is asked."""

    card = failure = None

    def __init__(self, labelled, scores):
        self._labels = np.zeros((2, SIZE, SIZE), np.uint8)
        self._labels[1, 3, 4] = labelled
        self._scores = np.array(scores, np.float32)[:, None]

    def run(self, _):
        return [self._labels, self._labels * 255, self._scores]

    def close(self):
        """Nothing to let go of."""


@pytest.mark.parametrize(
    ("labelled", "scores", "told"),
    [
        (0, (0.1, 0.3), None),
        (1, (0.1, 0.7), None),
        # Half precision may call a pixel just at the threshold the one or the other.
        (1, (0.1, 0.595), None),
        (0, (0.1, 0.605), None),
        (0, (0.1, 0.7), "no pixel of any class at scores of"),
        (1, (0.1, 0.5), "pixels of class 1 at scores of"),
        (1, (0.7, 0.7), "no pixel of any class at scores of"),
        (0, (0.1, np.nan), "no probabilities"),
        (0, (0.1, np.inf), "no probabilities"),
        (0, (0.1, -1.0), "no probabilities"),
        (0, (0.1, 1.01), "no probabilities"),
        (2, (0.1, 0.7), "label 2"),
    ],
)
def test_labels_and_scores_must_agree(bundle_path, labelled, scores, told):
    with GraphEngine(load_bundle(bundle_path), Opened(Says(labelled, scores), "says", "fp32")) as engine:
        if told is None:
            engine.infer(IMAGES, AT)
        else:
            with pytest.raises(InferenceError, match=told):
                engine.infer(IMAGES, AT)


@pytest.mark.parametrize("way", [way for way in CPU_WAYS if way.precision == "fp32"], ids=str)
@pytest.mark.parametrize("classes", [(0,), (1,), (0, 1)], ids=["good surface", "defect", "both"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_defect_that_the_network_overflows_on_is_not_inspected(way, classes, value):
    """The shipped bundle, with logits that are not finite wherever it has a defect, and nowhere else."""
    pytest.importorskip(way.library)
    bundle = load_bundle(demo_bundle())
    graph = open_graph(overflowing(bundle.read(MODEL), value, classes=classes, above=0.0), way, threads=1)
    verdicts = {"as it is": [], "overflowing": []}
    for name, each in (("as it is", open_graph(bundle.read(MODEL), way, threads=1)), ("overflowing", graph)):
        engine = GraphEngine(bundle, Opened(each, str(way), way.precision))
        inspector = Inspector(bundle, engine, rule_for(bundle, AcceptanceRule()), scales={"cam1": None})
        for sample in bundle.golden().samples:
            pixels = np.atleast_3d(decode_png(bundle.read(sample.input), sample.input))
            verdicts[name].append(inspector.inspect(Frame("cam1", 1, pixels, acquired_ns=0)).verdict)
    assert verdicts["as it is"].count(Verdict.NG) == 4
    for before, now in zip(*verdicts.values(), strict=True):
        assert now is Verdict.NOT_INSPECTED or before is now is Verdict.OK
