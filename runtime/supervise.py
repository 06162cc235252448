"""A station's supervisor as its configuration has it: with its log, its port for monitoring, and systemd."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from inspectd.config import Config

from .child import Child
from .health import HealthServer
from .logs import set_up
from .sd_notify import Notifier
from .supervisor import Supervisor

__all__ = ["supervise"]

_log = logging.getLogger("inspectd.supervisor")


def supervise(config: Config, children: Sequence[Child]) -> int:
    """Run the processes of a station until the essential one has ended on purpose, or a signal has asked.

    For the main thread of a process that has called `signals.while_starting`.

    Args:
        config: the configuration; of it the sections `station`, `log` and `health` count here.
        children: the processes, exactly one of them essential; what they start with is in their commands.

    Returns:
        The exit status; see `Supervisor.run`.

    Raises:
        ConfigError: `health.port` cannot be listened at; nothing was started.
    """
    set_up("supervisor", config.log)
    # Before anything is started, so that nothing else is told of the service manager.
    notify = Notifier.from_environment()
    supervisor = Supervisor(children, notify, station=config.station.name)
    with ExitStack() as stack:
        if config.health.port is not None:
            server = stack.enter_context(HealthServer(config.health.port, supervisor.report))
            _log.info("monitoring is answered at http://127.0.0.1:%d/", server.port)
        return supervisor.run()
