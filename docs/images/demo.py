"""Draws demo.jpg: six unseen parts, and under each what the shipped network marks. Run: python docs/images/demo.py."""

from pathlib import Path

import cv2
import numpy as np

from inspectd.bundle import load_bundle
from inspectd.buttons import LINES, render
from inspectd.runtime.engine import open_engine
from inspectd.runtime.station import demo_bundle

DEFECTS = ("stain", "scuff", "hole", "discolour", "bubble", "crack")
FIRST_SEED = 4_100_000_000
GREEN = np.array([30, 200, 60])


def main() -> None:
    """Render, infer, draw."""
    bundle = load_bundle(demo_bundle())
    engine = open_engine(bundle)
    thresholds = np.asarray(bundle.card.thresholds, np.float32)
    columns = []
    for number, (line, defect) in enumerate(zip(LINES, DEFECTS, strict=True)):
        picture = render(line, defect, FIRST_SEED + number, 256).image
        found = engine.infer(picture[None], thresholds).labels[0] > 0
        marked = picture.copy()
        marked[found] = 0.35 * marked[found] + 0.65 * GREEN
        columns.append(np.vstack([picture, marked]))
    sheet = cv2.resize(np.hstack(columns), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(Path(__file__).with_name("demo.jpg")), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
