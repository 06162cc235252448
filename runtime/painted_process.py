"""The process that paints known defects of a set onto pictures: `python -m inspectd.runtime.last` runs it.

To find a place and to paint takes longer than to judge, so it is done beside the line, by a process that everything
else goes before. It is given one order on standard input, and writes a packet for each picture to standard output,
which the line takes when it is ready to judge one: no more than one is painted ahead.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import ConfigError, DatasetError, InspectdError
from inspectd.masters import MasterPart, Masters, open_masters
from inspectd.simulation.camera_change import UNCHANGED, CameraChange, measure_change, paint_as_seen
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import as_reference, located
from inspectd.simulation.placement import PlacementSettings
from inspectd.simulation.planning import plan
from inspectd.simulation.region import find_region
from inspectd.simulation.site import Background, Reference

__all__ = ["Order", "Painting", "main", "paintings", "read_packet", "write_packet"]

_PLACEMENT = PlacementSettings(scale=(1.0, 1.0), flips=False, elastic_px=0.0)
"""Known defects, as they are known: moved and turned, and nothing else."""
_COMPARED = 24
"""So many pictures of a set tell what the camera's pictures were like."""
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What is to be painted.

    Attributes:
        masters: file of the set.
        parts: numbers of its defective parts, each of which is painted on each picture.
        pictures: what is painted on, uint8 [H, W, 1 or 3], all of one shape.
        is_current: whether they are the camera's of now; else they are of the set, and nothing has become of them.
    """

    masters: Path
    parts: Sequence[int]
    pictures: Sequence[NDArray[np.uint8]]
    is_current: bool


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """One known defect on one picture.

    Attributes:
        part: its number in the set.
        picture: with it, uint8 [H, W, C]; None where it has no place on this picture.
        label: where it is, bool [H, W].
        why: it has no place.
    """

    part: int
    picture: NDArray[np.uint8] | None = None
    label: NDArray[np.bool_] | None = None
    why: str = ""


def paintings(order: Order) -> Iterator[CameraChange | Painting]:
    """What has become of the pictures, and then each defect on each picture.

    The places are the same for the same set and pictures.

    Raises:
        ConfigError: the set is damaged, or its pictures are of another size.
    """
    masters = open_masters(order.masters)
    change = UNCHANGED
    if order.is_current:
        number_of = len(masters.record.parts)
        chosen = range(0, number_of, -(-number_of // _COMPARED))
        change = measure_change((_pixels(masters, number, order) for number in chosen), order.pictures)
    yield change

    @cache
    def background(number: int) -> Background:
        return Background(str(number), find_region(order.pictures[number]))

    for part in order.parts:
        known = _known(masters, part, order)
        for number, picture in enumerate(order.pictures):
            if isinstance(known, str):
                yield Painting(part, why=known)
                continue
            exemplar, reference = known
            try:
                (placement,) = plan([reference], [background(number)], 1, _PLACEMENT, part).placements
                painted, label = paint_as_seen(picture, exemplar, placement, change, background(number).region)
            except DatasetError as error:
                yield Painting(part, why=str(error))
                continue
            yield Painting(part, painted, label)


def _known(masters: Masters, number: int, order: Order) -> tuple[Exemplar, Reference] | str:
    """The defect of a part; or why nothing can be painted by it."""
    part = masters.record.parts[number]
    labels = masters.labels(part)
    if labels is None:
        raise ValueError(f"{part.name} is a good part")
    try:
        exemplar = located(Exemplar(part.name, part.defect, _pixels(masters, number, order), labels))
        return exemplar, as_reference(exemplar)
    except DatasetError as error:
        return str(error)


def _pixels(masters: Masters, number: int, order: Order) -> NDArray[np.uint8]:
    part: MasterPart = masters.record.parts[number]
    pixels = masters.frame(part, number, camera="set").pixels
    expected = order.pictures[0].shape
    if pixels.shape != expected:
        raise ConfigError(
            f"{masters.path}: {part.name} is {_size(pixels.shape)}, and the pictures that its defect is to be painted "
            f"on are {_size(expected)}; make a set of pictures of this camera by {masters.record.made_by}"
        )
    return pixels


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]} px in {'colour' if shape[2] == 3 else 'grey'}"


# Between the two processes


def write_packet(stream: BinaryIO, facts: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write JSON values and arrays; nothing is pickled."""
    buffer = io.BytesIO()
    content: dict[str, Any] = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays}
    np.savez(buffer, **content)
    stream.write(_LENGTH.pack(buffer.tell()) + buffer.getvalue())
    stream.flush()


def read_packet(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `write_packet` wrote.

    Raises:
        EOFError: nothing more comes.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    with np.load(io.BytesIO(_exactly(stream, length)), allow_pickle=False) as content:
        arrays = dict(content)
    return json.loads(arrays.pop("facts").tobytes()), arrays


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data


def main(_arguments: list[str] | None = None) -> None:
    """The process."""
    # Both may come to the whole group: the line ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    out = sys.stdout.buffer
    # A line that has ended, or has had enough, needs nothing more.
    with contextlib.suppress(EOFError, BrokenPipeError):
        facts, arrays = read_packet(sys.stdin.buffer)
        pictures = [arrays[str(number)] for number in range(len(arrays))]
        order = Order(Path(facts["masters"]), facts["parts"], pictures, facts["is_current"])
        try:
            for each in paintings(order):
                if isinstance(each, CameraChange):
                    write_packet(out, {"exposure": each.exposure, "blur_px": each.blur_px, "saturated": each.saturated})
                elif each.picture is None or each.label is None:
                    write_packet(out, {"part": each.part, "why": each.why})
                else:
                    write_packet(out, {"part": each.part, "why": ""}, picture=each.picture, label=each.label)
        except InspectdError as error:
            write_packet(out, {"fault": str(error)})
