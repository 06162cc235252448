"""Payloads of INS1: masks without loss, previews as JPEG. Every decoder bounds what it allocates."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import ProtocolError
from inspectd.mask import from_runs, to_runs

from .bodies import MaskEncoding

__all__ = ["MAX_PAYLOAD_BYTES", "MAX_PIXELS", "decode_mask", "decode_preview", "encode_mask", "encode_preview"]

MAX_PIXELS = 2**28
"""Largest width x height of a mask or a preview (16384 x 16384)."""
MAX_PAYLOAD_BYTES = 2**28
"""Largest payload, compressed or not."""

_RUN_BYTES = 5
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_mask(labels: NDArray[np.uint8], encoding: MaskEncoding) -> bytes:
    """The payload for a mask uint8 [H, W]."""
    if encoding is MaskEncoding.PNG8:
        done, buffer = cv2.imencode(".png", labels)
        if not done:
            raise ProtocolError(f"a mask of {list(labels.shape)} could not be coded as PNG")
        return buffer.tobytes()
    lengths, values = to_runs(labels)
    runs = lengths.astype("<u4").tobytes() + values.tobytes()
    return runs if encoding is MaskEncoding.RLE8 else zlib.compress(runs, 1)


def decode_mask(payload: bytes, encoding: MaskEncoding, height: int, width: int) -> NDArray[np.uint8]:
    """The mask uint8 [height, width] of a payload.

    Raises:
        ProtocolError: too large, cut short, with trailing bytes, or of another size than stated.
    """
    _check_size(height, width)
    if encoding is MaskEncoding.PNG8:
        return _decode_png(payload, height, width)
    if encoding is MaskEncoding.RLE8_ZLIB:
        payload = _inflate(payload, min(_RUN_BYTES * height * width, MAX_PAYLOAD_BYTES))
    count, rest = divmod(len(payload), _RUN_BYTES)
    if rest or not count:
        raise ProtocolError(f"rle8: expected a multiple of {_RUN_BYTES} bytes and at least one run, got {len(payload)}")
    lengths = np.frombuffer(payload, dtype="<u4", count=count).astype(np.uint32, copy=False)
    if not lengths.all():
        raise ProtocolError("rle8: expected runs of at least one pixel, got one of 0")
    try:
        return from_runs(lengths, np.frombuffer(payload, dtype=np.uint8, offset=4 * count), height, width)
    except ValueError as error:
        raise ProtocolError(f"rle8: {error}") from error


def encode_preview(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of a picture uint8 [H, W, 1 or 3] (RGB); quality 1..100."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    done, buffer = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ProtocolError(f"a picture of {list(pixels.shape)} could not be coded as JPEG")
    return buffer.tobytes()


def decode_preview(payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The picture uint8 [height, width, 3] (RGB) of a JPEG, grey ones too.

    Raises:
        ProtocolError: not a JPEG, damaged, too large, or of another size than stated.
    """
    _check_size(height, width)
    if (found := _jpeg_size(payload)) != (height, width):
        raise ProtocolError(f"preview: expected a JPEG of {height} x {width}, got {found[0]} x {found[1]}")
    picture = _imdecode(payload, cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (height, width, 3):
        raise ProtocolError("preview: the JPEG is damaged")
    return np.ascontiguousarray(picture[:, :, ::-1])


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ProtocolError(f"picture size: expected 1..{MAX_PIXELS} pixels, got {height} x {width}")


def _inflate(data: bytes, limit: int) -> bytes:
    """Inflate a zlib stream that fills `data` exactly and gives at most `limit` bytes."""
    stream = zlib.decompressobj()
    try:
        result = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"zlib: the data is damaged ({error})") from error
    if len(result) > limit:
        raise ProtocolError(f"zlib: expected at most {limit} bytes after inflating, got more")
    if not stream.eof:
        raise ProtocolError(f"zlib: the stream of {len(data)} bytes is cut short")
    if stream.unused_data:
        raise ProtocolError(f"zlib: {len(stream.unused_data)} bytes follow the stream")
    return result


def _decode_png(payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
    chunks = list(_png_chunks(payload))
    kinds = [kind for kind, _ in chunks]
    if len(kinds) < 3 or kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or set(kinds[1:-1]) != {b"IDAT"}:
        raise ProtocolError(f"png8: expected the chunks IHDR, IDAT and IEND alone, got {kinds[:8]}")
    if (head := chunks[0][1]) != struct.pack(">II5B", width, height, 8, 0, 0, 0, 0):
        raise ProtocolError(
            f"png8: expected an 8-bit grey picture of {width} x {height}, not interlaced; got header {head.hex()}"
        )
    # The decoder of OpenCV fills in what is missing from a picture that is cut short: count the bytes first.
    expected = height * (width + 1)
    if (got := len(_inflate(b"".join(data for _, data in chunks[1:-1]), expected))) != expected:
        raise ProtocolError(f"png8: expected {expected} bytes of pixels, got {got}")
    labels = _imdecode(payload, cv2.IMREAD_UNCHANGED)
    if labels is None or labels.shape != (height, width):
        raise ProtocolError("png8: the picture is damaged")
    return labels


def _png_chunks(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not payload.startswith(_PNG_SIGNATURE):
        raise ProtocolError(f"png8: expected the signature of a PNG, got {payload[:8]!r}")
    position = len(_PNG_SIGNATURE)
    while position < len(payload):
        if len(payload) - position < 12:
            raise ProtocolError(f"png8: {len(payload) - position} bytes at the end are no chunk")
        length, kind = struct.unpack_from(">I4s", payload, position)
        end = position + 12 + length
        if end > len(payload):
            raise ProtocolError(f"png8: chunk {kind!r} of {length} bytes is cut short")
        data = payload[position + 8 : end - 4]
        if zlib.crc32(kind + data) != struct.unpack_from(">I", payload, end - 4)[0]:
            raise ProtocolError(f"png8: chunk {kind!r} has another checksum than stated")
        yield kind, data
        position = end


def _jpeg_size(payload: bytes) -> tuple[int, int]:
    """Height and width in the first frame header (ITU-T T.81, B.2.2)."""
    if payload[:2] != b"\xff\xd8":
        raise ProtocolError(f"preview: expected the start of a JPEG, got {payload[:2]!r}")
    position = 2
    while position + 9 <= len(payload) and payload[position] == 0xFF:
        marker, length = payload[position + 1], int.from_bytes(payload[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", payload, position + 5)
            return height, width
        position += 2 + length
    raise ProtocolError("preview: the JPEG has no frame header")


def _imdecode(payload: bytes, mode: int) -> NDArray[np.uint8] | None:
    """The picture, or None where OpenCV cannot read it."""
    try:
        picture = cv2.imdecode(np.frombuffer(payload, dtype=np.uint8), mode)
    except cv2.error as error:
        raise ProtocolError(f"the picture cannot be decoded ({error.err})") from error
    return None if picture is None else picture.astype(np.uint8, copy=False)
