"""The rule that holds, while models are loaded and swapped: a real bundle, a real engine, a line turned by hand.

And how a swap waits for a disk that is slow, refuses, or does not answer.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.config import load_config
from inspectd.errors import RequestError
from inspectd.frame import Frame
from inspectd.inspection import Verdict
from inspectd.runtime import active_model, state_file
from inspectd.runtime.active_model import ActiveModel
from inspectd.runtime.alarms import Alarms
from inspectd.runtime.engine import open_engine
from inspectd.runtime.judging import Judging
from inspectd.runtime.models import LoadedBundle

from .conftest import picture


class Site:
    """What judges, and a line's thread that does what was posted when the test says so."""

    def __init__(self, config, bundle_path: Path, folder: Path) -> None:
        self.may_open = threading.Event()
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.answers: list[object] = []
        self.ahead_ns = 0

        self.alarms = Alarms("test", epoch=1, publish=lambda _: None)

        def opened(path: Path, _config: object = None) -> LoadedBundle:
            bundle = load_bundle(path)
            return LoadedBundle(bundle, open_engine(bundle, threads=1))

        def slowly(path: Path, config: object) -> LoadedBundle:
            assert self.may_open.wait(20)
            return opened(path, config)

        self.judging = Judging(
            config,
            opened(bundle_path),
            open_bundle=slowly,
            active=ActiveModel(folder / "model.json", str(bundle_path)),
            scales=dict.fromkeys(config.cameras),
            alarms=self.alarms,
            post=self.posted.put,
            clock=lambda: time.monotonic_ns() + self.ahead_ns,
        )
        self.judging.take_up()
        self.turn()

    def load(self, name: str) -> None:
        self.judging.load(name, self.answers.append)

    def finish_loading(self) -> None:
        self.may_open.set()
        assert isinstance(self.answer(), dict)

    def turn(self) -> None:
        """The next that was posted."""
        self.posted.get(timeout=20)()

    def answer(self) -> object:
        """The next answer."""
        while not self.answers:
            self.turn()
        return self.answers.pop(0)

    def activate(self) -> object:
        self.judging.activate(self.answers.append)
        return self.answer()

    def loaded(self, name: str) -> None:
        self.load(name)
        self.finish_loading()

    def told(self, code: str) -> str:
        """What an alarm says that is active."""
        return next((alarm.message for alarm in self.alarms.active if alarm.code == code), "")

    def set_score(self, score: float) -> None:
        self.judging.set_threshold({"class_name": "bright", "score": score})

    def verdict(self, grey: int) -> Verdict:
        """Of a part with a spot of this brightness."""
        pixels = picture(defect=True)
        pixels[pixels == 255] = grey
        return self.judging.models.current.inspector.inspect(Frame("cam1", 1, pixels, 10)).verdict


@pytest.fixture
def site(write_config, bundle_path, tmp_path):
    site = Site(load_config(write_config('source = "buttons"')), bundle_path, tmp_path)
    yield site
    site.judging.close(in_order=True)


@pytest.mark.parametrize("when", ["while it is loaded", "once it is loaded"])
def test_a_score_that_is_set_holds_for_the_model_that_comes_next(site, bundle_path, when):
    assert (site.verdict(178), site.verdict(255)) == (Verdict.NG, Verdict.NG)
    before = site.judging.models.current.engine
    site.load(bundle_path.name)
    if when == "once it is loaded":
        site.finish_loading()
    site.set_score(0.9)
    if when == "while it is loaded":
        site.finish_loading()
    site.activate()
    assert site.judging.models.current.engine is not before
    assert (site.verdict(178), site.verdict(255)) == (Verdict.OK, Verdict.NG)
    # And the one before, should it judge again.
    site.judging.roll_back(site.answers.append)
    assert isinstance(site.answer(), dict)
    assert site.judging.models.current.engine is before
    assert (site.verdict(178), site.verdict(255)) == (Verdict.OK, Verdict.NG)


def test_a_model_is_looked_for_beside_the_line_too(site):
    """Its folder may lie on a disk of a network."""
    site.load("third")
    refused = site.answer()
    assert isinstance(refused, RequestError)
    assert (refused.code, "no 'third' in" in str(refused)) == ("not_found", True)


class Disk:
    """Where the file of the active model lies; it answers when the test says so."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.may_write = threading.Event()
        write = active_model.replace_file

        def slow(path: Path, data: bytes) -> None:
            assert self.may_write.wait(20)
            write(path, data)

        monkeypatch.setattr(active_model, "replace_file", slow)

    def says(self) -> tuple[str, str]:
        """Name of the bundle, and its trial; empty without a file."""
        if not self.path.exists():
            return "", ""
        kept = json.loads(self.path.read_text())
        return Path(kept["bundle"]).name, kept["trial"]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    disk = Disk(tmp_path / "model.json", monkeypatch)
    yield disk
    disk.may_write.set()


def test_a_model_judges_once_the_disk_knows_of_it_and_nobody_waits_for_that(disk, site, bundle_path):
    before = site.judging.models.current
    site.loaded(bundle_path.name)
    began_s = time.monotonic()
    site.judging.activate(site.answers.append)
    for op in (site.judging.activate, site.judging.roll_back):
        with pytest.raises(RequestError, match="a model is being activated, and waits for the disk") as caught:
            op(site.answers.append)
        assert caught.value.code == "busy"
    site.judging.look()
    assert time.monotonic() - began_s < 5  # the disk waits longer
    # It has not begun: its trial is neither over, nor is it to be seen anywhere.
    assert (site.answers, site.judging.models.current, disk.says()) == ([], before, ("", ""))
    disk.may_write.set()
    assert isinstance(site.answer(), dict)
    assert site.judging.models.current is not before
    assert disk.says() == (bundle_path.name, "open")
    assert site.told("model.not_kept") == ""


def test_going_back_waits_for_nothing_and_is_answered_once_the_disk_knows_of_it(disk, site, bundle_path):
    disk.may_write.set()
    before = site.judging.models.current.engine
    site.loaded(bundle_path.name)
    site.activate()
    assert disk.says() == (bundle_path.name, "open")
    site.judging.roll_back(site.answers.append)
    assert site.judging.models.current.engine is before
    assert site.answers == []
    assert isinstance(site.answer(), dict)
    # To the configured one, which needs no file.
    assert disk.says() == ("", "")


def test_a_disk_that_refuses_it_is_told_and_changes_nothing(site, bundle_path, tmp_path):
    before = site.judging.models.current
    site.loaded(bundle_path.name)
    blocked = tmp_path / ".model.json.new"
    blocked.mkdir()
    assert isinstance(site.activate(), dict)
    assert site.judging.models.current is not before
    assert "could not be kept (Is a directory); after a restart it may be another one" in site.told("model.not_kept")
    blocked.rmdir()
    site.judging.look()
    site.turn()
    assert site.told("model.not_kept") == ""
    assert json.loads((tmp_path / "model.json").read_text())["trial"] == "open"


def test_while_the_disk_does_not_answer_no_other_model_judges(disk, site, bundle_path, monkeypatch):
    monkeypatch.setattr(state_file, "_SLOW_S", 0.0)
    before = site.judging.models.current
    site.loaded(bundle_path.name)
    site.judging.activate(site.answers.append)
    site.judging.look()
    assert "(the disk does not answer)" in site.told("model.not_kept")
    assert site.answers == []
    site.ahead_ns = 6 * 10**9
    site.judging.look()
    refused = site.answers.pop()
    assert isinstance(refused, RequestError)
    assert "not done, the disk does not answer; the model of before goes on judging" in str(refused)
    assert site.judging.models.current is before
    # What the disk has of it when it answers at last is taken back.
    disk.may_write.set()
    site.turn()
    site.turn()
    assert (disk.says(), site.told("model.not_kept")) == (("", ""), "")
    # And it can be activated then.
    assert isinstance(site.activate(), dict)
    assert disk.says() == (bundle_path.name, "open")


@pytest.fixture
def second(bundle_path):
    """Name of another bundle."""
    path = bundle_path.with_name("second")
    shutil.copytree(bundle_path, path)
    yield path.name
    shutil.rmtree(path)


def test_an_activation_that_waits_is_called_off_where_the_model_that_judges_fails(disk, site, bundle_path, second):
    disk.may_write.set()
    first = site.judging.models.current.engine
    site.loaded(bundle_path.name)
    site.activate()
    disk.may_write.clear()
    site.loaded(second)
    site.judging.activate(site.answers.append)
    # As the line does it.
    site.judging.models.roll_back()
    site.judging.note_failed_swap("a fault on purpose")
    refused = site.answers.pop()
    assert isinstance(refused, RequestError)
    assert "the model that judged has failed meanwhile; load it again" in str(refused)
    disk.may_write.set()
    site.turn()
    site.turn()
    assert site.judging.models.current.engine is first
    assert (site.answers, disk.says()) == ([], ("", ""))


def test_a_model_that_is_loaded_meanwhile_stays_beside_the_one_that_was_activated(disk, site, bundle_path):
    site.loaded(bundle_path.name)
    wanted = site.judging.models.loaded.engine
    site.load(bundle_path.name)
    site.judging.activate(site.answers.append)
    site.turn()
    assert (site.answers, site.judging.models.loaded.engine) == ([], wanted)
    disk.may_write.set()
    assert [type(site.answer()), type(site.answer())] == [dict, dict]
    assert site.judging.models.current.engine is wanted
    assert site.judging.models.loaded.engine is not wanted


def test_a_station_that_ends_waits_for_the_disk_only_so_long(disk, site, bundle_path, monkeypatch):
    monkeypatch.setattr(state_file, "LAST_WRITE_S", 0.2)
    site.loaded(bundle_path.name)
    site.judging.activate(site.answers.append)
    began_s = time.monotonic()
    site.judging.close(in_order=True)
    assert time.monotonic() - began_s < 10  # the disk waits longer
    refused = site.answers.pop()
    assert isinstance(refused, RequestError)
    assert "not done, the station ends" in str(refused)
    assert "(the disk does not answer)" in site.told("model.not_kept")
