"""What a certificate is made of: measurements with their bounds. Needs no torch, so that a device can add its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from inspectd.bundle import GUARD_CHECK, ModelCard
from inspectd.cpu import INPUTS, TABLES, CpuWay, guards, open_graph

__all__ = [
    "FULL",
    "HALF",
    "HALF_LEVELS",
    "INTEGERS",
    "MASK_AGREEMENT",
    "SCORE_DIFFERENCE",
    "Bounds",
    "Certificate",
    "Check",
    "Outputs",
    "certify_painting_way",
    "certify_way",
    "guard",
    "iou_drops",
    "joined",
    "levels",
    "parity",
]

# Bounds of fp32 against fp32: only the order of additions differs.
MASK_AGREEMENT = 0.9999
SCORE_DIFFERENCE = 1e-3
# Bounds of half precision: a mantissa of 10 bits, rounded after every layer.
HALF_MASK_AGREEMENT = 0.999
HALF_SCORE_DIFFERENCE = 0.02
HALF_FLIPS = 0.01
IOU_DROP = 0.005
HALF_LEVELS = 2
"""How far a grey level of half precision may be off."""


class Bounds(NamedTuple):
    """How far an arithmetic may be from the trained network's."""

    agreement: float
    """Share of the pixels that must have the same class."""
    flips: float
    """Share of the pictures whose decision may flip; of that, one picture may always."""
    score: float | None
    """Largest difference of a score; None where what it does to decisions is all that counts."""


FULL = Bounds(MASK_AGREEMENT, 0.0, SCORE_DIFFERENCE)
# Far from a threshold a score may move and nothing follows: flips and IoU say what does.
INTEGERS = Bounds(HALF_MASK_AGREEMENT, HALF_FLIPS, None)
HALF = Bounds(HALF_MASK_AGREEMENT, HALF_FLIPS, HALF_SCORE_DIFFERENCE)
_WAY_BOUNDS = {
    "fp32": FULL,
    "bf16": HALF,
    "int8": INTEGERS,
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
    """Compared at; none where nothing is segmented."""
    versions: dict[str, str]
    checks: tuple[Check, ...]
    ways: dict[str, tuple[Check, ...]] = {}
    """Other ways to run the network on a processor (`cpu.CpuWay`); what fails here is not run so, and nothing else."""
    engines: dict[str, tuple[Check, ...]] = {}
    """Engines that were compared with the graph on a device, by their file."""

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


def certify_way(
    way: CpuWay,
    model: bytes,
    card: ModelCard,
    images: NDArray[np.uint8],
    exported: Outputs,
    *,
    labels: Sequence[NDArray[np.uint8] | None] = (),
    name: str | None = None,
    fused: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Check, ...]:
    """Compare another way to run a network on a processor with its graph in fp32, which `certify` compared with torch.

    Args:
        way: library and arithmetic.
        model: the graph that it runs.
        card: the network's card.
        images: uint8 [N, H, W, C] at the network's size.
        exported: what the graph in fp32 gave for them.
        labels: as for `certify`; integers are certified only where there are some.
        name: what the checks call it, if not by the way.
        fused: as for `cpu.open_graph`.
        progress: called with (done, all) pictures.

    Raises:
        MissingDependencyError: the library is not installed.
        IncompatibleEngine: this processor does not calculate so.
    """
    graph, thresholds = open_graph(model, way, fused=fused), np.asarray(card.thresholds, np.float32)
    parts = []
    for index, image in enumerate(images):
        parts.append(graph.run(dict(zip(INPUTS, (image[None], thresholds), strict=True))))
        if progress is not None:
            progress(index + 1, len(images))
    found = joined(parts)
    bounds = _WAY_BOUNDS[way.precision]
    return (
        *parity(name or str(way), exported, found, bounds),
        *iou_drops(name or str(way), card, labels, exported.labels, found.labels, must=way.precision == "int8"),
        guard(f"{name or way}: ", graph.run, card),
    )


def guard(what: str, run: Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]], card: ModelCard) -> Check:
    """Whether what is not finite shows in the scores, which a station refuses then (`cpu.guards`)."""
    shape = (*card.preprocess.size, card.preprocess.channels)
    shown = guards(run, shape, len(card.classes))
    value, bound = "no probabilities" if shown else "probabilities", "no probabilities"
    return Check(name=f"{what}{GUARD_CHECK}", value=value, bound=bound, passed=shown)


def certify_painting_way(
    way: CpuWay,
    model: bytes,
    windows: Mapping[str, NDArray[np.uint8]],
    exported: NDArray[np.uint8],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Check, ...]:
    """Compare another way to run a network that paints with its graph in fp32, in grey levels.

    Args:
        way: library and arithmetic.
        model: the graph that it runs.
        windows: its inputs by name, uint8 [N, ...].
        exported: what the graph in fp32 painted, uint8 [N, H, W, 3].
        progress: called with (done, all) windows.

    Raises:
        MissingDependencyError: the library is not installed.
        IncompatibleEngine: this processor does not calculate so.
    """
    graph, painted = open_graph(model, way, table=TABLES["dst"]), []
    for index in range(len(exported)):
        painted += graph.run({name: array[index : index + 1] for name, array in windows.items()})
        if progress is not None:
            progress(index + 1, len(exported))
    return (levels(str(way), exported, np.concatenate(painted), 1 if way.precision == "fp32" else HALF_LEVELS),)


def levels(what: str, expected: NDArray[np.uint8], painted: NDArray[np.uint8], bound: int) -> Check:
    """How far paintings are off, grey levels."""
    off = int(np.abs(painted.astype(np.int16) - expected.astype(np.int16)).max())
    return Check(name=f"{what}: largest difference, grey levels", value=off, bound=f"<= {bound}", passed=off <= bound)


def parity(what: str, trained: Outputs, half: Outputs, bounds: Bounds = HALF) -> list[Check]:
    """Another arithmetic against fp32, on the pictures that went through both."""
    count = len(half.labels)
    labels, scores = trained.labels[:count], trained.scores[:count]
    finite = bool(np.isfinite(half.scores).all())
    agreement = float((labels == half.labels).mean())
    flips = int((labels.any(axis=(1, 2)) != half.labels.any(axis=(1, 2))).sum())
    # A score that lies at its threshold may fall on either side: one picture, or one in a hundred.
    allowed = max(1, int(bounds.flips * count)) if bounds.flips else 0
    score = float(np.abs(scores - half.scores).max()) if finite else float("inf")
    checks = [
        Check(name=f"{what}: all scores finite", value=str(finite), bound="True", passed=finite),
        Check(
            name=f"{what}: pixels with the same class",
            value=agreement,
            bound=f">= {bounds.agreement}",
            passed=agreement >= bounds.agreement,
        ),
        Check(
            name=f"{what}: pictures whose decision flips, of {count}",
            value=flips,
            bound=f"<= {allowed}",
            passed=flips <= allowed,
        ),
    ]
    if bounds.score is not None:
        checks.append(
            Check(
                name=f"{what}: largest difference of a score",
                value=score if finite else "not finite",
                bound=f"<= {bounds.score}",
                passed=score <= bounds.score,
            )
        )
    return checks


def iou_drops(
    what: str,
    card: ModelCard,
    labels: Sequence[NDArray[np.uint8] | None],
    trained: NDArray[np.uint8],
    half: NDArray[np.uint8],
    *,
    must: bool = False,
) -> list[Check]:
    """What another arithmetic costs of each class's IoU with the labels, which `must` be there for some."""
    known = [(index, label) for index, label in enumerate(labels) if label is not None and label.any()]
    checks = []
    for number, name in enumerate(card.classes, 1):
        ious = []
        for found in (trained, half):
            both = either = 0
            for index, label in known:
                true, predicted = label == number, found[index] == number
                both += int((true & predicted).sum())
                either += int((true | predicted).sum())
            ious.append(both / either if either else None)
        before, after = ious
        if before is None or after is None:
            value: float | str = "no labelled picture"
            passed = not must
        else:
            value = max(0.0, before - after)
            passed = value <= IOU_DROP
        checks.append(Check(name=f"{what}: drop of IoU, {name}", value=value, bound=f"<= {IOU_DROP}", passed=passed))
    return checks


def joined(parts: list[list[NDArray[Any]]]) -> Outputs:
    """What a graph gave for one picture after the other, as one."""
    labels, confidence, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outputs(labels=labels, confidence=confidence, scores=scores)
