"""A client of control: questions and commands to a station."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import zmq

from inspectd.errors import NotReached, ProtocolError, RequestError
from inspectd.wire import Answer, Message, Request

from .link import Connected

__all__ = ["Requester"]

RESEND_S = 1.0
"""An answer that has not come by then is asked for again, with the same number."""
_HIGHEST_ID = 2**64 - 1


class Requester(Connected):
    """Asks one station; used from one thread.

    What changes something is done once, however often it has to be sent: the station knows a request by its number.

    Args:
        endpoint: address of the station's control.
        identity: by which a station without keys knows this client; a random one if empty.
        secure: sets keys on the socket before it connects.
        utc_ns: the numbers of requests begin at this clock, so that they are above those of before.
    """

    KIND = zmq.DEALER
    EXAMPLE = "ipc:///var/lib/inspectd/ctl or tcp://192.168.0.5:5561"

    def __init__(
        self,
        endpoint: str,
        *,
        identity: bytes = b"",
        secure: Callable[[zmq.Socket[Any]], None] | None = None,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(endpoint, secure=secure)
        self._identity = identity
        self._next_id = utc_ns() // 1000

    def _set(self, socket: zmq.Socket[Any]) -> None:
        if self._identity:
            socket.routing_id = self._identity

    def ask(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = 5.0) -> Answer:
        """Ask, and wait for the answer.

        Raises:
            NotReached: none came in time.
            RequestError: the station does not do it.
            ProtocolError: what came is no answer.
        """
        socket = self._socket
        request = Request(self._next_id, op, args or {})
        self._next_id = min(self._next_id + 1, _HIGHEST_ID)
        deadline = time.monotonic() + timeout_s
        sent = 0
        busy: Answer | None = None
        while (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(zmq.Again):  # nobody is there yet
                socket.send_multipart(request.to_parts(), zmq.NOBLOCK)
                sent += 1
            resend = time.monotonic() + min(RESEND_S, left_s)
            while (wait_s := resend - time.monotonic()) > 0:
                if not socket.poll(round(wait_s * 1000) + 1):
                    break
                answer = Answer.from_parts(socket.recv_multipart())
                if answer.request_id != request.request_id:
                    continue  # of one that was given up
                if answer.code == "busy" and sent > 1:
                    busy = answer  # with our own, sent again, mostly: then its answer will come
                    continue
                if not answer.ok:
                    raise RequestError(answer.message, code=answer.code, field=answer.field)
                return answer
        if busy is not None:
            raise RequestError(busy.message, code=busy.code, field=busy.field)
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
