"""Archived parts, inspected again: what another bundle or rule changes, or whether the same ones give the same."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from inspectd.bundle import Bundle, is_bundle, load_bundle
from inspectd.calibrated import Scale
from inspectd.config import Config, effective_rule, load_config
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.inspection import AcceptanceRule, Inspection, Verdict
from inspectd.mask import Mask

from .archive.files import place, put
from .archive.reader import Archive, Part
from .engine import open_engine, self_test
from .inspector import Inspector
from .optics import Optics, load_optics, scales_of
from .station import demo_bundle
from .watch import overlay

__all__ = ["LOSSY_SHARE", "Change", "MaskDifference", "Replayed", "Selection", "difference", "run_replay"]

LOSSY_SHARE = 1e-3
"""Share of the pixels of a mask that may differ where the picture was archived as JPEG: a copy that is only similar."""
LOG_EVERY_S = 60.0
"""Between two lines about the progress where there is no terminal."""
_LEAST_WIDTH = 360
_BAR_PX = 28
_log = logging.getLogger("inspectd.archive")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which parts of an archive: of a camera, with a verdict, and only the latest so many of those."""

    camera: str | None = None
    verdict: Verdict | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class MaskDifference:
    """How two masks of a part differ.

    Attributes:
        pixels: pixels of another class, good ones included.
        share: of all pixels, 0..1.
        iou: pixels that both call a defect, of the same class, over those that either does; 1 where neither does.
    """

    pixels: int
    share: float
    iou: float


@dataclass(frozen=True, slots=True)
class Change:
    """A part that came out otherwise.

    Attributes:
        part: name of the part's sidecar within the archive.
        camera: its camera.
        epoch: of the verdict.
        seq: of the verdict.
        was: the verdict of then.
        now: the verdict of now.
        mask: how the masks differ; None where it was not inspected now.
        reason: why it was not inspected now; empty otherwise.
    """

    part: str
    camera: str
    epoch: int
    seq: int
    was: Verdict
    now: Verdict
    mask: MaskDifference | None
    reason: str = ""

    @property
    def badness(self) -> tuple[int, float, int]:
        """The higher the worse: a part that passes now and did not, another verdict, and then by the masks."""
        step = 0
        if self.was is not self.now:
            step = 2 if self.now is Verdict.OK else 1
        return (step, 1.0, 0) if self.mask is None else (step, 1 - self.mask.iou, self.mask.pixels)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it.

    Attributes:
        archive: its folder.
        judged_by: name, digest and engine of each bundle that judged now.
        rule: where the acceptance rule comes from, for people.
        other_bundle: parts that another bundle had judged then.
        verdicts: how many parts had which verdict then, and have which now.
        changes: parts that came out otherwise, worst first.
        masks: parts whose masks were compared.
        mean_iou: mean over those; 1 without any.
        pixels: pixels that differ in all of them.
        not_inspected: parts that had not been inspected then: there is nothing to compare with.
        lossy: parts whose picture is a JPEG, and is compared with a tolerance.
        damaged: what could not be read, and was passed over.
        seconds: how long it took.
    """

    archive: Path
    judged_by: tuple[str, ...]
    rule: str
    other_bundle: int
    verdicts: Mapping[tuple[Verdict, Verdict], int]
    changes: tuple[Change, ...]
    masks: int
    mean_iou: float
    pixels: int
    not_inspected: int
    lossy: int
    damaged: tuple[str, ...]
    seconds: float

    @property
    def parts(self) -> int:
        """How many were inspected again."""
        return sum(self.verdicts.values())

    @property
    def same(self) -> bool:
        """Whether everything could be read, and came out as it had."""
        return not self.changes and not self.damaged


def run_replay(
    root: Path, chosen: Selection, *, bundle: str | None = None, config: Path | None = None, out: Path | None = None
) -> Replayed:
    """Inspect parts of an archive again.

    Args:
        root: the archive.
        chosen: which parts.
        bundle: judges all of them, a path or `demo`; else each is judged by the bundle that its sidecar names, which
            has to be the configuration's or lie beside it.
        config: a line's configuration: acceptance rule, engine, calibrations of the cameras; else the bundle's
            thresholds and ONNX Runtime.
        out: folder for a picture of each part that came out otherwise.

    Raises:
        ConfigError: no such archive or no such parts, a wrong configuration, or a folder that cannot be written.
        BundleError: there is no bundle, or not the one that judged; and what `open_engine` raises.
    """
    begun_s = time.monotonic()
    damaged: list[str] = []
    archive = Archive(root, tell=damaged.append)
    settings = None if config is None else load_config(config, bundle=bundle)
    found = list(_select(archive, chosen))
    if not found:
        raise ConfigError(f"{root}: holds no such part{_told(damaged)}; expected an archive, and a choice that fits it")
    if out is not None:
        _make_folder(out)
    digests = Counter(digest for _, digest, _ in found)
    bundles = _bundles(digests, bundle, settings, config)
    optics = {} if settings is None else load_optics(settings.cameras)
    tally = _Tally(root, out)
    with ExitStack() as stack:
        cameras = {camera for _, _, camera in found}
        judges: dict[str, Inspector] = {}
        judged_by = []
        for judging in dict.fromkeys(bundles.values()):
            inspector, words = _judge(judging, settings, dict.fromkeys(cameras) | scales_of(optics), stack)
            judged_by.append(words)
            judges |= {digest: inspector for digest, by in bundles.items() if by is judging}
        with _progress(len(found)) as advance:
            for path, digest, camera in found:
                try:
                    tally.add(Part(path), judges[digest], optics.get(camera))
                except DatasetError as error:
                    damaged.append(str(error))
                advance()
    for fault in damaged:
        _log.warning("%s", fault)
    return tally.result(
        judged_by=tuple(judged_by),
        rule="the bundle's" if config is None else str(config),
        other_bundle=sum(count for digest, count in digests.items() if bundles[digest].digest != digest),
        damaged=tuple(damaged),
        seconds=time.monotonic() - begun_s,
    )


def difference(then: Mask, now: Mask) -> MaskDifference:
    """How two masks differ; classes are the same where their names are.

    Raises:
        ValueError: they are not of one size.
    """
    if then.labels.shape != now.labels.shape:
        raise ValueError(f"masks of {list(then.labels.shape)} and {list(now.labels.shape)} cannot be compared")
    names = (*then.classes.names, *(name for name in now.classes.names if name not in then.classes.names))
    # Labels of both together can be more than 255.
    table = np.array([0, *(names.index(name) + 1 for name in now.classes.names)], np.uint16)
    old, new = then.labels.astype(np.uint16), table[now.labels]
    same = old == new
    union = int(np.count_nonzero((old > 0) | (new > 0)))
    both = int(np.count_nonzero(same & (old > 0)))
    pixels = same.size - int(np.count_nonzero(same))
    return MaskDifference(pixels, pixels / same.size, both / union if union else 1.0)


class _Tally:
    """Adds up what comes out."""

    def __init__(self, root: Path, out: Path | None) -> None:
        self._root = root
        self._out = out
        self._verdicts: Counter[tuple[Verdict, Verdict]] = Counter()
        self._changes: list[Change] = []
        self._masks = self._pixels = self._not_inspected = self._lossy = 0
        self._iou = 0.0

    def add(self, part: Part, inspector: Inspector, optics: Optics | None) -> None:
        """Inspect a part again, with the calibrations of its camera where there are any.

        Raises:
            DatasetError: it cannot be read.
            ConfigError: its picture cannot be written.
        """
        then = part.mask()
        now = _inspected(part, inspector, optics)
        self._verdicts[part.verdict, now.verdict] += 1
        self._lossy += not part.sidecar.lossless
        if then is None:
            self._not_inspected += 1
            return
        found = None if now.mask is None else difference(then, now.mask)
        if found is not None:
            self._masks += 1
            self._iou += found.iou
            self._pixels += found.pixels
        tolerated = 0.0 if part.sidecar.lossless else LOSSY_SHARE
        if part.verdict is now.verdict and found is not None and found.share <= tolerated:
            return
        sidecar = part.sidecar
        change = Change(
            part=str(part.path.relative_to(self._root)),
            camera=sidecar.camera,
            epoch=sidecar.epoch,
            seq=sidecar.seq,
            was=part.verdict,
            now=now.verdict,
            mask=found,
            reason=now.reason,
        )
        self._changes.append(change)
        if self._out is not None:
            _write_picture(self._out, change, side_by_side(then, now, change))

    def result(
        self, *, judged_by: tuple[str, ...], rule: str, other_bundle: int, damaged: tuple[str, ...], seconds: float
    ) -> Replayed:
        """All of it."""
        return Replayed(
            archive=self._root,
            judged_by=judged_by,
            rule=rule,
            other_bundle=other_bundle,
            verdicts=dict(self._verdicts),
            changes=tuple(sorted(self._changes, key=lambda change: change.badness, reverse=True)),
            masks=self._masks,
            mean_iou=self._iou / self._masks if self._masks else 1.0,
            pixels=self._pixels,
            not_inspected=self._not_inspected,
            lossy=self._lossy,
            damaged=damaged,
            seconds=seconds,
        )


def _select(archive: Archive, chosen: Selection) -> Iterator[tuple[Path, str, str]]:
    """Sidecar, digest and camera of the parts, the oldest first. The sidecars of a year would not fit into memory."""
    parts = archive.parts(camera=chosen.camera, verdict=chosen.verdict, newest_first=chosen.last is not None)
    found = [(part.path, part.sidecar.bundle_digest, part.sidecar.camera) for part in islice(parts, chosen.last)]
    return reversed(found) if chosen.last is not None else iter(found)


def _bundles(
    digests: Counter[str], bundle: str | None, settings: Config | None, config: Path | None
) -> Mapping[str, Bundle]:
    """The bundle that judges the parts of each digest."""
    if bundle is not None:
        one = load_bundle(_bundle_path(bundle))
        return dict.fromkeys(digests, one)
    named = ", ".join(f"{digest[:12]} ({count} parts)" for digest, count in digests.most_common())
    if settings is None:
        raise ConfigError(
            f"the parts were judged by the bundle {named}, and nothing says where it lies: name a bundle with "
            f"--bundle, or with --config the line's configuration, which names it"
        )
    found: dict[str, Bundle] = {}
    for path in _near(settings):
        try:
            candidate = load_bundle(path)
        except BundleError as error:
            _log.warning("%s", error)
            continue
        found.setdefault(candidate.digest, candidate)
        if set(digests) <= set(found):
            break
    if missing := [digest for digest in digests if digest not in found]:
        raise BundleError(
            f"the parts were judged by the bundle {named}; {config} does not name {missing[0][:12]}, nor does it lie "
            f"beside the one that it names: fetch it, or name another one with --bundle"
        )
    return {digest: found[digest] for digest in digests}


def _near(settings: Config) -> Iterable[Path]:
    """Where a station's bundles lie: the one that it starts with, and those that it may load."""
    path = _bundle_path(settings.model.bundle)
    yield path
    folder = settings.model.models_dir or (None if settings.model.bundle == "demo" else path.parent)
    if folder is not None and folder.is_dir():
        yield from (other for other in sorted(folder.iterdir()) if other != path and is_bundle(other))


def _bundle_path(bundle: str) -> Path:
    return demo_bundle() if bundle == "demo" else Path(bundle).expanduser()


def _inspected(part: Part, inspector: Inspector, optics: Optics | None) -> Inspection:
    """A part, judged as the line judges a frame.

    Raises:
        DatasetError: it cannot be read.
    """
    frame = part.frame(received_ns=time.monotonic_ns())
    if optics is None:
        return inspector.inspect(frame)
    try:
        # What was corrected then was archived so; what never came to be judged was archived as it came.
        is_corrected = "flat_field" in (part.sidecar.body.get("calibration") or {})
        frame, health = optics.prepare(frame, is_corrected=is_corrected)
    except ConfigError as error:
        return inspector.refuse(frame, str(error))
    return optics.conclude(inspector.inspect(frame), health)


def _judge(
    bundle: Bundle, settings: Config | None, scales: Mapping[str, Scale | None], stack: ExitStack
) -> tuple[Inspector, str]:
    """What inspects with a bundle, and who that is, for people."""
    thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
    rule = effective_rule(AcceptanceRule() if settings is None else settings.acceptance, bundle.class_map, thresholds)
    if settings is None:
        engine = stack.enter_context(open_engine(bundle))
    else:
        model = settings.model
        engine = stack.enter_context(
            open_engine(
                bundle,
                backend=model.backend,
                precision=model.precision,
                threads=model.threads,
                allow_uncertified=model.allow_uncertified,
            )
        )
    self_test(engine, bundle)
    return Inspector(bundle, engine, rule, scales=scales), (
        f"{bundle.card.name!r} ({bundle.digest[:12]}) on {engine.name}"
    )


# Pictures


def side_by_side(then: Mask, now: Inspection, change: Change) -> NDArray[np.uint8]:
    """The part twice, with its mask of then and its mask of now in green, and what they were called.

    Returns:
        uint8 [H, W, 3] (RGB).
    """
    pixels = now.frame.pixels
    coloured = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    # So that the words can be read over a small picture; pixels stay squares.
    times = max(1, -(-_LEAST_WIDTH // now.frame.width))
    iou = "" if change.mask is None else f", IoU {change.mask.iou:.3f}, {change.mask.pixels} px differ"
    name = f"{change.camera} {change.epoch}-{change.seq}"
    halves = []
    for mask, words in ((then, f"{name} was {change.was.name}"), (now.mask, f"now {change.now.name}{iou}")):
        painted = overlay(mask, coloured)
        shown = coloured if painted is None else painted
        shown = np.repeat(np.repeat(shown, times, axis=0), times, axis=1)
        halves.append(np.concatenate([_bar(words, shown.shape[1]), shown]))
    gap = np.full((halves[0].shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1)


def _bar(words: str, width: int) -> NDArray[np.uint8]:
    bar = np.zeros((_BAR_PX, width, 3), np.uint8)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (needed, _), _ = cv2.getTextSize(words, font, size, 1)
    size = min(size, size * (width - 12) / needed)
    return np.asarray(cv2.putText(bar, words, (6, 19), font, size, (255, 255, 255), 1, cv2.LINE_AA), np.uint8)


def _write_picture(folder: Path, change: Change, picture: NDArray[np.uint8]) -> None:
    day = Path(change.part).parts[0]
    path = folder / f"{day}-{change.camera}-{Path(change.part).stem}-{change.was.name}-{change.now.name}.png"
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise ConfigError(f"{path}: the picture of {list(picture.shape)} could not be coded as PNG")
    try:
        place(put(path, data.tobytes()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another folder for --out") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another folder for --out") from error


def _told(faults: Sequence[str]) -> str:
    return f" that can be read ({len(faults)} cannot: {faults[0]})" if faults else ""


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; elsewhere, in a log for example, a line a minute. Called after each part."""
    console = Console(stderr=True)
    columns = (TextColumn("inspecting again"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done, said_s = 0, time.monotonic()
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)

        def advance() -> None:
            nonlocal done, said_s
            done += 1
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - said_s >= LOG_EVERY_S:
                said_s = time.monotonic()
                console.print(f"inspected again {done} of {total}", soft_wrap=True, highlight=False, markup=False)

        yield advance
