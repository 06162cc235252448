"""What a self-test sees that paints known defects on pictures of now (`golden.paint`), after changes of a camera.

Master parts of every defect type are made of rendered buttons, as `inspectd-calibrate golden` makes them. Their defects
are painted on good buttons that the camera would show after each change, and judged by the line's inspector.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import load_bundle
from inspectd.buttons import DEFECTS, render
from inspectd.calibration.golden import GoldenSettings, make_masters
from inspectd.calibration.record import utc_now
from inspectd.calibration.threshold_cli import inspector_of
from inspectd.dataset import open_dataset
from inspectd.dataset_writing import Row, write_png, write_split
from inspectd.inspection import AcceptanceRule
from inspectd.masters import Masters, encode_masters, open_masters
from inspectd.runtime.engine import open_engine
from inspectd.runtime.models import LoadedBundle, Model, rule_for
from inspectd.runtime.painted_parts import paintable_parts, run_painted

from .measure import Report, table

__all__ = ["run"]

Pixels = NDArray[np.uint8]
LINE = "marble"
PER_TYPE = 3
GOOD = 4
PICTURES = 4
"""That each defect is painted on."""
_AS_IT_WAS = "as it was"


def _blurred(sigma_px: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px), np.uint8)


def _lit(factor: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.convertScaleAbs(pixels, alpha=factor), np.uint8)


def _covered(level: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.full_like(pixels, level)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    **{f"blurred by {sigma:g} px": _blurred(sigma) for sigma in (1.0, 2.0, 3.0)},
    **{f"{factor:g} times the light": _lit(factor) for factor in (0.3, 0.1, 2.0, 4.0)},
    "covered: level 3": _covered(3),
    "covered, in stray light: level 40": _covered(40),
}


def run(*, bundle_path: Path, rounds: int) -> Report:
    """Paint on parts as the camera showed them, `rounds` times with other parts, and after each change.

    Args:
        bundle_path: what judges.
        rounds: of the unchanged camera, each with other parts.
    """
    bundle = load_bundle(bundle_path)
    rows: list[tuple[str, ...]] = []
    values: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder, open_engine(bundle, threads=1) as engine:
        loaded = LoadedBundle(bundle, engine)
        model = Model.make(loaded, AcceptanceRule(), scales={"cam1": None}, clock=time.monotonic_ns)
        rule = rule_for(bundle, AcceptanceRule())
        judge = inspector_of(bundle, engine, rule)
        settings = GoldenSettings(per_class=PER_TYPE, leave_out=True)
        made = make_masters(
            bundle,
            open_dataset(_dataset(Path(folder) / "data")),
            settings,
            rule=rule,
            judge=judge,
            engine_name=engine.name,
            made=utc_now(),
        )
        file = Path(folder) / "masters.zip"
        file.write_bytes(encode_masters(made.record, made.pictures))
        masters = open_masters(file)
        known = paintable_parts(masters, model.inspector.inspect, camera="cam1", count=GOOD)
        cases = [(_AS_IT_WAS, number, lambda pixels: pixels) for number in range(rounds)]
        for name, number, change in [*cases, *((name, 0, change) for name, change in CHANGES.items())]:
            pictures = [change(each) for each in _parts(number)]
            result = run_painted(masters, known, pictures, model.inspector.inspect, camera="cam1")
            found, tried = (sum(getattr(each, what) for each in result.outcomes) for what in ("found", "tried"))
            label = f"{name}, {number + 1}" if name == _AS_IT_WAS else name
            said = str(result.change) or "no change"
            rows.append((label, said, f"{found} of {tried}", f"{len(result.missed)} of {len(known)}"))
            values[label] = {"change": said, "found": found, "tried": tried, "missed": len(result.missed)}
    passed = not any(its["missed"] for name, its in values.items() if name.startswith(_AS_IT_WAS))
    lines = [
        f"{bundle.card.name}, {LINE}: of {_defective(masters)} master parts with a defect {len(known)} count; each is "
        f"painted on {PICTURES} pictures",
        table(("the camera", "measured: the pictures", "paintings found", "defects missed"), rows),
        f"none missed by a camera that is as it was: {'pass' if passed else 'FAIL'}",
    ]
    return Report("\n".join(lines), {"cameras": values, "known": len(known), "passed": passed}, passed)


def _defective(masters: Masters) -> int:
    return sum(not part.is_good for part in masters.record.parts)


def _parts(number: int) -> list[Pixels]:
    """Good parts that no set has."""
    return [render(LINE, None, 6_000_000_000 + PICTURES * number + index).image for index in range(PICTURES)]


def _dataset(root: Path) -> Path:
    """Candidates for the set: twice as many of each type as it takes."""
    rows: list[Row] = []
    kinds = [*DEFECTS * (2 * PER_TYPE), *[None] * (2 * PER_TYPE)]
    for index, defect in enumerate(kinds):
        part = render(LINE, defect, 5_000_000_100 + index)
        write_png(root / f"{index}.png", part.image)
        if defect:
            write_png(root / f"masks/{index}.png", part.mask * np.uint8(255))
        mask = f"masks/{index}.png" if defect else ""
        rows.append((f"{index}.png", mask, defect or "", "test" if defect else "ok_test", ""))
    write_split(root, rows)
    return root
