"""Datasets of rendered buttons: the paper's protocol, and the one of the shipped model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from inspectd import __version__
from inspectd.buttons import DEFECTS, LINES, render
from inspectd.dataset import Dataset, open_dataset
from inspectd.dataset_writing import Row, write_png, write_split
from inspectd.errors import DatasetError
from inspectd.resumable import claim, in_processes, is_whole
from inspectd.sheet import dataset_sheet

__all__ = ["PROTOCOLS", "Part", "plan", "write_buttons"]

PROTOCOLS = ("paper", "demo")

# Images by role. Roles with defects go through the defect types in turn.
_PAPER = {"ref": len(DEFECTS), "free": 238, "extra": 150, "test": 78, "ok_test": 200, "ok_calibration": 200}
_DEMO_UNSEEN = {"test": 300, "ok_test": 300, "ok_calibration": 300}
_WITH_DEFECTS = ("ref", "extra", "test")

# Every role draws its seeds from a block of its own, and the blocks do not depend on the number of images: no
# part of a test set is ever trained on, whichever protocol and size the training set was written with.
_BLOCK = 100_000
_BLOCK_ORDER = ("ref", "free", "extra", "test", "ok_test", "ok_calibration")

_SHEET = "contact-sheet.png"


@dataclass(frozen=True, slots=True)
class Part:
    """One button to render; `defect` is empty for a good one, `image` and `mask` are paths in the dataset."""

    role: str
    line: str
    defect: str
    seed: int
    image: str
    mask: str


def plan(protocol: str, *, seed: int = 0, lines: str | None = None, train: int = 600) -> tuple[Part, ...]:
    """The parts of a protocol, in the order of split.csv.

    Args:
        protocol: "paper" or "demo" (see `write_buttons`).
        seed: of the whole dataset, 0 or above; two seeds share no part.
        lines: one product line, or "all" to go through them in turn; None is the first line for `paper`, all
            for `demo`.
        train: training images with defects, and as many without, of the protocol `demo`.

    Raises:
        DatasetError: an unknown protocol or line, a negative seed, or too many or no training images.
    """
    if protocol not in PROTOCOLS:
        raise DatasetError(f"unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    if lines not in (None, "all", *LINES):
        raise DatasetError(f"unknown product line {lines!r}; expected all or one of {', '.join(LINES)}")
    if seed < 0:
        raise DatasetError(f"the seed is {seed}; expected 0 or above")
    if not 1 <= train <= _BLOCK:
        raise DatasetError(f"{train} training images; expected 1 to {_BLOCK}")
    counts = _PAPER if protocol == "paper" else {"free": train, "extra": train, **_DEMO_UNSEEN}
    chosen = LINES if lines == "all" or (lines is None and protocol == "demo") else (lines or LINES[0],)
    base = (seed * len(PROTOCOLS) + PROTOCOLS.index(protocol)) * len(_BLOCK_ORDER)
    return tuple(
        part
        for role, count in counts.items()
        for part in _role_parts(role, count, chosen, (base + _BLOCK_ORDER.index(role)) * _BLOCK)
    )


def _role_parts(role: str, count: int, lines: tuple[str, ...], first_seed: int) -> Iterator[Part]:
    for index in range(count):
        name = f"{role}-{index:05}"
        if role in _WITH_DEFECTS:
            turn, kind = divmod(index, len(DEFECTS))
            defect = DEFECTS[kind]
            # Shifted by one each turn, so that every defect meets every line.
            line = lines[(kind + turn) % len(lines)]
            name = f"{name}-{defect}"
            yield Part(role, line, defect, first_seed + index, f"images/{name}.png", f"masks/{name}.png")
        else:
            yield Part(role, lines[index % len(lines)], "", first_seed + index, f"images/{name}.png", "")


def write_buttons(
    out: Path,
    *,
    protocol: str = "paper",
    size: int = 256,
    seed: int = 0,
    lines: str | None = None,
    train: int = 600,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Write a dataset of rendered buttons: images, masks, split.csv, provenance.json and contact-sheet.png.

    `paper` has the numbers of the paper's experiments: 9 reference defects (one a type), 238 defect-free,
    150 further and 78 test defects, and 200 defect-free images each for calibration and test. `demo` has all
    lines, `train` images with and `train` without defects, and 300 each of test defects and of both defect-free
    sets. No seed occurs in two roles.

    A run that was interrupted is continued: whole files are kept where provenance.json asks for the same
    parts from the same renderer.

    Args:
        out: folder to write; new, empty, or one that this function began with the same arguments.
        protocol: "paper" or "demo".
        size: side of the images, px.
        seed: of the whole dataset.
        lines: see `plan`.
        train: see `plan`.
        workers: processes to render in; None is one a core, 1 renders in this one.
        progress: called with (parts done, parts in all), first with what an earlier run left.

    Raises:
        ConfigError: a size that the renderer refuses.
        DatasetError: what `plan` refuses, or `out` holds something else.
    """
    parts = plan(protocol, seed=seed, lines=lines, train=train)
    claim(out, _provenance(protocol, size, seed, parts), "rendered buttons")
    pending = [part for part in parts if not _whole(out, part, size)]
    done = len(parts) - len(pending)
    if progress is not None:
        progress(done, len(parts))
    jobs = [(out, part, size) for part in pending]
    with in_processes(_write_part, jobs, workers or os.cpu_count() or 1, _one_thread, out=out) as rendered:
        for _ in rendered:
            done += 1
            if progress is not None:
                progress(done, len(parts))
    # Last, so that a folder with a split.csv is complete.
    rows: list[Row] = [(part.image, part.mask, part.defect, part.role, "") for part in parts]
    write_split(out, rows)
    dataset = open_dataset(out)
    write_png(out / _SHEET, dataset_sheet(dataset, per_role=len(DEFECTS)))
    return dataset


def _provenance(protocol: str, size: int, seed: int, parts: Iterable[Part]) -> dict[str, Any]:
    """What the dataset is made from; the renderer is known by the picture of one part."""
    probe = render(LINES[0], DEFECTS[0], 0, size)
    return {
        "made_by": f"inspectd {__version__}, inspectd-train buttons",
        "protocol": protocol,
        "size_px": size,
        "seed": seed,
        "renderer_sha256": hashlib.sha256(probe.image.tobytes() + probe.mask.tobytes()).hexdigest(),
        "parts": [{"image": part.image, "line": part.line, "defect": part.defect, "seed": part.seed} for part in parts],
    }


def _whole(out: Path, part: Part, size: int) -> bool:
    return is_whole(out / part.image, [out / part.mask] if part.mask else [], (size, size))


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _write_part(job: tuple[Path, Part, int]) -> None:
    out, part, size = job
    rendered = render(part.line, part.defect or None, part.seed, size)
    write_png(out / part.image, rendered.image)
    if part.mask:
        write_png(out / part.mask, rendered.mask * 255)
