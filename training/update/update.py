"""The steps from what sites have kept to a new bundle; each is skipped where it was done before.

OUT/site, unseen     what was taken of the sites, to learn from and to measure on
OUT/dst              a network for each marked part, which paints its defect
OUT/simulated, exam  good parts with painted defects, to learn from and to measure on
OUT/training         all that is learnt from
OUT/net              Buttonlab, fine-tuned
OUT/bundle           exported
OUT/report.html      the old bundle and the new one on the same parts
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import inspectd
from inspectd.bundle import Bundle, load_bundle
from inspectd.dataset import Dataset, open_dataset
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.masters import open_masters
from inspectd.resumable import claim
from inspectd.signing import sign_bundle, signing_key
from inspectd.simulation.placement import VARIED, PlacementSettings
from inspectd.training.carded import CHECKPOINT
from inspectd.training.devices import Hardware
from inspectd.training.files import locked
from inspectd.training.notes import NOTE
from inspectd.training.segmentation.train import train
from inspectd.training.style.simulate import SimulateSettings, Work, simulate

from .compare import MASTERS, Comparison, Exam, compare
from .gather import Pick, Site, gather, lay_out_masters, merge, sites
from .settings import UpdateSettings, fine_tuning

__all__ = ["Update", "Updated", "update"]

Progress = Callable[[str, int, int], None]
GOOD_LEARNT = "good parts that were learnt from"
_SAVES_WITHIN_S = 20.0
"""A command that was told to stop."""
_PAINTED_EXAM = 5
"""Pictures are painted to learn from, and one of so many more to measure on."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an update is made of.

    Attributes:
        bundle: that the line has now.
        sites: copies of stations' folders `augment.out`.
        out: folder of the update.
        data: what the bundle was trained on, or part of it; None shows only what the sites have kept.
        golden: master parts that the new bundle must find as well as the old one.
        tests: further datasets to measure on, roles test and ok_test.
        sign: key to sign with.
        jobs: trainings side by side.
        accelerator: auto, cpu or gpu.
    """

    bundle: Path
    sites: tuple[Path, ...]
    out: Path
    data: Path | None = None
    golden: Path | None = None
    tests: tuple[Path, ...] = ()
    sign: Path | None = None
    jobs: int = 1
    accelerator: str = "auto"


@dataclass(frozen=True, slots=True)
class Updated:
    """What came of it.

    Attributes:
        bundle: the new one.
        before, after: digests.
        defects: types that were marked.
        comparisons: old against new, by set.
        lost: why the new one must not take the old one's place; empty where it may.
        remarks: what to look at.
        took_s: seconds of each step that this run has done.
        signed_by: name of the key; None where it is not signed.
    """

    bundle: Path
    before: str
    after: str
    defects: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    lost: tuple[str, ...]
    remarks: tuple[str, ...]
    took_s: dict[str, float] = field(default_factory=dict)
    signed_by: str | None = None


def update(
    order: Update,
    settings: UpdateSettings,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _what, _done, _all: None,
) -> Updated:
    """Teach a bundle the defects that its stations have missed. Called again with the same folder, it goes on.

    Args:
        order: what it is made of.
        settings: what decides the result.
        say: called with a line at the beginning of each step, and with what must be known.
        progress: called with (what is done, number done, number in all).

    Raises:
        DatasetError: data that cannot be used.
        BundleError: the bundle is damaged, or of another kind; or the exported network is not the trained one.
        ConfigError: settings that cannot be used, or `order.out` holds something else.
        KeyboardInterrupt: Ctrl-C, after states were saved.
    """
    bundle = _opened(order)
    site = sites(order.sites)
    for folder in site.skipped:
        say(f"note: {folder}: left out, it was not written to its end (no split.csv)")
    old_data = None if order.data is None else open_dataset(order.data)
    if old_data is None:
        _without_data(bundle, say)
    order.out.parent.mkdir(parents=True, exist_ok=True)
    with locked(order.out, beside=True):
        claim(order.out, _claimed(bundle, settings), "an update")
        clock = _Clock(say, progress)
        with clock(f"gathering: {len(site.references)} marked parts to learn from, {len(site.good)} good ones"):
            gather(site, order.out)
        training = _training_data(order, settings, site, old_data, clock)
        with clock(f"fine-tuning {bundle.card.name}: {settings.steps} updates"):
            net = order.out / "net"
            train(
                training.root,
                net,
                fine_tuning(bundle.card, settings, order.bundle.resolve()),
                hardware=Hardware(accelerator=order.accelerator),
                resume=(net / NOTE).is_file(),
            )
        new = order.out / "bundle"
        with clock("exporting"):
            _export(net, new, training.root, bundle.card.name)
        with clock("measuring the bundle before and after"):
            comparisons = compare(_exams(order), order.bundle, new, order.out / "measured", progress=progress)
        lost, remarks = _judged(comparisons, site.defects)
        signed = sign_bundle(new, order.sign) if order.sign is not None and not lost else None
        return Updated(
            bundle=new,
            before=bundle.digest,
            after=load_bundle(new).digest,
            defects=site.defects,
            comparisons=tuple(comparisons),
            lost=lost,
            remarks=remarks,
            took_s=clock.took_s,
            signed_by=signed,
        )


def _opened(order: Update) -> Bundle:
    """The bundle, after all that would end the work hours later was looked at."""
    bundle = load_bundle(order.bundle)
    if bundle.card.kind != "seg":
        raise BundleError(f"{order.bundle}: is a bundle of kind {bundle.card.kind!r}; expected one that segments (seg)")
    if order.sign is not None:
        signing_key(order.sign)
    if order.golden is not None:
        open_masters(order.golden)
    for data in order.tests:
        if not open_dataset(data).select("test", "ok_test"):
            raise DatasetError(f"{data}: holds no picture of the roles test and ok_test to measure on")
    return bundle


def _without_data(bundle: Bundle, say: Callable[[str], None]) -> None:
    if len(bundle.card.classes) > 1:
        raise ConfigError(
            f"{bundle.path}: tells {', '.join(bundle.card.classes)} apart, which is forgotten where it is not shown; "
            "give the dataset that it was trained on by --data"
        )
    say(
        "note: without --data nothing is shown of the defects that the bundle knows; give the dataset that it was "
        "trained on, or look closely at what it still finds"
    )


def _claimed(bundle: Bundle, settings: UpdateSettings) -> dict[str, object]:
    content: dict[str, object] = {
        "made_by": f"inspectd {inspectd.__version__}, inspectd-train update",
        "bundle_sha256": bundle.digest,
        "settings": settings.model_dump(mode="json") | {"vgg": settings.vgg and Path(settings.vgg).name},
    }
    return dict(json.loads(json.dumps(content)))


class _Clock:
    """Says what begins and how far it is, and notes how long it took."""

    def __init__(self, say: Callable[[str], None], progress: Progress) -> None:
        self.took_s: dict[str, float] = {}
        self.progress = progress
        self._say = say
        self._what = ""
        self._begun = 0.0

    def __call__(self, what: str) -> _Clock:
        self._say(what)
        self._what = what.partition(":")[0]
        return self

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.took_s[self._what] = round(self.took_s.get(self._what, 0.0) + time.monotonic() - self._begun, 1)


def _training_data(
    order: Update,
    settings: UpdateSettings,
    site: Site,
    old_data: Dataset | None,
    clock: _Clock,
) -> Dataset:
    """Paint what is learnt from and what is measured on; all that is learnt from, as one dataset."""
    networks: tuple[Path, ...] = ()
    if settings.method == "dst":
        with clock(f"training DST: a network for each of {len(site.references)} marked parts"):
            _train_dst(order, settings)
        networks = tuple(sorted(path.parent for path in (order.out / "dst").rglob(CHECKPOINT)))
    for source, target, count, seed in (
        ("site", "simulated", settings.count, settings.seed),
        ("unseen", "exam", max(1, settings.count // _PAINTED_EXAM), settings.seed + 1),
    ):
        with clock(f"painting: {count} pictures on the good parts of {source}"):
            simulate(
                Work(order.out / source, order.out / target, networks),
                SimulateSettings(
                    method=settings.method,
                    count=count,
                    placement=VARIED if settings.method == "dst" else PlacementSettings(),
                    varied=settings.method == "dst",
                    roles=("ref", "free"),
                    seed=seed,
                ),
                progress=clock.progress,
            )
    simulated = open_dataset(order.out / "simulated")
    picks = [Pick(sample, simulated.root, "site", sample.role) for sample in simulated.samples]
    picks += site.more
    if old_data is not None:
        roles = {"ref": "extra", "extra": "extra", "simulated": "simulated", "free": "free"}
        picks += [
            Pick(sample, old_data.root, "before", roles[sample.role]) for sample in old_data.select(*sorted(roles))
        ]
    with clock("putting together"):
        return merge(order.out / "training", picks, "all that is learnt from")


def _train_dst(order: Update, settings: UpdateSettings) -> None:
    arguments = ["dst", str(order.out / "site"), "--out", str(order.out / "dst"), "--resume"]
    arguments += ["--jobs", str(order.jobs), "--seed", str(settings.seed), "--accelerator", order.accelerator]
    for option, value in (
        ("--vgg-weights", settings.vgg),
        ("--epochs", settings.dst_epochs),
        ("--pictures", settings.dst_pictures),
    ):
        if value is not None:
            arguments += [option, str(value)]
    _run("inspectd.training.cli", arguments)


def _export(net: Path, out: Path, calibration: Path, name: str) -> None:
    made_of = hashlib.sha256((net / CHECKPOINT).read_bytes()).hexdigest()
    note = out.with_name(f".{out.name}-of")
    if note.is_file() and note.read_text() == made_of and out.exists():
        return
    _run("inspectd.export.cli", [str(net), "--out", str(out), "--calibration", str(calibration), "--name", name])
    note.write_text(made_of)


def _run(module: str, arguments: Sequence[str]) -> None:
    """One of our commands in a process of its own, whose memory goes with it.

    Raises:
        DatasetError: it failed, and has said why.
        KeyboardInterrupt: Ctrl-C, after it has saved its state.
    """
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, env=os.environ)
    try:
        status = process.wait()
    except BaseException:
        # A terminal's Ctrl-C has reached it as well; twice would end it before it has saved.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SAVES_WITHIN_S)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise DatasetError(f"{module.split('.')[1]} {arguments[0]} ended with status {status}; its reason is above")


def _exams(order: Update) -> list[Exam]:
    """What both bundles are measured on; sets that turn out empty are left out."""
    exams = []
    if order.golden is not None:
        masters = lay_out_masters(open_masters(order.golden), order.out / "masters")
        exams.append(Exam(MASTERS, masters.root, ("test", "ok_test")))
    exams += [Exam(f"test pictures of {data.resolve().name}", data, ("test", "ok_test")) for data in order.tests]
    return [
        *exams,
        Exam("marked parts, held out", order.out / "unseen", ("test",)),
        Exam("marked parts", order.out / "site", ("ref",), learnt=True),
        Exam(GOOD_LEARNT, order.out / "site", ("free",), learnt=True),
        Exam("painted on good parts that were held out", order.out / "exam", ("simulated", "free")),
    ]


def _judged(comparisons: Sequence[Comparison], defects: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What speaks against the new bundle, and what else is to be looked at."""
    lost, remarks = [], []
    for comparison in comparisons:
        if comparison.name == MASTERS and comparison.lost:
            lost.append(
                f"{len(comparison.lost)} {MASTERS} that the bundle judged rightly before are judged wrongly now: "
                f"{', '.join(comparison.lost[:5])}"
            )
            continue
        remarks += [
            f"{comparison.name}: {each.name} is found on {each.after} of {each.parts} parts, before on {each.before}"
            for each in comparison.types
            if each.after < each.before
        ]
        if comparison.name == GOOD_LEARNT:
            # Taught as good, and rejected all the same: most likely it is not.
            remarks += [
                f"{len(comparison.lost)} parts that the sites took for good look otherwise to the new bundle: "
                f"{', '.join(comparison.lost[:5])} (in site/); look at them, mark on the station what was missed, "
                "and update again"
            ] * bool(comparison.lost)
        elif comparison.good is not None and comparison.good.after > comparison.good.before:
            good = comparison.good
            remarks.append(
                f"{comparison.name}: {good.after} of {good.parts} good parts are rejected, before {good.before}"
            )
    painted = comparisons[-1]
    for defect in defects:
        found = painted.of(defect)
        if found is not None and found.after <= found.before < found.parts:
            lost.append(
                f"{defect} is found on {found.after} of {found.parts} parts with painted defects, no more than before "
                f"({found.before}); mark further parts, or train longer (--steps)"
            )
    return tuple(lost), tuple(remarks)
