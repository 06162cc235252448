"""A large picture judged whole, and in tiles that overlap: processor time, memory, and what differs at the joins.

Buttonlab has no layer that sees the whole picture at once (no ASPP, no pooling over it): what it says of a pixel
hangs on pixels within its reach alone. Tiles with a margin of that reach give what the whole picture gives; smaller
margins give it nearly. The wider the margin, the more is worked out twice.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inspectd.bundle import load_bundle
from inspectd.buttons import line_part
from inspectd.training.segmentation.feed import normalise
from inspectd.training.segmentation.unfold import unfold

from .measure import Report, table

__all__ = ["run"]

ROWS, COLUMNS = 8, 9
MARGINS = (0, 32, 64, 128, 256)
"""Pixels that a tile sees beyond what it decides on, on each side."""
BOUND = 1e-3
"""Highest difference of a probability with the widest margin, which is beyond the network's reach."""


def run(*, bundle_path: Path, rounds: int, side: int) -> Report:
    """Measure each way in a process of its own, for its memory.

    Args:
        bundle_path: the network.
        rounds: how often each is measured, after one that does not count.
        side: of a tile, and of the parts that the picture is put together of, px.
    """
    ways: dict[str, int | None] = {"whole": None, **{f"tiles, margin {margin} px": margin for margin in MARGINS}}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder:
        for name, margin in ways.items():
            file = Path(folder) / "defect.npy"
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                times, peak_mb = pool.apply(_measure, (bundle_path, side, margin, rounds, file))
            found[name] = {"s": times, "peak_mb": peak_mb, "defect": np.load(file)}
    whole = found["whole"].pop("defect")
    rows, values = [], {}
    for name, its in found.items():
        defect = its.pop("defect", whole)
        off = float(np.abs(defect - whole).max())
        other = int(((defect >= 0.5) != (whole >= 0.5)).sum())
        ratio = median(its["s"]) / median(found["whole"]["s"])
        rows.append(
            (name, f"{median(its['s']):.2f}", f"{ratio:.2f}", f"{its['peak_mb']:.0f}", f"{off:.3f}", f"{other}")
        )
        values[name] = {**its, "ratio": ratio, "largest_difference": off, "pixels_otherwise": other}
    marked = int((whole >= 0.5).sum())
    height, width = ROWS * side, COLUMNS * side
    lines = [
        f"{bundle_path.name}, {height} x {width} px, tiles that decide on {side} x {side} px, one thread, torch fp32; "
        f"the whole picture marks {marked} px",
        table(
            ("", "processor s", "of whole", "MB", "probability off by", "px decided otherwise"),
            rows,
        ),
    ]
    passed = values[f"tiles, margin {MARGINS[-1]} px"]["largest_difference"] <= BOUND
    lines.append(f"with {MARGINS[-1]} px the same to {BOUND:g}: {'pass' if passed else 'FAIL'}")
    return Report("\n".join(lines), {"ways": values, "marked_px": marked, "passed": passed}, passed)


def _measure(bundle_path: Path, side: int, margin: int | None, rounds: int, file: Path) -> tuple[list[float], float]:
    """Seconds of each round, and the most memory that the process had beyond what it began with, MB."""
    torch.set_num_threads(1)
    bundle = load_bundle(bundle_path)
    parts = [line_part(index, 0, 0.5, size=side).image for index in range(ROWS * COLUMNS)]
    network = unfold(bundle, np.stack(parts[:8])).eval().to(memory_format=torch.channels_last)
    picture = np.concatenate([np.concatenate(parts[row * COLUMNS :][:COLUMNS], axis=1) for row in range(ROWS)])
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten: it was the making of the network
    before_kb = _memory_kb("VmRSS")
    times = []
    for _ in range(rounds + 1):
        started = time.process_time()
        with torch.inference_mode():
            images = normalise(torch.from_numpy(picture).permute(2, 0, 1)[None], bundle.card.preprocess)
            defect = _whole(network, images) if margin is None else _tiled(network, images, side, margin)
        times.append(time.process_time() - started)
    np.save(file, defect.numpy())
    return times[1:], (_memory_kb("VmHWM") - before_kb) / 1024


def _memory_kb(name: str) -> int:
    """A figure of this process, as proc(5) calls it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _whole(network: nn.Module, images: Tensor) -> Tensor:
    """Probability of a defect: float32 [1, 3, H, W] -> [H, W]."""
    logits: Tensor = network(images.contiguous(memory_format=torch.channels_last))
    return 1 - torch.softmax(logits, dim=1)[0, 0]


def _tiled(network: nn.Module, images: Tensor, side: int, margin: int) -> Tensor:
    """The same, from tiles: each with its margin, as far as the picture goes."""
    height, width = images.shape[-2:]
    out = torch.empty(height, width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            y0, x0 = max(0, top - margin), max(0, left - margin)
            window = images[..., y0 : top + side + margin, x0 : left + side + margin]
            defect = _whole(network, window)
            out[top : top + side, left : left + side] = defect[top - y0 :, left - x0 :][:side, :side]
    return out
