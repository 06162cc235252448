"""The pictures of some roles as a folder of their own: what a folder camera, or a person, can be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from inspectd.dataset import open_dataset
from inspectd.dataset_writing import require_new, take
from inspectd.errors import DatasetError

__all__ = ["select"]


def select(
    data: Path,
    roles: Sequence[str],
    out: Path,
    *,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Take the pictures of some roles over into a folder, under the names that they have in the dataset.

    Args:
        data: folder of the dataset.
        roles: whose pictures.
        out: folder to write; it must not exist, or be empty.
        link: hard links to the pictures where possible, instead of copies.
        progress: called with (pictures done, pictures in all).

    Returns:
        How many there are.

    Raises:
        DatasetError: no dataset, no such role, no picture of it, or a folder that is in use.
    """
    dataset = open_dataset(data)
    samples = dataset.select(*roles)
    if not samples:
        raise DatasetError(f"{data}: holds no picture of the roles {', '.join(roles)}, only {dataset.summary}")
    require_new(out)
    for done, sample in enumerate(samples, start=1):
        take(sample.image, out / sample.name, link=link)
        if progress is not None:
            progress(done, len(samples))
    return len(samples)
