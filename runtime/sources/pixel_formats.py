"""The camera's pixel formats that the line takes, and how a buffer becomes a picture.

Names, codes and layouts are those of the GenICam Pixel Format Naming Convention (PFNC):

- deep formats without a suffix: two bytes a component, little endian, the value in the low bits;
- "p": a stream of bits, the lowest bit of a component first, with nothing between components;
- "Packed" (GigE Vision 1.x): two pixels in three bytes, their high bits in the first and the last byte.

Lines of "p" and "Packed" follow each other without a gap, so that a line may begin inside a byte. Only where the
buffer says that its lines are padded does each line begin with a byte of its own.

Deep components become uint8 by losing their low bits, whatever the picture shows: the same grey value is the same in
every frame. Bayer mosaics lose them before their colours are interpolated, so that a camera's BayerRG12p gives the very
picture that its BayerRG8 gives; to interpolate at full depth would change components by at most one grey level.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import lcm
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["PIXEL_FORMATS", "PixelFormat", "Place", "to_pixels"]

Bytes = NDArray[np.uint8]
Place = Callable[[tuple[int, ...]], Bytes]
"""From the shape of a picture to the memory that it is written to."""
Unpack = Callable[[Bytes, int], Bytes]
"""From lines, uint8 [L, bytes a line], and the components of a line to their high bits, uint8 [L, components]."""
Colour = Callable[[Bytes], Bytes]
"""From uint8 [H, W, components a pixel] to uint8 [H, W, 3] RGB or [H, W, 1] grey; may be a view."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A format of the GenICam Pixel Format Naming Convention.

    Attributes:
        code: its 32-bit value.
        components: a pixel's: 1 (grey, or a mosaic), 3 or 4.
        unpack: from the lines of a buffer to components of 8 bits; may be a view.
        colour: from components to a picture; may be a view.
    """

    code: int
    components: int
    unpack: Unpack
    colour: Colour

    @property
    def bits_per_pixel(self) -> int:
        """Bits that a pixel takes in the buffer; its code tells them."""
        return (self.code >> 16) & 0xFF


def to_pixels(
    data: Bytes, height: int, width: int, padding_bytes: int, pixel_format: PixelFormat, *, place: Place | None = None
) -> Bytes:
    """The picture in a buffer: uint8 [H, W, 3] RGB or [H, W, 1] grey, a contiguous copy.

    Args:
        data: uint8 [at least H lines, with their padding]; the last line may lack its padding.
        height: rows, px.
        width: columns, px.
        padding_bytes: bytes at the end of each line that carry no pixels.
        pixel_format: how the pixels are stored.
        place: gives the memory for the copy; without it it is new.

    Raises:
        ValueError: the data is too short for the size, or the size is not one, or too small for a mosaic.
    """
    # Without padding the whole picture is one line, for a line of it need not begin with a byte.
    lines, across = (height, width) if padding_bytes else (1, height * width)
    line = (across * pixel_format.bits_per_pixel + 7) // 8
    stride = line + padding_bytes
    needed = stride * (lines - 1) + line
    if min(height, width) < 1 or padding_bytes < 0 or data.size < needed:
        raise ValueError(f"a picture of {width} x {height} px needs {needed} bytes, the buffer holds {data.size}")
    rows = np.lib.stride_tricks.as_strided(data, (lines, line), (stride, 1), writeable=False)
    components = pixel_format.unpack(rows, across * pixel_format.components)
    pixels = pixel_format.colour(components.reshape(height, width, pixel_format.components))
    if place is not None:
        copy = place(pixels.shape)
        np.copyto(copy, pixels)
        return copy
    if pixels.flags.c_contiguous and not np.may_share_memory(pixels, data):
        return pixels
    return np.array(pixels, np.uint8, order="C", copy=True)


# Components


def _bytes(rows: Bytes, _components: int) -> Bytes:
    return rows


def _words(bits: int) -> Unpack:
    """Two bytes a component, little endian, `bits` of them used."""

    def unpack(rows: Bytes, components: int) -> Bytes:
        low, high = _planes(rows, 2, components)
        if bits < 16:
            # In place: fresh memory of this size costs more than the arithmetic.
            low >>= bits - 8
            high <<= 16 - bits
            high |= low
        return high

    return unpack


def _stream(bits: int) -> Unpack:
    """A stream of bits, lowest first: PFNC's "p". So many components as fill whole bytes are a group."""
    group_bytes = lcm(bits, 8) // 8
    # Where the eight high bits of each component of a group begin.
    starts = [divmod(index * bits + bits - 8, 8) for index in range(group_bytes * 8 // bits)]

    def unpack(rows: Bytes, components: int) -> Bytes:
        planes = _planes(rows, group_bytes, -(-components // len(starts)))
        high = [_joined(planes[byte], planes[byte + 1], bit) if bit else planes[byte] for byte, bit in starts]
        return _interleaved(high, components)

    return unpack


def _pairs(rows: Bytes, components: int) -> Bytes:
    """Two components in three bytes, GigE Vision's "Packed" in 10 and 12 bits: the middle byte has but low bits."""
    first, _low, second = _planes(rows, 3, -(-components // 2))
    return _interleaved([first, second], components)


def _joined(low: Bytes, high: Bytes, shift: int) -> Bytes:
    """Eight bits from bit `shift` of two bytes on."""
    joined = np.left_shift(high, 8 - shift)
    joined |= low >> shift
    return joined


def _planes(rows: Bytes, group_bytes: int, groups: int) -> tuple[Bytes, ...]:
    """The first, second, ... byte of every group: each uint8 [L, groups], contiguous."""
    lines, line = rows.shape
    missing = groups * group_bytes - line
    if missing > 0:  # the last group is not full
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return tuple(np.asarray(plane, np.uint8) for plane in cv2.split(rows.reshape(lines, groups, group_bytes)))


def _interleaved(planes: list[Bytes], components: int) -> Bytes:
    merged = np.asarray(cv2.merge(planes), np.uint8)
    return merged.reshape(merged.shape[0], -1)[:, :components]


# Colours


def _as_they_are(pixels: Bytes) -> Bytes:
    return pixels


def _converted(conversion: int) -> Colour:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _mosaic(conversion: int) -> Colour:
    def interpolate(pixels: Bytes) -> Bytes:
        height, width, _ = pixels.shape
        if min(height, width) < 3:  # OpenCV would make it black without a word
            raise ValueError(f"a mosaic of {width} x {height} px cannot be interpolated; it needs 3 x 3 px at least")
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels[..., 0]), conversion), np.uint8)

    return interpolate


# Components of a pixel, and what becomes of them.
_FAMILIES: Mapping[str, tuple[int, Colour]] = {
    "Mono": (1, _as_they_are),
    # OpenCV's older Bayer names are shifted by a pixel: COLOR_BayerRG2RGB would swap red and blue here.
    "BayerGR": (1, _mosaic(cv2.COLOR_BayerGRBG2RGB)),
    "BayerRG": (1, _mosaic(cv2.COLOR_BayerRGGB2RGB)),
    "BayerGB": (1, _mosaic(cv2.COLOR_BayerGBRG2RGB)),
    "BayerBG": (1, _mosaic(cv2.COLOR_BayerBGGR2RGB)),
    "RGB": (3, _as_they_are),
    "BGR": (3, _converted(cv2.COLOR_BGR2RGB)),
    "RGBa": (4, _converted(cv2.COLOR_RGBA2RGB)),
    "BGRa": (4, _converted(cv2.COLOR_BGRA2RGB)),
}
_LAYOUTS: Mapping[str, Unpack] = {
    "8": _bytes,
    **{str(bits): _words(bits) for bits in (10, 12, 14, 16)},
    **{f"{bits}p": _stream(bits) for bits in (10, 12, 14)},
    "10Packed": _pairs,
    "12Packed": _pairs,
}
_CODES = {
    "Mono8": 0x01080001,
    "Mono10": 0x01100003,
    "Mono12": 0x01100005,
    "Mono14": 0x01100025,
    "Mono16": 0x01100007,
    "Mono10p": 0x010A0046,
    "Mono12p": 0x010C0047,
    "Mono14p": 0x010E0104,
    "Mono10Packed": 0x010C0004,
    "Mono12Packed": 0x010C0006,
    "BayerGR8": 0x01080008,
    "BayerGR10": 0x0110000C,
    "BayerGR12": 0x01100010,
    "BayerGR16": 0x0110002E,
    "BayerGR10p": 0x010A0056,
    "BayerGR12p": 0x010C0057,
    "BayerGR10Packed": 0x010C0026,
    "BayerGR12Packed": 0x010C002A,
    "BayerRG8": 0x01080009,
    "BayerRG10": 0x0110000D,
    "BayerRG12": 0x01100011,
    "BayerRG16": 0x0110002F,
    "BayerRG10p": 0x010A0058,
    "BayerRG12p": 0x010C0059,
    "BayerRG10Packed": 0x010C0027,
    "BayerRG12Packed": 0x010C002B,
    "BayerGB8": 0x0108000A,
    "BayerGB10": 0x0110000E,
    "BayerGB12": 0x01100012,
    "BayerGB16": 0x01100030,
    "BayerGB10p": 0x010A0054,
    "BayerGB12p": 0x010C0055,
    "BayerGB10Packed": 0x010C0028,
    "BayerGB12Packed": 0x010C002C,
    "BayerBG8": 0x0108000B,
    "BayerBG10": 0x0110000F,
    "BayerBG12": 0x01100013,
    "BayerBG16": 0x01100031,
    "BayerBG10p": 0x010A0052,
    "BayerBG12p": 0x010C0053,
    "BayerBG10Packed": 0x010C0029,
    "BayerBG12Packed": 0x010C002D,
    "RGB8": 0x02180014,
    "RGB10": 0x02300018,
    "RGB12": 0x0230001A,
    "RGB14": 0x0230005E,
    "RGB16": 0x02300033,
    "RGB10p": 0x021E005C,
    "RGB12p": 0x0224005D,
    "BGR8": 0x02180015,
    "BGR10": 0x02300019,
    "BGR12": 0x0230001B,
    "BGR14": 0x0230004A,
    "BGR16": 0x0230004B,
    "BGR10p": 0x021E0048,
    "BGR12p": 0x02240049,
    "RGBa8": 0x02200016,
    "BGRa8": 0x02200017,
}


def _format(name: str, code: int) -> PixelFormat:
    family, layout = re.split(r"(?=\d)", name, maxsplit=1)
    components, colour = _FAMILIES[family]
    return PixelFormat(code, components, _LAYOUTS[layout], colour)


PIXEL_FORMATS: Mapping[str, PixelFormat] = MappingProxyType(
    {name: _format(name, code) for name, code in _CODES.items()}
)
"""Every format that the line reads, by its name in the convention."""
