"""The rule that holds, while models are loaded and swapped: a real bundle, a real engine, a line turned by hand."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.config import load_config
from inspectd.frame import Frame
from inspectd.inspection import Verdict
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
            alarms=Alarms("test", epoch=1, publish=lambda _: None),
            post=self.posted.put,
            clock=time.monotonic_ns,
        )

    def load(self, name: str) -> None:
        self.judging.load(name, self.answers.append)

    def finish_loading(self) -> None:
        self.may_open.set()
        self.posted.get(timeout=20)()
        (answer,) = self.answers
        assert isinstance(answer, dict), answer

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
    site.judging.activate()
    assert site.judging.models.current.engine is not before
    assert (site.verdict(178), site.verdict(255)) == (Verdict.OK, Verdict.NG)
    # And the one before, should it judge again.
    site.judging.roll_back()
    assert site.judging.models.current.engine is before
    assert (site.verdict(178), site.verdict(255)) == (Verdict.OK, Verdict.NG)
