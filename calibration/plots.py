"""Plots as SVG text: small, without scripts or fonts of their own, readable on paper and by a screen reader.

Every function gives one `<svg>` element with a title for screen readers, axes with units, and nothing that is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Series", "bars", "heat_map", "histogram", "lines", "points", "ticks"]

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 16, 52
# Told apart in print and by eyes that confuse red and green (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Viridis at five places: even in lightness, so that it survives a black and white printer.
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True, slots=True)
class Axis:
    """What runs along a side of a plot.

    Attributes:
        label: with the unit: "radius (px)".
        low: where it begins; None to fit the values.
        high: where it ends; None to fit the values.
    """

    label: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together: x and y of one length, in the units of the axes; the name is for the legend."""

    name: str
    x: Sequence[float] | NDArray[np.floating]
    y: Sequence[float] | NDArray[np.floating]


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series], *, marks: Sequence[tuple[float, str]] = ()) -> str:
    """Curves through points. `marks` are vertical lines: where on the x axis, and what they say."""
    frame = _Frame.around(title, x, y, series, [at for at, _ in marks])
    body = []
    for index, one in enumerate(series):
        path = " ".join(
            f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in zip(one.x, one.y, strict=True) if math.isfinite(a + b)
        )
        dash = "" if index == 0 else f' stroke-dasharray="{4 + 2 * index} 3"'
        body.append(f'<polyline points="{path}" fill="none" stroke="{_colour(index)}" stroke-width="1.8"{dash}/>')
    for at, text in marks:
        body.append(
            f'<line x1="{frame.x(at):.1f}" x2="{frame.x(at):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
            'stroke="#444" stroke-dasharray="2 3"/>'
            f'<text x="{frame.x(at) + 4:.1f}" y="{_TOP + 11}" fill="#444">{escape(text)}</text>'
        )
    return frame.svg("".join(body) + _legend([one.name for one in series]))


def points(title: str, x: Axis, y: Axis, series: Sequence[Series], *, equal: bool = False) -> str:
    """Points without lines. `equal` gives both axes the same units per length, for pictures: y runs downwards."""
    frame = _Frame.around(title, x, y, series, downwards=equal)
    if equal:
        frame = frame.equalised()
    body = [
        f'<circle cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="2.2" fill="{_colour(index)}" fill-opacity="0.65"/>'
        for index, one in enumerate(series)
        for a, b in zip(one.x, one.y, strict=True)
    ]
    return frame.svg("".join(body) + _legend([one.name for one in series]))


def bars(title: str, y: Axis, names: Sequence[str], values: Sequence[float], *, limit: float | None = None) -> str:
    """A bar for each name, from 0. Those above `limit`, a horizontal line, have another colour."""
    top = max([*values, limit or 0.0, 1e-12])
    frame = _Frame(title, "", y.label, 0.0, float(len(names)), y.low or 0.0, y.high or top * 1.08)
    body = []
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        left, right, at = frame.x(index + 0.12), frame.x(index + 0.88), frame.y(value)
        over = limit is not None and value > limit
        body.append(
            f'<rect x="{left:.1f}" y="{at:.1f}" width="{right - left:.1f}" height="{frame.y(0) - at:.1f}" '
            f'fill="{_colour(1 if over else 0)}"><title>{escape(name)}: {_figure(value)}</title></rect>'
        )
        # Names that would run into each other are left to the pointer and to the table beside the plot.
        if len(names) <= 30:
            middle, below = (left + right) / 2, _HEIGHT - _BOTTOM + 12
            body.append(
                f'<text x="{middle:.1f}" y="{below}" text-anchor="end" font-size="9" '
                f'transform="rotate(-40 {middle:.1f} {below})">{escape(_short(name))}</text>'
            )
    if limit is not None:
        at = frame.y(limit)
        body.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#444" '
            f'stroke-dasharray="2 3"/><text x="{_WIDTH - _RIGHT}" y="{at - 4:.1f}" text-anchor="end" fill="#444">'
            f"limit {_figure(limit)}</text>"
        )
    return frame.svg("".join(body), x_ticks=False)


def histogram(title: str, x: Axis, values: Sequence[float] | NDArray[np.floating], *, bins: int = 40) -> str:
    """How often values occur: `bins` of equal width over the x axis."""
    data = np.asarray(values, float)
    low = float(data.min()) if x.low is None else x.low
    high = float(data.max()) if x.high is None else x.high
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(data, bins, (low, high))
    frame = _Frame(title, x.label, "count", low, high, 0.0, max(1.0, float(counts.max()) * 1.08))
    body = "".join(
        f'<rect x="{frame.x(a):.2f}" y="{frame.y(n):.1f}" width="{max(0.4, frame.x(b) - frame.x(a) - 0.5):.2f}" '
        f'height="{frame.y(0) - frame.y(n):.1f}" fill="{_colour(0)}"/>'
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
        if n
    )
    return frame.svg(body)


def heat_map(
    title: str,
    values: NDArray[np.floating],
    *,
    x: Axis,
    y: Axis,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    show: Callable[[float], str] | None = None,
) -> str:
    """A value for each cell of a grid, as a colour and, where there is room, as a figure.

    Args:
        title: what it shows.
        values: [rows, columns], row 0 on top; NaN for cells without a value.
        x: the horizontal axis; its ends are the outer edges of the grid.
        y: the vertical axis, downwards.
        unit: what the values are, for the scale beside it.
        low: value of the darkest colour, the least one if None.
        high: value of the brightest colour, the greatest one if None.
        show: how a value is written; None for three digits.
    """
    write = show or _figure
    finite = values[np.isfinite(values)]
    low = (float(finite.min()) if finite.size else 0.0) if low is None else low
    high = (float(finite.max()) if finite.size else 1.0) if high is None else high
    rows, columns = values.shape
    x_low, x_high = x.low or 0.0, columns if x.high is None else x.high
    y_low, y_high = y.low or 0.0, rows if y.high is None else y.high
    frame = _Frame(title, x.label, y.label, x_low, x_high, y_low, y_high, downwards=True, right=90).equalised()
    across, down = (frame.x(x_high) - frame.x(x_low)) / columns, (frame.y(y_high) - frame.y(y_low)) / rows
    body = []
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            left, top = frame.x(x_low) + column * across, frame.y(y_low) + row * down
            share = (value - low) / (high - low) if high > low else 0.5
            fill = _shade(share) if math.isfinite(value) else "#e8e8e8"
            body.append(
                f'<rect x="{left:.2f}" y="{top:.2f}" width="{across + 0.3:.2f}" height="{down + 0.3:.2f}" '
                f'fill="{fill}"/>'
            )
            if across > 26 and down > 12:
                ink = "#000" if not math.isfinite(value) or share > 0.55 else "#fff"
                text = write(value) if math.isfinite(value) else "-"
                body.append(
                    f'<text x="{left + across / 2:.1f}" y="{top + down / 2 + 3.5:.1f}" text-anchor="middle" '
                    f'font-size="10" fill="{ink}">{escape(text)}</text>'
                )
    return frame.svg("".join(body) + _colour_scale(low, high, unit, write, frame.right_edge + 14))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in the drawing, and the axes around them."""

    title: str
    x_label: str
    y_label: str
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    downwards: bool = False
    right: float = _RIGHT
    width: float = 0.0
    height: float = 0.0

    @classmethod
    def around(
        cls,
        title: str,
        x: Axis,
        y: Axis,
        series: Sequence[Series],
        more: Sequence[float] = (),
        *,
        downwards: bool = False,
    ) -> _Frame:
        across = _span(x, [*(np.asarray(one.x, float) for one in series), np.asarray(more, float)], 0.0)
        return cls(
            title, x.label, y.label, *across, *_span(y, [np.asarray(one.y, float) for one in series], 0.06), downwards
        )

    @property
    def inner(self) -> tuple[float, float]:
        return self.width or _WIDTH - _LEFT - self.right, self.height or _HEIGHT - _TOP - _BOTTOM

    @property
    def right_edge(self) -> float:
        return _LEFT + self.inner[0]

    def equalised(self) -> _Frame:
        """With the same units per length along both axes."""
        across, down = self.inner
        scale = min(across / (self.x_high - self.x_low), down / (self.y_high - self.y_low))
        return _Frame(
            self.title,
            self.x_label,
            self.y_label,
            self.x_low,
            self.x_high,
            self.y_low,
            self.y_high,
            self.downwards,
            self.right,
            scale * (self.x_high - self.x_low),
            scale * (self.y_high - self.y_low),
        )

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * self.inner[0]

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _TOP + (share if self.downwards else 1 - share) * self.inner[1]

    def svg(self, body: str, *, x_ticks: bool = True) -> str:
        across, down = self.inner
        bottom = _TOP + down
        marks = [f'<rect x="{_LEFT}" y="{_TOP}" width="{across:.1f}" height="{down:.1f}" fill="none" stroke="#888"/>']
        grid = []
        if x_ticks:
            found = ticks(self.x_low, self.x_high, about=6)
            for value in found:
                at = self.x(value)
                grid.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom:.1f}" stroke="#e4e4e4"/>')
                text = _tick(value, found)
                marks.append(f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{text}</text>')
        found = ticks(self.y_low, self.y_high)
        for value in found:
            at = self.y(value)
            grid.append(f'<line x1="{_LEFT}" x2="{_LEFT + across:.1f}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e4"/>')
            marks.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick(value, found)}</text>')
        middle = _TOP + down / 2
        labels = (
            f'<text x="{_LEFT + across / 2:.1f}" y="{bottom + 38:.1f}" text-anchor="middle">{escape(self.x_label)}'
            f'</text><text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
            f"{escape(self.y_label)}</text>"
        )
        total = math.ceil(bottom + _BOTTOM)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" width="{_WIDTH}" '
            f'height="{total}" role="img" aria-label="{escape(self.title, quote=True)}" font-family="sans-serif" '
            f'font-size="11" fill="#222"><title>{escape(self.title)}</title>'
            f"{''.join(grid)}{body}{''.join(marks)}{labels}</svg>"
        )


def _span(axis: Axis, data: Sequence[NDArray[np.float64]], margin: float) -> tuple[float, float]:
    joined = np.concatenate([np.zeros(0), *data])
    joined = joined[np.isfinite(joined)]
    low = (float(joined.min()) if joined.size else 0.0) if axis.low is None else axis.low
    high = (float(joined.max()) if joined.size else 1.0) if axis.high is None else axis.high
    if not high > low:
        low, high = low - 0.5, high + 0.5
    room = (high - low) * margin
    return low if axis.low is not None else low - room, high if axis.high is not None else high + room


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    parts = []
    for index, name in enumerate(names):
        at = _TOP + 14 + 15 * index
        parts.append(
            f'<rect x="{_WIDTH - _RIGHT - 150}" y="{at - 8}" width="10" height="10" fill="{_colour(index)}"/>'
            f'<text x="{_WIDTH - _RIGHT - 135}" y="{at + 1}">{escape(name)}</text>'
        )
    return "".join(parts)


def _colour_scale(low: float, high: float, unit: str, write: Callable[[float], str], left: float) -> str:
    steps, tall = 40, _HEIGHT - _TOP - _BOTTOM - 30
    parts = [
        f'<rect x="{left:.1f}" y="{_TOP + 14 + index * tall / steps:.1f}" width="12" height="{tall / steps + 0.5:.1f}" '
        f'fill="{_shade(1 - (index + 0.5) / steps)}"/>'
        for index in range(steps)
    ]
    parts.append(f'<text x="{left:.1f}" y="{_TOP + 6}">{escape(unit)}</text>')
    for share in (0.0, 0.5, 1.0):
        at = _TOP + 14 + (1 - share) * tall + 4
        parts.append(f'<text x="{left + 16:.1f}" y="{at:.1f}">{escape(write(low + share * (high - low)))}</text>')
    return "".join(parts)


def _shade(share: float) -> str:
    at = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    index = min(int(at), len(_SCALE) - 2)
    mixed = (a + (b - a) * (at - index) for a, b in zip(_SCALE[index], _SCALE[index + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _tick(value: float, found: Sequence[float]) -> str:
    """A number with as many decimals as its neighbours need to be told from it."""
    step = found[1] - found[0] if len(found) > 1 else 1.0
    if abs(value) >= 1e6 or 0 < step < 1e-5:
        return f"{value:.2g}"
    return f"{value + 0.0:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"…{name[-13:]}"
