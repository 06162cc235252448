"""Where frames wait between the cameras' threads and the inspection, and the account of those that need a verdict."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from inspectd.frame import Frame

__all__ = ["Arrival", "Mailbox", "Slot"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame that came from a camera.

    Attributes:
        frame: the frame.
        fault: why its pixels cannot be used; empty where they can.
    """

    frame: Frame
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """How a camera's frames wait.

    Attributes:
        capacity: how many.
        drops_oldest: whether the oldest gives way to a new one; else the camera waits.
        deadline_ns: so long after `received_ns` a frame has its verdict; 0 for no limit.
    """

    capacity: int
    drops_oldest: bool
    deadline_ns: int = 0


class Mailbox:
    """Bounded queues, one a camera, that are emptied in the order of arrival.

    A camera that runs freely drops its oldest waiting frame, which is counted; any other camera waits. Each frame
    that `put` accepted is either dropped, or *open* until `settle`, `overdue` or `give_up` claims it, once: whoever
    claims it publishes its verdict. Closing tells the cameras to end; what one of them has in its hands then is
    still taken, so that no part that was grabbed goes without a verdict.

    Args:
        slots: the cameras.
        limit: how many frames to accept, dropped ones not counted; None for no limit.
    """

    def __init__(self, slots: Mapping[str, Slot], *, limit: int | None = None) -> None:
        self._slots = dict(slots)
        self._limit = limit
        self._waiting: dict[str, deque[int]] = {camera: deque() for camera in slots}
        self._open: dict[int, Arrival] = {}
        self._due_ns: dict[int, int] = {}
        self._running = set(slots)
        self._closed = self._nudged = False
        self._arrivals = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self.dropped = 0
        """Frames that gave way to newer ones."""

    @property
    def accepted(self) -> int:
        """Frames that have a verdict or will have one."""
        return self._arrivals - self.dropped

    @property
    def open(self) -> int:
        """Frames that have none yet."""
        return len(self._open)

    @property
    def failure(self) -> Exception | None:
        """Why a camera ended, if it did not end as it should."""
        return self._failure

    @property
    def is_empty(self) -> bool:
        """Whether no frame waits."""
        with self._changed:
            return not any(self._waiting.values())

    @property
    def drained(self) -> bool:
        """Whether nothing waits and nothing more will come."""
        with self._changed:
            return self._ended() and not any(self._waiting.values())

    @property
    def finished(self) -> bool:
        """Whether, besides, every frame was claimed."""
        with self._changed:
            return self._ended() and not self._open

    @property
    def is_over(self) -> bool:
        """Whether the cameras are to grab nothing more."""
        with self._changed:
            return self._over()

    @property
    def is_full(self) -> bool:
        """Whether it takes nothing more, whatever a camera has in its hands."""
        with self._changed:
            return self._limited() or self._failure is not None

    def put(self, camera: str, arrival: Arrival) -> bool:
        """Hand a frame over, waiting for room where the camera does not drop.

        Returns:
            False if it was refused because the limit is reached or the camera was given up; the camera can stop.
        """
        slot, waiting = self._slots[camera], self._waiting[camera]
        with self._changed:
            if not slot.drops_oldest:
                self._changed.wait_for(lambda: self._over() or len(waiting) < slot.capacity)
            if self._limited() or camera not in self._running:
                return False
            if slot.drops_oldest and len(waiting) == slot.capacity:
                self._forget(waiting.popleft())
                self.dropped += 1
            self._arrivals += 1
            number = self._arrivals
            self._open[number] = arrival
            if slot.deadline_ns:
                self._due_ns[number] = arrival.frame.received_ns + slot.deadline_ns
            waiting.append(number)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> tuple[int, Arrival] | None:
        """The frame that has waited longest, with its number; None: none came in time, none will, or `nudge`."""
        with self._changed:
            self._changed.wait_for(lambda: self._nudged or self._ended() or self._oldest() is not None, timeout_s)
            self._nudged = False
            camera = self._oldest()
            if camera is None:
                return None
            number = self._waiting[camera].popleft()
            self._changed.notify_all()
            return number, self._open[number]

    def nudge(self) -> None:
        """Have whoever waits in `get`, or comes there next, return at once: there is something else to do."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def settle(self, number: int, now_ns: int | None = None) -> bool:
        """Claim a frame that was judged.

        Args:
            number: of the frame.
            now_ns: a frame whose deadline has passed by then is left to `overdue`; None claims it all the same.

        Returns:
            False if it was not claimed: somebody has done so before, or its deadline has passed.
        """
        with self._changed:
            if now_ns is not None and self._due_ns.get(number, now_ns + 1) <= now_ns:
                return False
            return self._forget(number)

    @property
    def next_due_ns(self) -> int | None:
        """When the next frame has to have its verdict; None if none has to."""
        with self._changed:
            return min(self._due_ns.values(), default=None)

    def overdue(self, now_ns: int) -> list[Arrival]:
        """Claim the frames whose deadline has passed, whether they wait or are being inspected."""
        with self._changed:
            return self._claim([number for number, due_ns in self._due_ns.items() if due_ns <= now_ns])

    def give_up(self) -> list[Arrival]:
        """Claim all that are open."""
        with self._changed:
            return self._claim(list(self._open))

    def finish(self, camera: str, failure: Exception | None = None) -> None:
        """Note that a camera delivers nothing more; a failure closes the mailbox for all."""
        with self._changed:
            self._running.discard(camera)
            if failure is not None:
                self._failure = self._failure or failure
                self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ask the cameras to end; what they have grabbed can still be put and taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _claim(self, numbers: list[int]) -> list[Arrival]:
        claimed = [self._open[number] for number in numbers]
        gone = set(numbers)
        for waiting in self._waiting.values():
            for number in gone.intersection(waiting):
                waiting.remove(number)
        for number in numbers:
            self._forget(number)
        if numbers:
            self._changed.notify_all()
        return claimed

    def _forget(self, number: int) -> bool:
        self._due_ns.pop(number, None)
        return self._open.pop(number, None) is not None

    def _limited(self) -> bool:
        return self._limit is not None and self.accepted >= self._limit

    def _ended(self) -> bool:
        return self._limited() or not self._running

    def _over(self) -> bool:
        return self._closed or self._ended()

    def _oldest(self) -> str | None:
        heads = {camera: waiting[0] for camera, waiting in self._waiting.items() if waiting}
        return min(heads, key=heads.__getitem__, default=None)
