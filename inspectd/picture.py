"""Image and mask files, read whole or refused.

OpenCV decodes a JPEG or PNG that lost its end without a word in several of its versions, and the missing
part comes out grey or black: a dataset that was copied badly would train on it. The structure of both
formats is therefore checked here before they are decoded.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "Pixels", "decode_image", "decode_pixels", "read_image", "read_mask", "read_pixels"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Markers that stand alone, without a length: TEM, RST0 to RST7, SOI.
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}
_JPEG_EOI, _JPEG_SOS = 0xD9, 0xDA


def read_image(path: Path, *, bits: int = 16) -> NDArray[np.uint8]:
    """The picture of a file: uint8 [H, W, 3] RGB or [H, W, 1] grey.

    Alpha is dropped and an EXIF orientation is applied, as every viewer does. Files of 16 bits per sample
    lose their `bits - 8` low bits: the factor comes from the camera, never from the values, so that a dark
    picture stays dark.

    Args:
        path: the file.
        bits: significant bits of files with 16 bits per sample (12 for a Mono12 camera); 8-bit files ignore it.

    Raises:
        DatasetError: the file is missing, truncated, damaged, no image, neither 8- nor 16-bit, or has values
            beyond `bits`.
    """
    if not 8 <= bits <= 16:
        raise DatasetError(f"bits must be between 8 and 16, got {bits}")
    pixels = read_pixels(path)
    if pixels.dtype == np.uint16:
        if (highest := int(pixels.max())) >> bits:
            raise DatasetError(f"{path}: holds the value {highest}, beyond what {bits} bits hold; raise bits")
        pixels = (pixels >> (bits - 8)).astype(np.uint8)
    return np.asarray(pixels, np.uint8)


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey values of a picture: uint8 [H, W, 1 or 3] RGB -> [H, W]."""
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def read_pixels(path: Path) -> Pixels:
    """The samples of a file as stored: uint8 or uint16, [H, W, 3] RGB or [H, W, 1] grey.

    Raises:
        DatasetError: the file is missing, truncated, damaged, no image, or neither 8- nor 16-bit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    return decode_pixels(data, path)


def decode_image(data: bytes, path: Path) -> NDArray[np.uint8]:
    """The picture of a file that was read, as `read_image` gives it: uint8 [H, W, 1 or 3].

    Args:
        data: its contents.
        path: its name, for messages.

    Raises:
        DatasetError: truncated, damaged, no image, or not of 8 bits.
    """
    pixels = decode_pixels(data, path)
    if pixels.dtype != np.uint8:
        raise DatasetError(f"{path}: samples are {pixels.dtype}, expected 8 bits")
    return np.asarray(pixels, np.uint8)


def decode_pixels(data: bytes, path: Path) -> Pixels:
    """The samples of a file that was read, as `read_pixels` gives them.

    Args:
        data: its contents.
        path: its name, for messages.

    Raises:
        DatasetError: truncated, damaged, no image, or neither 8- nor 16-bit.
    """
    if not data:
        raise DatasetError(f"{path}: the file is empty; copy it again")
    if damage := _damage(data):
        raise DatasetError(f"{path}: {damage}; copy it again")
    # OpenCV writes to stderr what is said below in one line.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot be decoded: {error.err}") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None:
        raise DatasetError(f"{path}: damaged, or not an image of a known kind ({', '.join(IMAGE_SUFFIXES)})")
    if decoded.dtype not in (np.uint8, np.uint16):
        raise DatasetError(f"{path}: samples are {decoded.dtype}, expected 8 or 16 bits unsigned")
    pixels = decoded[..., None] if decoded.ndim == 2 else np.ascontiguousarray(decoded[..., ::-1])
    return cast("Pixels", pixels)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The mask of a file: uint8 [H, W], 0 and 1.

    A mask is 0 and one other value: 1 or 255, or a 1-bit PNG. Colour files are taken where the three channels agree.

    Raises:
        DatasetError: what `read_image` refuses, or other values.
    """
    pixels = read_pixels(path)
    if pixels.shape[2] == 3 and np.any(pixels != pixels[..., :1]):
        raise DatasetError(f"{path}: a coloured picture, expected a mask of 0 and 255 (or 0 and 1)")
    values = np.flatnonzero(np.bincount(pixels[..., 0].ravel(), minlength=256))
    if values[-1] not in (0, 1, 255) or np.any((values != 0) & (values != values[-1])):
        shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        raise DatasetError(f"{path}: holds the values {shown}, expected 0 and one of 1 or 255")
    return np.asarray(pixels[..., 0] != 0, np.uint8)


def _damage(data: bytes) -> str:
    """What is wrong with a PNG or JPEG stream; empty when it is whole, or of another format."""
    if data.startswith(_PNG):
        return _png_damage(data)
    if data.startswith(_JPEG):
        return "" if _jpeg_ends(data) else "truncated: the JPEG has no end marker"
    return ""


def _png_damage(data: bytes) -> str:
    """Walks the chunks of a PNG (ISO/IEC 15948, section 5) and their checksums."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"damaged: the PNG chunk {kind.decode('latin-1')!r} at byte {at} has a wrong checksum"
        if kind == b"IEND":
            return ""
        at = end + 4
    return "truncated: the PNG has no end chunk"


def _jpeg_ends(data: bytes) -> bool:
    """Walks the segments of a JPEG (ITU-T T.81, annex B) to its end marker.

    A search for the marker would find that of a thumbnail inside a segment.
    """
    at = 2
    while at + 1 < len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == _JPEG_EOI:
            return True
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == _JPEG_SOS:
                at = _after_scan(data, at)
    return False


def _after_scan(data: bytes, at: int) -> int:
    """Position of the marker that ends the entropy-coded data from `at`; the length of the data if none does."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        following = data[at + 1]
        if following == 0xFF:
            at += 1
        elif following == 0 or 0xD0 <= following <= 0xD7:  # a stuffed byte or a restart
            at += 2
        else:
            return at
    return len(data)
