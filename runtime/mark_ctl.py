"""`inspectd ctl mark`: a defect that the line missed, from a box, a stroke or a mask to a label."""

from __future__ import annotations

import base64
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import encode_png
from inspectd.errors import ConfigError, RequestError
from inspectd.picture import decode_image, read_mask
from inspectd.wire import MAX_REQUEST_BYTES

from .messaging import Requester

__all__ = ["Box", "Where", "by_box", "by_mask", "by_stroke", "mark", "overlay", "parse_box", "parse_stroke", "refined"]

Box = tuple[int, int, int, int]
"""x, y, width, height, px."""
_ROUNDS = 5
_SIDE_PX = 240
"""Boxes are enlarged to this; measured on rendered defects of 10 to 60 px."""
_LEAST_SHARE = 0.02
"""Of a box: less is no defect that somebody has drawn a box around."""
_MOST_POINTS = 200
_OVERHEAD_BYTES = 2048
_LABEL = np.array((0, 255, 0), np.float32)


@dataclass(frozen=True, slots=True)
class _Which:
    epoch: int
    stream: int
    seq: int


@dataclass(frozen=True, slots=True)
class Where:
    """Where a defect is.

    Attributes:
        how: what somebody gave, for the record.
        label: from the picture, uint8 [H, W, C], to the defect in it, bool [H, W]; raises ConfigError.
    """

    how: str
    label: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def by_box(text: str) -> Where:
    """In a box around it, X,Y,W,H.

    Raises:
        ConfigError: it is none.
    """
    box = parse_box(text)
    return Where(f"GrabCut in the box {','.join(map(str, box))}", partial(refined, box=box))


def by_stroke(text: str, width: float) -> Where:
    """Along a line with corners, X,Y X,Y ..., so many px wide: what is thin and what hardly stands out.

    Raises:
        ConfigError: it is none.
    """
    points = parse_stroke(text)
    return Where(f"a stroke of {width:g} px along {text.strip()}", partial(_drawn, points=points, width=width))


def by_mask(path: Path) -> Where:
    """By a picture of its pixels."""
    return Where(f"a mask, {path.name}", partial(_masked, path=path))


def parse_stroke(text: str) -> list[tuple[int, int]]:
    """X,Y X,Y ...; a single point is a dot.

    Raises:
        ConfigError: it is none.
    """
    points = [re.fullmatch(r"(\d{1,6}),(\d{1,6})", each) for each in re.sub(r"\s*,\s*", ",", text).split()]
    if not points or len(points) > _MOST_POINTS or None in points:
        raise ConfigError(
            f"--stroke {text!r}: expected its corners in px, X,Y X,Y ..., {_MOST_POINTS} at most, as '120,80 140,95'"
        )
    return [(int(point[1]), int(point[2])) for point in points if point is not None]


def _drawn(image: NDArray[np.uint8], *, points: Sequence[tuple[int, int]], width: float) -> NDArray[np.bool_]:
    rows, columns = image.shape[:2]
    for x, y in points:
        if x >= columns or y >= rows:
            raise ConfigError(f"--stroke: {x},{y} lies outside of the picture of {columns} x {rows} px")
    label = np.zeros((rows, columns), np.bool_)
    # Pixels whose middle is near enough: OpenCV's own lines are a pixel or two wider than they are said to be.
    reach = math.ceil(width / 2)
    for (x0, y0), (x1, y1) in pairwise(points if len(points) > 1 else [*points, *points]):
        left, top = max(0, min(x0, x1) - reach), max(0, min(y0, y1) - reach)
        y, x = np.mgrid[top : min(rows, max(y0, y1) + reach + 1), left : min(columns, max(x0, x1) + reach + 1)]
        along, across = x1 - x0, y1 - y0
        length = along**2 + across**2
        share = np.clip(((x - x0) * along + (y - y0) * across) / length, 0, 1) if length else np.zeros(x.shape)
        near = np.hypot(x - x0 - share * along, y - y0 - share * across) <= width / 2
        label[y[near], x[near]] = True
    return label


def _masked(image: NDArray[np.uint8], *, path: Path) -> NDArray[np.bool_]:
    label = read_mask(path) > 0
    if label.shape != image.shape[:2]:
        raise ConfigError(
            f"{path}: the mask is {label.shape[1]} x {label.shape[0]} px and the picture {image.shape[1]} x "
            f"{image.shape[0]} px (width x height); expected the same size"
        )
    return label


def parse_box(text: str) -> Box:
    """X,Y,W,H.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None or not int(match[3]) or not int(match[4]):
        raise ConfigError(f"--box {text!r}: expected X,Y,W,H in px, such as 120,80,40,25")
    x, y, width, height = map(int, match.groups())
    return x, y, width, height


def refined(image: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """The defect in a box, told from the surface around it by GrabCut (Rother, Kolmogorov, Blake, 2004).

    Args:
        image: uint8 [H, W, 3 or 1].
        box: around the defect, with some surface between.

    Returns:
        bool [H, W], False outside of the box.

    Raises:
        ConfigError: the box is not in the picture, or nothing in it stands out.
    """
    x, y, width, height = box
    rows, columns = image.shape[:2]
    if x + width > columns or y + height > rows:
        raise ConfigError(f"--box {x},{y},{width},{height}: lies outside of the picture of {columns} x {rows} px")
    # The surface far away says nothing of that around the defect, and costs time.
    left, top = max(0, x - width), max(0, y - height)
    right, bottom = min(columns, x + 2 * width), min(rows, y + 2 * height)
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    mask = np.zeros((rows, columns), np.bool_)
    if (right - left, bottom - top) != (width, height):
        mask[top:bottom, left:right] = _cut(crop, (x - left, y - top, width, height))
    if mask.sum() < max(1, _LEAST_SHARE * width * height):
        raise ConfigError(
            f"--box {x},{y},{width},{height}: nothing in it stands out from the surface around it; draw a larger "
            "box, draw along it (--stroke), or give a --mask"
        )
    return mask


def _cut(crop: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """GrabCut in a picture that is little more than the box: bool [h, w].

    Small defects are enlarged: GrabCut weighs the length of an outline against the area in it, and would have none of
    something that is nearly all outline. It begins with what is least like the surface around the box.
    """
    if crop.shape[2] == 1:
        crop = np.repeat(crop, 3, axis=2)
    factor = max(1.0, _SIDE_PX / max(box[2:]))
    height, width = crop.shape[:2]
    size = round(width * factor), round(height * factor)
    large = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    x, y, across, down = (round(value * factor) for value in box)
    inside = np.zeros(large.shape[:2], np.bool_)
    inside[y : y + down, x : x + across] = True
    colours = cv2.GaussianBlur(cv2.cvtColor(large, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), 0.7 * factor)
    usual = np.median(colours[~inside], axis=0)
    spread = 1.0 + np.median(np.abs(colours[~inside] - usual), axis=0)
    unlike = np.linalg.norm((colours - usual) / spread, axis=2)
    levels = np.clip(10.0 * unlike[inside], 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    labels = np.full(large.shape[:2], cv2.GC_BGD, np.uint8)
    labels[inside] = np.where(levels > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    if not (levels > threshold).any():
        return np.zeros((height, width), np.bool_)
    # Its clusters begin at random.
    cv2.setRNGSeed(0)
    cv2.grabCut(large, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
    cut = np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA) > 0.5)
    cut[: box[1]] = cut[box[1] + box[3] :] = False
    cut[:, : box[0]] = cut[:, box[0] + box[2] :] = False
    return cut


def overlay(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with a mask in green over it, half through, and its outline: uint8 [H, W, 3]."""
    shown = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image.copy()
    shown[mask] = (0.6 * shown[mask] + 0.4 * _LABEL).astype(np.uint8)
    around = (cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~mask
    shown[around] = _LABEL.astype(np.uint8)
    return shown


def mark(
    requester: Requester,
    result_id: str,
    *,
    defect: str,
    where: Where,
    save: Path | None,
    agree: Callable[[str], bool],
    timeout_s: float,
) -> dict[str, Any] | None:
    """Ask for an archived picture, show what would be kept as its label, and have it kept.

    Args:
        requester: to the station.
        result_id: epoch-stream-seq, or what the archive names the part by.
        defect: its type.
        where: it is.
        save: where the overlay is written; a new file among the temporary ones if not given.
        agree: told of the overlay's path; whether to go on.
        timeout_s: for each answer.

    Returns:
        What was kept; None where nobody agreed.

    Raises:
        InspectdError: it cannot be done.
    """
    which = _find(requester, result_id, timeout_s)
    asked: dict[str, Any] = {"epoch": which.epoch, "stream": which.stream, "seq": which.seq}
    try:
        answer = requester.ask("get_image", asked, timeout_s=timeout_s)
    except RequestError as error:
        if error.code != "not_found":
            raise
        raise RequestError(
            f"{error}; of OK parts it keeps every so many (archive.ok_every)", code="not_found"
        ) from error
    image = decode_image(answer.blobs[0], Path(result_id))
    label = where.label(image)
    text = base64.b64encode(encode_png(label.astype(np.uint8) * 255)).decode()
    if len(text) > MAX_REQUEST_BYTES - _OVERHEAD_BYTES:
        raise ConfigError(f"mark: the mask is too ragged to be sent ({len(text)} bytes); draw a smoother one")
    shown = _write(overlay(image, label), save, result_id)
    if not agree(f"{shown}: {int(label.sum())} px of {defect!r} in green"):
        return None
    result = requester.ask(
        "mark", {**asked, "defect": defect, "mask": text, "how": where.how}, timeout_s=timeout_s
    ).result
    return {**(result or {}), "overlay": str(shown)}


def _write(pixels: NDArray[np.uint8], save: Path | None, result_id: str) -> Path:
    data = encode_png(np.ascontiguousarray(pixels[..., ::-1]))
    if save is not None:
        save.write_bytes(data)
        return save
    name = re.sub(r"[^\w.-]+", "_", result_id)
    with tempfile.NamedTemporaryFile(prefix=f"inspectd-mark-{name}-", suffix=".png", delete=False) as file:
        file.write(data)
    return Path(file.name)


def _find(requester: Requester, result_id: str, timeout_s: float) -> _Which:
    """The part that is meant: 7-0-1042, or as the archive names it: 2026-11-26/cam1/7-1042, cam1/7-1042, 7-1042.

    Raises:
        ConfigError: none is.
    """
    if match := re.fullmatch(r"(\d+)-(\d+)-(\d+)", result_id):
        return _Which(*map(int, match.groups()))
    match = re.fullmatch(r"(?:.*?([^/]+)/)?(\d+)-(\d+)(?:\.\w+)?", result_id)
    if match is None:
        raise ConfigError(
            f"{result_id!r}: expected the id of a result, epoch-stream-seq such as 7-0-1042, or a part of the archive "
            "such as 2026-11-26/cam1/7-1042"
        )
    told: Mapping[str, Any] = requester.ask("snapshot", timeout_s=timeout_s).result or {}
    streams = {stream["camera"]: stream["stream"] for stream in told["streams"] if stream["camera"]}
    camera = match[1]
    if camera is None and len(streams) > 1:
        raise ConfigError(f"{result_id!r}: of which camera: {', '.join(streams)}? Say CAMERA/{result_id}")
    if camera is not None and camera not in streams:
        raise ConfigError(f"{result_id!r}: the station has no camera {camera!r}, only {', '.join(streams)}")
    stream = next(iter(streams.values())) if camera is None else streams[camera]
    return _Which(int(match[2]), stream, int(match[3]))
