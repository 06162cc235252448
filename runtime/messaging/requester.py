"""A client of control: questions and commands to a station."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import zmq

from inspectd.errors import ConfigError, NotReached, ProtocolError, RequestError
from inspectd.wire import Answer, Message, Request

from .link import Link

__all__ = ["Requester"]

RESEND_S = 1.0
"""An answer that has not come by then is asked for again, with the same number."""
_HIGHEST_ID = 2**64 - 1


class Requester:
    """Asks one station; used from one thread.

    What changes something is done once, however often it has to be sent: the station knows a request by its number.

    Args:
        endpoint: address of the station's control.
        identity: by which a station without keys knows this client; a random one if empty.
        secure: sets keys on the socket before it connects.
        utc_ns: the numbers of requests begin at this clock, so that they are above those of before.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        identity: bytes = b"",
        secure: Callable[[zmq.Socket[Any]], None] | None = None,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.endpoint = endpoint
        self._identity = identity
        self._secure = secure
        self._next_id = utc_ns() // 1000
        self._link: Link | None = None

    def open(self) -> None:
        """Connect; returns before the connection stands.

        Raises:
            ConfigError: the address is not one.
        """
        link = Link(zmq.DEALER, self.endpoint)
        if self._identity:
            link.socket.routing_id = self._identity
        try:
            if self._secure is not None:
                self._secure(link.socket)
            link.socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            link.close()
            raise ConfigError(
                f"endpoint {self.endpoint}: cannot be connected to ({error.strerror}); expected an address such as "
                f"ipc:///var/lib/inspectd/ctl or tcp://192.168.0.5:5561"
            ) from error
        self._link = link

    def close(self) -> None:
        """Let go. May be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> Requester:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = 5.0) -> Answer:
        """Ask, and wait for the answer.

        Raises:
            NotReached: none came in time.
            RequestError: the station does not do it.
            ProtocolError: what came is no answer.
        """
        if self._link is None:
            raise RuntimeError(f"the requester of {self.endpoint} is not open")
        socket = self._link.socket
        request = Request(self._next_id, op, args or {})
        self._next_id = min(self._next_id + 1, _HIGHEST_ID)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(zmq.Again):  # nobody is there yet
                socket.send_multipart(request.to_parts(), zmq.NOBLOCK)
            resend = time.monotonic() + min(RESEND_S, left_s)
            while (wait_s := resend - time.monotonic()) > 0:
                if not socket.poll(round(wait_s * 1000) + 1):
                    break
                answer = Answer.from_parts(socket.recv_multipart())
                if answer.request_id != request.request_id:
                    continue  # of one that was given up
                if not answer.ok and answer.code == "busy" and "still being done" in answer.message:
                    time.sleep(0.05)
                    break  # our own, sent again
                if not answer.ok:
                    raise RequestError(answer.message, code=answer.code, field=answer.field)
                return answer
        raise NotReached(
            f"{self.endpoint}: no answer to {op} within {timeout_s:g} s; is the station running, and is its key "
            f"the one that this client was given?"
        )

    def replay(
        self,
        stream: int,
        first: int,
        last: int,
        *,
        epoch: int | None = None,
        masks: bool = False,
        timeout_s: float = 5.0,
    ) -> tuple[dict[str, Any], list[Message]]:
        """Messages again; what is said of them, and they.

        Raises:
            NotReached, RequestError, ProtocolError: as `ask`.
        """
        args: dict[str, Any] = {"stream": stream, "from": first, "to": last, "masks": masks}
        if epoch is not None:
            args["epoch"] = epoch
        answer = self.ask("replay", args, timeout_s=timeout_s)
        blobs = answer.blobs
        if len(blobs) % 4:
            raise ProtocolError(f"replay: expected four parts for each message, got {len(blobs)}")
        messages = [Message.from_parts(blobs[at : at + 4]) for at in range(0, len(blobs), 4)]
        return dict(answer.result or {}), messages
