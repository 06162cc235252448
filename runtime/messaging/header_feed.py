"""The headers that a station publishes, for who passes them on to machines without ZeroMQ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import zmq

from inspectd.errors import ProtocolError
from inspectd.wire import Header, Message

from .link import Connected

__all__ = ["HeaderFeed"]

_TOPICS = ("ins1/verdict/", "ins1/hb/", "ins1/state/")
_log = logging.getLogger("inspectd.headers")


class HeaderFeed(Connected):
    """Headers of verdicts, heartbeats and changes of state; a selector can wait for it.

    Its descriptor becomes readable once for all that has come: take all `headers` then.

    Args:
        endpoint: where the station publishes.
    """

    KIND = zmq.SUB

    def _set(self, socket: zmq.Socket[Any]) -> None:
        # Where a full queue stops the reading, libzmq 4.3.5 ends the process once the connection is made anew (its
        # issue 3937). These are small, and taken at once.
        socket.rcvhwm = 0
        for topic in _TOPICS:
            socket.setsockopt_string(zmq.SUBSCRIBE, topic)

    def fileno(self) -> int:
        """What a selector waits for."""
        return int(self._socket.getsockopt(zmq.FD))

    def headers(self) -> Iterator[Header]:
        """All that have come; never waits."""
        socket = self._socket
        while True:
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield Message.from_parts(parts).header
            except ProtocolError as error:
                _log.warning("headers: a message was not passed on: %s", error)
