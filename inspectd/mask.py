"""Class masks: what they mean, and how they are stored as runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassMap", "Mask", "from_runs", "to_runs"]


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The defect classes of a product, in the order of their labels.

    Label 0 is the good surface and has no name here; `names[0]` is label 1.

    Raises:
        ValueError: no class, more than 254, or names that are empty or occur twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not 1 <= len(self.names) <= 254:
            raise ValueError(f"expected 1 to 254 defect classes, got {len(self.names)}")
        if any(not name or name != name.strip() for name in self.names):
            raise ValueError(f"class names must be non-empty and without outer spaces: {list(self.names)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names occur twice: {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def name(self, label: int) -> str:
        """The class of a label from 1 on."""
        if not 1 <= label <= len(self.names):
            raise ValueError(f"label {label} is not one of 1..{len(self.names)}")
        return self.names[label - 1]

    def label(self, name: str) -> int:
        """The label of a class, from 1 on."""
        try:
            return self.names.index(name) + 1
        except ValueError:
            raise ValueError(f"class {name!r} is not one of {list(self.names)}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A class for each pixel.

    Attributes:
        labels: uint8 [H, W]; 0 is good, k is `classes.names[k - 1]`.
        classes: the meaning of the labels.

    Raises:
        ValueError: another type or shape, or a label without a class.
    """

    labels: NDArray[np.uint8]
    classes: ClassMap

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.dtype != np.uint8 or labels.ndim != 2 or 0 in labels.shape:
            raise ValueError(f"expected a mask of uint8 [H, W], got {labels.dtype} {list(labels.shape)}")
        if (highest := int(labels.max())) > len(self.classes):
            raise ValueError(f"mask holds label {highest}, but there are {len(self.classes)} classes")


def to_runs(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Run-length code of a mask, row-major: lengths uint32 [n] and labels uint8 [n]; neighbours differ."""
    flat = np.ascontiguousarray(labels).reshape(-1)
    if flat.size == 0:
        raise ValueError("an empty mask has no runs")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size).astype(np.uint32)
    return lengths, flat[starts]


def from_runs(lengths: NDArray[np.uint32], labels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The mask uint8 [height, width] of a run-length code.

    Raises:
        ValueError: the runs do not sum to height x width, or lengths and labels differ in number.
    """
    if lengths.shape != labels.shape or lengths.ndim != 1:
        raise ValueError(f"{lengths.shape} run lengths for {labels.shape} run labels")
    if int(lengths.sum(dtype=np.uint64)) != height * width:
        raise ValueError(f"runs sum to {int(lengths.sum(dtype=np.uint64))} pixels, expected {height} x {width}")
    return np.repeat(labels, lengths).reshape(height, width)
