"""Draws the pictures of calibration.md from the folder that its commands fill.

Run: python docs/guide/calibration.py site
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from inspectd.calibrated import ScaleRecord, load_flat_field, load_record
from inspectd.calibration.corners import find_view
from inspectd.calibration.drawing import marked
from inspectd.calibration.example import TARGET
from inspectd.picture import read_image

SIDE = 300
GREEN = (30, 200, 60)


def main(site: Path) -> None:
    """Draw all of them."""
    plane = read_image(site / "plane.png")
    scale = load_record(site / "scale" / "scale.json", ScaleRecord)
    sizes = np.sqrt(scale.plane().pixel_area_mm2)
    low, high = scale.scale_min_mm_per_px, scale.scale_max_mm_per_px
    heat = cv2.applyColorMap(((sizes - low) / (high - low) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    for row, column in ((60, 40), (60, 400), (256, 220), (470, 40), (470, 400)):
        heat = _text(heat, f"{sizes[row, column]:.4f}", (column - 30, row))
    _save("scale", marked(plane, find_view("plane", plane, TARGET)), _text(heat, "mm per px", (8, 24)))

    even = read_image(site / "flat" / "00.png")
    corrected = load_flat_field(site / "flat.npz").apply(even)
    raised = (np.clip((one[..., 1].astype(float) - 130) * 2.8, 0, 255).astype(np.uint8) for one in (even, corrected))
    # Half as many levels: noise takes most of the file, and says nothing.
    _save("flat", *(one & 0xF0 for one in raised))

    part = next(site.glob("archive/*/cam1/1-1.json"))
    told = json.loads(part.read_text())["body"]["defects"][0]
    picture = read_image(part.with_suffix(".png"))
    found = cv2.imread(str(part.with_suffix(".mask.png")), cv2.IMREAD_GRAYSCALE)
    x, y, width, height = told["bbox_px"]
    outlines, _ = cv2.findContours(found, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.rectangle(picture.copy(), (x - 8, y - 8), (x + width + 8, y + height + 8), GREEN, 2)
    middle = x + width // 2, y + height // 2
    near = (slice(middle[1] - 60, middle[1] + 60), slice(middle[0] - 60, middle[0] + 60))
    zoomed = cv2.resize(picture[near], (480, 480), interpolation=cv2.INTER_NEAREST)
    moved = [(outline - (near[1].start, near[0].start)) * 4 + 2 for outline in outlines]
    cv2.drawContours(zoomed, moved, -1, GREEN, 1)
    words = f"{told['class']} {told['score']:.2f}: {told['area_mm2']:.2f} mm2, {told['length_mm']:.2f} mm long"
    _save("part", whole, _text(zoomed, words, (10, 26)))


def _text(picture: np.ndarray, words: str, at: tuple[int, int]) -> np.ndarray:
    picture = np.ascontiguousarray(picture)
    (width, height), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    cv2.rectangle(picture, (at[0] - 4, at[1] - height - 4), (at[0] + width + 4, at[1] + 6), (0, 0, 0), -1)
    cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _save(name: str, *halves: np.ndarray) -> None:
    small = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in halves]
    sheet = np.hstack([small[0], np.full((SIDE, 8, *small[0].shape[2:]), 255, np.uint8), small[1]])
    stored = sheet if sheet.ndim == 2 else np.ascontiguousarray(sheet[..., ::-1])
    cv2.imwrite(str(Path(__file__).with_name(f"calibration-{name}.png")), stored, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
