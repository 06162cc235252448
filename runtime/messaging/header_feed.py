"""The headers that a station publishes, for who passes them on to machines without ZeroMQ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import TracebackType

import zmq

from inspectd.errors import ConfigError, ProtocolError
from inspectd.wire import Header, Message

from .link import Link

__all__ = ["HeaderFeed"]

_TOPICS = ("ins1/verdict/", "ins1/hb/", "ins1/state/")
_log = logging.getLogger("inspectd.headers")


class HeaderFeed:
    """Headers of verdicts, heartbeats and changes of state; a selector can wait for it.

    Its descriptor becomes readable once for all that has come: take all `headers` then.

    Args:
        endpoint: where the station publishes.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._link: Link | None = None

    def open(self) -> None:
        """Connect; returns before the connection stands.

        Raises:
            ConfigError: the address is not one.
        """
        link = Link(zmq.SUB, self.endpoint)
        # Where a full queue stops the reading, libzmq 4.3.5 ends the process once the connection is made anew (its
        # issue 3937). These are small, and taken at once.
        link.socket.rcvhwm = 0
        for topic in _TOPICS:
            link.socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        try:
            link.socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            link.close()
            raise ConfigError(
                f"endpoint {self.endpoint}: cannot be connected to ({error.strerror}); expected the address of a "
                f"station such as ipc:///run/inspectd/pub"
            ) from error
        self._link = link

    def close(self) -> None:
        """Let go. May be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> HeaderFeed:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """What a selector waits for."""
        return int(self._opened.socket.getsockopt(zmq.FD))

    def headers(self) -> Iterator[Header]:
        """All that have come; never waits."""
        socket = self._opened.socket
        while True:
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield Message.from_parts(parts).header
            except ProtocolError as error:
                _log.warning("headers: a message was not passed on: %s", error)

    @property
    def _opened(self) -> Link:
        if self._link is None:
            raise RuntimeError(f"the feed from {self.endpoint} is not open")
        return self._link
