"""What archiving costs: the line, for each part that it hands over; the archive's process, for each that it writes."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import Archive as ArchiveSettings
from inspectd.defect import find_defects
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.archive import ArchiveProcess, ArchiveSender
from inspectd.runtime.archive.keeping import Keeper
from inspectd.wire import Origin, State, verdict_message

from .measure import Report, table

__all__ = ["run"]

SIZES = {"256 x 256 RGB": (256, 256, 3), "2448 x 2048 grey": (2048, 2448, 1), "2448 x 2048 RGB": (2048, 2448, 3)}
KEPT = 100_000
_CLASSES = ClassMap(("defect",))
_TOOK_TOO_LONG_S = 60.0


def run(*, rounds: int) -> Report:
    """Hand over and write parts of three sizes, and look through an archive of 100 000 parts.

    Args:
        rounds: parts of each size and format that count, after three that do not.
    """
    rows, values = [], {}
    for name, shape in SIZES.items():
        part = _part(shape)
        for form in ("png", "jpeg"):
            offered_ms, written_ms, size = _measure(part, form, rounds)
            rows.append(
                (
                    f"{name}, {form}",
                    f"{median(offered_ms):.2f}",
                    f"{max(offered_ms):.2f}",
                    f"{median(written_ms):.0f}",
                    f"{size / 1e6:.2f}",
                )
            )
            values[f"{name}, {form}"] = {"offer_ms": offered_ms, "write_ms": written_ms, "bytes": size}
    looked_s, longest_s, noted_ms = _look()
    values["look"] = {"parts": KEPT, "s": looked_s, "longest_step_s": longest_s, "note_ms": noted_ms}
    text = table(("a part", "offer ms", "worst", "write ms", "MB"), rows) + (
        f"\n  {KEPT} parts are looked through in {looked_s:.1f} s, at most {1e3 * longest_s:.0f} ms at a time; "
        f"with them the account of another costs {1e3 * noted_ms:.0f} us"
    )
    return Report(text, values, passed=True)


def _part(shape: tuple[int, int, int]) -> Inspection:
    """A part with a camera's noise, which is what costs a PNG its size."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 200, (8, 8, shape[2]), np.uint8)
    smooth = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC).reshape(shape).astype(np.int16)
    noisy = smooth + random.normal(0, 2, shape).astype(np.int16)
    labels: NDArray[np.uint8] = np.zeros(shape[:2], np.uint8)
    labels[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 1
    mask = Mask(labels, _CLASSES)
    frame = Frame("cam1", 1, np.clip(noisy, 0, 255).astype(np.uint8), acquired_ns=1)
    return Inspection(frame, Verdict.NG, find_defects(mask, labels * 200), mask, "0" * 64)


def _measure(part: Inspection, form: str, rounds: int) -> tuple[list[float], list[float], int]:
    """How long a part is handed over and until it lies on the disk, ms, and its bytes there."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ArchiveSettings.model_validate({"path": Path(folder) / "archive", "format": form})
        endpoint = f"ipc://{folder}/archive.sock"
        sender, process = ArchiveSender(endpoint, settings), ArchiveProcess(settings, endpoint)
        offered_ms, written_ms = [], []
        try:
            for seq in range(1, rounds + 4):
                origin = Origin(epoch=1, stream=0, seq=seq, state=State.CONTINUOUS_EXECUTION)
                verdict = verdict_message(part, origin, created_ns=time.time_ns())
                begun = time.perf_counter()
                sender.offer(part, verdict)
                offered = time.perf_counter()
                while sender.waiting and time.perf_counter() - begun < _TOOK_TOO_LONG_S:
                    time.sleep(0.0005)
                    sender.hear()
                offered_ms.append(1e3 * (offered - begun))
                written_ms.append(1e3 * (time.perf_counter() - begun))
        finally:
            sender.close()
            last = process.end()
        return offered_ms[3:], written_ms[3:], last.size_bytes // last.written if last and last.written else 0


def _look() -> tuple[float, float, float]:
    """Seconds to look through an archive, of the longest step, and ms to take note of a part with it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number in range(KEPT // 1000):
            folder = root / f"2026-{1 + number // 28:02}-{1 + number % 28:02}" / "cam1"
            folder.mkdir(parents=True)
            for seq in range(number * 1000, number * 1000 + 1000):
                for ending in (".json", ".png", ".mask.png"):
                    os.close(os.open(folder / f"1-{seq}{ending}", os.O_CREAT | os.O_WRONLY))
        keeper = Keeper(root, ArchiveSettings(keep_free_gib=0.0))
        steps, more = [], True
        while more:
            begun = time.perf_counter()
            more = keeper.step()
            steps.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in range(1000):
            keeper.stamp()
            keeper.lacks_room(1)
            keeper.step()
        return sum(steps), max(steps), time.perf_counter() - begun
