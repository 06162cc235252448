"""The rendered buttons: reproducible to the byte, and labelled exactly where they are changed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspectd.buttons import DEFECTS, LINES, Rendered, line_part, render
from inspectd.errors import ConfigError


@pytest.fixture
def threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def same(first: Rendered, second: Rendered) -> bool:
    return (
        first.image.tobytes() == second.image.tobytes()
        and first.mask.tobytes() == second.mask.tobytes()
        and first.twin.tobytes() == second.twin.tobytes()
    )


def change(part: Rendered) -> np.ndarray:
    return np.asarray(np.abs(part.image.astype(np.int16) - part.twin).max(axis=2))


def test_there_are_six_lines_and_nine_defects() -> None:
    assert len(set(LINES)) == 6
    assert DEFECTS == ("stain", "scratch", "hole", "crack", "chip", "bubble", "burr", "discolour", "scuff")


@pytest.mark.parametrize("defect", [None, *DEFECTS])
@pytest.mark.parametrize("line", LINES)
def test_the_picture_is_a_function_of_its_arguments_whatever_the_threads(
    line: str, defect: str | None, threads: None
) -> None:
    size = 256 if defect in (None, "chip") else 128
    cv2.setNumThreads(1)
    first = render(line, defect, 11, size)
    cv2.setNumThreads(4)
    assert same(first, render(line, defect, 11, size))


@pytest.mark.parametrize("line", LINES)
def test_a_flawless_part_has_an_empty_mask_and_is_its_own_twin(line: str) -> None:
    part = render(line, None, seed=3)
    assert part.image.shape == part.twin.shape == (256, 256, 3)
    assert part.image.dtype == part.mask.dtype == part.twin.dtype == np.uint8
    assert part.mask.shape == (256, 256)
    assert not part.mask.any()
    assert np.array_equal(part.image, part.twin)
    assert not np.array_equal(part.image, render(line, None, seed=4).image)
    assert not np.shares_memory(part.image, part.twin)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("line", LINES)
def test_picture_and_mask_agree(line: str, defect: str) -> None:
    for seed in (101, 202):
        part = render(line, defect, seed)
        assert set(np.unique(part.mask)) == {0, 1}
        assert 14 <= part.mask.sum() <= 3500
        difference = change(part)
        inside = part.mask > 0
        near = cv2.dilate(part.mask, np.ones((7, 7), np.uint8)) > 0
        assert difference[inside].mean() >= 14.0
        assert (difference[inside] >= 4).mean() >= 0.75
        # Of all change, what lies beyond three pixels is soft shadow, or the faint edge of a soft defect.
        assert difference[~near].mean() <= 0.1
        assert (difference[~near] > 16).sum() <= 0.2 * inside.sum()
        casts_shadow = defect in ("chip", "burr")
        assert difference[near].sum() >= (0.7 if casts_shadow else 0.85) * difference.sum()


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_vary_in_place_and_size(defect: str) -> None:
    masks = [render(LINES[seed % 6], defect, seed, 128).mask for seed in range(12)]
    areas = [int(mask.sum()) for mask in masks]
    places = {tuple((np.argwhere(mask).mean(axis=0) // 8).astype(int)) for mask in masks}
    assert max(areas) >= 1.8 * min(areas)
    assert len(places) >= 9


@pytest.mark.parametrize("line", LINES)
def test_a_burr_stands_outside_the_disc_and_other_defects_stay_on_it(line: str) -> None:
    # The face of the twin lies within a disc about the frame's middle whatever the pose.
    rows, cols = np.mgrid[0:256, 0:256] + 0.5
    distance = np.hypot(rows - 128.0, cols - 128.0)
    assert max(distance[render(line, "burr", seed).mask > 0].max() for seed in range(3)) > 106.0
    for defect in ("stain", "scratch", "chip"):
        assert distance[render(line, defect, 5).mask > 0].max() < 0.425 * 1.025 * 256 + 0.022 * 1.4143 * 256 + 1.0


@pytest.mark.parametrize("line", LINES)
def test_the_part_does_not_depend_on_its_defect(line: str) -> None:
    twins = {render(line, defect, seed=5, size=64).twin.tobytes() for defect in (None, *DEFECTS)}
    assert twins == {render(line, None, seed=5, size=64).image.tobytes()}


@pytest.mark.parametrize("size", [64, 80, 128, 384, 512, 1024])
def test_geometry_scales_with_size(size: int) -> None:
    part = render("shell", "stain", seed=21, size=size)
    assert part.image.shape == (size, size, 3)
    small = cv2.resize(part.twin, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    usual = cv2.resize(render("shell", None, 21).image, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - usual).mean() < 4.0
    assert part.mask.any()
    assert change(part)[part.mask > 0].mean() >= 10.0


@settings(max_examples=25, deadline=None)
@given(
    line=st.sampled_from(LINES),
    defect=st.sampled_from(DEFECTS),
    seed=st.integers(0, 2**63),
    size=st.sampled_from((64, 96, 128)),
)
def test_every_defect_of_every_seed_shows(line: str, defect: str, seed: int, size: int) -> None:
    part = render(line, defect, seed, size)
    assert part.mask.any()
    assert change(part)[part.mask > 0].mean() >= 6.0


def test_a_line_is_the_same_whenever_it_is_asked() -> None:
    parts = [line_part(index, seed=9, defect_rate=0.5, size=64) for index in range(24)]
    assert same(parts[17], line_part(17, seed=9, defect_rate=0.5, size=64))
    assert 4 <= sum(part.defect is not None for part in parts) <= 20
    assert len({part.seed for part in parts}) == 24
    assert len({part.line for part in parts}) >= 4
    assert all(part.mask.any() == (part.defect is not None) for part in parts)


def test_a_line_keeps_to_its_products_and_its_rate() -> None:
    parts = [line_part(index, 4, 1.0, lines=("wood", "horn"), size=64) for index in range(8)]
    assert {part.line for part in parts} == {"wood", "horn"}
    assert all(part.defect is not None for part in parts)
    assert all(line_part(index, 4, 0.0, size=64).defect is None for index in range(8))


def test_a_part_takes_at_most_a_few_tens_of_milliseconds(threads: None) -> None:
    cv2.setNumThreads(1)
    took = []
    for seed in range(9):
        start = time.process_time()
        render(LINES[seed % 6], DEFECTS[seed], seed)
        took.append(time.process_time() - start)
    assert np.median(took) <= 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bone", None, 0, 256), "bone.*horn, shell"),
        (("horn", "dent", 0, 256), "dent.*stain, scratch"),
        (("horn", None, -1, 256), "seed is -1.*at least 0"),
        (("horn", None, 0, 250), "size is 250.*nearest is 256"),
        (("horn", None, 0, 32), "size is 32.*nearest is 64"),
        (("horn", None, 0, 4096), "size is 4096.*nearest is 1024"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, str | None, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(*arguments)


def test_wrong_lines_are_named() -> None:
    with pytest.raises(ConfigError, match="index is -1"):
        line_part(-1, 0, 0.1)
    with pytest.raises(ConfigError, match=r"defect_rate is 1\.5"):
        line_part(0, 0, 1.5)
    with pytest.raises(ConfigError, match="lines is empty"):
        line_part(0, 0, 0.1, lines=())
    with pytest.raises(ConfigError, match="seed is -2"):
        line_part(0, -2, 0.1)
    with pytest.raises(ConfigError, match="bone"):
        line_part(0, 0, 0.1, lines=("bone",))
