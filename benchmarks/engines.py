"""What runs a network on a processor, uint8 in to mask out: torch, ONNX Runtime and OpenVINO in turns.

Times are the processor's, all threads together, so that other work on the machine counts for little; the weights are
random, which changes no time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from inspectd.bundle import ModelCard
from inspectd.buttons import line_part
from inspectd.cpu import CPU_WAYS, INPUTS, open_graph
from inspectd.errors import IncompatibleEngine, MissingDependencyError
from inspectd.export.graph import Inspector, to_onnx
from inspectd.export.quantize import to_int8
from inspectd.preprocess import Preprocess
from inspectd.training.segmentation.buttonlab import Buttonlab

from .measure import Report, table

__all__ = ["BOUND", "in_turns", "run"]

PICTURES = 4
_BASELINE = "torch fp32"
BOUND = 1.0
"""The engine that a station has by default is at least so many times as fast as torch."""
Pictures = NDArray[np.uint8]
Fed = TypeVar("Fed")


def run(*, backbone: str, sizes: tuple[int, ...], rounds: int, threads: int) -> Report:
    """Measure every way that this machine has.

    Args:
        backbone: of the network.
        sizes: sides of the pictures, px.
        rounds: how often each is measured, after one that does not count.
        threads: of each; 0 takes all cores.
    """
    rows, values, missing = [], {}, {}
    for size in sizes:
        ways, absent = _ways(backbone, size, threads)
        missing |= absent
        pictures = [line_part(index, 0, 0.5, size=size).image[None] for index in range(PICTURES)]
        times = in_turns(ways, pictures, rounds, time.process_time)
        base = times[_BASELINE]
        for name, its in times.items():
            ratios = [reference / taken for reference, taken in zip(base, its, strict=True)]
            faster = median(base) / median(its)
            rows.append(
                (f"{name}, {size} px", f"{median(its):.1f}", f"{faster:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}")
            )
            values[f"{name}, {size} px"] = {"ms": list(its), "times_as_fast": faster}
    lines = [
        f"Buttonlab {backbone}, one picture at a time, {threads or 'all'} threads, "
        f"{rounds} rounds of {PICTURES} pictures",
        table(("uint8 in to mask out", "processor ms", "times as fast", "rounds"), rows),
        *(f"  {name}: not measured: {why}" for name, why in missing.items()),
    ]
    passed = all(values[f"{CPU_WAYS[0]}, {size} px"]["times_as_fast"] >= BOUND for size in sizes)
    lines.append(f"{CPU_WAYS[0]} at least {BOUND:g} times as fast as torch: {'pass' if passed else 'FAIL'}")
    found = {"backbone": backbone, "threads": threads, "engines": values, "bound": BOUND, "passed": passed}
    return Report("\n".join(lines), found, passed)


def _ways(backbone: str, size: int, threads: int) -> tuple[dict[str, Callable[[Pictures], object]], dict[str, str]]:
    """What takes a picture uint8 [1, H, W, 3], by name, and why some cannot be had."""
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)
    thresholds = np.full(1, 0.5, np.float32)
    card = ModelCard(
        name="benchmark",
        classes=("defect",),
        preprocess=Preprocess(height=size, width=size),
        thresholds=(0.5,),
        network={"architecture": "buttonlab", "backbone": backbone},
        provenance={},
    )
    inspector = Inspector(Buttonlab(backbone).eval(), card).eval()
    at = torch.from_numpy(thresholds)

    def in_torch(picture: Pictures) -> object:
        with torch.inference_mode():
            return inspector(torch.from_numpy(picture), at)

    model = to_onnx(inspector, card)
    ranges = np.stack([line_part(index, 1, 0.5, size=size).image for index in range(PICTURES)])
    graphs = {"fp32": model, "bf16": model, "int8": to_int8(model, ranges, thresholds)}
    found: dict[str, Callable[[Pictures], object]] = {_BASELINE: in_torch}
    absent: dict[str, str] = {}
    for way in CPU_WAYS:
        try:
            graph = open_graph(graphs[way.precision], way, threads=threads)
        except (MissingDependencyError, IncompatibleEngine) as error:
            absent[str(way)] = str(error)
            continue

        def in_graph(picture: Pictures, graph: Any = graph) -> object:  # noqa: ANN401
            return graph.run(dict(zip(INPUTS, (picture, thresholds), strict=True)))

        found[str(way)] = in_graph
    return found, absent


def in_turns(
    ways: Mapping[str, Callable[[Fed], object]], inputs: Sequence[Fed], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds a call of each way in each round; they take turns, and who begins changes.

    Args:
        ways: what is called, by name.
        inputs: what each is called with, one after the other.
        rounds: how many, after one that does not count.
        clock: seconds, `time.process_time` for those of the processor.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = itertools.cycle(ways)
    for number in range(rounds + 1):
        for name in itertools.islice(names, len(ways)):
            begun = clock()
            for fed in inputs:
                ways[name](fed)
            if number:
                times[name].append(1000 * (clock() - begun) / len(inputs))
        next(names)
    return times
