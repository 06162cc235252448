"""Pictures to calibrate from: read whole or refused, all of one size and type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import InputFile
from inspectd.errors import ConfigError
from inspectd.picture import IMAGE_SUFFIXES, decode_pixels

from .record import read_source

__all__ = ["Photograph", "known_channels", "list_pictures", "read_pictures", "same_size"]


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture that was read.

    Attributes:
        pixels: uint8 [H, W, 3] RGB or [H, W, 1] grey.
        entry: what a record says of its file.
    """

    pixels: NDArray[np.uint8]
    entry: InputFile

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), px."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


def list_pictures(place: Path) -> list[Path]:
    """The pictures of a folder, or the one that is named, in the order of their names.

    Raises:
        ConfigError: there is no such folder or file, or no picture in it.
    """
    if place.is_file():
        return [place]
    try:
        names = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such folder or picture") from None
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    if not names:
        raise ConfigError(f"{place}: holds no pictures; expected {', '.join(IMAGE_SUFFIXES)}")
    return names


def read_pictures(paths: Sequence[Path], *, bits: int = 16) -> list[Photograph]:
    """Read pictures, each with the digest of the very bytes that were decoded.

    Args:
        paths: the files.
        bits: bits that 16-bit files really use; the low ones above 8 are dropped, as the line does.

    Raises:
        ConfigError: a file cannot be read, or has values beyond `bits`.
        DatasetError: a file is damaged, or no picture.
    """
    return [_read(path, bits) for path in paths]


def same_size(photographs: Sequence[Photograph]) -> tuple[int, int]:
    """The (height, width) that all of them have.

    Raises:
        ConfigError: two differ; both are named.
    """
    first = photographs[0]
    for other in photographs:
        if other.shape != first.shape:
            raise ConfigError(
                f"{other.entry.name} has {other.shape[1]} by {other.shape[0]} px, and {first.entry.name} has "
                f"{first.shape[1]} by {first.shape[0]}; all pictures have to come from one camera at one resolution"
            )
    return first.shape


def known_channels(photographs: Sequence[Photograph]) -> Literal[1, 3] | None:
    """What a camera that took them gives: 1 for grey, 3 for RGB; None where they do not tell.

    A grey camera's pictures may have been saved as RGB; the channels of a colour camera differ, by their noise alone.
    """
    found = {photograph.pixels.shape[2] for photograph in photographs}
    if found == {1}:
        return 1
    coloured = (np.any(photograph.pixels != photograph.pixels[..., :1]) for photograph in photographs)
    return 3 if found == {3} and any(coloured) else None


def _read(path: Path, bits: int) -> Photograph:
    source = read_source(path)
    pixels = decode_pixels(source.data, path)
    if pixels.dtype == np.uint16:
        if (highest := int(pixels.max())) >> bits:
            raise ConfigError(f"{path}: holds the value {highest}, beyond what {bits} bits hold; raise --bits")
        pixels = (pixels >> (bits - 8)).astype(np.uint8)
    return Photograph(np.asarray(pixels, np.uint8), source.entry)
