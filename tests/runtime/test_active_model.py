"""The file that says which model judges after a restart, and whether it has proved itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspectd.runtime.active_model import ActiveModel


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.json"


def started(path: Path, configured: str = "first") -> tuple[ActiveModel, str]:
    active = ActiveModel(path, configured)
    active.take_up()
    active.flush()
    return active, active.why


def test_what_has_passed_its_trial_judges_after_a_restart(path):
    active, why = started(path)
    assert (active.read(), why, path.exists()) == ("", "", False)
    active.activate(Path("second"), Path("first"))
    active.passed()
    active.flush()
    again, why = started(path)
    assert (again.read(), why, again.is_on_trial) == ("second", "", False)


def test_what_was_on_trial_when_the_process_died_is_given_up(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("older"))
    active.flush()
    assert ActiveModel(path, "first").read() == "older", "to look is not to decide"
    again, why = started(path)
    assert again.read() == "older"
    assert "died while second was on trial; older, the one before, judges again" in why
    # Once told, it is over.
    assert started(path)[1] == ""


def test_a_stop_in_order_pauses_the_trial(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("older"))
    active.pause()
    active.flush()
    assert ActiveModel(path, "first").read() == "second"
    again, why = started(path)
    assert (why, again.is_on_trial) == ("", True)
    third, why = started(path)
    assert third.read() == "older"
    assert "on trial" in why


def test_one_on_trial_is_nothing_to_go_back_to(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("older"))
    active.activate(Path("third"), Path("second"))
    active.flush()
    assert started(path)[0].read() == "older"


def test_the_configured_one_comes_back_without_a_file(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("first"))
    active.flush()
    again, why = started(path)
    assert (again.read(), path.exists()) == ("", False)
    assert "first, the one before, judges again" in why


def test_the_configured_one_is_on_trial_too_when_it_is_activated(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("first"))
    active.passed()
    active.activate(Path("first"), Path("second"))
    active.flush()
    assert started(path)[0].read() == "second"


def test_back_to_the_configured_one_needs_no_file(path):
    active, _ = started(path)
    active.activate(Path("second"), None)
    active.roll_back(Path("first"))
    active.flush()
    assert not path.exists()


def test_another_bundle_in_the_configuration_ends_it(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("first"))
    active.passed()
    active.flush()
    other, why = started(path, "other")
    assert (other.read(), why) == ("", "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"bundle": 3, "instead_of": "first"}', '{"bundle": "x"}', "\xff"]
)
def test_a_damaged_file_is_told(path, text):
    path.write_text(text, encoding="latin-1")
    active, why = started(path)
    assert active.read() == ""
    assert "is damaged" in why
    assert "the model of the configuration judges" in why


def test_a_file_of_before_there_were_trials_is_read(path):
    path.write_text('{"bundle": "second", "instead_of": "first"}')
    active, why = started(path)
    assert (active.read(), why, active.is_on_trial) == ("second", "", False)


def test_a_disk_that_does_not_take_it_changes_nothing_of_what_was_decided(path, monkeypatch):
    active, _ = started(path)
    active.activate(Path("second"), Path("older"))
    active.flush()

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inspectd.runtime.active_model.replace_file", full)
    active.roll_back(Path("older"))
    with pytest.raises(OSError, match="No space"):
        active.flush()
    assert (active.bundle, active.is_on_trial) == ("older", False)
    monkeypatch.undo()
    active.flush()
    assert started(path)[0].read() == "older"


def test_one_to_go_back_to_that_had_not_passed_is_on_trial_still(path):
    active, _ = started(path)
    active.activate(Path("second"), Path("older"))
    active.activate(Path("third"), Path("second"))
    active.roll_back(Path("second"))
    active.flush()
    assert active.is_on_trial
    assert started(path)[0].read() == "older"
