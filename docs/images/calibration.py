"""Draws calibration.jpg, all of it rendered. Run: python docs/images/calibration.py.

Above: a view of the target with the corners that were found, and where 14 views were in the picture. Below: an even
target before and after its flat field, the contrast raised alike.
"""

from pathlib import Path

import cv2
import numpy as np

from inspectd.calibrated import Lens
from inspectd.calibration.corners import find_view
from inspectd.calibration.drawing import marked, outlines
from inspectd.calibration.flat import Stack, fit_flat_field
from inspectd.calibration.simulate import Station, spread_poses
from inspectd.calibration.target import Target

SHAPE = (480, 640)


def main() -> None:
    """Render, look for corners, correct, draw."""
    rng = np.random.default_rng(0)
    station = Station(Lens(fx_px=880, fy_px=880, cx_px=322, cy_px=238, k1=-0.18, k2=0.07), SHAPE)
    pictures = [station.picture(Target(), pose, rng) for pose in spread_poses(station, Target(), rng, 14)]
    views = [find_view(str(number), picture, Target()) for number, picture in enumerate(pictures)]
    above = [marked(pictures[0], views[0]), outlines(views, SHAPE)]

    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    shade = (190 * (1 - 0.2 * (x**2 + y**2)) * (1 + 0.012 * rng.normal(size=SHAPE)))[..., None]
    stack = Stack()
    for number in range(32):
        stack.add(str(number), np.clip(np.rint(shade + rng.normal(0, 1.5, shade.shape)), 0, 255).astype(np.uint8))
    fit = fit_flat_field(stack)
    frame = shade + rng.normal(0, 1.5, shade.shape)
    below = [
        np.broadcast_to(np.clip((one - 110) / 90 * 255, 0, 255).astype(np.uint8), (*SHAPE, 3))
        for one in (frame, frame * fit.gain / 4096)
    ]
    rows = []
    for pair in (above, below):
        small = [cv2.resize(one, (480, 360), interpolation=cv2.INTER_AREA) for one in pair]
        rows.append(np.hstack([small[0], np.full((360, 8, 3), 255, np.uint8), small[1]]))
    sheet = np.vstack([rows[0], np.full((8, rows[0].shape[1], 3), 255, np.uint8), rows[1]])
    path = str(Path(__file__).with_name("calibration.jpg"))
    cv2.imwrite(path, sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
