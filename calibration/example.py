"""A rendered station to calibrate and to run: what its camera would see, and what is true of it.

    python -m inspectd.calibration.example site

Buttons of 20 mm lie in a plane that the camera sees obliquely, through a lens that distorts and darkens the corners, on
a sensor with its own offsets and gains. docs/guide/calibration.md walks through it, and a test holds a whole station
against the truth that is written beside the pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import encode_png
from inspectd.buttons import Rendered, line_part
from inspectd.calibrated import Lens, Plane

from .files import write_whole
from .simulate import Pose, Station, spread_poses
from .target import Target

__all__ = ["MM_PER_RENDERED_PX", "SIDE", "TARGET", "ExampleStation", "main", "write_example"]

SIDE = 512
"""Side of the camera's pictures, px."""
TARGET = Target(columns=8, rows=6, square_mm=3.0, marker_mm=2.25)
"""As `inspectd-calibrate target --squares 8x6 --square-mm 3` describes it."""
MM_PER_RENDERED_PX = 0.05
"""Side of a pixel of a rendered button: its picture of 512 px shows 25.6 mm."""
LINE = "marble"
"""What the station makes."""
VIEWS, FLATS, DARKS = 16, 32, 16
_LIGHT = 200.0
"""Grey value of the even target where it is brightest."""


@dataclass(frozen=True)
class ExampleStation:
    """A camera over a plane with buttons, all of it known.

    Attributes:
        seed: of the sensor, of its noise, and of the parts.
    """

    seed: int = 0

    @cached_property
    def camera(self) -> Station:
        """The camera without its sensor: lens and geometry."""
        return Station(Lens(fx_px=720, fy_px=720, cx_px=258, cy_px=253, k1=-0.15, k2=0.05), (SIDE, SIDE), noise=1.2)

    @property
    def pose(self) -> Pose:
        """Of the plane of the parts: the target lies in its middle."""
        return Pose((0.2, -0.1, 36.0), tilt_deg=10, towards_deg=30)

    @cached_property
    def plane(self) -> Plane:
        """The true sizes of its pixels."""
        return Plane((SIDE, SIDE), self.camera.homography(TARGET, self.pose), self.camera.lens)

    @cached_property
    def shade(self) -> NDArray[np.float64]:
        """Light [H, W, 1] that a white plane gives: the lamp stands on the left, and the lens darkens the corners."""
        y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        return np.asarray(((1 - 0.08 * (x**2 + y**2)) * (1 - 0.03 * x))[..., None])

    @cached_property
    def gain(self) -> NDArray[np.float64]:
        """Of each pixel [H, W, 3], 1 on average."""
        return 1 + 0.012 * self._random(1).normal(size=(SIDE, SIDE, 3))

    @cached_property
    def offset(self) -> NDArray[np.float64]:
        """Of each pixel [H, W, 3], grey values; some are hot."""
        rng = self._random(2)
        offset = 4 + rng.normal(0, 0.5, (SIDE, SIDE, 3))
        rows, columns = rng.integers(8, SIDE - 8, (2, 6))
        offset[rows, columns] += 60
        return np.asarray(offset)

    def seen(self, light: NDArray[np.floating] | float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """What the sensor makes of light [H, W, 3]: uint8 [H, W, 3] RGB."""
        values = np.asarray(light) * self.shade * self.gain + self.offset
        return np.clip(np.rint(values + rng.normal(0, 1.2, values.shape)), 0, 255).astype(np.uint8)

    def part(self, index: int, *, defect_rate: float) -> tuple[NDArray[np.uint8], Rendered]:
        """The picture of a part, uint8 [H, W, 3] RGB, and what was rendered."""
        rendered = line_part(index, self.seed + 100, defect_rate, lines=(LINE,), size=SIDE)
        # As bright, on average, as the network knows buttons.
        light = self.projected(rendered.image) / self.shade.mean()
        return self.seen(light, self._random(3, index, round(100 * defect_rate))), rendered

    def projected(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """A picture [512, 512, C] that lies in the plane, as it appears to the camera: [H, W, C]."""
        u, v = self._places
        moved = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return moved.astype(np.float64).reshape(SIDE, SIDE, -1)

    @cached_property
    def _places(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where in a rendered picture each of the camera's pixels lies: two float32 [H, W]."""
        y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
        places = self.plane.to_mm(np.stack([x, y], axis=-1).reshape(-1, 2))
        middle = self.plane.to_mm(np.array([[(SIDE - 1) / 2, (SIDE - 1) / 2]]))
        px = ((places - middle) / MM_PER_RENDERED_PX + (SIDE - 1) / 2).astype(np.float32).reshape(SIDE, SIDE, 2)
        return np.ascontiguousarray(px[..., 0]), np.ascontiguousarray(px[..., 1])

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))


def write_example(out: Path, *, good: int = 100, parts: int = 24, seed: int = 0) -> None:
    """Write the pictures, and `truth.json` with what is true of the parts.

    Args:
        out: the folder.
        good: parts without a defect, to set thresholds by: good/images and good/split.csv.
        parts: parts of the line, a third of them with a defect: parts.
        seed: the same one gives the same pictures.
    """
    station = ExampleStation(seed)
    rng = np.random.default_rng((seed, 0))
    for number, pose in enumerate(spread_poses(station.camera, TARGET, rng, VIEWS)):
        _write(out / "views" / f"{number:02d}.png", station.camera.picture(TARGET, pose, rng))
    _write(out / "plane.png", station.camera.picture(TARGET, station.pose, rng))
    for number in range(FLATS):
        _write(out / "flat" / f"{number:02d}.png", station.seen(_LIGHT, rng))
    for number in range(DARKS):
        _write(out / "dark" / f"{number:02d}.png", station.seen(0.0, rng))
    rows = ["image,mask,defect,role,tile"]
    for number in range(good):
        _write(out / "good" / "images" / f"{number:03d}.png", station.part(10_000 + number, defect_rate=0)[0])
        rows.append(f"images/{number:03d}.png,,,ok_calibration,part{number}")
    write_whole(out / "good" / "split.csv", "\n".join(rows) + "\n")
    truth = {}
    for number in range(parts):
        pixels, rendered = station.part(number, defect_rate=0.35)
        _write(out / "parts" / f"{number:03d}.png", pixels)
        area = float(np.count_nonzero(rendered.mask)) * MM_PER_RENDERED_PX**2
        truth[f"{number:03d}.png"] = {"line": rendered.line, "defect": rendered.defect, "area_mm2": round(area, 4)}
    write_whole(out / "truth.json", json.dumps(truth, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m inspectd.calibration.example", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--good", type=int, default=100, help="good parts to set thresholds by")
    parser.add_argument("--parts", type=int, default=24, help="parts of the line")
    parser.add_argument("--seed", type=int, default=0, help="the same one gives the same pictures")
    told = parser.parse_args(arguments)
    write_example(told.out, good=told.good, parts=told.parts, seed=told.seed)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    write_whole(path, encode_png(pixels[..., ::-1]))


if __name__ == "__main__":
    main()
