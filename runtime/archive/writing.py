"""One part, from what the line handed over to its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.config import Archive as ArchiveSettings
from inspectd.durable import sync_folder
from inspectd.errors import ProtocolError
from inspectd.inspection import Verdict

from .files import make_folder, place, put
from .handover import Handover
from .layout import SIDECAR, FrameFacts, PartName, Sidecar, StoredFile

__all__ = ["Encoded", "encode", "store"]

JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A part whose files are ready to be written.

    Attributes:
        part: what was handed over.
        files: contents by their endings; the picture first.
        lossless: whether the picture gives back the frame's very pixels.
    """

    part: Handover
    files: dict[str, bytes]
    lossless: bool

    @property
    def size(self) -> int:
        """Bytes of its files; the sidecar, of some kB, is guessed."""
        return sum(map(len, self.files.values())) + 4096


def encode(part: Handover, settings: ArchiveSettings) -> Encoded:
    """Code the picture and the mask.

    Raises:
        ProtocolError: they cannot be coded, or the verdict says nothing of a part.
    """
    if part.verdict.header.verdict not in Verdict.__members__.values():
        raise ProtocolError(f"archive: {part.verdict.topic}: expected the verdict on a part, got none")
    ending = ".png" if settings.format == "png" else ".jpg"
    pixels = part.frame.pixels
    files = {ending: _coded(ending, pixels)}
    if part.mask is not None:
        files[".mask.png"] = _coded(".png", part.mask.labels)
    if settings.overlays:
        # The module that shows what a line publishes; it brings a terminal's things with it.
        from inspectd.runtime.watch import overlay

        coloured = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        if (painted := overlay(part.mask, coloured)) is not None:
            files[".overlay.png"] = _coded(".png", painted)
    return Encoded(part, files, lossless=ending == ".png")


def store(root: Path, encoded: Encoded, *, now_ns: int, stamp_ns: int) -> tuple[str, PartName, int]:
    """Write a part: pictures first, its sidecar last. What is there after a failure is no part, and none is replaced.

    Args:
        root: the archive; it has to be there.
        encoded: the part.
        now_ns: the clock, UTC; gives the day.
        stamp_ns: the time of change that the sidecar gets, which gives the order.

    Returns:
        The folder within the archive, the part's name, and its size in bytes.

    Raises:
        OSError: it cannot be written.
        ProtocolError: the verdict is none of a part.
    """
    header = encoded.part.verdict.header
    day = datetime.fromtimestamp(now_ns / 1e9, timezone.utc).strftime("%Y-%m-%d")
    folder = root / day / encoded.part.frame.camera
    make_folder(folder, stop=root)
    name = PartName(header.epoch, header.seq)
    while (folder / f"{name}{SIDECAR}").exists():
        name = replace(name, again=name.again + 1)
    try:
        sidecar = _sidecar(encoded, name, stamp_ns)
    except ValueError as error:
        raise ProtocolError(f"archive: {encoded.part.verdict.topic}: it is no verdict on a part: {error}") from error
    written: list[Path] = []
    try:
        for ending, data in encoded.files.items():
            written.append(put(folder / f"{name}{ending}", data))
        for at, partial in enumerate(written):
            written[at] = place(partial)
        # The sidecar must not outlive in a power cut what it tells of.
        sync_folder(folder)
        written.append(put(folder / f"{name}{SIDECAR}", sidecar, stamp_ns=stamp_ns))
        written[-1] = place(written[-1])
        sync_folder(folder)
    except BaseException:
        for path in reversed(written):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    return f"{day}/{encoded.part.frame.camera}", name, sum(map(len, encoded.files.values())) + len(sidecar)


def _sidecar(encoded: Encoded, name: PartName, stamp_ns: int) -> bytes:
    part = encoded.part
    header, frame = part.verdict.header, part.frame
    body = json.loads(part.verdict.body)
    kept = {
        ending: StoredFile(name=f"{name}{ending}", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for ending, data in encoded.files.items()
    }
    sidecar = Sidecar(
        camera=frame.camera,
        verdict=Verdict(header.verdict).name,
        epoch=header.epoch,
        stream=header.stream,
        seq=header.seq,
        bundle_digest=str(body.get("modelDigest", "")),
        archived_ns=stamp_ns,
        frame=FrameFacts(
            frame_id=frame.frame_id,
            acquired_ns=frame.acquired_ns,
            trigger_id=frame.trigger_id,
            # A file name need not be text; it must not cost the part.
            source=frame.source.encode("utf-8", "replace").decode("utf-8"),
            camera_clock=frame.camera_clock,
            serial=frame.serial,
            height=frame.height,
            width=frame.width,
            channels=3 if frame.pixels.shape[2] == 3 else 1,
        ),
        header={field: int(value) for field, value in asdict(header).items()},
        body=body,
        lossless=encoded.lossless,
        classes=None if part.mask is None else part.mask.classes.names,
        picture=next(iter(kept.values())),
        mask=kept.get(".mask.png"),
        overlay=kept.get(".overlay.png"),
    )
    return sidecar.model_dump_json(indent=1).encode("utf-8") + b"\n"


def _coded(ending: str, pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 1 or 3] (RGB) or a mask [H, W]."""
    how = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if ending == ".jpg" else []
    try:
        # OpenCV takes BGR.
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
        done, data = cv2.imencode(ending, pixels, how)
    except cv2.error as error:
        raise ProtocolError(f"archive: a picture of {list(pixels.shape)} cannot be coded: {error.err}") from error
    if not done:
        raise ProtocolError(f"archive: a picture of {list(pixels.shape)} cannot be coded as {ending}")
    return data.tobytes()
