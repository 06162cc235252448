"""The target that lens and scale are calibrated with: a ChArUco board or a plain chessboard, drawn to scale.

Everything is drawn from one list of rectangles in mm, so that the PDF, the PNG and the simulated views show the same
target. Its coordinates begin at the upper left corner of the first square, x to the right and y downwards.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inspectd.bundle import encode_png, explain
from inspectd.errors import ConfigError

from .files import write_whole
from .pdf import Rectangle, Words, one_page

__all__ = ["DICTIONARIES", "PAPERS", "Target", "load_target", "raster", "write_target"]

DICTIONARIES = ("4x4_50", "4x4_100", "5x5_100", "5x5_250", "6x6_250")
"""Those of OpenCV's ArUco markers that a target may have."""
PAPERS = {"a5": (210.0, 148.0), "a4": (297.0, 210.0), "a3": (420.0, 297.0), "a2": (594.0, 420.0)}
"""Sheets by name: (width, height) in mm, lying."""
_MARGIN_MM = 8.0
_CAPTION_MM = 12.0
_RULER_MM = 100.0


class Target(BaseModel):
    """What is printed, and looked for in pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["charuco", "chessboard"] = "charuco"
    columns: int = Field(12, ge=4, le=60)
    rows: int = Field(9, ge=4, le=60)
    square_mm: float = Field(20.0, gt=0, le=1000)
    marker_mm: float = Field(15.0, gt=0, le=1000)
    dictionary: Literal["4x4_50", "4x4_100", "5x5_100", "5x5_250", "6x6_250"] = "5x5_100"

    @model_validator(mode="after")
    def _fits(self) -> Target:
        if self.kind == "chessboard":
            if (self.columns + self.rows) % 2 == 0:
                raise ValueError(
                    f"a chessboard of {self.columns} by {self.rows} squares looks the same from both sides; "
                    "make one number odd and the other one even"
                )
            return self
        if not 0.4 * self.square_mm <= self.marker_mm <= 0.8 * self.square_mm:
            raise ValueError(f"marker_mm: expected 0.4 to 0.8 of a square of {self.square_mm:g} mm")
        held, needed = int(self.dictionary.partition("_")[2]), self.columns * self.rows // 2
        if needed > held:
            raise ValueError(f"dictionary {self.dictionary} has {held} markers, and this target needs {needed}")
        return self

    @property
    def width_mm(self) -> float:
        """Of all squares."""
        return self.columns * self.square_mm

    @property
    def height_mm(self) -> float:
        """Of all squares."""
        return self.rows * self.square_mm

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        what = f"{self.columns} by {self.rows} squares of {self.square_mm:g} mm"
        if self.kind == "chessboard":
            return f"chessboard, {what}"
        return f"ChArUco, {what}, markers {self.marker_mm:g} mm of {self.dictionary}"

    def corners_mm(self) -> NDArray[np.float64]:
        """The inner corners [N, 2] in mm, row by row; a corner's number is its place in this list."""
        x, y = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        return np.asarray(np.stack([x, y], axis=-1).reshape(-1, 2) * self.square_mm, np.float64)

    def board(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's own description; in mm."""
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square_mm, self.marker_mm, self._markers())

    def rectangles(self) -> list[Rectangle]:
        """All that is black, in mm; no two overlap."""
        square = self.square_mm
        # OpenCV's chessboards begin black, and its markers lie in the white squares.
        black = [
            Rectangle(column * square, row * square, square, square)
            for row in range(self.rows)
            for column in range(self.columns)
            if (row + column) % 2 == 0
        ]
        if self.kind == "chessboard":
            return black
        board = self.board()
        markers, modules = self._markers(), int(self.dictionary[0]) + 2
        module = self.marker_mm / modules
        for number, points in zip(np.ravel(board.getIds()), board.getObjPoints(), strict=True):
            left, top = (float(value) for value in np.asarray(points).reshape(-1, 3)[0][:2])
            bits = cv2.aruco.generateImageMarker(markers, int(number), modules) == 0
            for row, column, length in _runs(bits):
                black.append(Rectangle(left + column * module, top + row * module, length * module, module))
        return black

    def _markers(self) -> cv2.aruco.Dictionary:
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{self.dictionary.upper()}"))


_NAMED = "name the target.json that inspectd-calibrate target wrote"


def load_target(path: Path) -> Target:
    """The description that `inspectd-calibrate target` wrote.

    Raises:
        ConfigError: it is missing, damaged, or describes no target.
    """
    try:
        return Target.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such target; inspectd-calibrate target writes its description") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{path}: cannot be read as a target: {why}; {_NAMED}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: describes no target: {explain(error)}; {_NAMED}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: damaged: not JSON ({error}); write it anew by inspectd-calibrate target") from error


def raster(target: Target, px_per_mm: float, *, margin_mm: float = 0.0) -> NDArray[np.uint8]:
    """The target as pixels: uint8 [H, W], 0 and 255, edges at the nearest pixel."""
    size = [round((side + 2 * margin_mm) * px_per_mm) for side in (target.height_mm, target.width_mm)]
    pixels = np.full(size, 255, np.uint8)
    for one in target.rectangles():
        left, top = round((one.x + margin_mm) * px_per_mm), round((one.y + margin_mm) * px_per_mm)
        right = round((one.x + one.width + margin_mm) * px_per_mm)
        bottom = round((one.y + one.height + margin_mm) * px_per_mm)
        pixels[top:bottom, left:right] = 0
    return pixels


def write_target(folder: Path, target: Target, *, paper: str | None = None, dpi: int = 600) -> list[Path]:
    """Write target.pdf (vectors, exact), target.png and target.json.

    Args:
        folder: where; it is made.
        target: what.
        paper: the sheet, one of `PAPERS`; None for the smallest one that it fits on, or one of its own size.
        dpi: dots per inch of the PNG.

    Raises:
        ConfigError: it does not fit on the sheet, would be a picture of more than 400 megapixels, or cannot be written.
    """
    width, height = _sheet(target, paper)
    px_per_mm = dpi / 25.4
    if target.width_mm * target.height_mm * px_per_mm**2 > 4e8:
        raise ConfigError(f"a PNG of {dpi} dpi would have more than 400 megapixels; lower --dpi")
    left, top = (
        (width - target.width_mm) / 2,
        _MARGIN_MM + (height - 2 * _MARGIN_MM - _CAPTION_MM - target.height_mm) / 2,
    )
    shapes = [Rectangle(one.x + left, one.y + top, one.width, one.height) for one in target.rectangles()]
    base = height - _MARGIN_MM
    ruler = min(_RULER_MM, 10 * (target.width_mm // 10)) or target.width_mm
    shapes += [
        Rectangle(left, base - 7.0, ruler, 0.25),
        *(Rectangle(left + at - 0.25 * (at > 0), base - 9.0, 0.25, 2.0) for at in (0.0, ruler)),
    ]
    words = [
        Words(left, base - 3.0, 2.8, f"{ruler:g} mm between the outer edges of these two marks. Print at 100 %."),
        Words(
            left,
            base,
            2.8,
            f"inspectd target: {target.name}; all squares {target.width_mm:g} by {target.height_mm:g} mm",
        ),
    ]
    paths = [folder / name for name in ("target.pdf", "target.png", "target.json")]
    write_whole(paths[0], one_page(width, height, shapes, words, title=f"Calibration target, {target.name}"))
    write_whole(paths[1], _with_density(encode_png(_picture(target, px_per_mm, words)), px_per_mm))
    write_whole(paths[2], target.model_dump_json(indent=2) + "\n")
    return paths


def _picture(target: Target, px_per_mm: float, words: list[Words]) -> NDArray[np.uint8]:
    """The target with a white margin, and what it is written below it."""
    pixels = raster(target, px_per_mm, margin_mm=_MARGIN_MM)
    below = np.full((round(_CAPTION_MM * px_per_mm), pixels.shape[1]), 255, np.uint8)
    room = 0.94 * pixels.shape[1]
    text = words[-1].text
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    scale = min(room / wide, 2.8 * px_per_mm / 22)
    place = (round(_MARGIN_MM * px_per_mm * 0.5), below.shape[0] // 2)
    cv2.putText(below, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 0, max(1, round(scale * 2)), cv2.LINE_AA)
    return np.vstack([pixels, below])


def _with_density(png: bytes, px_per_mm: float) -> bytes:
    """A PNG that says how large its pixels are (chunk pHYs, ISO/IEC 15948, 11.3.5.3), which OpenCV does not write."""
    per_metre = round(px_per_mm * 1000)
    body = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    end_of_header = 8 + 25
    return png[:end_of_header] + chunk + png[end_of_header:]


def _sheet(target: Target, paper: str | None) -> tuple[float, float]:
    needed = target.width_mm + 2 * _MARGIN_MM, target.height_mm + 2 * _MARGIN_MM + _CAPTION_MM
    fitting = [name for name, size in PAPERS.items() if size[0] >= needed[0] and size[1] >= needed[1]]
    if paper is None:
        return PAPERS[fitting[0]] if fitting else needed
    if paper not in PAPERS:
        raise ConfigError(f"--paper {paper}: expected one of {', '.join(PAPERS)}")
    if paper not in fitting:
        raise ConfigError(
            f"a target of {target.width_mm:g} by {target.height_mm:g} mm needs {needed[0]:g} by {needed[1]:g} mm, and "
            f"{paper} has {PAPERS[paper][0]:g} by {PAPERS[paper][1]:g}; "
            "take fewer or smaller squares, or another sheet"
        )
    return PAPERS[paper]


def _runs(bits: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(row, column, length) of the runs of True: few rectangles, and no seams between neighbours."""
    found = []
    for row, line in enumerate(bits):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
        found += [(row, int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]
    return found
