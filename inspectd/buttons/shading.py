"""From layers to light: one overhead camera, one main light and a weaker one, a grey backdrop under the part."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .fields import F32, Plane, Window, as_f32, make_plane, noise, ribbon, smoothstep, soften, stream
from .surface import Layers, Product, hole_distance

_SHADOW_SCALE = 4
"""Cast shadows are soft: they are blurred at a quarter of the buffer's resolution."""

WINDOW_STEP = 8
"""Windows lie on multiples of this, so that every reduction of a window falls on the same pixels as the whole's."""

_THICKNESS = 0.15
"""How far below the face the backdrop lies, in radii, as seen through the sewing holes."""


@dataclass(frozen=True, slots=True)
class Light:
    """The lamp over the line. `direction` [3] is a unit vector towards it, `colour` [3] its strength."""

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]
    ambient: float
    blur_px: float
    """Optical blur of a 256 px picture, in pixels."""
    noise: float
    """Standard deviation of the sensor's noise, in display levels."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All of a picture that no defect can change, over the whole buffer."""

    product: Product
    plane: Plane
    light: Light
    backdrop: F32
    """[H, W], linear light."""
    pale_dust: F32
    """Coverage [H, W]."""
    dark_dust: F32
    """Coverage [H, W]."""


def make_scene(product: Product, key: tuple[int, ...], buffer_px: int) -> Scene:
    """Draw pose, light, backdrop and dust from the part's own streams; `key` is the root of them."""
    pose = stream(*key, 1)
    radius = 0.425 * buffer_px * pose.uniform(0.975, 1.025)
    centre = tuple(buffer_px * (0.5 + pose.uniform(-0.022, 0.022, 2)))
    at = make_plane(buffer_px, radius, (float(centre[0]), float(centre[1])), pose.uniform(-np.pi, np.pi))

    lamp = stream(*key, 2)
    azimuth, elevation = np.deg2rad(-128.0 + lamp.normal(0.0, 9.0)), np.deg2rad(52.0 + lamp.normal(0.0, 3.0))
    warmth, strength = lamp.normal(0.0, 0.012), 1.0 + lamp.normal(0.0, 0.04)
    light = Light(
        direction=(
            float(np.cos(azimuth) * np.cos(elevation)),
            float(np.sin(azimuth) * np.cos(elevation)),
            float(np.sin(elevation)),
        ),
        colour=(float(strength * (1 + warmth)), float(strength), float(strength * (1 - warmth))),
        ambient=float(0.34 + lamp.normal(0.0, 0.02)),
        blur_px=float(lamp.uniform(0.45, 0.7)),
        noise=float(lamp.uniform(1.2, 2.2)),
    )

    floor = stream(*key, 3)
    slope = floor.normal(0.0, 0.035, 2) - 0.05 * np.array(light.direction[:2])
    grey = (product.backdrop / 255.0) ** 2 * (1.0 + floor.normal(0.0, 0.05))
    tone = 1.0 - at.x * np.float32(slope[0]) - at.y * np.float32(slope[1])
    tone += noise(floor, at.x, at.y, (1.2, 1.2)) * 0.02 + noise(floor, at.x, at.y, (24.0, 24.0)) * 0.018
    tone -= (at.x * at.x + at.y * at.y) * np.float32(0.03)
    pale, dark = _dust(stream(*key, 4), at)
    return Scene(product, at, light, as_f32(tone * grey), pale, dark)


def _dust(rng: np.random.Generator, at: Plane) -> tuple[F32, F32]:
    specks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(int(rng.poisson(7.0))):
        theta = np.linspace(0.0, 2.0 * np.pi, 7)[:-1]
        reach = rng.uniform(0.004, 0.0095) * rng.uniform(0.7, 1.3, 6)
        speck = np.stack([np.cos(theta) * reach, np.sin(theta) * reach], axis=1)
        specks[int(rng.random() < 0.4)].append(speck + rng.uniform(-1.15, 1.15, 2))
    lint = []
    for _ in range(int(rng.poisson(0.5))):
        length, bend, heading = rng.uniform(0.05, 0.14), rng.uniform(-14.0, 14.0), rng.uniform(0.0, 2.0 * np.pi)
        t = np.linspace(0.0, length, 9)
        path = np.cumsum(
            np.stack([np.cos(heading + bend * t), np.sin(heading + bend * t)], axis=1) * (length / 9), axis=0
        )
        lint.append(ribbon(path + rng.uniform(-1.0, 1.0, 2), np.full(9, 0.0032)))
    pale = np.maximum(at.draw(specks[0]) * 0.55, at.draw(lint) * 0.35)
    return as_f32(pale), as_f32(at.draw(specks[1]) * np.float32(0.6))


def _slopes(height: F32, unit: float) -> tuple[F32, F32]:
    scale = unit / 8.0
    border = cv2.BORDER_REPLICATE
    return (
        as_f32(cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale, borderType=border)),
        as_f32(cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale, borderType=border)),
    )


def _shifted(values: F32, right: float, down: float) -> F32:
    move = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
    height, width = values.shape
    return as_f32(
        cv2.warpAffine(values, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _openness(height: F32, through: F32, unit: float) -> F32:
    """Share of the sky that reaches each point: narrow and wide hollows lie below their blurred surroundings."""
    relief = as_f32(height - through * 0.10)
    near = np.maximum(soften(relief, 0.018 * unit) - height, 0.0)
    small = cv2.resize(relief, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = cv2.resize(soften(as_f32(small), 0.011 * unit), (height.shape[1], height.shape[0]))
    far = np.maximum(as_f32(wide) - height, 0.0)
    return as_f32(np.exp(near * -22.0 + far * -9.0))


def _self_shadow(height: F32, light: Light, unit: float) -> F32:
    """Light left, 0 to 1, after the part's own relief: two soft samples on the way to the lamp."""
    lx, ly, lz = light.direction
    flat = float(np.hypot(lx, ly))
    lit = np.ones_like(height)
    for distance in (0.03, 0.075):
        toward = distance * unit / flat
        raised = soften(_shifted(height, -lx * toward, -ly * toward), 0.004 * unit + 0.12 * distance * unit)
        excess = raised - height - np.float32(distance * lz / flat)
        lit *= smoothstep(0.014, -0.010, as_f32(excess))
    return lit


def _cast_shadow(body: F32, light: Light, unit: float) -> F32:
    """Shade on the backdrop, 0 to 1: a soft shadow away from the lamp, and a dark line of contact."""
    height, width = body.shape
    small = as_f32(cv2.resize(body, (width // _SHADOW_SCALE, height // _SHADOW_SCALE), interpolation=cv2.INTER_AREA))
    step = unit / _SHADOW_SCALE
    shift = 0.055 * step
    soft = soften(_shifted(small, -light.direction[0] * shift, -light.direction[1] * shift), 0.035 * step)
    contact = soften(small, 0.014 * step)
    shade = 1.0 - (1.0 - 0.62 * soft) * (1.0 - 0.35 * contact)
    return as_f32(cv2.resize(as_f32(shade), (width, height), interpolation=cv2.INTER_LINEAR))


def shade(scene: Scene, layers: Layers, window: Window, supersample: int) -> F32:
    """Light a window's layers; linear light [h, w, 3] at the picture's resolution, before the lens and the sensor."""
    rows, cols = window.slices
    at = scene.plane.crop(window)
    light, unit = scene.light, at.unit
    lx, ly, lz = (np.float32(part) for part in light.direction)

    gx, gy = _slopes(layers.height, unit)
    nz = 1.0 / np.sqrt(1.0 + gx * gx + gy * gy)
    nx, ny = -gx * nz, -gy * nz
    openness = _openness(layers.height, layers.through, unit)
    lit = _self_shadow(layers.height, light, unit)

    toward = np.maximum(nx * lx + ny * ly + nz * lz, 0.0)
    sky = np.float32(light.ambient) * openness * (0.55 + 0.45 * nz)
    matte = sky + toward * lit * np.float32(0.82)

    # Highlights by the half vector: a sharp and a broad lobe of the lamp, and a faint strip light across from it.
    half = np.array([lx, ly, lz + 1.0]) / np.sqrt(2.0 + 2.0 * lz)
    near = nx * np.float32(half[0]) + ny * np.float32(half[1]) + nz * np.float32(half[2]) - 1.0
    across = nz * np.float32(0.94) - (nx * lx + ny * ly) * np.float32(0.5) - 1.0
    sharpness = 30.0 + 420.0 * layers.polish * layers.polish
    gleam = np.exp(near * sharpness) * (0.30 + 0.9 * layers.polish)
    gleam += np.exp(near * np.float32(26.0)) * np.float32(0.13)
    gleam *= lit
    gleam += np.exp(across * (sharpness * np.float32(0.4))) * np.float32(0.10)
    # Polish also mirrors the dim room, most where the surface turns away.
    gleam += np.float32(0.035) + (1.0 - nz) ** 2 * np.float32(0.35)
    gleam *= layers.gloss * openness

    floor = scene.backdrop[rows, cols]
    hole = _through_hole(scene, at, floor)
    shadow = _cast_shadow(layers.body, light, unit)
    ground = floor * (1.0 - shadow)
    pale, dark = scene.pale_dust[rows, cols], scene.dark_dust[rows, cols]

    planes = []
    for channel, strength in enumerate(light.colour):
        face = layers.albedo[channel] * matte + gleam
        face += (hole - face) * layers.through
        value = ground + (face - ground) * layers.body
        value += (np.float32(0.52) - value) * pale
        value += (np.float32(0.012) - value) * dark
        planes.append(as_f32(value * np.float32(strength)))
    picture = as_f32(cv2.merge(planes))
    if supersample == 1:
        return picture
    height, width = picture.shape[:2]
    return as_f32(cv2.resize(picture, (width // supersample, height // supersample), interpolation=cv2.INTER_AREA))


def _through_hole(scene: Scene, at: Plane, floor: F32) -> F32:
    """What is seen through a sewing hole: the backdrop in the part's shade, with a sliver where light falls in."""
    product, light = scene.product, scene.light
    cos, sin = turn_of(at)
    sx, sy = light.direction[0] * _THICKNESS, light.direction[1] * _THICKNESS
    shifted = hole_distance(product, at.p + np.float32(sx * cos + sy * sin), at.q + np.float32(sy * cos - sx * sin))
    return as_f32(floor * (0.07 + 0.42 * smoothstep(0.02, -0.05, shifted)))


def turn_of(at: Plane) -> tuple[float, float]:
    """Cosine and sine of the button's turn, read back from the coordinates' steps over one pixel."""
    return float((at.p[0, 1] - at.p[0, 0]) * at.unit), float((at.p[1, 0] - at.p[0, 0]) * at.unit)


def expose(scene: Scene, picture: F32) -> F32:
    """Lens and tone curve: linear light [h, w, 3] to display values (0 to 255, not rounded)."""
    sigma = scene.light.blur_px * picture.shape[0] / 256.0
    blurred = soften(picture, max(sigma, 0.3))
    return as_f32(np.sqrt(np.clip(blurred * (1.08 / (1.0 + 0.08 * blurred)), 0.0, 1.0)) * np.float32(255.0))


def sensor_noise(scene: Scene, key: tuple[int, ...], size: int) -> F32:
    """The sensor's noise [size, size, 3] in display levels: shot noise is even after the square-root tone curve."""
    grain = stream(*key, 5).standard_normal((size, size, 3), dtype=np.float32)
    grey = grain.mean(axis=2, keepdims=True)
    return as_f32((0.8 * grain + 0.6 * grey) * np.float32(scene.light.noise))
