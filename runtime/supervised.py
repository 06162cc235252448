"""`inspectd run` as a supervisor: the station in a process of its own, and what belongs to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from inspectd.config import Config

from .child import Child
from .health import HealthServer
from .sd_notify import Notifier
from .supervisor import Supervisor

__all__ = ["supervise"]

CORE_SILENT_S = 10.0
"""A core that does not beat for so long hangs; to let go of a camera that hangs takes it some of that."""
CORE_DRAIN_S = 30.0
"""So long may it take to end after SIGTERM: to drain its cameras, and to have its archive written."""


def supervise(config: Config, arguments: Sequence[str]) -> int:
    """Run a station in a process of its own until it ends as it means to; its exit status.

    Args:
        config: its configuration, of which the supervisor itself wants next to nothing.
        arguments: of this process's command line; the station gets the same.

    Raises:
        ConfigError: the port for monitoring cannot be had.
    """
    core = Child(
        "core",
        (sys.executable, "-m", "inspectd.runtime.entry", *arguments),
        essential=True,
        silent_s=CORE_SILENT_S,
        drain_s=CORE_DRAIN_S,
    )
    supervisor = Supervisor([core], Notifier.from_environment(), station=config.station.name)
    with ExitStack() as stack:
        if config.health.port is not None:
            stack.enter_context(HealthServer(config.health.port, supervisor.report))
        return supervisor.run()
