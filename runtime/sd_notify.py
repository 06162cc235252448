"""What systemd is told of a service of Type=notify: datagrams to the socket that it names in the environment."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]

_log = logging.getLogger("inspectd.supervisor")


class Notifier:
    """Tells the service manager; without one it does nothing.

    Args:
        address: of its socket; one that begins with `@` is abstract. Empty where there is none.
        watchdog_s: it has to hear WATCHDOG=1 within each such time; 0 where it does not want to.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0
        self._complained = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """As systemd has set it for this process; removed, for it is not meant for processes that this one starts."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us, owner = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        watched = period_us.isdecimal() and owner in {"", str(os.getpid())}
        return cls(address, int(period_us) / 1e6 if watched else 0.0)

    @property
    def is_there(self) -> bool:
        """Whether anybody hears it."""
        return bool(self._address)

    def tell(self, **fields: object) -> None:
        """Send fields, such as `READY=1`. Never waits: a service manager that does not listen cannot hold the line."""
        if not self._address:
            return
        text = "\n".join(f"{name}={str(value).translate(_ONE_LINE)}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
                end.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._complained:
                _log.warning("NOTIFY_SOCKET: the service manager cannot be told (%s); going on", error)
            self._complained = True


_ONE_LINE = {ord("\n"): " ", ord("\r"): " "}
