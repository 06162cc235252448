"""How progress is told."""

from __future__ import annotations

from inspectd import command


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    with command.stages() as report:
        report("placing", 1, 900)
        now += command.LOG_EVERY_S
        report("placing", 300, 900)
        report("placing", 301, 900)
        now += command.LOG_EVERY_S
        report("training", 1, 7)
    assert capsys.readouterr().err == "placing 300 of 900\ntraining 1 of 7\n"
