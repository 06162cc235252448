"""What paints defects on a processor, uint8 in to uint8 out: torch, ONNX Runtime and OpenVINO in turns.

A picture costs the window around its defect: 64 px by default, whatever its own size. Windows of other sizes are those
of bundles made by `export-trt --size`. Weights are random, which changes no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspectd.bundle import ModelCard
from inspectd.cpu import CPU_WAYS, TABLES, open_graph
from inspectd.errors import IncompatibleEngine, MissingDependencyError
from inspectd.export.painter import Painter, painter_to_onnx
from inspectd.preprocess import Preprocess
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.transfernet import TransferNet

from .engines import in_turns
from .measure import Report, table

__all__ = ["BOUND", "run"]

BATCH = 8
BOUND = 20.0
"""Windows a second of the default size by the engine that a station has by default."""
_BASELINE = "torch fp32"
Windows = Mapping[str, NDArray[np.uint8]]


def run(*, sizes: tuple[int, ...], rounds: int, threads: int) -> Report:
    """Measure every way that this machine has.

    Args:
        sizes: sides of the windows, px; the bound is for the first.
        rounds: how often each is measured, after one that does not count.
        threads: of each; 0 takes all cores.
    """
    settings = DstSettings()
    rows, values, missing = [], {}, {}
    for size in sizes:
        ways, absent = _ways(settings, size, threads)
        missing |= absent
        rng = np.random.default_rng(0)
        shapes = {"beneath": (BATCH, size, size, 3), "coarse": (BATCH, size, size, 3), "mask": (BATCH, size, size)}
        windows = {
            name: rng.integers(0, 2 if name == "mask" else 256, shape, np.uint8) for name, shape in shapes.items()
        }
        times = in_turns(ways, [windows] * (2 if size < 128 else 1), rounds, time.perf_counter)
        for name, its in times.items():
            a_second = 1000 * BATCH / median(its)
            faster = median(times[_BASELINE]) / median(its)
            lowest, highest = (1000 * BATCH / edge for edge in (max(its), min(its)))
            rows.append((f"{name}, {size} px", f"{a_second:.1f}", f"{lowest:.1f} to {highest:.1f}", f"{faster:.2f}"))
            values[f"{name}, {size} px"] = {"ms": list(its), "windows_a_second": a_second, "times_as_fast": faster}
    first = values[f"{CPU_WAYS[0]}, {sizes[0]} px"]["windows_a_second"]
    passed = first >= BOUND
    lines = [
        f"TransferNet of {settings.channels} channels, batches of {BATCH}, {threads or 'all'} threads, {rounds} rounds",
        table(("uint8 in to uint8 out", "windows a second", "rounds", "times as fast"), rows),
        *(f"  {name}: not measured: {why}" for name, why in missing.items()),
        f"{CPU_WAYS[0]} at {sizes[0]} px at least {BOUND:g} windows a second: {'pass' if passed else 'FAIL'}",
    ]
    found = {"threads": threads, "batch": BATCH, "painters": values, "bound": BOUND, "passed": passed}
    return Report("\n".join(lines), found, passed)


def _ways(
    settings: DstSettings, size: int, threads: int
) -> tuple[dict[str, Callable[[Windows], object]], dict[str, str]]:
    """What takes windows, by name, and why some cannot be had."""
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)
    card = ModelCard(
        kind="dst",
        name="benchmark",
        classes=("defect",),
        preprocess=Preprocess(height=size, width=size),
        thresholds=(0.5,),
        network={"architecture": "transfernet"},
        provenance={},
    )
    network = TransferNet(settings.channels, settings.head, settings.blocks)
    painter = Painter(network, settings.sigma_px).eval()

    def in_torch(windows: Windows) -> object:
        with torch.inference_mode():
            return painter(*(torch.from_numpy(array) for array in windows.values()))

    model = painter_to_onnx(painter, card)
    found: dict[str, Callable[[Windows], object]] = {_BASELINE: in_torch}
    absent: dict[str, str] = {}
    for way in CPU_WAYS:
        if way.precision == "int8":
            continue
        try:
            graph = open_graph(model, way, threads=threads, table=TABLES["dst"])
        except (MissingDependencyError, IncompatibleEngine) as error:
            absent[str(way)] = str(error)
            continue

        def in_graph(windows: Windows, graph: Any = graph) -> object:  # noqa: ANN401
            return graph.run(windows)

        found[str(way)] = in_graph
    return found, absent
