"""The report of a grid: Markdown, JSON, pictures, and all of it in one HTML file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspectd.dataset import Sample, open_dataset, read_image, read_labels
from inspectd.errors import DatasetError
from inspectd.training.document import Document, Table
from inspectd.training.files import written_whole
from inspectd.training.segmentation.checkpoint import Checkpoint
from inspectd.training.segmentation.figures import legend_patches, new_figure, overlay
from inspectd.training.segmentation.metrics import PixelScores, count_pixels
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.results import Evaluation

from .experiment import Cells, Found
from .grid import Grid
from .results import HEADLINE, by_size, common, compared, figures, machines, summary
from .simulation import painters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_overlays", "write_report"]

_PLOT, _OVERLAYS = "report.png", "figure7.png"
_COLOURS = ("#1f4e79", "#c0392b", "#2f7f4f", "#8e6c00", "#6c3483", "#555555")
_DIAGNOSIS = ("best F1", "Pooled F1 at each network's best threshold: a diagnosis, chosen by what is measured")
"""How much of a poor pooled F1 is a network that is too timid or too bold at its card's threshold."""


def write_report(out: Path, name: str, grid: Grid, found: Found, *, command: str, overlays: bool) -> str:
    """Write report.md, report.html, report.json and report.png of what was found by now.

    Args:
        out: folder of the experiment.
        name: of the dataset.
        grid: what is trained.
        found: what was found.
        command: that the report is of.
        overlays: whether `figure7.png` is there and of this grid.

    Returns:
        The report as Markdown.

    Raises:
        ConfigError: a file cannot be written.
    """
    measured_on = machines(result for results in found.values() for result in results)
    usual = grid.settings.segment.network
    networks = list(dict.fromkeys(str(entry.changes.get("network", usual)) for entry in grid.entries))
    painted_by = painters(out, [entry.variant for entry in grid.entries])
    paragraphs = [f"{name}: {common(grid.settings, networks)}"]
    paragraphs += [text for text in (painted_by, measured_on, f"`{command}`", grid.note) if text]
    pictures = [(_PLOT, "Pooled F1, mean and standard deviation (n - 1) over seeds of the training")]
    if overlays:
        pictures.append((_OVERLAYS, "First test picture of each defect type: label red, prediction green, both yellow"))
    document = Document(grid.title, tuple(paragraphs), tuple(_tables(grid, found)), tuple(pictures))
    _plot(grid, found, out / _PLOT)
    content: dict[str, Any] = {
        "title": grid.title,
        "data": name,
        "machine": measured_on,
        "painters": painted_by,
        "command": command,
        "settings": grid.settings.model_dump(mode="json"),
        "entries": [
            {
                "row": entry.row,
                "column": entry.column,
                "changes": dict(entry.changes),
                "paper": grid.stated_of(entry),
                "seeds": [figures(result) | _times(result) for result in results],
            }
            for entry, results in found.items()
        ],
    }
    text = document.markdown()
    for file, written in (
        ("report.json", json.dumps(content, indent=1, allow_nan=False) + "\n"),
        ("report.md", text),
        ("report.html", document.html(out)),
    ):
        with written_whole(out / file) as draft:
            draft.write_text(written, encoding="utf-8")
    return text


def _times(result: Evaluation) -> dict[str, float | None]:
    """Seconds of the training, windows trained and pictures measured a second."""
    card = result.provenance.get("card", {}).get("provenance", {})
    seconds, measured = card.get("training_s"), result.provenance.get("measured_s")
    windows = card.get("updates", 0) * card.get("settings", {}).get("batch", 0)
    return {
        "training s": seconds,
        "windows/s trained": windows / seconds if seconds else None,
        "pictures/s measured": len(result.images) / measured if measured else None,
    }


def _tables(grid: Grid, found: Found) -> list[Table]:
    seeds = grid.settings.seeds
    shown = {entry: [figures(result) for result in results] for entry, results in found.items()}
    by_type: dict[str, dict[str, list[float | None]]] = {}
    types = sorted({name for results in shown.values() for of in results for name in of if name.startswith("F1 ")})
    for entry, results in shown.items():
        by_type[grid.label(entry)] = {name.removeprefix("F1 "): [of.get(name) for of in results] for name in types}
    header = (grid.corner, *(name.removeprefix("F1 ") for name in types))
    # Where entries are many, their means alone.
    by_type_rows = compared(by_type, seeds, along_rows=False, brief=grid.has_columns)
    return [
        *(_by_place(grid, found) if grid.has_columns else [_by_row(grid, found)]),
        Table("## F1 by defect type", header, tuple(by_type_rows)),
        by_size({grid.label(entry): results for entry, results in found.items()}, seeds),
        _durations(grid, found),
    ]


def _by_place(grid: Grid, found: Found) -> list[Table]:
    """A table for each figure."""
    columns = tuple(dict.fromkeys(entry.column for entry in grid.entries if entry in found))
    tables = []
    for figure, caption in (*((figure, figure) for figure in HEADLINE), _DIAGNOSIS):
        values: dict[str, dict[str, list[float | None]]] = {}
        for entry, results in found.items():
            values.setdefault(grid.name(entry.row), {})[entry.column] = [figures(result)[figure] for result in results]
        # In the order of the columns, whatever was done first.
        values = {row: {column: of.get(column, []) for column in columns} for row, of in values.items()}
        rows = compared(values, grid.settings.seeds, along_rows=grid.along_rows)
        if figure == HEADLINE[0]:
            rows += _paper_rows(grid, found, columns)
        tables.append(Table(f"## {caption}", (grid.corner, *columns), tuple(rows)))
    return tables


def _by_row(grid: Grid, found: Found) -> Table:
    """All figures in one table."""
    shown = {
        figure: f"{figure} (a diagnosis)" if figure == _DIAGNOSIS[0] else figure
        for figure in (*HEADLINE, _DIAGNOSIS[0])
    }
    values = {
        grid.name(entry.row): {text: [figures(result)[figure] for result in results] for figure, text in shown.items()}
        for entry, results in found.items()
    }
    rows = compared(values, grid.settings.seeds, along_rows=False)
    return Table("## Figures", (grid.corner, *shown.values()), tuple(rows))


def _paper_rows(grid: Grid, found: Found, columns: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    for row in dict.fromkeys(entry.row for entry in found):
        of = {entry.column: grid.stated_of(entry) for entry in found if entry.row == row}
        texts = ["" if (value := of.get(column)) is None else f"{value:.3f}" for column in columns]
        if any(texts):
            rows.append((f"the paper's {row}, on its photographs", *texts))
    return rows


def _durations(grid: Grid, found: Found) -> Table:
    rows = []
    for entry, results in found.items():
        times = [_times(result) for result in results]
        texts = [
            "-" if (value := summary([of[name] for of in times])[0]) is None else f"{value:.{digits}f}"
            for name, digits in (("training s", 0), ("windows/s trained", 1), ("pictures/s measured", 1))
        ]
        rows.append((grid.label(entry), *texts))
    # Earlier versions measured on the processor, whatever had trained.
    by = sorted({str(result.provenance.get("measured_by", "CPU")) for results in found.values() for result in results})
    caption = f"## Times: means over seeds, beside whatever else the machine did; measured in fp32 by {', '.join(by)}"
    return Table(caption, ("", "training s", "windows/s trained", "pictures/s measured"), tuple(rows))


def _plot(grid: Grid, found: Found, path: Path) -> None:
    """Pooled F1 of all entries: curves over columns that are numbers, else dots by column, or by row."""
    places = list(dict.fromkeys(entry.column or entry.row for entry in grid.entries))
    lines = list(dict.fromkeys(entry.row if entry.column else "" for entry in grid.entries))
    figure = new_figure(6.5 if grid.axis else 1.3 * len(places) + 2.5, 4.2)
    axis: Axes = figure.add_subplot()
    for number, line in enumerate(lines):
        of = [(entry, results) for entry, results in found.items() if line == (entry.row if entry.column else "")]
        if not of:
            continue
        values = [[f1 for result in results if (f1 := result.pooled.pixels.f1) is not None] for _, results in of]
        centre = [mean(each) if each else np.nan for each in values]
        spread = [stdev(each) if len(each) > 1 else 0.0 for each in values]
        style: dict[str, Any] = {"capsize": 3, "color": _COLOURS[number % len(_COLOURS)], "label": grid.name(line)}
        if grid.axis:
            axis.errorbar([int(entry.column) for entry, _ in of], centre, spread, marker="o", **style)
            continue
        at = np.array([places.index(entry.column or entry.row) for entry, _ in of], float)
        at += 0.16 * (number - (len(lines) - 1) / 2)
        axis.errorbar(at, centre, spread, fmt="o", **style)
        stated = [(x, f1) for x, (entry, _) in zip(at, of, strict=True) if (f1 := grid.stated_of(entry)) is not None]
        if stated:
            axis.plot(*zip(*stated, strict=True), "D", markersize=5, fillstyle="none", color=style["color"])
    if grid.axis:
        axis.set_xlabel(grid.axis)
    else:
        ticks = [place.replace(", ", "\n").replace(":", ":\n").replace(";", "\n") for place in places]
        axis.set_xticks(range(len(places)), ticks, fontsize=8)
        for edge in range(1, len(places)):
            axis.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    if grid.stated:
        axis.plot([], [], "D", markersize=5, fillstyle="none", color="#555555", label="the paper's, on its photographs")
    axis.set(ylim=(0, 1), ylabel="pooled pixel F1")
    axis.grid(axis="y", color="#e5e5e5")
    axis.set_axisbelow(True)
    if grid.has_columns:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=8)
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=130, format="png")


def write_overlays(out: Path, data: Path, grid: Grid, cells: Cells) -> bool:
    """Write figure7.png: the first measured picture of each defect type, and what the networks of seed 0 find on it.

    Args:
        out: folder of the experiment.
        data: dataset that is measured on.
        grid: its `shown` are the rows; those are left out that are not done, or whose networks were removed.
        cells: of the grid.

    Returns:
        Whether there is one; without a network there is not.

    Raises:
        DatasetError: a picture cannot be used.
    """
    first: dict[str, Sample] = {}
    for sample in open_dataset(data).select(*grid.settings.roles):
        if sample.masks:
            first.setdefault(sample.defect, sample)
    shown = []
    for defect, sample in first.items():
        pixels = read_image(sample.image, bits=grid.settings.segment.bits)
        shown.append((defect, pixels, read_labels(sample, None, pixels.shape[:2]) > 0))
    rows = [[(overlay(pixels, *[np.zeros_like(label)] * 2), defect) for defect, pixels, label in shown]]
    # One network at a time.
    for entry in grid.shown:
        try:
            found = cells[entry][0].trained() if cells[entry][0].done else None
        except DatasetError:
            # Removed once it was measured; its figures are there.
            found = None
        if found is not None:
            rows.append(_at_work(grid.label(entry), found, shown))
    if len(rows) == 1:
        return False
    columns = len(shown)
    figure = new_figure(1.75 * columns, 1.95 * len(rows) + 0.3)
    for number, (picture, title) in enumerate(each for row in rows for each in row):
        axis = figure.add_subplot(len(rows), columns, number + 1)
        axis.set_axis_off()
        axis.imshow(picture)
        axis.set_title(title, fontsize=8, loc="left")
    figure.legend(handles=legend_patches(), loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    with written_whole(out / _OVERLAYS) as draft:
        figure.savefig(draft, dpi=110, format="png")
    return True


def _at_work(
    name: str, found: Checkpoint, shown: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]
) -> list[tuple[NDArray[np.uint8], str]]:
    """What a network finds on pictures, and F1 on each."""
    row: list[tuple[NDArray[np.uint8], str]] = []
    for _, pixels, label in shown:
        prediction = TorchPredictor(found.network, found.card)(pixels)[0] >= found.card.thresholds[0]
        f1 = PixelScores.of(count_pixels(label, prediction)).f1
        title = f"{'' if row else name}\nF1 {'-' if f1 is None else format(f1, '.2f')}"
        row.append((overlay(pixels, label, prediction), title))
    return row
