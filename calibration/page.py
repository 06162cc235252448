"""A page about a calibration: one HTML file that opens anywhere, now and in ten years.

No script, no style sheet and no font is fetched; pictures are inside as PNG. It has a style for paper, too: an
auditor gets it printed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import encode_png
from inspectd.calibrated import Record

from .files import write_whole

__all__ = ["Page", "Picture", "Plot", "Section", "Table", "Text", "Verdict", "render", "write_page"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the calibration comes to: a state, and a sentence that says it."""

    state: Literal["good", "doubtful", "bad"]
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, in plain words."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Figures, with units in the heads or in the cells.

    Attributes:
        head: what the columns are.
        rows: as many cells each; numbers are written by who makes the table, with as many digits as they deserve.
        caption: what the table shows.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels uint8 [H, W, 3] RGB or [H, W, 1] grey.

    Attributes:
        pixels: the picture.
        caption: what one sees.
        alt: the same for who cannot see it; the caption if empty.
    """

    pixels: NDArray[np.uint8]
    caption: str
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG of `plots`, with what to read from it."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Text | Table | Picture | Plot]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page; where it comes from is told by `record`, at its end."""

    title: str
    verdict: Verdict
    record: Record
    sections: Sequence[Section]


_STATES = {"good": ("Passed", "✓"), "doubtful": ("Passed with remarks", "!"), "bad": ("Failed", "✗")}
_STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;color:#1c1c1c;background:#fff;margin:0 auto;
max-width:960px;padding:28px 24px 48px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:19px;margin:34px 0 8px;border-bottom:1px solid #d5d5d5;padding-bottom:4px}
.about{color:#555;margin:0 0 18px}
.verdict{border:1px solid;border-left-width:8px;border-radius:4px;padding:10px 16px;margin:14px 0}
.verdict b{display:block;font-size:17px}
.good{border-color:#2e7d32;background:#f1f8f1}.doubtful{border-color:#b26a00;background:#fff8ec}
.bad{border-color:#b3261e;background:#fdf1f0}
table{border-collapse:collapse;margin:10px 0 16px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:#555;padding-bottom:4px}
td:last-child{overflow-wrap:anywhere}
th,td{border-bottom:1px solid #ddd;padding:4px 14px 4px 0;text-align:left;vertical-align:top}
th{border-bottom:2px solid #999;font-weight:600}
figure{margin:14px 0 20px;page-break-inside:avoid}figure img,figure svg{max-width:100%;height:auto}
figure img{border:1px solid #ccc}
figcaption{color:#555;font-size:13.5px;max-width:720px}
code{font:12.5px/1.4 ui-monospace,"DejaVu Sans Mono",monospace;word-break:break-all}
@media print{body{padding:0;font-size:11pt;max-width:none}h2{page-break-after:avoid}}
"""


def render(page: Page) -> str:
    """The page as HTML: one self-contained document in UTF-8."""
    word, sign = _STATES[page.verdict.state]
    made = f"{page.record.made:%Y-%m-%d %H:%M} UTC"
    body = "\n".join(_section(section) for section in (*page.sections, _provenance(page.record)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(page.title)}</h1>
<p class="about">{escape(_camera(page.record))} · {made}</p>
<div class="verdict {page.verdict.state}"><b>{sign} {word}</b>{escape(page.verdict.text)}</div>
{body}
</body></html>
"""


def write_page(path: Path, page: Page) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(path, render(page))


def _camera(record: Record) -> str:
    name = f"Camera {record.model or 'of unknown model'}, serial number {record.serial or 'unknown'}"
    return name if record.width_px is None else f"{name}, {record.width_px} by {record.height_px} px"


def _section(section: Section) -> str:
    return f"<section><h2>{escape(section.title)}</h2>\n" + "\n".join(map(_part, section.parts)) + "</section>"


def _part(part: Text | Table | Picture | Plot) -> str:
    match part:
        case Text():
            return f"<p>{escape(part.text)}</p>"
        case Table():
            caption = f"<caption>{escape(part.caption)}</caption>" if part.caption else ""
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in part.head)
            rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in part.rows)
            return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        case Picture():
            # OpenCV's channels are the other way round.
            data = base64.b64encode(encode_png(np.ascontiguousarray(part.pixels[..., ::-1]))).decode()
            alt = escape(part.alt or part.caption, quote=True)
            source = f"data:image/png;base64,{data}"
            return f'<figure><img src="{source}" alt="{alt}"><figcaption>{escape(part.caption)}</figcaption></figure>'
        case Plot():
            return f"<figure>{part.svg}<figcaption>{escape(part.caption)}</figcaption></figure>"


def _provenance(record: Record) -> Section:
    rows = [(entry.name, f"{entry.size_bytes:,}", entry.sha256) for entry in record.inputs]
    said = (
        f"Made by {record.software.name} {record.software.version} on {record.made:%Y-%m-%d at %H:%M:%S} UTC. "
        f"The record of this calibration has the sha256 {record.sha256}."
    )
    return Section(
        "Where it comes from", [Text(said), Table(("file", "bytes", "sha256"), rows, "Files it was made from")]
    )
