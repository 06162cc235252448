"""Networks that have learnt something already, wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from inspectd.bundle import MANIFEST, ModelCard, load_bundle

from .checkpoint import load_checkpoint
from .feed import Pictures
from .unfold import unfold

__all__ = ["is_bundle", "load_trained"]

_MEASURED = 64
"""Pictures that the statistics of a bundle's network are measured on."""


def is_bundle(path: Path) -> bool:
    """Whether a path names a bundle, sound or not, and no checkpoint."""
    return (path / MANIFEST).is_file() or path.suffix == ".zip"


def load_trained(path: Path, pictures: Callable[[ModelCard], Pictures]) -> tuple[nn.Module, ModelCard]:
    """The network and the card of a checkpoint or a bundle.

    Args:
        path: folder of a training, its checkpoint, or a bundle (folder or .zip).
        pictures: gives pictures for a card. On them batch normalisation is measured, which an export folds into
            the convolutions of a bundle; a checkpoint needs none.

    Raises:
        DatasetError: no such checkpoint, or a damaged one.
        BundleError: a damaged bundle, or one that cannot be unfolded.
    """
    if is_bundle(path):
        bundle = load_bundle(path)
        return unfold(bundle, pictures(bundle.card).spread(_MEASURED)), bundle.card
    checkpoint = load_checkpoint(path)
    return checkpoint.network, checkpoint.card
