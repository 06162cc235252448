"""Where the labels of simulated defects end, held against those of rendered ones.

A network learns from a simulated defect what its label says. Were the labels larger or smaller than what is painted, or
its edge softer than a real one's, it would learn other outlines. Rendered parts are there without their defects too, as
the good parts are that defects are painted on: so the change that a defect makes is known to the pixel for both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.buttons import render
from inspectd.dataset import open_dataset, read_image, read_labels
from inspectd.errors import DatasetError
from inspectd.resumable import PROVENANCE
from inspectd.simulation.placement import read_placements
from inspectd.simulation.simulate import PLACEMENTS

from .measure import Report, table

__all__ = ["run"]

Pixels, Label = NDArray[np.uint8], NDArray[np.bool_]
BANDS_PX = ((-2, -1), (-1, 0), (0, 1), (1, 2), (2, 3), (3, 5))
"""Distances from the label's outline; inside it they are negative."""


def run(*, simulated: Path, data: Path) -> Report:
    """Measure all simulated defects, and all of the data's own.

    Args:
        simulated: dataset of simulated defects.
        data: rendered buttons that they are painted on.

    Raises:
        DatasetError: they do not belong together, or `data` is not of `inspectd-train buttons`.
    """
    found: dict[tuple[str, str], list[tuple[float, list[float]]]] = defaultdict(list)
    for what, pictures in (("simulated", _simulated(simulated, data)), ("rendered", _rendered(data))):
        for defect, picture, without, label in pictures:
            found[defect, what].append(_profile(picture, without, label))
    rows, values = [], {}
    for defect, what in sorted(found):
        of = found[defect, what]
        inside = float(np.median([change for change, _ in of]))
        shares = [float(np.nanmedian(column)) for column in np.array([share for _, share in of]).T]
        values[f"{defect}, {what}"] = {"parts": len(of), "inside": inside, "shares": shares}
        rows.append((f"{defect}, {what} ({len(of)})", f"{inside:.0f}", *(f"{share:.2f}" for share in shares)))
    header = ("", "change inside, levels", *(f"{low} to {high} px" for low, high in BANDS_PX))
    text = "\n".join(
        [
            "medians over the parts: mean change inside the label, and the change by distance from its outline as a "
            "share of that",
            table(header, rows),
        ]
    )
    return Report(text, {"edges": values, "passed": True}, passed=True)


def _simulated(folder: Path, data: Path) -> Iterator[tuple[str, Pixels, Pixels, Label]]:
    """(defect, picture, the same without it, label) of each."""
    samples = {sample.image.stem: sample for sample in open_dataset(folder).select("simulated")}
    for place in read_placements(folder / PLACEMENTS):
        sample = samples.get(f"{place.sample:05d}-{place.defect}")
        if sample is None:
            raise DatasetError(
                f"{folder}: has no sample {place.sample}, a {place.defect}; finish it by the same command"
            )
        picture, without = read_image(sample.image), read_image(data / place.background)
        if picture.shape != without.shape:
            raise DatasetError(
                f"{sample.image}: is of another size than {data / place.background}; name its own --data"
            )
        yield place.defect, picture, without, read_labels(sample, None, picture.shape[:2]) > 0


def _rendered(data: Path) -> Iterator[tuple[str, Pixels, Pixels, Label]]:
    try:
        parts = json.loads((data / PROVENANCE).read_text())
        made = {part["image"]: (part["line"], part["defect"], int(part["seed"])) for part in parts["parts"]}
        size = int(parts["size_px"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f"{data}: is not of `inspectd-train buttons`, which keeps how each part was rendered"
        ) from error
    for name, (line, defect, seed) in made.items():
        if defect:
            part = render(line, defect, seed, size)
            if not np.array_equal(part.image, read_image(data / name)):
                raise DatasetError(f"{data / name}: is not what is rendered now; render the dataset again")
            yield defect, part.image, part.twin, part.mask > 0


def _profile(picture: Pixels, without: Pixels, label: Label) -> tuple[float, list[float]]:
    change = np.abs(picture.astype(np.float64) - without).mean(axis=2)
    inside = cv2.distanceTransform(label.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~label).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Distances are those of pixels' centres; the outline runs half a pixel from the outermost.
    at = np.where(label, 0.5 - inside, outside - 0.5)
    mean = float(change[label].mean())
    bands = [(at >= low) & (at < high) for low, high in BANDS_PX]
    return mean, [float(change[band].mean()) / mean if band.any() else float("nan") for band in bands]
