"""Hard examples: which training pictures a network judges worst, and where, for the next training to look there.

Bootstrapping, as Sung and Poggio, "Example-based learning for view-based human face detection" (1998), took false
detections back into the training set. `inspectd-train mine` writes the file (`mining`), `segment --hard` reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inspectd.bundle import explain
from inspectd.errors import DatasetError
from inspectd.training.files import written_whole

__all__ = ["NEAR_PX", "HardExample", "HardExamples", "find_hard", "read_hard", "write_hard"]

NEAR_PX = 3
"""A mark this near to a label is the same defect drawn a little larger, and no false one."""


class HardExample(BaseModel):
    """How wrong a network is about one picture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: str
    """Name of the picture in its dataset."""
    hardness: float = Field(ge=0, le=1)
    """The worst error that changes a verdict: the highest probability of a defect away from every label, or what the
    likeliest pixel of a labelled region lacks to 1; whichever is larger."""
    row: int = Field(ge=0)
    """Where that is, px of the network's picture."""
    column: int = Field(ge=0)
    """Where that is, px of the network's picture."""


class HardExamples(BaseModel):
    """The file of `inspectd-train mine`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int
    """Rows of the network's pictures, px."""
    width: int
    """Columns of the network's pictures, px."""
    network: str
    """What judged them."""
    pictures: tuple[HardExample, ...]


def find_hard(probability: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[float, int, int]:
    """The worst error of a prediction that changes a verdict, and its row and column.

    Args:
        probability: of the likeliest defect class, [H, W], 0..1.
        labels: [H, W], 0 where the surface is good.
    """
    size = 2 * NEAR_PX + 1
    far = cv2.dilate(labels, np.ones((size, size), np.uint8)) == 0
    marked = np.where(far, probability, 0.0)
    place = int(marked.argmax())
    worst = float(marked.flat[place])
    count, regions = cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=8)
    for region in range(1, count):
        pixels = np.flatnonzero(regions == region)
        lacking = 1.0 - float(probability.flat[pixels].max())
        if lacking > worst:
            worst, place = lacking, int(pixels[pixels.size // 2])
    row, column = divmod(place, labels.shape[1])
    return worst, row, column


def write_hard(path: Path, examples: HardExamples) -> None:
    """Write the file whole or not at all, the hardest picture first."""
    ordered = sorted(examples.pictures, key=lambda example: (-example.hardness, example.image))
    with written_whole(path) as draft:
        draft.write_text(examples.model_copy(update={"pictures": tuple(ordered)}).model_dump_json(indent=1) + "\n")


def read_hard(
    path: Path, names: Sequence[str], size: tuple[int, int]
) -> tuple[tuple[HardExample, ...], dict[str, str]]:
    """The examples of the pictures `names`, in that order, and what a card says of the file: network and digest.

    Args:
        path: a file of `write_hard`.
        names: names of the training pictures.
        size: (height, width) of the network that is trained, px.

    Raises:
        DatasetError: no such file, another content, another size, or a picture that it does not hold.
    """
    try:
        data = path.read_bytes()
        examples = HardExamples.model_validate_json(data)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise DatasetError(f"{path}: is not what `inspectd-train mine` writes: {explain(error)}") from error
    if (examples.height, examples.width) != tuple(size):
        raise DatasetError(
            f"{path}: is for pictures of {examples.height}x{examples.width} px, this training takes "
            f"{size[0]}x{size[1]}; run `inspectd-train mine` with a network of that size"
        )
    by_name = {example.image: example for example in examples.pictures}
    if unknown := [name for name in names if name not in by_name]:
        raise DatasetError(
            f"{path}: lacks {len(unknown)} of the {len(names)} training pictures, {unknown[0]} for one; "
            "run `inspectd-train mine` over the same dataset and roles"
        )
    if outside := [e for e in examples.pictures if e.row >= examples.height or e.column >= examples.width]:
        raise DatasetError(f"{path}: {outside[0].image}: row {outside[0].row}, column {outside[0].column} is outside")
    source = {"network": examples.network, "sha256": hashlib.sha256(data).hexdigest()}
    return tuple(by_name[name] for name in names), source
