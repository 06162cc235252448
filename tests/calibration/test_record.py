"""The file that every calibration ends in, and its page."""

from __future__ import annotations

import errno
import json
import os
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import ClassVar, Literal

import numpy as np
import pytest

from inspectd.calibrated import Record, load_record
from inspectd.calibration.page import Page, Picture, Plot, Section, Table, Text, Verdict, render, write_page
from inspectd.calibration.plots import Axis, Series, bars, heat_map, histogram, lines, points, ticks
from inspectd.calibration.record import CameraId, header, read_source, save_record
from inspectd.errors import ConfigError

MADE = datetime(2025, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


class Trial(Record):
    made_by: ClassVar[str] = "inspectd-calibrate trial"
    kind: Literal["trial"] = "trial"
    length_mm: float


class Other(Record):
    kind: Literal["other"] = "other"


@pytest.fixture
def record(tmp_path):
    picture = tmp_path / "view.png"
    picture.write_bytes(b"abc")
    entry = read_source(picture).entry
    camera = CameraId(serial="22894911", model="acA1300")
    return Trial(length_mm=0.1, **header([entry], made=MADE, camera=camera, width_px=1280, height_px=960))


def test_a_record_comes_back_as_it_was_written(record, tmp_path):
    path = tmp_path / "new" / "trial.json"
    save_record(path, record)
    assert load_record(path, Trial) == record
    assert load_record(path, Trial).sha256 == json.loads(path.read_text())["sha256"] == record.sha256
    assert record.inputs[0].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [file.name for file in path.parent.iterdir()] == ["trial.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "no such calibration; make one by inspectd-calibrate trial"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "not JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: path.write_text("[1]"), "is no calibration"),
        (lambda path: path.write_text(path.read_text().replace("0.1", "0.2")), "was changed since it was made"),
        (
            lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 2')),
            "format 2, this version",
        ),
        (lambda path: save_record(path, Other(**header([], made=MADE))), "of kind 'other', expected 'trial'"),
    ],
    ids=["missing", "cut", "binary", "not an object", "edited", "format", "kind"],
)
def test_what_cannot_be_trusted_is_refused_in_one_line(record, tmp_path, change, said):
    path = tmp_path / "trial.json"
    save_record(path, record)
    change(path)
    with pytest.raises(ConfigError, match=said) as told:
        load_record(path, Trial)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_field_that_is_not_known_is_refused(record, tmp_path):
    class Wider(Trial):
        more: int = 1

    path = tmp_path / "trial.json"
    save_record(path, Wider(**record.model_dump()))
    with pytest.raises(ConfigError, match="more: Extra inputs"):
        load_record(path, Trial)


def test_a_foreign_camera_is_refused_and_both_are_named(record):
    assert record.check(serial="22894911", width_px=1280, height_px=960) == ()
    with pytest.raises(ConfigError, match="of camera 22894911, and this is camera 7"):
        record.check(serial="7", width_px=1280, height_px=960)
    with pytest.raises(ConfigError, match=r"width of 1280 px, and the camera's frames have 640 px.*height of 960.*480"):
        record.check(serial="22894911", width_px=640, height_px=480)


@pytest.mark.parametrize(
    ("channels", "said"),
    [(1, "it is for grey pictures, and the camera's frames are in colour"), (3, "for pictures in colour, .* are grey")],
)
def test_colour_that_has_gone_is_refused_where_it_is_known(record, channels, said):
    of = {"serial": "22894911", "width_px": 1280, "height_px": 960}
    known = record.model_copy(update={"channels": channels})
    assert known.check(**of, channels=channels) == record.check(**of, channels=channels) == ()
    with pytest.raises(ConfigError, match=said):
        known.check(**of, channels=4 - channels)


def test_a_record_of_before_has_the_digest_that_others_know_it_by(record, tmp_path):
    """Thresholds name the scale that they were calibrated with."""
    path = tmp_path / "trial.json"
    save_record(path, record)
    written = json.loads(path.read_text())
    assert "channels" not in written
    assert load_record(path, Trial).sha256 == written["sha256"]
    save_record(path, record.model_copy(update={"channels": 3}))
    assert load_record(path, Trial).channels == 3


def test_what_cannot_be_compared_is_said(record):
    assert "no serial number" in record.check(serial=None, width_px=1280, height_px=960)[0]
    unknown = record.model_copy(update={"serial": None})
    assert "does not say which camera" in unknown.check(serial="7", width_px=1280, height_px=960)[0]


def test_only_utc_and_finite_numbers_are_taken(record):
    here = MADE.astimezone(timezone(timedelta(hours=2)))
    with pytest.raises(ValueError, match="expected a time in UTC"):
        Trial(**{**record.model_dump(), "made": here})
    with pytest.raises(ValueError, match="finite"):
        Trial(**{**record.model_dump(), "length_mm": float("nan")})


def test_a_place_that_cannot_be_written_is_said(record, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: (Not a directory|File exists)"):
        save_record(tmp_path / "file" / "trial.json", record)

    path = tmp_path / "trial.json"
    save_record(path, record)
    before = path.read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"trial\.json: cannot be written: No space left"):
        save_record(path, record.model_copy(update={"length_mm": 2.0}))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".trial*"))


class _Strict(HTMLParser):
    """Notes what would be fetched, and tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]
        if tag in ("script", "link", "iframe"):
            self.wrong.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_a_page_stands_alone_and_tells_where_it_comes_from(record, tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 255
    plots = [
        lines("a", Axis("x (px)"), Axis("y (mm)"), [Series("one", [0, 1], [0, 2]), Series("two", [0, 1], [1, 1])]),
        points("b", Axis("x (px)"), Axis("y (px)"), [Series("", [0, 1], [0, 2])], equal=True),
        bars("c", Axis("error (px)"), ["v1.png", "v<2>.png"], [0.1, 0.4], limit=0.3),
        histogram("d", Axis("grey value"), np.arange(10.0)),
        heat_map("e", np.array([[1.0, np.nan]]), x=Axis("x (px)"), y=Axis("y (px)"), unit="mm"),
    ]
    parts = [
        Text("a < b"),
        Table(("n", "value (mm)"), [("1", "0.1")]),
        Picture(picture, "red"),
        *(Plot(p, "") for p in plots),
    ]
    page = Page("Trial & error", Verdict("doubtful", "Nearly <good>."), record, [Section("Figures", parts)])
    write_page(tmp_path / "page.html", page)
    text = (tmp_path / "page.html").read_text()
    reader = _Strict()
    reader.feed(text)
    assert (reader.wrong, reader.fetched, reader.open) == ([], [], [])
    for said in (
        "Trial &amp; error",
        "Nearly &lt;good&gt;",
        "22894911",
        "2025-03-04",
        record.sha256,
        record.inputs[0].sha256,
    ):
        assert said in text
    assert "v&lt;2&gt;" in text
    assert re.search(r"value \(mm\)", text)
    assert render(page) == text


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.031, 0.047) == pytest.approx([-0.02, 0, 0.02, 0.04])
    assert ticks(3, 3) == [3]
