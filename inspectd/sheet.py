"""Contact sheets: many pictures on one, with labels and the outlines of their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import ROLES, Dataset, Sample, read_image, read_labels
from inspectd.preprocess import Letterbox

__all__ = ["Tile", "contact_sheet", "dataset_sheet"]

_PAPER, _INK, _OUTLINE = 250, 40, (255, 0, 0)
_CAPTION_PX = 18
_GAP_PX = 4


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: uint8 [H, W, 3] RGB or [H, W, 1] grey.
        caption: one line of ASCII under it, cut where the tile ends.
        mask: uint8 [H, W], outlined where it is above 0; None for none.
    """

    image: NDArray[np.uint8]
    caption: str = ""
    mask: NDArray[np.uint8] | None = None


def contact_sheet(tiles: Sequence[Tile], *, columns: int, side: int = 192) -> NDArray[np.uint8]:
    """The tiles in rows of `columns`, each fitted into `side` x `side` px: uint8 [H, W, 3] RGB.

    Raises:
        ValueError: no tiles, no columns, or a side below 16 px.
    """
    if not tiles or columns < 1 or side < 16:
        raise ValueError(f"cannot lay out {len(tiles)} tiles of {side} px in {columns} columns")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = side + _GAP_PX, side + _CAPTION_PX + _GAP_PX
    sheet = np.full((rows * step_y + _GAP_PX, columns * step_x + _GAP_PX, 3), _PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * step_y + _GAP_PX, column * step_x + _GAP_PX
        sheet[top : top + side, left : left + side] = _picture(tile, side)
        caption = np.full((_CAPTION_PX, side, 3), _PAPER, np.uint8)
        place = (2, _CAPTION_PX - 5)
        cv2.putText(caption, tile.caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (_INK,) * 3, 1, cv2.LINE_AA)
        sheet[top + side : top + side + _CAPTION_PX, left : left + side] = caption
    return sheet


def _picture(tile: Tile, side: int) -> NDArray[np.uint8]:
    image = np.repeat(tile.image, 3, axis=2) if tile.image.shape[2] == 1 else tile.image
    letterbox = Letterbox((image.shape[0], image.shape[1]), (side, side))
    shown = np.ascontiguousarray(letterbox.apply(image, fill=_PAPER)).copy()
    if tile.mask is not None:
        inside = letterbox.apply_mask(tile.mask)
        # The outline runs around the mask, so that a defect of a few pixels is not painted over.
        around = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > 0
        shown[around & (cv2.dilate(inside, np.ones((3, 3), np.uint8)) == 0)] = _OUTLINE
    return shown


def dataset_sheet(dataset: Dataset, *, per_role: int = 9, side: int = 192, bits: int = 16) -> NDArray[np.uint8]:
    """A row for each role with up to `per_role` of its samples: uint8 [H, W, 3] RGB.

    Good parts are evenly spaced over the role; of the others, every defect type has its turn. `bits` is what 16-bit
    files really use.

    Raises:
        DatasetError: an image or mask cannot be read.
        ValueError: the dataset is empty.
    """
    picked = [_picks(dataset.select(role), per_role) for role in ROLES]
    rows = [
        contact_sheet([_tile(sample, bits) for sample in row], columns=per_role, side=side) for row in picked if row
    ]
    if not rows:
        raise ValueError(f"{dataset.root}: no samples to show")
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_PAPER) for row in rows]
    )


def _picks(samples: Sequence[Sample], count: int) -> list[Sample]:
    by_defect: dict[str, list[Sample]] = {}
    for sample in samples:
        by_defect.setdefault(sample.defect, []).append(sample)
    if len(by_defect) > 1:
        in_turn = (sample for turn in zip_longest(*by_defect.values()) for sample in turn if sample is not None)
        return list(islice(in_turn, count))
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]


def _tile(sample: Sample, bits: int) -> Tile:
    image = read_image(sample.image, bits=bits)
    mask = read_labels(sample, None, (image.shape[0], image.shape[1])) if sample.masks else None
    return Tile(image, f"{sample.role}: {sample.defect or 'good'}", mask)
