"""The six product lines: fixed colours, holes and rim profile, and a texture that varies from part to part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .fields import F32, Plane, Polygon, as_f32, blob, linear, mix, noise, plane, smoothstep

_PROFILE_REACH = 1.3
_PROFILE_STEPS = 2048


@dataclass(slots=True)
class Layers:
    """What is shaded: one part, or a window of it; a defect writes into it. All float32, [H, W] unless said otherwise.

    `albedo` [3, H, W] is linear light; `height` is in radii; `gloss` is the strength of highlights and `polish` their
    sharpness, both 0 to 1; `body` is the coverage of the part's outline; `through` the coverage of its sewing holes.
    """

    albedo: F32
    height: F32
    gloss: F32
    polish: F32
    body: F32
    through: F32

    def crop(self, rows: slice, cols: slice) -> Layers:
        """A copy of a window, free to be changed."""
        return Layers(
            self.albedo[:, rows, cols].copy(),
            self.height[rows, cols].copy(),
            self.gloss[rows, cols].copy(),
            self.polish[rows, cols].copy(),
            self.body[rows, cols].copy(),
            self.through[rows, cols].copy(),
        )


@dataclass(frozen=True, slots=True)
class Texture:
    """A line's material over a plane: `albedo` [3, H, W], `bump` [H, W] in radii, `shine` [H, W] factor on gloss."""

    albedo: F32
    bump: F32
    shine: F32


@dataclass(frozen=True, slots=True)
class Product:
    """What is fixed for a product line. Lengths in radii."""

    name: str
    holes: int
    """2 or 4."""
    hole_radius: float
    hole_offset: float
    """From the button's centre to a hole's centre, along each axis for four holes."""
    bevel: float
    profile: tuple[tuple[float, float], ...]
    """(radius, height) knots, smoothed by `profile_blur`."""
    profile_blur: float
    gloss: float
    polish: float
    raw: tuple[int, int, int]
    """Display colour of a fresh fracture."""
    backdrop: float
    """Display grey of the backdrop, 0 to 255."""
    texture: Callable[[np.random.Generator, Plane], Texture]


def _ramp(values: F32, *stops: tuple[float, tuple[int, int, int]]) -> F32:
    """Colour planes [3, H, W] from values through (position, display colour) stops, by a table."""
    places = np.array([stop[0] for stop in stops])
    colours = np.array([linear(*stop[1]) for stop in stops])
    low, high = places[0], places[-1]
    axis = np.linspace(low, high, 1024)
    index = np.clip((values - low) * np.float32(1023.0 / (high - low)), 0, 1023).astype(np.int16)
    return as_f32([np.interp(axis, places, colours[:, c]).astype(np.float32)[index] for c in range(3)])


def _horn(rng: np.random.Generator, at: Plane) -> Texture:
    angle = rng.uniform(0.0, np.pi)
    bend = noise(rng, at.p, at.q, (1.1, 1.1))
    u, v = at.p + bend * 0.16, at.q + noise(rng, at.p, at.q, (1.2, 1.2)) * 0.16
    zone = noise(rng, u, v, (0.75, 1.5), angle) + 0.35 * noise(rng, u, v, (2.0, 3.5), angle)
    streaks = noise(rng, u, v, (0.8, 10.0), angle)
    hairs = noise(rng, u, v, (2.0, 30.0), angle)
    tone = zone * 1.0 + rng.uniform(-0.15, 0.25) + streaks * 0.62 + hairs * 0.16
    albedo = _ramp(
        as_f32(tone),
        (-1.0, (38, 33, 30)),
        (-0.35, (66, 55, 47)),
        (0.05, (134, 112, 86)),
        (0.45, (203, 186, 152)),
        (1.3, (224, 211, 180)),
    )
    return Texture(albedo, as_f32(hairs * 0.0007), as_f32(1.0 + 0.15 * streaks))


def _shell(rng: np.random.Generator, at: Plane) -> Texture:
    angle = rng.uniform(0.0, np.pi)
    u = at.p + noise(rng, at.p, at.q, (1.0, 1.0)) * 0.22
    v = at.q + noise(rng, at.p, at.q, (1.2, 1.2)) * 0.22
    growth = noise(rng, u, v, (0.7, 2.6), angle)
    ripples = noise(rng, u, v, (1.6, 11.0), angle)
    hue = (noise(rng, u, v, (0.8, 1.9), angle) * 3.6 + growth * 2.0 + ripples * 0.55 + rng.uniform(0, 6.28)).astype(
        np.float32
    )
    sheen = noise(rng, u, v, (2.0, 4.0), angle)
    planes = [base + 0.105 * np.cos(hue + shift) for base, shift in ((0.66, 0.0), (0.66, 2.2), (0.66, 4.1))]
    bright = 1.0 + 0.09 * sheen + 0.09 * ripples + 0.05 * noise(rng, u, v, (3.0, 26.0), angle)
    seams = smoothstep(0.30, 0.0, as_f32(np.abs(growth + 0.25 * ripples + 0.25)))
    seams *= smoothstep(-0.1, 0.8, noise(rng, u, v, (1.3, 2.0), angle))
    albedo = mix(as_f32(planes) * as_f32(bright), plane(linear(112, 124, 150)), as_f32(seams * 0.8))
    return Texture(albedo, as_f32(ripples * 0.0012), as_f32(1.0 + 0.2 * sheen))


def _marble(rng: np.random.Generator, at: Plane) -> Texture:
    u = at.p + noise(rng, at.p, at.q, (2.2, 2.2)) * 0.13 + noise(rng, at.p, at.q, (6.0, 6.0)) * 0.03
    v = at.q + noise(rng, at.p, at.q, (2.2, 2.2)) * 0.13 + noise(rng, at.p, at.q, (6.0, 6.0)) * 0.03
    cloud = noise(rng, u, v, (1.4, 1.4)) + 0.5 * noise(rng, u, v, (4.0, 4.0)) + 0.32 * noise(rng, u, v, (12.0, 12.0))
    cloud += 0.22 * noise(rng, u, v, (34.0, 34.0))
    coarse = np.abs(noise(rng, u, v, (1.2, 1.2)))
    fine = np.abs(noise(rng, u, v, (2.6, 2.6)))
    width = 1.0 + 0.6 * noise(rng, at.p, at.q, (2.0, 2.0))
    veins = np.maximum(
        smoothstep(0.15, 0.01, as_f32(coarse / np.maximum(width, 0.3))),
        0.62 * smoothstep(0.085, 0.005, as_f32(fine / np.maximum(width, 0.3))),
    )
    albedo = _ramp(
        as_f32(cloud),
        (-1.6, (150, 70, 72)),
        (-0.8, (186, 112, 108)),
        (0.0, (216, 158, 150)),
        (1.2, (238, 200, 190)),
    )
    albedo = mix(albedo, plane(linear(104, 28, 36)), as_f32(veins * 0.9))
    return Texture(albedo, as_f32(veins * -0.0012), as_f32(1.0 - 0.25 * veins))


def _wood(rng: np.random.Generator, at: Plane) -> Texture:
    angle = rng.uniform(0.0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = at.p * cos + at.q * sin, at.q * cos - at.p * sin
    pith = rng.uniform(0.3, 1.9)
    wave = noise(rng, at.p, at.q, (0.7, 1.5), angle)
    ring = (np.hypot(along * np.float32(0.28), across - np.float32(pith)) + wave * 0.09) * rng.uniform(7.0, 9.5)
    phase = ring - np.floor(ring)
    late = smoothstep(0.25, 0.9, as_f32(phase)) * smoothstep(1.0, 0.93, as_f32(phase))
    fibre = noise(rng, at.p, at.q, (2.2, 46.0), angle)
    broad = noise(rng, at.p, at.q, (0.8, 3.0), angle)
    pores = smoothstep(0.75, 1.25, noise(rng, at.p, at.q, (5.5, 48.0), angle))
    tone = 0.10 + 0.26 * broad + 0.15 * fibre - 0.55 * late
    albedo = _ramp(
        as_f32(tone),
        (-1.1, (58, 32, 18)),
        (-0.45, (98, 58, 30)),
        (0.2, (142, 92, 52)),
        (1.0, (182, 130, 82)),
    )
    albedo *= as_f32(1.0 - 0.5 * pores)
    return Texture(
        albedo, as_f32(fibre * 0.0015 - pores * 0.004 - late * 0.001), as_f32(1.0 + 0.3 * fibre - 0.5 * pores)
    )


def _woven(rng: np.random.Generator, at: Plane) -> Texture:
    across, along = 0.118, 0.150
    slack_u = noise(rng, at.p, at.q, (2.0, 2.0)) * 0.014
    slack_v = noise(rng, at.p, at.q, (2.0, 2.0)) * 0.014
    u = (at.p + slack_u) * np.float32(1.0 / along) + rng.uniform(0.0, 2.0)
    v = (at.q + slack_v) * np.float32(1.0 / across) + rng.uniform(0.0, 2.0)
    column, row = np.floor(u).astype(np.int16), np.floor(v).astype(np.int16)
    du, dv = u - column - np.float32(0.5), v - row - np.float32(0.5)
    over = (column + row) % 2 == 0
    # On a crossing the upper yarn is a tube across its width that dives under its neighbours at its ends.
    width, length = np.where(over, dv, du), np.where(over, du, dv)
    crown = (1.0 - (width * 2.1) ** 2) * (1.0 - 0.75 * (length * 2.0) ** 2)
    crown = as_f32(np.maximum(crown, 0.0))
    warp_tone, weft_tone = (as_f32(rng.normal(0.0, 0.08, 64)) for _ in range(2))
    thread = np.where(over, weft_tone[row % 64] + np.float32(0.08), warp_tone[column % 64] - np.float32(0.30))
    plies = np.sin((width * 2.2 + length) * np.float32(15.0)) * np.float32(0.09)
    fuzz = noise(rng, at.p, at.q, (40.0, 40.0)) * 0.1
    tone = 1.0 + thread + plies + fuzz + noise(rng, at.p, at.q, (1.5, 1.5)) * 0.05
    gap = smoothstep(0.02, 0.45, crown)
    albedo = plane(linear(198, 174, 144)) * as_f32(tone * (0.16 + 0.84 * gap))
    return Texture(as_f32(np.maximum(albedo, 0.0)), as_f32(crown * 0.030 + plies * 0.012 + fuzz * 0.006), gap)


def _terrazzo(rng: np.random.Generator, at: Plane) -> Texture:
    mottle = noise(rng, at.p, at.q, (2.5, 2.5)) + 0.6 * noise(rng, at.p, at.q, (14.0, 14.0))
    grain = noise(rng, at.p, at.q, (45.0, 45.0))
    albedo = plane(linear(142, 162, 136)) * as_f32(1.0 + 0.09 * mottle + 0.10 * grain)
    chips: dict[int, list[Polygon]] = {0: [], 1: [], 2: []}
    for _ in range(int(rng.integers(150, 190))):
        reach = 0.016 + 0.034 * rng.random() ** 2
        shape = blob(rng, reach, 0.5, rng.uniform(1.0, 1.9), points=int(rng.integers(5, 9)))
        place = rng.uniform(-1.1, 1.1, 2)
        chips[int(rng.choice(3, p=(0.40, 0.32, 0.28)))].append(shape + place)
    stones = np.zeros_like(mottle)
    for kind, colour in enumerate(((226, 230, 210), (84, 112, 86), (120, 150, 118))):
        cover = at.draw(chips[kind])
        albedo = mix(albedo, plane(linear(*colour)) * as_f32(1.0 + 0.08 * grain), cover)
        stones = np.maximum(stones, cover)
    return Texture(albedo, as_f32(stones * 0.0012), as_f32(1.0 + 0.3 * stones))


PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            "horn", 4, 0.100, 0.165, 0.052,
            ((0.0, 0.0), (0.50, 0.0), (0.60, 0.03), (0.67, 0.11), (0.74, 0.125), (0.80, 0.10), (0.86, 0.10),
             (0.94, 0.07), (1.0, -0.06)),
            0.022, 0.55, 0.78, (206, 190, 160), 140.0, _horn,
        ),
        Product(
            "shell", 4, 0.088, 0.170, 0.042,
            ((0.0, 0.0), (0.58, 0.0), (0.64, 0.055), (0.70, 0.075), (0.90, 0.06), (1.0, -0.09)),
            0.022, 0.55, 0.85, (236, 232, 224), 82.0, _shell,
        ),
        Product(
            "marble", 4, 0.090, 0.165, 0.046,
            ((0.0, 0.0), (0.54, 0.0), (0.70, 0.07), (0.80, 0.12), (0.90, 0.09), (1.0, -0.07)),
            0.032, 0.50, 0.72, (238, 204, 196), 100.0, _marble,
        ),
        Product(
            "wood", 2, 0.095, 0.225, 0.048,
            ((0.0, 0.0), (0.58, 0.0), (0.66, 0.06), (0.73, 0.10), (0.78, 0.10), (0.92, 0.075), (1.0, -0.06)),
            0.024, 0.24, 0.38, (214, 170, 116), 84.0, _wood,
        ),
        Product(
            "woven", 2, 0.085, 0.195, 0.040,
            ((0.0, 0.09), (0.40, 0.083), (0.75, 0.055), (0.92, 0.010), (1.0, -0.09)),
            0.060, 0.06, 0.10, (222, 206, 180), 128.0, _woven,
        ),
        Product(
            "terrazzo", 4, 0.093, 0.168, 0.048,
            ((0.0, 0.0), (0.64, 0.0), (0.70, 0.06), (0.77, 0.09), (0.92, 0.075), (1.0, -0.07)),
            0.024, 0.45, 0.65, (214, 224, 206), 160.0, _terrazzo,
        ),
    )
}  # fmt: skip


def _profile(product: Product, radius: F32) -> F32:
    knots = np.array(product.profile)
    axis = np.linspace(0.0, _PROFILE_REACH, _PROFILE_STEPS)
    table = as_f32(np.interp(axis, knots[:, 0], knots[:, 1]))[None, :]
    per_radius = _PROFILE_STEPS / _PROFILE_REACH
    table = as_f32(
        cv2.GaussianBlur(
            table, (0, 0), product.profile_blur * per_radius, sigmaY=0.01, borderType=cv2.BORDER_REFLECT_101
        )
    )
    index = np.minimum(radius * np.float32((_PROFILE_STEPS - 1) / _PROFILE_REACH), _PROFILE_STEPS - 1)
    return as_f32(cv2.remap(table, index, np.zeros_like(index), cv2.INTER_LINEAR))


def hole_distance(product: Product, p: F32, q: F32) -> F32:
    """Signed distance [H, W] in radii to the nearest sewing hole's edge, negative inside."""
    offset = np.float32(product.hole_offset)
    second = q if product.holes == 2 else np.abs(q) - offset
    return as_f32(np.hypot(np.abs(p) - offset, second) - np.float32(product.hole_radius))


def build(product: Product, rng: np.random.Generator, at: Plane) -> Layers:
    """Make a flawless part of a product line over a plane."""
    texture = product.texture(rng, at)
    radius = as_f32(np.hypot(at.x, at.y))
    hole = hole_distance(product, at.p, at.q)
    bevel = smoothstep(product.bevel, -0.25 * product.bevel, hole)
    # Fabric is drawn over a former and carved material is not: bumps fade where a tool has cut the bevel.
    height = _profile(product, radius) - bevel * np.float32(0.8 * product.bevel) + texture.bump * (1.0 - 0.7 * bevel)
    return Layers(
        albedo=texture.albedo,
        height=as_f32(height),
        gloss=as_f32(product.gloss * texture.shine),
        polish=as_f32(np.full_like(radius, product.polish)),
        body=as_f32(np.clip((1.0 - radius) * np.float32(at.unit) + 0.5, 0.0, 1.0)),
        through=as_f32(np.clip(0.5 - hole * np.float32(at.unit), 0.0, 1.0)),
    )


__all__ = ["PRODUCTS", "Layers", "Product", "Texture", "build", "hole_distance"]
