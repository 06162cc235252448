"""Times of day by the clock on the wall, over the ends of summer time and over clocks that are set."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from inspectd.runtime.schedule import Schedule


class Clock:
    """A wall clock and a monotonic one, which go on by hand."""

    def __init__(self, utc: str) -> None:
        self.utc_ns = round(datetime.fromisoformat(utc).replace(tzinfo=timezone.utc).timestamp()) * 10**9
        self.ns = 5 * 10**9

    def go_on(self, minutes: float) -> None:
        self.utc_ns += round(minutes * 60e9)
        self.ns += round(minutes * 60e9)

    def set(self, minutes: float) -> None:
        self.utc_ns += round(minutes * 60e9)


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    # As POSIX writes it, so that it needs no table: summer time from the last Sunday in March to that in October.
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def schedule(clock: Clock, at=(), every_h=None) -> Schedule:
    every_s = None if every_h is None else every_h * 3600
    return Schedule(at, every_s, clock=lambda: clock.ns, utc=lambda: clock.utc_ns)


def dues(clock: Clock, watched: Schedule, minutes: int, step: float = 1.0) -> list[tuple[str, str]]:
    """What is due while time goes on, with the time on the wall."""
    told = []
    for _ in range(round(minutes / step)):
        clock.go_on(step)
        if why := watched.due():
            told.append((f"{datetime.fromtimestamp(clock.utc_ns / 1e9):%d. %H:%M}", why))
    return told


def test_each_time_of_day_is_due_once_by_the_clock_on_the_wall():
    clock = Clock("2026-01-10T00:00")
    watched = schedule(clock, ("22:00", "06:00", "14:00"))
    assert dues(clock, watched, 2 * 24 * 60) == [
        ("10. 06:00", "at 06:00"),
        ("10. 14:00", "at 14:00"),
        ("10. 22:00", "at 22:00"),
        ("11. 06:00", "at 06:00"),
        ("11. 14:00", "at 14:00"),
        ("11. 22:00", "at 22:00"),
    ]


def test_a_shift_begins_at_the_same_time_in_summer():
    clock = Clock("2026-07-10T00:00")
    assert dues(clock, schedule(clock, ("06:00",)), 24 * 60) == [("10. 06:00", "at 06:00")]


def test_the_hour_that_summer_time_leaves_out_is_made_up_for():
    clock = Clock("2026-03-28T23:30")  # 00:30 of the 29th; at 02:00 it is 03:00
    assert dues(clock, schedule(clock, ("02:30",)), 6 * 60) == [("29. 03:00", "at 02:30")]


def test_the_hour_that_comes_twice_counts_once():
    clock = Clock("2026-10-24T22:30")  # 00:30 of the 25th; at 03:00 it is 02:00 again
    watched = schedule(clock, ("02:30", "03:30"))
    assert dues(clock, watched, 8 * 60) == [("25. 02:30", "at 02:30"), ("25. 03:30", "at 03:30")]


def test_midnight():
    clock = Clock("2026-01-10T22:50")
    assert dues(clock, schedule(clock, ("00:00",)), 24 * 60) == [("11. 00:00", "at 00:00")]


def test_what_was_passed_over_between_two_looks_is_due_once():
    clock = Clock("2026-01-10T00:00")
    assert dues(clock, schedule(clock, ("06:00", "06:30")), 24 * 60, step=12 * 60) == [("10. 13:00", "at 06:00")]


def test_a_clock_that_was_set_back_brings_its_times_again():
    clock = Clock("2026-01-10T05:30")  # 06:30
    watched = schedule(clock, ("07:00",))
    assert len(dues(clock, watched, 60)) == 1
    clock.set(-24 * 60)
    assert dues(clock, watched, 24 * 60) == [("10. 07:00", "at 07:00")]


def test_a_clock_that_was_set_forward_passes_nothing_over():
    clock = Clock("2026-01-10T05:30")
    watched = schedule(clock, ("12:00",))
    clock.set(9 * 60)
    assert watched.due() == "at 12:00"
    assert watched.due() == ""


def test_a_period_begins_when_it_was_done_whatever_the_clock_on_the_wall_says():
    clock = Clock("2026-01-10T00:00")
    watched = schedule(clock, every_h=4)
    clock.set(-600)
    clock.go_on(239)
    assert watched.due() == ""
    clock.go_on(1)
    assert watched.due() == "4 h after the last time"
    assert watched.due(), "it is due until it is done"
    watched.done()
    assert dues(clock, watched, 239) == []
    assert dues(clock, watched, 1) != []
