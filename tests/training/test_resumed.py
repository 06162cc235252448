"""A training's folder: begun, gone on with, or refused."""

from __future__ import annotations

import json

import pytest
import torch

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.notes import NOTE, STATE
from inspectd.training.resumed import begin, read_state


def test_a_folder_is_begun_once_and_gone_on_with_by_the_same_settings(tmp_path):
    out = tmp_path / "out"
    begin(out, {"rate": 0.1, "size": 8}, resume=False)
    assert json.loads((out / NOTE).read_text()) == {"rate": 0.1, "size": 8}
    with pytest.raises(ConfigError, match="exists and is not empty; name a new folder, or go on with it by --resume"):
        begin(out, {"rate": 0.1, "size": 8}, resume=False)
    begin(out, {"rate": 0.1, "size": 8}, resume=True)
    with pytest.raises(ConfigError, match=r"was started with other settings: rate 0\.1 -> 0\.2$"):
        begin(out, {"rate": 0.2, "size": 8}, resume=True)


def test_a_note_of_another_version(tmp_path):
    begin(tmp_path / "out", {"rate": 0.1}, resume=False)
    begin(tmp_path / "out", {"rate": 0.1, "peaks": 0.0}, resume=True, defaults={"peaks": 0.0})
    with pytest.raises(ConfigError, match=r"peaks 0\.0 -> 0\.5"):
        begin(tmp_path / "out", {"rate": 0.1, "peaks": 0.5}, resume=True, defaults={"peaks": 0.0})
    with pytest.raises(ConfigError, match=r"rate 0\.1, which this version does not know"):
        begin(tmp_path / "out", {}, resume=True)


def test_a_note_that_was_being_written_is_none(tmp_path):
    (tmp_path / f".{NOTE}.part").write_text('{"ra')
    begin(tmp_path, {"rate": 0.1}, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NOTE]


@pytest.mark.parametrize("damaged", ["", "null", "[]", "[1]", "5", '{"rate"'])
def test_a_damaged_note_is_refused(tmp_path, damaged):
    (tmp_path / NOTE).write_text(damaged)
    with pytest.raises(DatasetError, match=rf"{NOTE}: is damaged; start the training anew in another folder"):
        begin(tmp_path, {}, resume=True)


def test_a_state_is_whole_or_refused(tmp_path):
    with pytest.raises(DatasetError, match=rf"{STATE}: is not there; all devices of a training need the same folder"):
        read_state(tmp_path, "step")
    for damaged in (b"", b"torn"):
        (tmp_path / STATE).write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"{STATE}: is damaged"):
            read_state(tmp_path, "step")
    torch.save({"step": 3}, tmp_path / STATE)
    assert read_state(tmp_path, "step") == {"step": 3}
    with pytest.raises(DatasetError, match=rf"{STATE}: is damaged"):
        read_state(tmp_path, "step", "network")
