"""How progress is told."""

from __future__ import annotations

from inspectd.training import terminal


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with terminal.stages() as report:
        report("placing", 1, 900)
        now += terminal.LOG_EVERY_S
        report("placing", 300, 900)
        report("placing", 301, 900)
        now += terminal.LOG_EVERY_S
        report("training", 1, 7)
    assert capsys.readouterr().err == "placing 300 of 900\ntraining 1 of 7\n"
