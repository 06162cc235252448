"""A trained network's errors on pictures that it may be trained on next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inspectd.bundle import ModelCard
from inspectd.dataset import open_dataset
from inspectd.preprocess import Preprocess

from .feed import Pictures, normalise
from .hard import HardExample, HardExamples, find_hard, write_hard
from .settings import SegmentSettings
from .trained import load_trained

__all__ = ["mine", "mine_dataset"]

_BATCH = 8


def mine_dataset(
    network: Path,
    data: Path,
    out: Path,
    *,
    roles: tuple[str, ...],
    bits: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> HardExamples:
    """Judge the training pictures of a dataset by a trained network, and write the file.

    Args:
        network: a checkpoint, the folder of a training, or a bundle.
        data: folder of the dataset.
        out: the file to write.
        roles: roles that will be trained on.
        bits: that 16-bit files really use.
        progress: called with (pictures done, pictures in all).

    Raises:
        DatasetError: no network, no pictures, or one that cannot be read.
        BundleError: a damaged bundle.
        ConfigError: the file cannot be written.
    """
    samples = open_dataset(data).select(*roles)

    def pictures(card: ModelCard) -> Pictures:
        preprocess = card.preprocess
        settings = SegmentSettings(height=preprocess.height, width=preprocess.width, roles=roles, bits=bits)
        return Pictures(samples, None, preprocess, settings)

    trained, card = load_trained(network, pictures)
    examples = mine(trained, pictures(card), card.preprocess, name=network.resolve().name, progress=progress)
    write_hard(out, examples)
    return examples


@torch.inference_mode()
def mine(
    network: nn.Module,
    pictures: Pictures,
    preprocess: Preprocess,
    *,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> HardExamples:
    """Judge training pictures, as they are, by a trained network.

    Args:
        network: gives logits; it is put into evaluation mode.
        pictures: the training pictures.
        preprocess: the network's.
        name: what the file calls the network.
        progress: called with (pictures done, pictures in all).

    Raises:
        DatasetError: a picture that cannot be read.
    """
    network = network.eval().to(memory_format=torch.channels_last)
    found: list[HardExample] = []
    for start in range(0, len(pictures), _BATCH):
        pairs = [pictures.photograph(index) for index in range(start, min(start + _BATCH, len(pictures)))]
        images = torch.from_numpy(np.stack([preprocess.image(pixels) for pixels, _ in pairs])).permute(0, 3, 1, 2)
        normalised = normalise(images, preprocess).expand(-1, 3, -1, -1)
        logits = network(normalised.contiguous(memory_format=torch.channels_last)).float()
        likeliest = torch.softmax(logits, dim=1)[:, 1:].amax(dim=1).numpy()  # [N, H, W]
        for offset, ((_, labels), probability) in enumerate(zip(pairs, likeliest, strict=True)):
            letterbox = preprocess.letterbox(labels.shape)
            # What is marked in the margins of the letterbox is no part of any verdict.
            inside = letterbox.apply_mask(np.ones(labels.shape, np.uint8))
            hardness, row, column = find_hard(probability * inside, letterbox.apply_mask(labels))
            sample = pictures.samples[start + offset]
            found.append(HardExample(image=sample.name, hardness=round(hardness, 6), row=row, column=column))
        if progress is not None:
            progress(len(found), len(pictures))
    return HardExamples(height=preprocess.height, width=preprocess.width, network=name, pictures=tuple(found))
