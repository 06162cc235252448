"""What is painted on and from: good parts of the archive and the references of bundles, as a dataset."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inspectd import __version__
from inspectd.bundle import encode_png
from inspectd.dataset import SPLIT_FILE, Dataset, open_dataset
from inspectd.dataset_writing import Row, write_split
from inspectd.errors import DatasetError
from inspectd.inspection import Verdict
from inspectd.resumable import PROVENANCE
from inspectd.runtime.archive import Archive, Part

from .painting import PaintingBundle

__all__ = ["gather", "good_parts", "those_good"]

_log = logging.getLogger("inspectd.augment")


def good_parts(archive: Archive, *, channels: int, camera: str = "", without: Collection[str] = ()) -> Iterator[Part]:
    """The good parts of an archive, the latest first.

    Args:
        archive: of the station.
        channels: of the pictures that are wanted, 1 or 3.
        camera: only of this one; empty for all.
        without: sha256 of pictures that are left out, such as those in which somebody has marked a defect.
    """
    parts = archive.parts(camera=camera or None, verdict=Verdict.OK, newest_first=True)
    return those_good(parts, channels=channels, without=without)


def those_good(parts: Iterable[Part], *, channels: int, without: Collection[str] = ()) -> Iterator[Part]:
    """Parts in which nothing was found; those that cannot be read are told and passed over.

    OK alone is not enough: a rule may let small or few defects pass, and they would be taught as good surface.

    Args:
        parts: OK parts.
        channels: of the pictures that are wanted, 1 or 3.
        without: sha256 of pictures that are left out.
    """
    seen = set(without)
    for part in parts:
        # The same picture again, of a folder that goes round and round, shows nothing new.
        if part.sidecar.frame.channels != channels or part.sidecar.picture.sha256 in seen:
            continue
        try:
            mask = part.mask()
        except DatasetError as error:
            _log.warning("%s", error)
            continue
        if mask is not None and not mask.labels.any():
            seen.add(part.sidecar.picture.sha256)
            yield part


def gather(
    out: Path,
    archive: Archive,
    bundles: Sequence[PaintingBundle],
    *,
    frames: int,
    camera: str,
    without: Collection[str],
    step: Callable[[int], None],
) -> Dataset:
    """Write a dataset of good parts (role free) and references (role ref), or find the one that was written before.

    Args:
        out: its folder; what an attempt before has left there is taken away.
        archive: of the station.
        bundles: whose references are taken.
        frames: good parts at most, the latest.
        camera: only parts of this one; empty for all.
        without: sha256 of pictures that are left out.
        step: called with the number of parts that are there, after each.

    Raises:
        DatasetError: there is no good part.
        OSError: it cannot be written.
    """
    if (out / SPLIT_FILE).is_file():
        return open_dataset(out)
    shutil.rmtree(out, ignore_errors=True)
    rows: list[Row] = []
    facts: list[dict[str, Any]] = []
    for bundle in bundles:
        reference = bundle.reference
        image, mask = f"references/{reference.name}.png", f"references/{reference.name}.mask.png"
        _put(out / image, encode_png(reference.image[..., ::-1] if reference.image.shape[2] == 3 else reference.image))
        _put(out / mask, encode_png(reference.mask.astype(np.uint8) * 255))
        rows.append((image, mask, reference.defect, "ref", ""))
    channels = bundles[0].reference.image.shape[2]
    for part in good_parts(archive, channels=channels, camera=camera, without=without):
        try:
            data = part.picture()
        except DatasetError as error:
            _log.warning("%s", error)
            continue
        sidecar = part.sidecar
        name = f"{sidecar.camera}/{part.path.parent.parent.name}-{part.path.stem}{Path(sidecar.picture.name).suffix}"
        _put(out / name, data)
        rows.append((name, "", "", "free", ""))
        facts.append(
            {
                "image": f"free/{name}",
                "camera": sidecar.camera,
                "epoch": sidecar.epoch,
                "stream": sidecar.stream,
                "seq": sidecar.seq,
                "frame_id": sidecar.frame.frame_id,
                "acquired_ns": sidecar.frame.acquired_ns,
                "judged_by": sidecar.bundle_digest,
                "sha256": sidecar.picture.sha256,
                "lossless": sidecar.lossless,
                "simulated_camera": bool(sidecar.body.get("isSimulated")),
            }
        )
        step(len(facts))
        if len(facts) >= frames:
            break
    if not facts:
        raise DatasetError("the archive holds no good part of these")
    provenance = {"made_by": f"inspectd {__version__}, augment", "archive": archive.root.name, "frames": facts}
    _put(out / PROVENANCE, (json.dumps(provenance, indent=1) + "\n").encode())
    # Last, so that a folder with a split.csv is complete.
    write_split(out, rows)
    return open_dataset(out)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
