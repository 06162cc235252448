"""Flat fields from rendered frames, against the truth; and the targets that must be refused."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from inspectd.calibrated import FlatField, FlatFieldRecord, load_flat_field
from inspectd.calibrated.flat import GAIN_UNIT, OFFSET_UNIT, arrays_sha256
from inspectd.calibration.flat import Stack, fit_flat_field
from inspectd.calibration.record import header
from inspectd.errors import ConfigError

HEIGHT, WIDTH = 240, 320
MADE = datetime(2025, 1, 1, tzinfo=timezone.utc)


class Camera:
    """A sensor behind a lens, whose every pixel is known."""

    def __init__(self, seed=0, *, channels=1, vignetting=0.3, pattern=0.01, noise=1.6, hot=5, dead=5):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
        self.shade = 1 - vignetting * (x**2 + y**2) / 2
        self.gain = 1 + pattern * rng.normal(size=(HEIGHT, WIDTH, channels))
        self.offset = 6 + rng.normal(0, 0.6, (HEIGHT, WIDTH, channels))
        self.noise = noise
        # Apart from each other, so that a dead pixel has sound neighbours.
        where = np.stack(
            np.unravel_index(rng.choice(HEIGHT * WIDTH // 64, hot + dead, replace=False), (HEIGHT // 8, WIDTH // 8)), 1
        )
        self.hot, self.dead = where[:hot] * 8 + 3, where[hot:] * 8 + 3
        self.offset[self.hot[:, 0], self.hot[:, 1]] += 60
        self.gain[self.dead[:, 0], self.dead[:, 1]] = 0.2

    def frame(self, rng, scene, light=180.0):
        """uint8 [H, W, C] of a scene [H, W], 1 where it is white."""
        seen = light * (scene * self.shade)[..., None] * self.gain + self.offset
        noisy = seen + rng.normal(0, self.noise, seen.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    def stack(self, seed, count, scene=None, light=180.0):
        """`count` frames; a scene may be a function of the frame's number."""
        rng, stack = np.random.default_rng(seed), Stack()
        for number in range(count):
            here = scene(number) if callable(scene) else np.ones((HEIGHT, WIDTH)) if scene is None else scene
            bright = light(number) if callable(light) else light
            stack.add(f"{number:02d}.png", self.frame(rng, here, bright))
        return stack


def field_of(fit, channels=1):
    record = FlatFieldRecord(
        **header([], made=MADE, width_px=WIDTH, height_px=HEIGHT),
        channels=channels,
        flat_frames=8,
        dark_frames=4,
        mean_grey=fit.mean_grey,
        noise_grey=fit.noise_grey,
        shading_before=fit.shading_before,
        shading_after=fit.shading_after,
        pattern_before=fit.pattern,
        pattern_kept=fit.kept,
        gain_min=float(fit.gain.min()) * GAIN_UNIT,
        gain_max=float(fit.gain.max()) * GAIN_UNIT,
        hot_pixels=len(fit.hot),
        dead_pixels=len(fit.dead),
        arrays_sha256=arrays_sha256(fit.gain, fit.offset, fit.defects),
    )
    return FlatField(record, fit.gain, fit.offset, fit.defects)


@pytest.fixture(scope="module")
def calibrated():
    camera = Camera()
    return camera, fit_flat_field(camera.stack(1, 32), camera.stack(2, 16, light=0.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_even_scene_comes_out_even_and_others_with_their_true_contrast(channels):
    camera = Camera(3, channels=channels)
    fit = fit_flat_field(camera.stack(1, 32), camera.stack(2, 16, light=0.0))
    field = field_of(fit, channels)
    rng = np.random.default_rng(9)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    # Half as bright, with a defect of a tenth in a corner.
    scene = np.where(np.hypot(x - 40, y - 40) < 15, 0.45, 0.5)
    out = np.mean([field.apply(camera.frame(rng, scene)) for _ in range(64)], axis=0)
    good = np.hypot(x - 40, y - 40) > 18
    assert out[good].std() / out[good].mean() < 0.006
    inside = np.hypot(x - 40, y - 40) < 12
    assert out[inside].mean() / out[good].mean() == pytest.approx(0.9, abs=0.004)
    assert fit.shading_before == pytest.approx(0.3, abs=0.04)
    assert fit.shading_after < 0.012


def test_hot_and_dead_pixels_are_found_and_take_their_neighbours_value(calibrated):
    camera, fit = calibrated
    assert {tuple(at) for at in fit.hot} == {tuple(at) for at in camera.hot}
    assert {tuple(at) for at in fit.dead} == {tuple(at) for at in camera.dead}
    frame = camera.frame(np.random.default_rng(5), np.full((HEIGHT, WIDTH), 0.6))
    out = field_of(fit).apply(frame).astype(int)
    for row, column in (*camera.hot, *camera.dead):
        assert abs(int(frame[row, column, 0]) - 110) > 15
        assert abs(out[row, column, 0] - np.median(out[row - 1 : row + 2, column - 1 : column + 2])) <= 3


def test_of_the_pixels_own_gains_as_much_is_corrected_as_is_theirs():
    """With few frames most of what is seen is noise, and correcting all of it would make pictures worse."""
    worse = []
    for count in (8, 64):
        camera = Camera(4, pattern=0.004, hot=0, dead=0)
        fit = fit_flat_field(camera.stack(1, count), camera.stack(2, 16, light=0.0))
        truth = 1 / (camera.gain * camera.shade[..., None])
        truth /= truth.mean()
        gain = fit.gain * GAIN_UNIT / (fit.gain * GAIN_UNIT).mean()
        left = float((gain / truth).std())
        assert left < 0.0045
        worse.append((fit.kept, left))
        assert fit.pattern == pytest.approx(0.004, abs=0.001)
    assert worse[0][0] < worse[1][0]
    assert worse[0][1] > worse[1][1]
    assert worse[1][0] > 0.75


def test_correcting_all_that_is_seen_would_leave_more_than_correcting_nothing():
    """With 8 frames of a quiet sensor; the share that is corrected leaves less than either."""
    camera = Camera(8, pattern=0.002, hot=0, dead=0)
    dark = camera.stack(2, 32, light=0.0)
    flat = camera.stack(1, 8)
    fit = fit_flat_field(flat, dark)
    seen = (flat.mean - dark.mean)[..., 0] / camera.shade
    left = {
        "none": (1 / camera.gain[..., 0]).std(),
        "all": (seen / seen.mean() / camera.gain[..., 0]).std(),
        "its share": (fit.gain[..., 0] * GAIN_UNIT * camera.shade * camera.gain[..., 0]).std(),
    }
    assert left["its share"] < left["none"] < left["all"], left


def test_offsets_are_those_of_the_dark_frames(calibrated):
    camera, fit = calibrated
    sound = np.ones((HEIGHT, WIDTH), bool)
    sound[tuple(camera.hot.T)] = False
    assert np.std((fit.offset * OFFSET_UNIT - camera.offset)[sound]) < 0.5
    assert fit.noise_grey == pytest.approx(1.63, abs=0.1)


def scene_of(change):
    scene = np.ones((HEIGHT, WIDTH))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    change(scene, x, y)
    return scene


def part(scene, x, y):
    scene[np.hypot(x - 200, y - 120) < 45] = 0.93


def speck(scene, x, y):
    scene[np.hypot(x - 90, y - 60) < 5] = 0.9


def paper(scene, x, y):
    scene *= 1 + 0.03 * np.sin(x / 3.1) * np.sin(y / 2.7)
    scene[:, 150:152] = 0.8


def bands(scene, x, y):
    scene *= 1 + 0.012 * np.sin(y * 2 * np.pi / 20)


def hair(scene, x, y):
    scene[100:102, 100:110] = 0.5


def steep(scene, x, y):
    scene *= np.linspace(0.35, 1.0, WIDTH)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (part, "the target is not even.*a part, an edge or a texture"),
        (speck, "the target is not even.*dust, or a spot"),
        (paper, "the target (is not even|has bands)"),
        (bands, "has bands along its rows"),
        (hair, "a spot of 20 pixels.*dust"),
        (steep, "gradient is too steep"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_targets_that_are_not_even_are_refused(change, said):
    camera = Camera(5, vignetting=0.2)
    with pytest.raises(ConfigError, match=said):
        fit_flat_field(camera.stack(1, 16, scene_of(change)))


def test_what_moves_or_flickers_is_refused():
    camera = Camera(6)
    y, x = np.mgrid[:HEIGHT, :WIDTH]

    def moving(number):
        return np.where(np.hypot(x - 60 - 3 * number, y - 100) < 20, 0.95, 1.0)

    def rolling(number):
        return 1 + 0.03 * np.sin(y * 2 * np.pi / 60 + number * 1.3)

    with pytest.raises(ConfigError, match=r"the target moves.*hold everything still"):
        fit_flat_field(camera.stack(1, 16, moving))
    with pytest.raises(ConfigError, match=r"bands run through the frames and change.*direct current"):
        fit_flat_field(camera.stack(1, 16, rolling))
    with pytest.raises(ConfigError, match=r"the light is not steady: .* differs by"):
        fit_flat_field(camera.stack(1, 16, light=lambda number: 170 + number))


@pytest.mark.parametrize(
    ("light", "said"), [(260.0, "at 250 or above"), (45.0, "too dark: grey value"), (0.0, "too dark")]
)
def test_too_much_and_too_little_light_is_refused(light, said):
    with pytest.raises(ConfigError, match=said):
        fit_flat_field(Camera(7).stack(1, 8, light=light))


def test_dark_frames_with_light_are_refused():
    camera = Camera(7)
    with pytest.raises(ConfigError, match=r"dark frames have a grey value of .*cover the lens"):
        fit_flat_field(camera.stack(1, 8), camera.stack(2, 4, light=40.0))


def test_too_few_and_mixed_frames_are_refused():
    camera = Camera(7)
    with pytest.raises(ConfigError, match="7 frames of the target, at least 8"):
        fit_flat_field(camera.stack(1, 7))
    with pytest.raises(ConfigError, match="3 dark frames, at least 4"):
        fit_flat_field(camera.stack(1, 8), camera.stack(2, 3, light=0.0))
    stack = camera.stack(1, 2)
    with pytest.raises(ConfigError, match=r"b\.png is 64 by 48 px, grey, and 00\.png is 320 by 240 px, grey"):
        stack.add("b.png", np.zeros((48, 64, 1), np.uint8))
    with pytest.raises(ConfigError, match="320 by 240 px, RGB"):
        stack.add("c.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(ConfigError, match="dark frames are 320 by 240 px, RGB"):
        fit_flat_field(camera.stack(1, 8), Camera(1, channels=3).stack(2, 4, light=0.0))


@pytest.mark.parametrize("seed", range(6))
def test_good_targets_are_taken_whatever_their_noise(seed):
    camera = Camera(20 + seed, vignetting=0.05 + 0.08 * seed, pattern=0.003 * (seed + 1), noise=1.0 + 0.8 * seed)
    assert fit_flat_field(camera.stack(seed, 8 + 4 * seed)).shading_after < 0.04


def test_it_is_the_formula_with_rounding_and_what_was_saturated_stays_so():
    gain = np.array([[[4096], [8192], [2048], [4096]]], np.uint16)
    offset = np.array([[[0], [512], [0], [2560]]], np.uint16)
    defects = np.zeros((0, 2), np.int32)
    record = FlatFieldRecord.model_construct(
        width_px=4, height_px=1, channels=1, arrays_sha256=arrays_sha256(gain, offset, defects)
    )
    field = FlatField(record, gain, offset, defects)
    frame = np.array([[[7], [90], [101], [3]]], np.uint8)
    before = frame.copy()
    assert field.apply(frame).ravel().tolist() == [7, 176, 50, 0]
    assert (frame == before).all()
    assert field.apply(np.full((1, 4, 1), 255, np.uint8)).ravel().tolist() == [255] * 4
    with pytest.raises(ValueError, match=r"for uint8 \[1, 4, 1\], got uint8 \[4, 1, 1\]"):
        field.apply(np.zeros((4, 1, 1), np.uint8))


def test_a_cluster_takes_what_is_sound_around_it(calibrated):
    _, fit = calibrated
    cluster = np.array([(r, c) for r in range(3) for c in range(3)], np.int32)
    record = field_of(fit).record.model_copy(update={"arrays_sha256": arrays_sha256(fit.gain, fit.offset, cluster)})
    field = FlatField(record, fit.gain, fit.offset, cluster)
    frame = np.full((HEIGHT, WIDTH, 1), 100, np.uint8)
    frame[:3, :3] = 0
    out = field.apply(frame)
    assert np.abs(out[:3, :3].astype(int) - int(np.median(out[:6, :6]))).max() < 6


def test_the_file_comes_back_as_it_was_written(calibrated, tmp_path):
    _, fit = calibrated
    field = field_of(fit)
    (tmp_path / "flat.npz").write_bytes(field.save())
    back = load_flat_field(tmp_path / "flat.npz")
    assert back.record == field.record
    frame = np.random.default_rng(0).integers(0, 256, field.shape).astype(np.uint8)
    assert (back.apply(frame) == field.apply(frame)).all()


def test_a_file_that_cannot_be_trusted_is_refused(calibrated, tmp_path):
    _, fit = calibrated
    field = field_of(fit)
    path, whole = tmp_path / "flat.npz", field.save()
    with pytest.raises(ConfigError, match="no such flat field; make one by inspectd-calibrate flat-field"):
        load_flat_field(path)
    rng = np.random.default_rng(0)
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match="damaged, or no flat field"):
            load_flat_field(path)
    for at in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            # What a changed byte does not touch (a time, a name in the directory) may change.
            back = load_flat_field(path)
        except ConfigError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either is right
        else:
            assert (back.gain == field.gain).all()
            assert (back.offset == field.offset).all()
    other = fit.gain.copy()
    other[0, 0] += 1
    np.savez(
        path,
        record=np.frombuffer(field.record.text().encode(), np.uint8),
        gain=other,
        offset=fit.offset,
        defects=fit.defects,
    )
    with pytest.raises(ConfigError, match="the arrays are not those of the record"):
        load_flat_field(path)
    np.save(path.with_suffix(".npy"), fit.gain)
    for other in (path.with_suffix(".npy").read_bytes(), b'{"format": 1}'):
        path.write_bytes(other)
        with pytest.raises(ConfigError, match=r"no flat field \(it is no \.npz\); copy it again, or make it anew by"):
            load_flat_field(path)
    np.savez(path, record=np.array([{}], object))
    with pytest.raises(ConfigError, match="damaged, or no flat field"):
        load_flat_field(path)
