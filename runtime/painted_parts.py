"""Known defects, painted onto pictures that the line takes now, and judged like every part.

    judging thread ── the next parts, copied ──▶ Parts ──▶ self-test thread ──▶ process that paints (painted_process.py)
                   ◀── a painted part, between two frames ──────┘ ◀── one painting at a time ──┘

Master parts are stored: they do not show that the lens is covered. These are painted on what the camera sees, as this
camera would show them (`inspectd.simulation.camera_change`).

What a painting has to be found by is asked of the set itself: a known defect counts where it is found on the set's own
good parts, on every one that it is painted on. What is not found there is left out, as no line can be held to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from inspectd.config import Config
from inspectd.errors import ConfigError, InferenceError, MissingDependencyError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.masters import MasterPart, Masters, Recall, RecallLimit, fault_of
from inspectd.optional import require
from inspectd.simulation.camera_change import CameraChange

from .last import command
from .painted_process import Painting, read_packet, write_packet
from .signals import interrupts_held

__all__ = ["NextParts", "PaintedOutcome", "PaintedResult", "check_painting", "paintable_parts", "run_painted"]

PAINT_S = 300.0
"""So long may one painting take: its process runs when nobody else wants the processor."""
MOST_BAD = 20
"""Where so many parts were judged and too few of them were good, bad ones are painted on."""
_NAMED = 5

Judge = Callable[[Frame], Inspection]


def check_painting(config: Config) -> None:
    """See that defects can be painted on this machine.

    Raises:
        ConfigError: what is missing, and the remedy.
    """
    try:
        require("scipy", extra="augment")
    except MissingDependencyError as error:
        raise ConfigError(f"golden.paint = {config.golden.paint}: {error}; or leave it out") from error


class NextParts:
    """The next parts of a camera, copied once somebody wants them: a camera's memory must not be kept.

    Good ones, as far as there are any: on a camera that shows everything too bright no part may be good any more, and
    that is when it matters.

    Args:
        camera: its name.
        count: how many.
    """

    def __init__(self, camera: str, count: int) -> None:
        self._camera, self._count = camera, count
        self._lock = threading.Lock()
        self._is_wanted = False
        self._judged = 0
        self._good: list[NDArray[np.uint8]] = []
        self._latest: deque[NDArray[np.uint8]] = deque(maxlen=count)

    def want(self, *, anew: bool = False) -> None:
        """Begin to collect, if that is not under way; forget what was collected before if it begins `anew`."""
        with self._lock:
            if anew or not self._is_wanted:
                self._judged = 0
                self._good.clear()
                self._latest.clear()
            self._is_wanted = True

    def note(self, inspection: Inspection) -> None:
        """A part was judged; the thread that judges."""
        frame = inspection.frame
        if not self._is_wanted or frame.camera != self._camera or inspection.mask is None:
            return
        with self._lock:
            if self._is_there():
                return
            self._judged += 1
            pixels = frame.pixels.copy()
            self._latest.append(pixels)
            if inspection.verdict is Verdict.OK:
                self._good.append(pixels)

    @property
    def are_there(self) -> bool:
        """Whether they have come."""
        with self._lock:
            return self._is_there()

    def _is_there(self) -> bool:
        enough = self._judged >= MOST_BAD and len(self._latest) == self._count
        return self._is_wanted and (len(self._good) == self._count or enough)

    def take(self) -> list[NDArray[np.uint8]]:
        """Those that have come, uint8 [H, W, C] each, and collect no more; empty where not all are there."""
        with self._lock:
            if not self._is_there():
                return []
            self._is_wanted = False
            taken = self._good if len(self._good) == self._count else list(self._latest)
            self._good, self._latest = [], deque(maxlen=self._count)
            return taken


@dataclass(frozen=True, slots=True)
class PaintedOutcome:
    """How one known defect came out.

    Attributes:
        part: of the set, whose defect it is.
        found: pictures on which it was found.
        tried: pictures that it was painted on.
        why: how one of the others came out, in words; empty where there is none.
    """

    part: MasterPart
    found: int
    tried: int
    why: str

    @property
    def is_missed(self) -> bool:
        """Whether it was found on less than half of the pictures."""
        return 2 * self.found < self.tried

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        about = {"name": self.part.name, "defect": self.part.defect, "size": self.part.size}
        return {**about, "found": self.found, "tried": self.tried, "why": self.why}

    def __str__(self) -> str:
        part = self.part
        return f"{part.name} ({part.defect}, {part.size}: on {self.found} of {self.tried} pictures, {self.why})"


@dataclass(frozen=True, slots=True, eq=False)
class PaintedResult:
    """How all painted defects came out.

    Attributes:
        outcomes: of each known defect that counts.
        left_out: names of those that are not found on the set's own good parts when they are painted there.
        change: what has become of the camera's pictures, compared with those of the set.
        types: recall by the type of the defects.
        sizes: recall by their size.
    """

    outcomes: tuple[PaintedOutcome, ...]
    left_out: tuple[str, ...]
    change: CameraChange
    types: tuple[Recall, ...]
    sizes: tuple[Recall, ...]

    @classmethod
    def of(
        cls, masters: Masters, outcomes: Sequence[PaintedOutcome], left_out: Sequence[str], change: CameraChange
    ) -> PaintedResult:
        """Count, and hold against the limits of the set."""

        def recalls(limits: Sequence[RecallLimit], name: Callable[[MasterPart], str]) -> tuple[Recall, ...]:
            found = Counter(name(each.part) for each in outcomes if not each.is_missed)
            total = Counter(name(each.part) for each in outcomes)
            return tuple(Recall(each.name, found[each.name], total[each.name], each.least) for each in limits)

        record = masters.record
        types = tuple(each for each in recalls(record.types, lambda part: part.defect) if each.total)
        sizes = tuple(each for each in recalls(record.sizes, lambda part: part.size) if each.total)
        return cls(tuple(outcomes), tuple(left_out), change, types, sizes)

    @property
    def missed(self) -> tuple[PaintedOutcome, ...]:
        """Known defects that were not found."""
        return tuple(each for each in self.outcomes if each.is_missed)

    @property
    def passed(self) -> bool:
        """Whether as many were found as have to be, of each type and size."""
        return all(recall.holds for recall in (*self.types, *self.sizes))

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        known = len(self.outcomes)
        return {
            "passed": self.passed,
            "known": known,
            "found": known - len(self.missed),
            "pictures": max((each.tried for each in self.outcomes), default=0),
            "exposure": round(self.change.exposure, 3),
            "blur_px": round(self.change.blur_px, 2),
            "missed": [outcome.body() for outcome in self.missed],
            "left_out": list(self.left_out),
            **{
                name: [
                    {"name": recall.name, "found": recall.found, "total": recall.total, "least": recall.least}
                    for recall in recalls
                ]
                for name, recalls in (("types", self.types), ("sizes", self.sizes))
            },
        }

    def told_missed(self) -> str:
        """Which known defects are missed, in a sentence; empty where none is."""
        if not self.missed:
            return ""
        more = f"; and {len(self.missed) - _NAMED} more" if len(self.missed) > _NAMED else ""
        changed = f" (they {self.change})" if str(self.change) else ""
        return (
            f"{len(self.missed)} of {len(self.outcomes)} known defects are missed that were painted on pictures of "
            f"now{changed}: {'; '.join(map(str, self.missed[:_NAMED]))}{more}"
        )


def paintable_parts(masters: Masters, judge: Judge, *, camera: str, count: int) -> list[int]:
    """Numbers of the parts whose defects are found on good parts of the set when they are painted there.

    Args:
        masters: the set.
        judge: what the line makes of a frame.
        camera: the name that the frames bear.
        count: good parts at most that each is painted on.

    Raises:
        ConfigError: there is none, or the set cannot be used.
        InspectdError: what `judge` raises.
    """
    parts = list(enumerate(masters.record.parts))
    good = [masters.frame(part, number, camera=camera).pixels for number, part in parts if part.is_good][:count]
    if not good:
        raise ConfigError(
            f"{masters.path}: holds no good part to try the paintings on; make a set with some by "
            f"{masters.record.made_by}, or leave golden.paint out"
        )
    defective = [number for number, part in parts if not part.is_good]
    found, _ = _judged(masters, defective, good, judge, camera=camera, is_current=False)
    if paintable := [each for each in defective if not any(found[each])]:
        return paintable
    raise ConfigError(
        f"{masters.path}: none of its defects is found on its own good parts when it is painted there: "
        f"{found[defective[0]][0]}; leave golden.paint out"
    )


def run_painted(
    masters: Masters, paintable: Sequence[int], pictures: Sequence[NDArray[np.uint8]], judge: Judge, *, camera: str
) -> PaintedResult:
    """Paint known defects onto pictures of now, and judge them, one after the other.

    Args:
        masters: the set.
        paintable: numbers of its parts whose defects count.
        pictures: uint8 [H, W, C] each.
        judge: what the line makes of a frame.
        camera: the name that the frames bear.

    Raises:
        ConfigError: the set is damaged, or of pictures of another size.
        InspectdError: what `judge` raises; or the process that paints has ended, or hangs.
    """
    faults, change = _judged(masters, paintable, pictures, judge, camera=camera, is_current=True)
    parts = masters.record.parts
    outcomes = [
        PaintedOutcome(parts[each], faults[each].count(""), len(faults[each]), next(filter(None, faults[each]), ""))
        for each in paintable
    ]
    known = set(paintable)
    left_out = [part.name for number, part in enumerate(parts) if not part.is_good and number not in known]
    return PaintedResult.of(masters, outcomes, left_out, change)


def _judged(
    masters: Masters,
    parts: Sequence[int],
    pictures: Sequence[NDArray[np.uint8]],
    judge: Judge,
    *,
    camera: str,
    is_current: bool,
) -> tuple[dict[int, list[str]], CameraChange]:
    """For each part what is wrong with each of its paintings, empty where it is found; and the camera's change."""
    faults: dict[int, list[str]] = {number: [] for number in parts}
    change = CameraChange()
    with contextlib.closing(_painted(masters.path, parts, pictures, is_current=is_current)) as painted:
        for each in painted:
            if isinstance(each, CameraChange):
                change = each
                continue
            why = each.why
            if each.picture is not None:
                part = masters.record.parts[each.part]
                inspection = judge(Frame(camera, each.part, each.picture, acquired_ns=0))
                why = fault_of(
                    inspection, expected=Verdict[part.expected], class_name=part.class_name, labels=each.label
                )
            faults[each.part].append(why)
    return faults, change


def _painted(
    path: Path, parts: Sequence[int], pictures: Sequence[NDArray[np.uint8]], *, is_current: bool
) -> Generator[CameraChange | Painting, None, None]:
    """What the process paints, one after the other; it ends with the iterator."""
    with interrupts_held(signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command("inspectd.runtime.painted_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Modules of the folder that the line was started in are not its own.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    with process:
        try:
            order = {"masters": str(path), "parts": list(parts), "is_current": is_current}
            numbered = {str(number): picture for number, picture in enumerate(pictures)}
            with _in_time(process):
                write_packet(_pipe(process.stdin), order, **numbered)
            for _ in range(1 + len(parts) * len(pictures)):
                with _in_time(process):
                    facts, arrays = read_packet(_pipe(process.stdout))
                if "fault" in facts:
                    raise ConfigError(facts["fault"])
                if "part" in facts:
                    yield Painting(facts["part"], arrays.get("picture"), arrays.get("label"), facts["why"])
                else:
                    yield CameraChange(**facts)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                _pipe(process.stdin).close()


def _pipe(pipe: IO[bytes] | None) -> BinaryIO:
    if pipe is None:
        raise ValueError("the process has no such pipe")
    return cast("BinaryIO", pipe)


@contextlib.contextmanager
def _in_time(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Something that the process does, or it is killed.

    Raises:
        InferenceError: it has ended, or did not do it in time.
    """
    killed = threading.Event()

    def give_up() -> None:
        killed.set()
        process.kill()

    timer = threading.Timer(PAINT_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (EOFError, BrokenPipeError):
        how = f"has not painted within {PAINT_S:g} s; the machine has no time left" if killed.is_set() else "has ended"
        raise InferenceError(f"the process that paints {how}") from None
    finally:
        timer.cancel()
