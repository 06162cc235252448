"""Datagrams to a service manager's socket; what a station tells it is in test_supervisor.py."""

from __future__ import annotations

import os
import socket

import pytest

from inspectd.runtime.sd_notify import Notifier


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def test_fields_go_in_one_datagram_and_no_text_can_be_another_field(manager):
    Notifier(manager.getsockname()).tell(READY=1, STATUS="läuft\nSTOPPING=1\r")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=läuft STOPPING=1 "


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "45000000"}, 45.0),
        ({"WATCHDOG_USEC": "45000000", "WATCHDOG_PID": str(os.getpid())}, 45.0),
        ({"WATCHDOG_USEC": "45000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_environment_says_where_and_is_not_passed_on(environment, watchdog_s):
    environment = {"NOTIFY_SOCKET": "@manager", "HOME": "/", **environment}
    notify = Notifier.from_environment(environment)
    assert notify.is_there
    assert notify.watchdog_s == watchdog_s
    assert environment == {"HOME": "/"}


def test_without_a_service_manager_nothing_happens(caplog):
    notify = Notifier.from_environment({})
    notify.tell(READY=1)
    assert not notify.is_there
    assert not caplog.text


def test_one_that_is_away_is_told_of_once(tmp_path, caplog):
    notify = Notifier(str(tmp_path / "nobody"))
    notify.tell(READY=1)
    notify.tell(WATCHDOG=1)
    assert caplog.text.count("the service manager cannot be told") == 1


def test_one_that_does_not_listen_does_not_hold_it(manager, caplog):
    notify = Notifier(manager.getsockname())
    for _ in range(2000):
        notify.tell(STATUS="x" * 1000)
    assert caplog.text.count("the service manager cannot be told") == 1
