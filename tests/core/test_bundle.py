"""Bundles: what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from inspectd.bundle import (
    GOLDEN,
    MODEL,
    PARITY,
    Golden,
    GoldenSample,
    ModelCard,
    decode_png,
    encode_png,
    load_bundle,
    write_bundle,
)
from inspectd.errors import BundleError, ChecksumError
from inspectd.preprocess import Preprocess


def card(**change):
    given_ = {
        "name": "test",
        "classes": ("defect",),
        "preprocess": Preprocess(height=16, width=16),
        "thresholds": (0.5,),
        "network": {"architecture": "test"},
        "provenance": {},
    }
    return ModelCard(**(given_ | change))


def files():
    golden = Golden(
        samples=(GoldenSample(input="golden/0.png", labels="golden/1.png", scores=(0.5,)),), thresholds=(0.5,)
    )
    return {
        MODEL: b"not a graph, and never loaded here",
        PARITY: b'{"checks": []}',
        GOLDEN: golden.model_dump_json().encode(),
        "golden/0.png": encode_png(np.zeros((16, 16, 3), np.uint8)),
        "golden/1.png": encode_png(np.zeros((16, 16), np.uint8)),
    }


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle", card(), files(), version="1.0")
    return tmp_path / "bundle"


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_what_was_written_is_read(tmp_path, name):
    digest = write_bundle(tmp_path / name, card(), files(), version="1.0")
    bundle = load_bundle(tmp_path / name)
    assert bundle.digest == digest
    assert bundle.card == card()
    assert {file: bundle.read(file) for file in bundle.files} == files()
    assert bundle.golden().samples[0].input == "golden/0.png"


@pytest.mark.parametrize(
    ("pictures", "colour", "expected"),
    [
        ([5], "rgb", True),
        ([5, 5], "rgb", True),
        ([0], "rgb", False),  # grey ones, as a network of three channels takes them
        ([5, 0], "rgb", False),  # it was trained on both
        ([5], "grey", False),
        ([], "rgb", False),  # damaged; the self-test says so
    ],
)
def test_a_bundle_knows_whether_it_was_trained_in_colour(tmp_path, pictures, colour, expected):
    golden = Golden(
        samples=tuple(
            GoldenSample(input=f"golden/{number}.png", labels="golden/labels.png", scores=(0.5,))
            for number in range(max(1, len(pictures)))
        ),
        thresholds=(0.5,),
    )
    inputs = {}
    for number, redness in enumerate(pictures):
        pixels = np.full((16, 16, 3), 100, np.uint8)
        pixels[3, 4, 0] += redness
        inputs[f"golden/{number}.png"] = encode_png(pixels)
    grey = {"colour": "grey", "mean": (0.5,), "std": (0.5,)} if colour == "grey" else {}
    made = {**files(), GOLDEN: golden.model_dump_json().encode(), **inputs}
    if not pictures:
        made["golden/0.png"] = b"no PNG"
    write_bundle(tmp_path / "bundle", card(preprocess=Preprocess(height=16, width=16, **grey)), made, version="1.0")
    assert load_bundle(tmp_path / "bundle").is_in_colour == expected


def test_folder_and_zip_have_one_digest(tmp_path):
    digests = {write_bundle(tmp_path / name, card(), files(), version="1.0") for name in ("b", "b.zip")}
    assert len(digests) == 1


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_pictures_return(pixels):
    assert np.array_equal(decode_png(encode_png(pixels), "x"), pixels)


def test_a_bundle_is_replaced_whole_and_other_folders_are_not(folder, tmp_path):
    write_bundle(folder, card(name="second"), files(), version="1.0")
    assert load_bundle(folder).card.name == "second"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="folder with other files"):
        write_bundle(tmp_path / "photos", card(), files(), version="1.0")
    assert (tmp_path / "photos" / "holiday.jpg").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing half-written is left"


def edit(folder, change):
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (shutil.rmtree, BundleError, "no such bundle"),
        (lambda f: (f / "bundle.json").unlink(), BundleError, "is not a bundle"),
        (lambda f: (f / "bundle.json").write_text("{"), BundleError, "is not JSON"),
        (lambda f: (f / "bundle.json").write_text('{"name": "other"}'), BundleError, "no format number"),
        (lambda f: edit(f, lambda c: c.update(format=9)), BundleError, "bundle format 9, this version reads 1"),
        (lambda f: edit(f, lambda c: c["card"].update(kind="cat")), BundleError, "card.kind"),
        (lambda f: edit(f, lambda c: c["files"].pop(PARITY)), BundleError, "names no parity.json"),
        (lambda f: (f / MODEL).unlink(), BundleError, "model.onnx cannot be read"),
        (lambda f: (f / MODEL).write_bytes(b"short"), ChecksumError, "5 bytes, 34 were exported"),
        (lambda f: (f / MODEL).write_bytes(b"x" * 34), ChecksumError, "changed after export"),
        (
            lambda f: edit(f, lambda c: c["files"].update({"../secret": c["files"][MODEL]})),
            BundleError,
            "lies outside the bundle",
        ),
    ],
)
def test_harmed_bundles_are_refused(folder, harm, error, message):
    harm(folder)
    with pytest.raises(error, match=message):
        load_bundle(folder)


def test_a_truncated_zip_is_refused(tmp_path):
    path = tmp_path / "b.zip"
    write_bundle(path, card(), files(), version="1.0")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(path)
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path / "foreign.zip")


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_zip_with_any_bit_changed_is_refused_or_whole(zipped, position, bit):
    data = bytearray(zipped.read_bytes())
    data[position % len(data)] ^= 1 << bit
    changed = zipped.with_name("changed.zip")
    changed.write_bytes(data)
    try:
        bundle = load_bundle(changed)
    except BundleError:
        return
    assert {file: bundle.read(file) for file in bundle.files} == files() | {MODEL: bytes(range(256)) * 9}


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    path = tmp_path_factory.mktemp("zipped") / "bundle.zip"
    write_bundle(path, card(), files() | {MODEL: bytes(range(256)) * 9}, version="1.0")
    return path


@pytest.mark.parametrize("name", ["notes.txt", "photographs.zip"])
def test_other_files_are_not_overwritten(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"mine")
    with pytest.raises(BundleError, match="is a file that is no bundle"):
        write_bundle(path, card(), files(), version="1.0")
    assert path.read_bytes() == b"mine"


def test_a_file_swapped_after_loading_is_noticed(folder):
    bundle = load_bundle(folder)
    (folder / MODEL).write_bytes(b"x" * 34)
    with pytest.raises(ChecksumError, match="changed after export"):
        bundle.read(MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"thresholds": (0.5, 0.5)}, "2 thresholds"), ({"thresholds": (0.0,)}, "above 0"), ({"classes": ()}, "classes")],
)
def test_cards_are_checked(change, message):
    with pytest.raises(ValidationError, match=message):
        card(**change)


def test_the_card_of_the_graph_is_the_one_that_counts(folder):
    bundle = load_bundle(folder)
    bundle.check_card(card().model_dump_json())
    exported = card(
        thresholds=(0.75,), preprocess=Preprocess(height=16, width=16, colour="bgr", fill=9), network={"new": {}}
    )
    with pytest.raises(ChecksumError) as caught:
        bundle.check_card(exported.model_dump_json())
    for part in (
        "thresholds ([0.5], exported [0.75])",
        "preprocess.colour ('rgb', exported 'bgr')",
        "preprocess.fill (0, exported 9)",
        "network.architecture ('test', exported nothing)",
        "network.new (nothing, exported {})",
        "copy the bundle again",
    ):
        assert part in str(caught.value)
    assert "name" not in str(caught.value).partition("changed after export")[2]
    with pytest.raises(BundleError, match=r"model\.onnx carries no card"):
        bundle.check_card(None)
    with pytest.raises(BundleError, match=r"the card in model\.onnx is not valid"):
        bundle.check_card("{}")
