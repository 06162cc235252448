"""The nine defects: each changes colour, height, gloss or outline of a part, and knows its exact footprint.

A tenth kind is in no dataset: what a line does with a defect that its network was never shown is tried with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .fields import (
    F32,
    Plane,
    Polygon,
    Window,
    as_f32,
    blob,
    linear,
    mix,
    noise,
    plane,
    ribbon,
    smoothstep,
    soften,
    turned,
)
from .shading import Scene, turn_of
from .surface import Layers, Product, hole_distance

_LUMINANCE = np.array([0.30, 0.59, 0.11], dtype=np.float32).reshape(3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Flaw:
    """A defect ready to be put on a part.

    `cover` [h, w], 0 to 1, is its footprint over `window`; `edit` changes that window's layers in place;
    `outline` tells that the part's outline, and with it the cast shadow, changes too.
    """

    window: Window
    cover: F32
    edit: Callable[[Layers], None]
    outline: bool = False

    def apply(self, layers: Layers, rows: slice, cols: slice) -> None:
        """Change `layers` in place, where rows and columns are this flaw's window within them."""
        self.edit(
            Layers(
                layers.albedo[:, rows, cols],
                layers.height[rows, cols],
                layers.gloss[rows, cols],
                layers.polish[rows, cols],
                layers.body[rows, cols],
                layers.through[rows, cols],
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where and how strongly a defect is to be made. `enlarge` scales its lengths, `strength` its contrast."""

    rng: np.random.Generator
    product: Product
    at: Plane
    layers: Layers
    enlarge: float
    strength: float

    def place(self, reach: float) -> Polygon:
        """A point [2] (x, y) of the face for something of `reach` radii, clear of rim and holes by most of that."""
        distance = np.sqrt(self.rng.uniform(0.0, 1.0, 96)) * max(0.93 - 0.7 * reach, 0.3)
        theta = self.rng.uniform(0.0, 2.0 * np.pi, 96)
        x, y = distance * np.cos(theta), distance * np.sin(theta)
        cos, sin = turn_of(self.at)
        clear = hole_distance(self.product, as_f32(x * cos + y * sin), as_f32(y * cos - x * sin))
        # The clearest of all candidates stands in where a large defect finds no free place.
        free = np.flatnonzero(clear > self.product.bevel + 0.55 * reach)
        best = int(free[0]) if free.size else int(np.argmax(clear))
        return np.array([x[best], y[best]])

    def amount(self, low: float, high: float) -> float:
        """A mixing share between `low` and `high`, times the strength, below 1."""
        return float(min(self.rng.uniform(low, high) * self.strength, 0.97))

    def length(self, low: float, high: float) -> float:
        """A length between `low` and `high` radii, small ones as likely as large, enlarged."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))) * self.enlarge)

    def local(self, points: Polygon, margin: float) -> tuple[Window, Plane]:
        """The window that holds `points` with a margin, and its coordinates."""
        window = self.at.window_about(points, margin)
        return window, self.at.crop(window)

    def flesh(self, window: Window) -> F32:
        """Where there is material to mark [h, w]: the part without its holes."""
        rows, cols = window.slices
        return as_f32(self.layers.body[rows, cols] * (1.0 - self.layers.through[rows, cols]))

    def brightness(self, window: Window, cover: F32) -> float:
        """Mean luminance of the part's colour under `cover`, linear light."""
        rows, cols = window.slices
        grey = (self.layers.albedo[:, rows, cols] * _LUMINANCE).sum(axis=0)
        return float((grey * cover).sum() / max(float(cover.sum()), 1.0))

    def worn(self, window: Window, cover: F32) -> F32:
        """Colour planes [3, 1, 1] of rubbed material: pale, but dull grey where the part itself is pale."""
        pale = self.brightness(window, cover) > 0.48
        return plane(linear(118, 112, 106) if pale else 0.35 * linear(*self.product.raw) + 0.65 * linear(228, 226, 222))


def _recolour(layers: Layers, colour: F32, amount: F32) -> None:
    layers.albedo[:] = mix(layers.albedo, colour, amount)


def _stain(site: Site) -> Flaw:
    rng = site.rng
    radius = site.length(0.05, 0.19)
    shapes = [blob(rng, radius, 0.75, rng.uniform(1.0, 1.8))]
    for _ in range(int(rng.integers(0, 4))):
        drop = blob(rng, max(radius * rng.uniform(0.12, 0.26), 0.02 * site.enlarge), 0.3)
        shapes.append(drop + turned(np.array([[radius * rng.uniform(1.2, 1.7), 0.0]]), rng.uniform(0.0, 6.28)))
    centre = site.place(radius)
    shapes = [shape + centre for shape in shapes]
    window, at = site.local(np.concatenate(shapes), 0.05)
    cover = soften(at.draw(shapes), 0.012 * at.unit) * site.flesh(window)
    # Liquid dries towards its edge and leaves a darker rim there.
    rim = cover * (1.0 - smoothstep(0.45, 0.95, soften(cover, 0.30 * radius * at.unit)))
    patches = noise(rng, at.x, at.y, (7.0, 7.0))
    tints = ((44, 46, 58), (74, 52, 34), (52, 64, 54), (60, 40, 46))
    tint = plane(linear(*tints[int(rng.integers(len(tints)))]))
    body, edge = site.amount(0.50, 0.74), 0.5 * site.strength
    amount = as_f32(np.clip(cover * (body * (1.0 + 0.16 * patches)) + rim * edge, 0.0, 0.96))
    shine = rng.uniform(0.35, 1.3)

    def edit(layers: Layers) -> None:
        soaked = layers.albedo * (tint * 2.2) + tint * 0.35
        _recolour(layers, as_f32(soaked), amount)
        layers.gloss *= 1.0 + cover * np.float32(shine - 1.0)

    return Flaw(window, cover, edit)


def _scratch(site: Site) -> Flaw:
    rng = site.rng
    length = site.length(0.26, 1.0)
    centre, heading = site.place(0.1), rng.uniform(0.0, 2.0 * np.pi)
    half = rng.uniform(0.0064, 0.0100) * site.enlarge
    lines, depths = [], []
    for index in range(int(rng.choice(3, p=(0.6, 0.28, 0.12))) + 1):
        own = length * (1.0 if index == 0 else rng.uniform(0.3, 0.8))
        t = np.linspace(-0.5, 0.5, 40) * own
        bow = rng.normal(0.0, 0.28) * t * t + 0.004 * np.interp(t, t[::5], rng.normal(size=8))
        path = turned(np.stack([t, bow], axis=1), -heading + rng.normal(0.0, 0.09)) + centre
        path = path + (0.0 if index == 0 else rng.normal(0.0, 0.06, 2))
        taper = np.sin(np.linspace(0.06, 1.0, 40) * np.pi * 0.97) ** 0.45
        lines.append(ribbon(path, half * taper * (1.0 if index == 0 else 0.85)))
        depths.append(path)
    window, at = site.local(np.concatenate(depths), 0.05)
    flesh = site.flesh(window)
    cover = at.draw(lines) * flesh
    broad = soften(cover, 0.012 * at.unit)
    colour, amount = site.worn(window, cover), site.amount(0.55, 0.85)

    def edit(layers: Layers) -> None:
        _recolour(layers, colour, as_f32(cover * amount))
        layers.height += (broad * 0.7 - cover * 1.2) * np.float32(0.010)
        layers.gloss += cover * (0.5 - layers.gloss) * 0.6

    return Flaw(window, cover, edit)


def _hole(site: Site) -> Flaw:
    rng = site.rng
    radius = site.length(0.028, 0.080)
    outline = blob(rng, radius, 0.22, rng.uniform(1.0, 1.35))
    centre = site.place(radius)
    window, at = site.local(outline * 1.5 + centre, 0.06)
    flesh = site.flesh(window)
    mouth = at.draw([outline * 1.16 + centre]) * flesh
    pit = at.draw([outline * 0.86 + centre]) * flesh
    bowl = soften(mouth, 0.20 * radius * at.unit)
    floor = as_f32(soften(pit, 0.10 * radius * at.unit) * site.amount(0.80, 0.94))
    depth = rng.uniform(0.5, 0.9) * radius
    lip = soften(at.draw([outline * 1.5 + centre]), 0.2 * radius * at.unit) - mouth
    dark = plane(linear(26, 22, 20))

    def edit(layers: Layers) -> None:
        _recolour(layers, dark, floor)
        layers.height += lip * np.float32(0.05 * radius) - bowl * np.float32(depth)
        layers.gloss *= 1.0 - floor

    return Flaw(window, mouth, edit)


def _walk(rng: np.random.Generator, start: Polygon, heading: float, length: float) -> tuple[Polygon, np.ndarray]:
    """A jagged path [n, 2] from `start`, and its heading [n] at each point."""
    count = max(int(length / 0.020), 5)
    kinks = rng.normal(0.0, 0.62, count) * (rng.random(count) < 0.5)
    headings = heading + kinks + np.cumsum(rng.normal(0.0, 0.10, count))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / count)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)]), np.append(headings, headings[-1])


def _crack(site: Site) -> Flaw:
    rng = site.rng
    length = site.length(0.26, 0.72)
    origin = rng.random()
    if origin < 0.5:
        theta = rng.uniform(0.0, 2.0 * np.pi)
        start, heading = np.array([np.cos(theta), np.sin(theta)]) * 0.985, theta + np.pi + rng.normal(0.0, 0.35)
    elif origin < 0.8:
        cos, sin = turn_of(site.at)
        offset = site.product.hole_offset
        corner = np.array([offset, offset if site.product.holes == 4 else 0.0]) * rng.choice((-1.0, 1.0), 2)
        x, y = corner[0] * cos - corner[1] * sin, corner[0] * sin + corner[1] * cos
        heading = float(np.arctan2(y, x)) + rng.normal(0.0, 0.5)
        edge = site.product.hole_radius * 0.95
        start = np.array([x + np.cos(heading) * edge, y + np.sin(heading) * edge])
    else:
        start, heading = site.place(0.15), rng.uniform(0.0, 2.0 * np.pi)
    half = rng.uniform(0.0070, 0.0110) * site.enlarge
    path, headings = _walk(rng, start, heading, length)
    taper = np.linspace(1.0, 0.58, len(path)) * rng.uniform(0.8, 1.15, len(path))
    lines = [ribbon(path, half * taper)]
    for _ in range(int(rng.integers(0, 3))):
        fork = int(rng.integers(len(path) // 3, len(path) - 1))
        aside = headings[fork] + rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 1.0)
        twig, _ = _walk(rng, path[fork], aside, length * rng.uniform(0.18, 0.42))
        lines.append(ribbon(twig, half * 0.85 * np.linspace(1.0, 0.6, len(twig))))
    window, at = site.local(np.concatenate(lines), 0.055)
    flesh = site.flesh(window)
    cover = at.draw(lines) * flesh
    near = soften(cover, 0.014 * at.unit)
    strain, depth = 0.30 * (near - cover * near), site.amount(0.82, 0.95)
    gap = plane(linear(18, 15, 14) if site.brightness(window, cover) > 0.035 else linear(170, 160, 148))
    pale = plane(linear(*site.product.raw))

    def edit(layers: Layers) -> None:
        _recolour(layers, pale, as_f32(np.maximum(strain, 0.0)))
        _recolour(layers, gap, as_f32(cover * depth))
        layers.height += near * 0.006 - cover * 0.020
        layers.gloss *= 1.0 - 0.9 * cover

    return Flaw(window, cover, edit)


def _chip(site: Site) -> Flaw:
    rng = site.rng
    radius = site.length(0.062, 0.165)
    theta = rng.uniform(0.0, 2.0 * np.pi)
    out = np.array([np.cos(theta), np.sin(theta)])
    wide = turned(blob(rng, radius, 0.28, 1.0) * np.array([0.8, 1.3]), -theta)
    centre = out * (1.0 - 0.05 * radius)
    bite = wide + centre
    lost = wide * rng.uniform(0.62, 0.85) + centre + out * radius * rng.uniform(0.28, 0.42)
    window, at = site.local(bite, 0.05)
    flesh = site.flesh(window)
    cover = at.draw([bite]) * flesh
    gone = at.draw([lost])
    face = soften(cover, 0.006 * at.unit)
    deep = soften(cover, 0.30 * radius * at.unit) * face
    # A blow leaves shell-shaped ripples about the point where it struck.
    struck = out * (1.0 + 0.4 * radius)
    from_blow = np.hypot(at.x - np.float32(struck[0]), at.y - np.float32(struck[1]))
    ripples = np.sin(from_blow * np.float32(2.0 * np.pi * 3.2 / radius) + noise(rng, at.x, at.y, (6.0, 6.0)))
    facets = noise(rng, at.x, at.y, (14.0, 14.0))
    raw, amount = plane(linear(*site.product.raw)), site.amount(0.62, 0.88)
    fresh = as_f32(raw * (1.0 + 0.10 * facets))

    def edit(layers: Layers) -> None:
        _recolour(layers, fresh, as_f32(face * amount))
        layers.height -= face * 0.010 + deep * np.float32(0.55 * radius)
        layers.height += face * (ripples * np.float32(0.022 * radius) + facets * np.float32(0.025 * radius))
        layers.gloss *= 1.0 - 0.55 * face
        layers.body *= 1.0 - gone

    return Flaw(window, cover, edit, outline=True)


def _bubble(site: Site) -> Flaw:
    rng = site.rng
    count = int(rng.integers(1, 6))
    radii = [site.length(0.024, 0.060 if count > 1 else 0.085) for _ in range(count)]
    spread = 0.055 * np.sqrt(count) * site.enlarge
    centre = site.place(spread)
    centres = [centre + (rng.normal(0.0, spread, 2) if count > 1 else 0.0) for _ in radii]
    circle = blob(rng, 1.0, 0.0)
    shapes = [circle * radius + middle for radius, middle in zip(radii, centres, strict=True)]
    window, at = site.local(np.concatenate(shapes), 0.04)
    flesh = site.flesh(window)
    cover = at.draw(shapes) * flesh
    dome = np.zeros_like(cover)
    wall = np.zeros_like(cover)
    for radius, middle in zip(radii, centres, strict=True):
        t = np.hypot(at.x - np.float32(middle[0]), at.y - np.float32(middle[1])) * np.float32(1.0 / radius)
        dome = np.maximum(dome, np.sqrt(np.maximum(1.0 - t * t, 0.0)) * np.float32(radius))
        wall = np.maximum(wall, smoothstep(0.62, 0.9, as_f32(t)) * smoothstep(1.08, 0.95, as_f32(t)))
    dome = soften(as_f32(dome * flesh), 0.006 * at.unit)
    rise = rng.uniform(0.55, 0.85)
    film = 0.25 * plane(linear(*site.product.raw)) + 0.75 * plane(linear(226, 224, 218))
    milky = site.amount(0.18, 0.34)
    shade = site.amount(0.40, 0.58)

    def edit(layers: Layers) -> None:
        _recolour(layers, as_f32(film), as_f32(cover * milky))
        layers.albedo *= 1.0 - wall * flesh * np.float32(shade)
        layers.height += dome * np.float32(rise)
        layers.gloss += cover * (np.maximum(layers.gloss, 0.8) - layers.gloss)
        layers.polish += cover * (0.8 - layers.polish)

    return Flaw(window, cover, edit)


def _burr(site: Site) -> Flaw:
    rng = site.rng
    tall = min(site.length(0.040, 0.120), 0.125)
    span = tall * rng.uniform(0.8, 2.2)
    theta = rng.uniform(0.0, 2.0 * np.pi)
    points = int(rng.integers(5, 9))
    along = np.linspace(-0.5, 0.5, points + 2)
    along[1:-1] += rng.normal(0.0, 0.04, points)
    reach = np.sin((along + 0.5) * np.pi).clip(0.0, 1.0) ** 0.6 * tall * rng.uniform(0.45, 1.1, points + 2)
    reach[int(rng.integers(1, points + 1))] = tall
    outer = np.stack([(1.0 + reach) * np.cos(along * span), (1.0 + reach) * np.sin(along * span)], axis=1)
    root = 1.0 - min(0.35 * tall, 0.03) * np.cos(along * np.pi)
    inner = np.stack([root * np.cos(along * span), root * np.sin(along * span)], axis=1)[::-1]
    flap = turned(np.concatenate([outer, inner]), -theta)
    window, at = site.local(flap, 0.03)
    cover = at.draw([flap])
    folds = noise(rng, at.x, at.y, (9.0, 9.0)) + 0.6 * noise(rng, at.x, at.y, (24.0, 24.0))
    bent = rng.uniform(-0.25, 0.35)
    beyond = np.hypot(at.x, at.y) - 1.0
    raw = plane(linear(*site.product.raw))
    amount = site.amount(0.55, 0.80)
    thick = soften(cover, 0.010 * at.unit)

    def edit(layers: Layers) -> None:
        tone = layers.albedo.mean(axis=(1, 2), keepdims=True) * 0.35 + raw * 0.65
        _recolour(layers, as_f32(tone * (1.0 + 0.10 * folds)), as_f32(cover * amount))
        sheet = -0.02 + 0.02 * thick + folds * 0.010 + beyond * np.float32(bent)
        layers.height += cover * (sheet - layers.height)
        layers.gloss += cover * (0.6 - layers.gloss)
        layers.body[:] = np.maximum(layers.body, cover)

    return Flaw(window, cover, edit, outline=True)


_CASTS: tuple[tuple[int, int, int], ...] = (
    (236, 178, 66),
    (150, 176, 214),
    (206, 132, 70),
    (186, 206, 128),
    (246, 242, 232),
)


def _discolour(site: Site) -> Flaw:
    rng = site.rng
    radius = site.length(0.09, 0.22)
    shape = blob(rng, radius, 0.8, rng.uniform(1.0, 1.9)) + site.place(radius)
    window, at = site.local(shape, 0.6 * radius)
    ragged = noise(rng, at.x, at.y, (5.0, 5.0)) * 0.14 + noise(rng, at.x, at.y, (13.0, 13.0)) * 0.08
    wide = soften(at.draw([shape]), 0.22 * radius * at.unit)
    cover = smoothstep(0.15, 0.85, as_f32(wide + ragged * (wide * (1.0 - wide)) * 4.0)) * site.flesh(window)
    bright = site.brightness(window, cover)
    colours = [linear(*cast) for cast in _CASTS]
    rows, cols = window.slices
    mean = (site.layers.albedo[:, rows, cols] * cover).sum(axis=(1, 2)) / max(float(cover.sum()), 1.0)
    # Only a cast that differs in hue from the material is a discolouration to the eye.
    apart = [float(np.abs(colour / colour.sum() - mean / mean.sum()).sum()) for colour in colours]
    usable = [colour for colour, gap in zip(colours, apart, strict=True) if gap > 0.16] or [
        colours[int(np.argmax(apart))]
    ]
    cast = usable[int(rng.integers(len(usable)))]
    level = float(np.clip(bright * rng.uniform(0.85, 1.35), 0.10, 0.75))
    cast = plane(as_f32(cast * (level / float((cast * _LUMINANCE[:, 0, 0]).sum()))))
    amount = as_f32(cover * site.amount(0.46, 0.74))

    def edit(layers: Layers) -> None:
        grey = (layers.albedo * _LUMINANCE).sum(axis=0)
        _recolour(layers, as_f32(cast * (0.45 + 0.55 * grey / max(bright, 0.02))), amount)
        layers.gloss *= 1.0 - 0.25 * cover

    return Flaw(window, cover, edit)


def _scuff(site: Site) -> Flaw:
    rng = site.rng
    radius = site.length(0.065, 0.17)
    aspect = rng.uniform(1.0, 1.9)
    outline = blob(rng, radius, 0.45, aspect)
    centre, heading = site.place(radius), rng.uniform(0.0, 2.0 * np.pi)
    window, at = site.local(outline + centre, 0.05)
    cover = soften(at.draw([outline + centre]), 0.012 * at.unit) * site.flesh(window)
    strokes: tuple[list[Polygon], list[Polygon]] = ([], [])
    for index in range(int(np.clip(radius / 0.0045, 14, 60))):
        side, slide = rng.uniform(-1.4, 1.4) * radius, rng.normal(0.0, 0.45) * radius
        t = np.linspace(-0.5, 0.5, 8) * radius * rng.uniform(0.8, 2.4) + slide
        path = turned(np.stack([t, side + 0.15 * t * t + rng.normal(0.0, 0.06) * t], axis=1), -heading)
        half = rng.uniform(0.0022, 0.0052) * np.sqrt(site.enlarge) * np.sin(np.linspace(0.08, 0.92, 8) * np.pi)
        strokes[index % 2].append(ribbon(path + centre, half))
    fine = (at.draw(strokes[0]) + 0.55 * at.draw(strokes[1])) * cover
    matte = cover * np.clip(0.75 + 0.5 * noise(rng, at.x, at.y, (9.0, 9.0)), 0.0, 1.2)
    base, scored = site.amount(0.20, 0.32), site.amount(0.45, 0.70)
    amount = as_f32(np.clip(matte * base + fine * scored, 0.0, 0.95))
    colour = site.worn(window, cover)

    def edit(layers: Layers) -> None:
        _recolour(layers, colour, amount)
        layers.height -= fine * 0.0035
        layers.gloss *= 1.0 - 0.7 * cover

    return Flaw(window, cover, edit)


def _imprint(site: Site) -> Flaw:
    """The weave of a cloth that the part lay on before it was hard."""
    rng = site.rng
    radius = site.length(0.11, 0.20)
    outline = blob(rng, radius, 0.3, rng.uniform(1.0, 1.6)) + site.place(radius)
    window, at = site.local(outline, 0.09)
    cover = at.draw([outline]) * site.flesh(window)
    heading = rng.uniform(0.0, np.pi)
    cos, sin = np.cos(heading), np.sin(heading)
    threads = np.float32(2.0 * np.pi / (0.055 * site.enlarge))
    weave = np.cos(threads * (at.x * cos + at.y * sin)) * np.cos(threads * (at.y * cos - at.x * sin))
    pressed = as_f32(soften(cover, 0.03 * at.unit) * weave * min(0.45 * site.strength, 0.75))

    def edit(layers: Layers) -> None:
        layers.albedo *= 1.0 + pressed

    return Flaw(window, cover, edit)


_MAKERS: dict[str, Callable[[Site], Flaw]] = {
    "stain": _stain,
    "scratch": _scratch,
    "hole": _hole,
    "crack": _crack,
    "chip": _chip,
    "bubble": _bubble,
    "burr": _burr,
    "discolour": _discolour,
    "scuff": _scuff,
}
_UNSEEN_MAKERS: dict[str, Callable[[Site], Flaw]] = {"imprint": _imprint}

DEFECTS: tuple[str, ...] = tuple(_MAKERS)
"""The defect types, in order of class."""
UNSEEN: tuple[str, ...] = tuple(_UNSEEN_MAKERS)
"""Types that no dataset of this project has, and no network of it was shown."""


def make_flaw(
    defect: str, rng: np.random.Generator, scene: Scene, layers: Layers, *, enlarge: float, strength: float
) -> Flaw:
    """Draw a defect of a type for a part: place, form and severity from `rng`, contrast times `strength`."""
    return (_MAKERS | _UNSEEN_MAKERS)[defect](Site(rng, scene.product, scene.plane, layers, enlarge, strength))
