"""Pictures of some roles in a folder of their own, and the camera of the results page that reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from inspectd.config import FolderCamera, load_config
from inspectd.dataset import open_dataset
from inspectd.errors import DatasetError
from inspectd.runtime.sources.folder import FolderSource
from inspectd.training.cli import app
from inspectd.training.data.select import select

PAGE = Path(__file__).resolve().parents[2] / "docs/results/magnetic-tile.md"


def test_the_camera_of_the_results_page_sees_the_selected_pictures(
    buttons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text()
    (command,) = re.findall(r"^    inspectd-train (select .*)$", text, re.MULTILINE)
    (toml,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.toml").write_text(toml)
    app([str(buttons) if word == "magnetic_tile" else word for word in command.split()], standalone_mode=False)
    assert capsys.readouterr().out == "out/tiles-pictures: 6 pictures\n"
    (camera,) = load_config(tmp_path / "line.toml").cameras.values()
    assert isinstance(camera, FolderCamera)
    source = FolderSource("cam1", camera)
    source.open()
    wanted = open_dataset(buttons).select("test", "ok_test")
    assert {path.relative_to(camera.path).as_posix() for path in source.files} == {sample.name for sample in wanted}
    for sample in wanted:
        taken = Path(camera.path) / sample.name
        assert taken.read_bytes() == sample.image.read_bytes()


def test_pictures_are_linked_where_that_is_asked_for(buttons: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert select(buttons, ["ok_test"], tmp_path / "out", link=True, progress=lambda *at: seen.append(at)) == 3
    assert seen[-1] == (3, 3)
    for sample in open_dataset(buttons).select("ok_test"):
        assert os.path.samefile(tmp_path / "out" / sample.name, sample.image)  # noqa: PTH121


def test_what_cannot_be_selected_is_refused(buttons: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no picture of the roles ref, only 6 free, 6 extra, 3 test, 3 ok_test"):
        select(buttons, ["ref"], tmp_path / "out")
    with pytest.raises(DatasetError, match="unknown role 'tests'"):
        select(buttons, ["tests"], tmp_path / "out")
    (tmp_path / "kept").touch()
    with pytest.raises(DatasetError, match="not an empty folder"):
        select(buttons, ["test"], tmp_path)
