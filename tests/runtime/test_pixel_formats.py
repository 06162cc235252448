"""Pixel formats: every one against a packer that puts one bit after the other."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.runtime.sources.pixel_formats import PIXEL_FORMATS, to_pixels

GREY_AND_COLOUR = [name for name in PIXEL_FORMATS if not name.startswith("Bayer")]
MOSAICS = [name for name in PIXEL_FORMATS if name.startswith("Bayer")]


def layout(name: str) -> tuple[str, int, str]:
    """Family, bits a component, and how they are packed: BayerRG12p is BayerRG, 12, p."""
    family, bits, packing = re.fullmatch(r"(\D+)(\d+)(\w*)", name).groups()
    return family, int(bits), packing


def packed(values: list[int], bits: int, packing: str) -> bytes:
    """Components as the convention stores them, a bit or a byte at a time."""
    if packing == "Packed":
        out = bytearray()
        for index in range(0, len(values), 2):
            pair = values[index : index + 2]
            low = [value & ((1 << (bits - 8)) - 1) for value in pair]
            out += bytes([pair[0] >> (bits - 8), low[0] | (low[1] << 4 if len(pair) == 2 else 0)])
            out += bytes([pair[1] >> (bits - 8)] if len(pair) == 2 else [])
        return bytes(out)
    room = bits if packing == "p" or bits == 8 else 16
    stream = sum(value << (index * room) for index, value in enumerate(values))
    return stream.to_bytes((len(values) * room + 7) // 8, "little")


def stored(components: np.ndarray, name: str, padding: int, rng: np.random.Generator) -> bytes:
    """A buffer of deep components, [H, W, components a pixel]; lines are padded with noise."""
    _, bits, packing = layout(name)
    if not padding:
        return packed([int(value) for value in components.reshape(-1)], bits, packing)
    lines = (packed([int(value) for value in line.reshape(-1)], bits, packing) for line in components)
    return b"".join(line + rng.bytes(padding) for line in lines)


def seen(components: np.ndarray, name: str) -> np.ndarray:
    """What a person would expect of components that are no mosaic: high bits, in the order RGB."""
    family, bits, _ = layout(name)
    high = (components >> (bits - 8)).astype(np.uint8)[..., :3]
    return high[..., ::-1] if family in {"BGR", "BGRa"} else high


@given(
    name=st.sampled_from(GREY_AND_COLOUR), size=st.tuples(st.integers(1, 7), st.integers(1, 13)),
    padding=st.integers(0, 5), cut=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_what_was_packed_comes_out(name, size, padding, cut, seed):
    height, width = size
    rng = np.random.default_rng(seed)
    pixel_format = PIXEL_FORMATS[name]
    components = rng.integers(0, 1 << layout(name)[1], (height, width, pixel_format.components))
    buffer = stored(components, name, padding, rng)
    data = np.frombuffer(buffer[: len(buffer) - padding] if cut else buffer, np.uint8)
    got = to_pixels(data, height, width, padding, pixel_format)
    np.testing.assert_array_equal(got, seen(components, name))
    assert got.flags.c_contiguous
    assert not np.may_share_memory(got, data)
    with pytest.raises(ValueError, match="the buffer holds"):
        to_pixels(data[: len(buffer) - padding - 1], height, width, padding, pixel_format)


@given(name=st.sampled_from(MOSAICS), padding=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_a_deep_mosaic_gives_the_picture_of_the_same_mosaic_in_8_bits(name, padding, seed):
    rng = np.random.default_rng(seed)
    family, bits, _ = layout(name)
    components = rng.integers(0, 1 << bits, (6, 9, 1))
    data = np.frombuffer(stored(components, name, padding, rng), np.uint8)
    eight = (components >> (bits - 8)).astype(np.uint8).reshape(-1)
    np.testing.assert_array_equal(
        to_pixels(data, 6, 9, padding, PIXEL_FORMATS[name]), to_pixels(eight, 6, 9, 0, PIXEL_FORMATS[f"{family}8"])
    )


@pytest.mark.parametrize("name", MOSAICS)
def test_every_mosaic_keeps_red_red(name):
    """A plain orange surface behind every filter of the sensor."""
    family, bits, _ = layout(name)
    order = {"R": 200, "G": 100, "B": 50}
    below = {"GR": "BG", "RG": "GB", "GB": "RG", "BG": "GR"}[family[5:]]
    cell = np.array([[order[colour] for colour in row] for row in (family[5:], below)]) << (bits - 8)
    data = np.frombuffer(stored(np.tile(cell, (8, 8))[..., None], name, 0, np.random.default_rng(0)), np.uint8)
    pixels = to_pixels(data, 16, 16, 0, PIXEL_FORMATS[name])
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array([200, 100, 50], np.uint8), (16, 16, 3)))


@pytest.mark.parametrize(
    ("family", "conversion"),
    [("BayerRG", cv2.COLOR_BayerRGGB2RGB), ("BayerGB", cv2.COLOR_BayerGBRG2RGB)],
)
def test_interpolating_at_full_depth_would_change_no_component_by_more_than_a_grey_level(family, conversion):
    deep = np.random.default_rng(0).integers(0, 4096, (64, 64, 1)).astype(np.uint16)
    at_full_depth = cv2.cvtColor(deep, conversion) >> 4
    got = to_pixels(deep.reshape(-1).view(np.uint8), 64, 64, 0, PIXEL_FORMATS[f"{family}12"])
    assert np.abs(at_full_depth.astype(int) - got).max() == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2)])
def test_a_mosaic_that_cannot_be_interpolated_is_refused(height, width):
    with pytest.raises(ValueError, match="needs 3 x 3 px at least"):
        to_pixels(np.full(height * width, 200, np.uint8), height, width, 0, PIXEL_FORMATS["BayerRG8"])


def test_codes_are_those_that_harvesters_knows():
    from harvesters.util.pfnc import symbolics

    known = {name: code for code, name in symbolics.items()}
    codes = {name: pixel_format.code for name, pixel_format in PIXEL_FORMATS.items()}
    # harvesters lacks this one; the code is that of the convention.
    assert codes.pop("Mono14p") == 0x010E0104
    assert codes == {name: known.get(name) for name in codes}


def test_a_size_and_its_bits_agree_with_the_code():
    for name, pixel_format in PIXEL_FORMATS.items():
        _, bits, packing = layout(name)
        room = {"p": bits, "Packed": 12}.get(packing, 8 if bits == 8 else 16)
        assert pixel_format.bits_per_pixel == room * pixel_format.components, name


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        # Written down by hand from the convention's figures, so that the packer above is checked as well.
        ("Mono12p", "bc 3a 12", [0xAB, 0x12]),
        ("Mono12Packed", "ab 3c 12", [0xAB, 0x12]),
        ("Mono10p", "ff 03 00 00 ff", [0xFF, 0x00, 0x00, 0xFF]),
        ("Mono10Packed", "ab 32 12", [0xAB, 0x12]),
        ("Mono10", "ac 02 03 00", [0xAB, 0x00]),
    ],
)
def test_layouts_by_hand(name, data, expected):
    pixels = to_pixels(np.frombuffer(bytes.fromhex(data), np.uint8), 1, len(expected), 0, PIXEL_FORMATS[name])
    assert pixels.reshape(-1).tolist() == expected


def test_the_documentation_lists_exactly_these_formats():
    page = (Path(__file__).parents[2] / "docs" / "cameras.md").read_text()
    (table,) = re.findall(r"^\| \| 8 bits .*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"\b(?:Mono|Bayer|RGB|BGR)\w+", table)) == set(PIXEL_FORMATS)
