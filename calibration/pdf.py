"""The few lines of PDF that a target needs: black rectangles and words on one page, in exact millimetres.

Source: ISO 32000-1:2008; objects and cross-references are its section 7.5, paths 8.5, text 9.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["POINTS_PER_MM", "Rectangle", "Words", "one_page"]

POINTS_PER_MM = 72 / 25.4
"""PDF's unit is the point, 1/72 inch."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Left and upper edge, width and height, in mm; y runs downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text in Helvetica: where it begins and its base line, and its size, in mm."""

    x: float
    y: float
    size: float
    text: str


def one_page(
    width_mm: float, height_mm: float, black: Sequence[Rectangle], words: Sequence[Words], *, title: str
) -> bytes:
    """A PDF file of one page.

    All rectangles are one path: filled one by one, their common edges would show as hairlines on some printers.
    `PrintScaling /None` asks viewers not to shrink the page to the printer's margins.
    """
    k = POINTS_PER_MM
    drawing = [
        f"{one.x * k:.5f} {(height_mm - one.y - one.height) * k:.5f} {one.width * k:.5f} {one.height * k:.5f} re"
        for one in black
    ]
    drawing.append("f")
    drawing += [
        f"BT /F1 {one.size * k:.3f} Tf {one.x * k:.5f} {(height_mm - one.y) * k:.5f} Td ({_escaped(one.text)}) Tj ET"
        for one in words
    ]
    content = "\n".join(["0 g", *drawing]).encode("latin-1", "replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width_mm * k:.5f} {height_mm * k:.5f}] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>".encode(),
        b"<< /Length " + str(len(content)).encode() + b" >>\nstream\n" + content + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        f"<< /Title ({_escaped(title)}) /Producer (inspectd) >>".encode("latin-1", "replace"),
    ]
    file = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(file))
        file += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(file)
    file += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    file += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    file += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 6 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(file)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
