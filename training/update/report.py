"""What an update came to, for people: on the terminal, and as a page with pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import load_bundle
from inspectd.dataset import Sample, open_dataset, read_image, read_labels
from inspectd.dataset_writing import write_png
from inspectd.sheet import Tile, contact_sheet
from inspectd.training.document import Document, Table
from inspectd.training.files import written_whole
from inspectd.training.segmentation.graph_predictor import GraphPredictor

from .update import Update, Updated

__all__ = ["told", "write_report"]

_SHEET, _GOOD = "before-after.png", "good-parts.png"
_ROWS = 8
_GOOD_SHOWN = 48


def told(result: Updated) -> str:
    """Found before and after, by set and type, in aligned columns."""
    blocks = []
    for comparison in result.comparisons:
        table = comparison.table()
        rows = [(table.caption.removeprefix("## "), *table.header[1:]), *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def write_report(order: Update, result: Updated) -> None:
    """Write report.json, report.html, report.md, before-after.png and good-parts.png.

    Raises:
        ConfigError: a file cannot be written.
    """
    _draw_defects(order, result)
    _draw_good(order, result)
    verdict = (
        f"**Not to be used: {'; '.join(result.lost)}.**"
        if result.lost
        else "**It may take the old one's place**, once thresholds were calibrated for it."
    )
    paragraphs = [
        f"`{order.bundle.name}` ({result.before[:12]}) was taught {', '.join(result.defects)}: `{result.bundle.name}` "
        f"({result.after[:12]}). {verdict}",
        *(f"To look at: {remark}." for remark in result.remarks),
        "A part counts as found where a pixel of a labelled region is, a good one as rejected for any pixel, at the "
        "thresholds of the bundles' own cards. `inspectd-calibrate threshold` sets those of the line.",
        "**Look at the good parts** below: what was missed once has most likely been missed on others, which were then "
        "taught as good. Take those out of the folders, or mark them, and update again.",
    ]
    if result.signed_by is not None:
        paragraphs.append(f"Signed by {result.signed_by}.")
    times = Table(
        "## Seconds of each step in the last run",
        ("step", "s"),
        tuple((what, f"{seconds:.0f}") for what, seconds in result.took_s.items()),
    )
    document = Document(
        f"Update of {order.bundle.name}",
        tuple(paragraphs),
        (*(comparison.table() for comparison in result.comparisons), times),
        (
            (_SHEET, "Outlined: the label, and what is found by the bundle before and after"),
            (
                _GOOD,
                "Good parts of the sites, those first of which the new bundle is least sure; outlined: what it finds",
            ),
        ),
    )
    content = {
        "bundle": str(result.bundle),
        "before_sha256": result.before,
        "after_sha256": result.after,
        "defects": result.defects,
        "lost": result.lost,
        "remarks": result.remarks,
        "signed_by": result.signed_by,
        "took_s": result.took_s,
        "comparisons": [comparison.to_json() for comparison in result.comparisons],
        "order": {name: _text(value) for name, value in asdict(order).items()},
    }
    for name, text in (
        ("report.json", json.dumps(content, indent=1) + "\n"),
        ("report.md", document.markdown()),
        ("report.html", document.html(order.out)),
    ):
        with written_whole(order.out / name) as draft:
            draft.write_text(text, encoding="utf-8")


def _text(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return [str(each) for each in value] if isinstance(value, tuple) else value


def _draw_defects(order: Update, result: Updated) -> None:
    """Marked and painted parts, and what each bundle finds on them."""
    marked = open_dataset(order.out / "site").select("ref")
    painted = open_dataset(order.out / "exam").select("simulated")
    chosen: list[Sample] = [*marked[: _ROWS // 2], *painted[: _ROWS - min(len(marked), _ROWS // 2)]]
    bundles = {"before": _Finder(order.bundle), "after": _Finder(result.bundle)}
    tiles = []
    for sample in chosen:
        pixels = read_image(sample.image)
        label = read_labels(sample, None, (pixels.shape[0], pixels.shape[1]))
        kind = "painted" if sample.role == "simulated" else "marked"
        tiles.append(Tile(pixels, f"{kind}: {sample.defect}", label))
        for when, find in bundles.items():
            found, _ = find(pixels)
            tiles.append(Tile(pixels, f"{when}: {int(found.sum())} px", found))
    write_png(order.out / _SHEET, contact_sheet(tiles, columns=6, side=256))


def _draw_good(order: Update, result: Updated) -> None:
    """The good parts of the sites, those that the new bundle likes least first."""
    find = _Finder(result.bundle)
    judged = []
    for folder in ("site", "unseen"):
        for sample in open_dataset(order.out / folder).select("free"):
            pixels = read_image(sample.image)
            found, score = find(pixels)
            judged.append((score, Tile(pixels, f"{score:.2f} {Path(sample.name).stem[-18:]}", found)))
    judged.sort(key=lambda each: each[0], reverse=True)
    write_png(order.out / _GOOD, contact_sheet([tile for _, tile in judged[:_GOOD_SHOWN]], columns=8))


class _Finder:
    """What a bundle finds at the thresholds of its card."""

    def __init__(self, path: Path) -> None:
        bundle = load_bundle(path)
        self._predictor = GraphPredictor(bundle)
        self._thresholds = np.array(bundle.card.thresholds, np.float32)[:, None, None]

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
        """1 where it finds something, uint8 [H, W]; and its highest score."""
        probabilities = self._predictor(pixels)
        return np.asarray((probabilities >= self._thresholds).any(axis=0), np.uint8), float(probabilities.max())
