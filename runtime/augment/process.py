"""The process of one order: it gathers, paints, writes, waits for room and for the line, and says how far it is.

It can be killed at any time: what it has written is taken up by the next one. It ends by itself once the line has
ended, which it sees by their socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from inspectd import __version__
from inspectd.durable import replace_file, sync_folder
from inspectd.errors import DatasetError, InspectdError, RequestError
from inspectd.optional import require
from inspectd.resumable import PROVENANCE
from inspectd.runtime.archive import Archive
from inspectd.runtime.marks import marked_pictures
from inspectd.signature import TrustList
from inspectd.simulation.parts import Backgrounds
from inspectd.simulation.placement import VARIED
from inspectd.simulation.simulate import Lot, Painter, is_complete, write_simulated

from .gathering import gather
from .order import CANCEL, Report, Task
from .pace import Pace
from .painting import Brushes, PaintingBundle, find_bundles
from .room import Room

__all__ = ["Augmenter", "main"]

RETRY_S = 1.0
"""Between two attempts while the disk cannot be written, or has no room."""
TELL_S = 0.25
"""Between two reports."""
_MEMORY_BYTES = 256 << 20
"""For pictures that were read, and what is known of them."""
_log = logging.getLogger("inspectd.augment")


class _LineGoneError(Exception):
    """The line has ended, and with it this process."""


class _CancelledError(Exception):
    """The line has said so."""


def main(arguments: list[str] | None = None) -> None:
    """The process: the task as JSON, and the descriptor of the socket to the line."""
    text, number = sys.argv[1:] if arguments is None else arguments
    # Both may come to the whole group: the line ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="inspectd: %(message)s")
    cv2.setNumThreads(1)
    link = socket.socket(fileno=int(number))
    with contextlib.suppress(_LineGoneError):
        Augmenter(Task.model_validate_json(text), link).run()


class Augmenter:
    """Does one order.

    Args:
        task: what.
        link: to the line; `order` says what goes over it.
        clock: s, monotonic.
    """

    def __init__(self, task: Task, link: socket.socket, *, clock: Callable[[], float] = time.monotonic) -> None:
        if task.settings.out is None or task.settings.bundles is None:
            raise ValueError("augment.out and augment.bundles have to be set")
        self._task, self._order = task, task.order
        self._top, self._bundles = task.settings.out, task.settings.bundles
        self._out = self._top / task.order.job
        self._parts = self._top / f".{task.order.job}.parts"
        self._link, self._clock = link, clock
        self._share = 1.0
        self._pace = Pace(self._ask)
        self._room = Room(task.settings, clock=clock)
        self._report = Report(state="starting", count=task.order.count)
        self._next_s = float("-inf")
        self._begun = task.resumed

    def run(self) -> None:
        """Until it is done, cancelled, refused, or has failed."""
        try:
            with self._alone():
                self._work()
        except _CancelledError:
            self._undo()
            self._last(state="cancelled")
        except RequestError as error:
            if self._begun:
                self._fail(str(error))
                return
            self._undo()
            code = "not_found" if error.code == "not_found" else "refused"
            self._last(state="refused", reason=str(error), code=code, field=error.field)
        except InspectdError as error:
            if self._begun:
                self._fail(str(error))
            else:
                self._undo()
                self._last(state="refused", reason=f"augment: {error}", code="refused")

    # From the beginning to the end

    def _work(self) -> None:
        if not is_complete(self._out):
            bundles = self._find()
            self._say(references=len(bundles))
            settings = self._task.settings
            with Brushes(
                bundles,
                backend=settings.backend,
                precision=settings.precision,
                allow_uncertified=settings.allow_uncertified,
            ) as brushes:
                dataset = self._patiently(lambda: self._gather(bundles))
                exemplars = {each.reference.name: each.reference for each in bundles}
                backgrounds = Backgrounds(dataset, kept_bytes=_MEMORY_BYTES)
                digests = {each.reference.name: each.bundle.digest for each in bundles}
                painter = Painter(dataset, backgrounds, exemplars, brushes.on(backgrounds), digests=digests)
                order = self._order
                lot = Lot("dst", order.count, VARIED, order.seed, ("ref", "free"))
                provenance = self._provenance(painter, brushes)
                self._say(state="placing", frames=len(backgrounds))
                self._patiently(lambda: write_simulated(self._out, painter, lot, provenance, progress=self._progress))
        self._patiently(lambda: self._sync(self._out))
        shutil.rmtree(self._parts, ignore_errors=True)
        self._forget()
        self._last(state="done", done=self._order.count)

    def _find(self) -> list[PaintingBundle]:
        """The bundles of the order.

        Raises:
            RequestError: a type has none, or they do not go together.
        """
        require("scipy", extra="augment")
        trusted = None if self._task.trusted_keys is None else TrustList.load(self._task.trusted_keys)
        try:
            found, types, faults = find_bundles(self._bundles, self._order.defects, trusted)
        except OSError as error:
            raise RequestError(f"augment: {self._bundles}: cannot be read: {error.strerror}") from error
        for fault in faults:
            _log.warning("%s", fault)
        there = {each.reference.defect for each in found}
        if missing := [defect for defect in self._order.defects if defect not in there]:
            raise RequestError(
                f"augment: no bundle in {self._bundles} paints {missing[0]!r}; there are {', '.join(types) or 'none'}"
                + "".join(f"; {fault}" for fault in faults),
                code="not_found",
                field="defects",
            )
        if len({each.reference.image.shape[2] for each in found}) > 1:
            raise RequestError(
                "augment: some of these defects are of grey pictures and some of colour; ask for each alone"
            )
        return found

    def _gather(self, bundles: list[PaintingBundle]) -> Any:  # noqa: ANN401 - a Dataset
        order, settings = self._order, self._task.settings
        if not self._task.archive.is_dir():
            raise RequestError(f"augment: {self._task.archive}: there is no archive yet", code="not_found")
        if not self._begun:
            if lack := self._room.lack():
                raise RequestError(f"augment: {lack}")
            self._top.mkdir(parents=True, exist_ok=True)
            # From here on it goes on over every crash, until it is done or cancelled.
            replace_file(self._task.state_file, order.model_dump_json().encode())

        def step(count: int) -> None:
            # All that it could be refused for is known by now.
            self._begun = True
            self._say(state="gathering", frames=count)
            self._between()

        without = marked_pictures(self._top)
        try:
            return gather(
                self._parts,
                Archive(self._task.archive),
                bundles,
                frames=settings.frames,
                camera=order.camera,
                without=without,
                step=step,
            )
        except DatasetError as error:
            if not (self._parts / PROVENANCE).is_file() and not self._report.frames:
                channels = "colour" if bundles[0].reference.image.shape[2] == 3 else "grey"
                of = f" of camera {order.camera!r}" if order.camera else ""
                raise RequestError(
                    f"augment: {self._task.archive} holds no good {channels} part{of} in which nothing was found; "
                    "archive.ok_every keeps some",
                    code="not_found",
                ) from error
            raise

    def _provenance(self, painter: Painter, brushes: Brushes) -> dict[str, Any]:
        parts = json.loads((self._parts / PROVENANCE).read_text(encoding="utf-8"))
        order = self._order
        content = {
            "made_by": f"inspectd {__version__}, augment",
            "simulated": True,
            "job": order.job,
            "settings": {"method": "dst", "count": order.count, "seed": order.seed, "placement": VARIED.model_dump()},
            "defects": list(order.defects),
            "bundles": painter.digests,
            "engines": dict(brushes.engines),
            "archive": parts["archive"],
            "frames": parts["frames"],
        }
        return dict(json.loads(json.dumps(content)))

    def _progress(self, what: str, done: int, _total: int) -> None:
        if what == "placing":
            self._say(state="placing")
        else:
            self._say(state="painting", done=done)
        self._between()

    def _between(self) -> None:
        """Between two steps: the line first, then room."""
        self._pace.step()
        while lack := self._room.lack():
            self._wait(lack)
        self._say(fault="")

    def _sync(self, folder: Path) -> None:
        """A dataset that was told to be done is there after a power cut too."""
        for path in sorted(folder.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._ask(0.0)
        sync_folder(self._top)

    def _patiently(self, act: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it gives
        """Do something that goes on where it was, again and again while the disk does not take it."""
        while True:
            try:
                return act()
            except OSError as error:  # noqa: PERF203 - rarely
                if not self._begun:
                    raise RequestError(f"augment: {error.filename or self._top}: {error.strerror}") from error
                self._wait(f"{error.filename or self._top}: cannot be written: {error.strerror}")

    def _wait(self, fault: str) -> None:
        if fault != self._report.fault:
            _log.warning("augment: %s", fault)
        self._say(fault=fault)
        self._ask(RETRY_S)

    # At the end

    def _fail(self, reason: str) -> None:
        """It is over; what was painted stays for somebody to look at, without a split.csv."""
        shutil.rmtree(self._parts, ignore_errors=True)
        self._forget()
        self._last(state="failed", reason=reason)

    def _undo(self) -> None:
        """As if it had never been asked for."""
        self._forget()
        for folder in (self._parts, self._out):
            shutil.rmtree(folder, ignore_errors=True)

    def _forget(self) -> None:
        self._patiently(self._unlink_order)

    def _unlink_order(self) -> None:
        if self._task.state_file.is_file():
            self._task.state_file.unlink()
            sync_folder(self._task.state_file.parent)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The process of before may not have seen yet that its line has ended."""
        path = self._task.state_file.with_name(f"{self._task.state_file.name}.lock")
        with path.open("wb") as lock:
            while not _locked(lock.fileno()):
                self._ask(0.2)
            yield

    # The line

    def _say(self, **changes: Any) -> None:  # noqa: ANN401 - fields of Report
        before, self._report = self._report, self._report.model_copy(update=changes)
        if self._report.state == before.state and self._report.fault == before.fault and self._clock() < self._next_s:
            return
        self._next_s = self._clock() + TELL_S
        # A line that does not listen must not hold up anything; the next report says it again.
        with contextlib.suppress(BlockingIOError):
            self._send(socket.MSG_DONTWAIT)

    def _last(self, **changes: Any) -> None:  # noqa: ANN401 - fields of Report
        self._report = self._report.model_copy(update=changes)
        self._send(0)

    def _send(self, flags: int) -> None:
        try:
            self._link.send(self._report.model_dump_json().encode(), flags | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError:
            raise _LineGoneError from None

    def _ask(self, timeout_s: float) -> float:
        """Listen for so long, or until something comes; the share of time that is left.

        Raises:
            _LineGoneError, _CancelledError: what it says.
        """
        waiting = select.poll()
        waiting.register(self._link, select.POLLIN)
        while waiting.poll(timeout_s * 1000):
            timeout_s = 0.0  # what else has come
            try:
                told = self._link.recv(4096)
            except OSError:
                raise _LineGoneError from None
            if not told:
                raise _LineGoneError
            if told == CANCEL.encode():
                raise _CancelledError
            self._share = float(told)
        return self._share


def _locked(descriptor: int) -> bool:
    """Whether a file could be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
