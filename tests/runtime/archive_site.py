"""Parts for an archive, and its process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import Archive as ArchiveSettings
from inspectd.defect import find_defects
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.archive import ArchiveProcess, ArchiveSender, Beat
from inspectd.runtime.archive.handover import Handover
from inspectd.runtime.archive.writing import encode, store
from inspectd.wire import Message, Origin, State, verdict_message

CLASSES = ClassMap(("scratch", "stain"))
DIGEST = "ab" * 32
DAY_NS = 86_400 * 10**9
NOON_NS = 20_783 * DAY_NS + DAY_NS // 2  # 2026-11-26


def noise(height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """A picture that shows every channel and row that is swapped."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def inspected(
    verdict: Verdict = Verdict.NG,
    *,
    camera: str = "cam1",
    pixels: NDArray[np.uint8] | None = None,
    frame_id: int = 1,
    source: str = "",
) -> Inspection:
    """A part with a scratch, unless it is OK or not inspected."""
    pixels = noise() if pixels is None else pixels
    frame = Frame(
        camera, frame_id, pixels, acquired_ns=1_800_000_000_000_000_000 + frame_id, source=source, serial="A1"
    )
    if verdict is Verdict.NOT_INSPECTED:
        return Inspection(frame, verdict, (), None, DIGEST, reason="the engine failed")
    labels = np.zeros(pixels.shape[:2], np.uint8)
    if verdict is not Verdict.OK:
        labels[frame.height // 4 : frame.height // 2, frame.width // 4 : frame.width // 2] = 1
        labels[0, -1] = 2
    mask = Mask(labels, CLASSES)
    return Inspection(frame, verdict, find_defects(mask, labels * 100), mask, DIGEST)


def message(inspection: Inspection, seq: int, *, epoch: int = 7, stream: int = 0) -> Message:
    """Its verdict message."""
    origin = Origin(epoch=epoch, stream=stream, seq=seq, state=State.CONTINUOUS_EXECUTION)
    return verdict_message(inspection, origin, created_ns=time.time_ns())


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about in time"
        time.sleep(0.02)


class ArchiveSite:
    """An archive's process, and a line that hands over to it. One at a time of each."""

    def __init__(self, tmp_path: Path, root: Path | None = None, **settings: object) -> None:
        self.root = tmp_path / "archive" if root is None else root
        self.settings = ArchiveSettings.model_validate({"path": self.root, "keep_free_gib": 0.0, **settings})
        self.endpoint = f"ipc://{tmp_path}/archive.sock"
        self.sender = ArchiveSender(self.endpoint, self.settings)
        self.process: ArchiveProcess | None = None
        self.beat = Beat()
        self._seq = itertools.count(1)

    def start(self) -> ArchiveProcess:
        """Start the process."""
        self.process = ArchiveProcess(self.settings, self.endpoint)
        return self.process

    def give(self, inspection: Inspection | None = None, *, epoch: int = 7) -> int | None:
        """Offer the next part; its seq, None if it was refused."""
        inspection = inspected() if inspection is None else inspection
        seq = next(self._seq)
        return seq if self.sender.offer(inspection, message(inspection, seq, epoch=epoch)) else None

    def settle(self) -> None:
        """Wait until all that was taken is written or refused."""

        def settled() -> bool:
            self.sender.hear()
            return not self.sender.waiting

        until(settled)

    def hear(self, condition: Callable[[Beat], object], timeout_s: float = 20.0) -> Beat:
        """Wait for a beat of which something is so."""

        def heard() -> bool:
            assert self.process is not None
            self.beat = self.process.hear(0.1) or self.beat
            return bool(condition(self.beat))

        until(heard, timeout_s)
        return self.beat

    def close(self) -> Beat:
        """Let the line and then the process end; the last beat."""
        self.sender.close()
        if self.process is not None:
            self.beat = self.process.end() or self.beat
        return self.beat

    @property
    def files(self) -> list[str]:
        """All files of the archive but the lock, relative to it."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.name != ".lock")


def decoded(path: Path) -> NDArray[np.uint8]:
    """The pixels of a file: RGB, or grey [H, W]."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


class Shelf:
    """An archive that is written to without a process."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.settings = ArchiveSettings.model_validate(settings)
        self.now_ns = NOON_NS
        root.mkdir()

    def put(self, inspection=None, *, seq=1, epoch=7, stream=0) -> Path:
        """Write a part; the path of its sidecar."""
        inspection = inspected() if inspection is None else inspection
        part = Handover(inspection.frame, message(inspection, seq, epoch=epoch, stream=stream), inspection.mask)
        stamp_ns = self.now_ns + seq
        folder, name, _ = store(self.root, encode(part, self.settings), now_ns=self.now_ns, stamp_ns=stamp_ns)
        return self.root / folder / f"{name}.json"
