"""The camera's pixel formats that the line takes, and how a buffer becomes a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["PIXEL_FORMATS", "PixelFormat", "to_pixels"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A format of the GenICam Pixel Format Naming Convention.

    Attributes:
        code: its 32-bit value.
        bytes_per_pixel: bytes a pixel.
        convert: from uint8 [H, W, bytes a pixel] to uint8 [H, W, 3] RGB or [H, W, 1] grey; may be a view.
    """

    code: int
    bytes_per_pixel: int
    convert: Callable[[Bytes], Bytes]


def _bayer(conversion: int) -> Callable[[Bytes], Bytes]:
    return lambda rows: np.asarray(cv2.cvtColor(np.ascontiguousarray(rows[..., 0]), conversion), np.uint8)


# OpenCV's older Bayer names are shifted by a pixel: COLOR_BayerRG2RGB would swap red and blue here.
PIXEL_FORMATS: Mapping[str, PixelFormat] = {
    "Mono8": PixelFormat(0x01080001, 1, lambda rows: rows),
    "RGB8": PixelFormat(0x02180014, 3, lambda rows: rows),
    "BGR8": PixelFormat(0x02180015, 3, lambda rows: rows[..., ::-1]),
    "RGBa8": PixelFormat(0x02200016, 4, lambda rows: rows[..., :3]),
    "BayerGR8": PixelFormat(0x01080008, 1, _bayer(cv2.COLOR_BayerGRBG2RGB)),
    "BayerRG8": PixelFormat(0x01080009, 1, _bayer(cv2.COLOR_BayerRGGB2RGB)),
    "BayerGB8": PixelFormat(0x0108000A, 1, _bayer(cv2.COLOR_BayerGBRG2RGB)),
    "BayerBG8": PixelFormat(0x0108000B, 1, _bayer(cv2.COLOR_BayerBGGR2RGB)),
}


def to_pixels(data: Bytes, height: int, width: int, padding_bytes: int, pixel_format: PixelFormat) -> Bytes:
    """The picture in a buffer: uint8 [H, W, 3] RGB or [H, W, 1] grey, a contiguous copy.

    Args:
        data: uint8 [at least H x (W x bytes a pixel + padding)]; the last line may lack its padding.
        height: rows, px.
        width: columns, px.
        padding_bytes: bytes at the end of each line that carry no pixels.
        pixel_format: how the pixels are stored.

    Raises:
        ValueError: the data is too short for the size, or the size is not one.
    """
    line = width * pixel_format.bytes_per_pixel
    stride = line + padding_bytes
    needed = stride * (height - 1) + line
    if min(height, width) < 1 or padding_bytes < 0 or data.size < needed:
        raise ValueError(f"a picture of {width} x {height} px needs {needed} bytes, the buffer holds {data.size}")
    rows = np.lib.stride_tricks.as_strided(
        data,
        (height, width, pixel_format.bytes_per_pixel),
        (stride, pixel_format.bytes_per_pixel, 1),
        writeable=False,
    )
    return np.array(pixel_format.convert(rows), np.uint8, order="C", copy=True)
