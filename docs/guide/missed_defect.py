"""From a missed defect to a better bundle: the walk of missed-defect.md, from end to end, on rendered buttons.

A line with the shipped bundle sees buttons with the imprint of a cloth, a defect that its network was never shown. One
of them is marked; what the station has kept goes to `inspectd-train update`; the bundle that comes of it goes back onto
the running line, which judges the same buttons again. Every command is printed before it is run.

Run: python docs/guide/missed_defect.py out/walk
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inspectd.buttons import render
from inspectd.dataset_writing import Row, write_png, write_split
from inspectd.runtime.archive import Archive
from inspectd.runtime.station import demo_bundle

LINE, DEFECT = "terrazzo", "imprint"
FOLDERS = {"monday": (60, 1), "tuesday": (30, 12), "unseen": (60, 40)}
"""Good parts and defective ones: on the line on two days, and those that only the measurement sees."""
MODULES = {
    "inspectd": "inspectd.runtime.entry",
    "inspectd-train": "inspectd.training.cli",
    "inspectd-calibrate": "inspectd.calibration.cli",
}
CONFIG = """\
[station]
name = "walk"

[cameras.cam1]
source = "folder"
path = "{day}"
loop = true
fps = 10

[model]
bundle = "demo"
models_dir = "models"

[archive]
path = "archive"
ok_every = 1
keep_free_gib = 0.5

[augment]
out = "site"
keep_free_gib = 0.5
"""


def main() -> None:
    """Walk."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where everything is written; a new one")
    parser.add_argument("--vgg-weights", type=Path, help="VGG-19 for DST; downloaded if not given")
    parser.add_argument("--method", default="dst", help="how the marked defect is painted (inspectd-train update)")
    parser.add_argument("--count", type=int, default=600, help="painted pictures to learn from")
    parser.add_argument("--steps", type=int, default=800, help="updates of the fine-tuning")
    parser.add_argument("--unmarked", type=int, default=0, help="more imprints on Monday, which nobody notices")
    parser.add_argument("--train", type=int, default=200, help="pictures of what the bundle knew before, of each kind")
    args = parser.parse_args()
    begun = time.monotonic()
    folder = args.folder.resolve()
    if folder.exists():
        parser.error(f"{folder}: exists; name a new folder")
    weights = None if args.vgg_weights is None else args.vgg_weights.resolve()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    good, defective = FOLDERS["monday"]
    FOLDERS["monday"] = good, defective + args.unmarked
    render_parts()
    with station("monday"):
        mark_one(judged("monday"))
    with station("tuesday"):
        before = judged("tuesday")
    # What was there on the day that the bundle was trained: pictures of it, and the line's master parts.
    run("inspectd-train", "buttons", "--out", "known", "--protocol", "demo", "--lines", LINE, "--train", args.train)
    # What is only just found is lost by chance in the next training.
    clear = ("--per-class", 2, "--leave-out", "--cover", "25%")
    run("inspectd-calibrate", "golden", "demo", "known", *clear, "--out", "masters.zip")
    more = [] if weights is None else ["--vgg-weights", weights]
    if args.method == "dst":
        more += ["--dst-epochs", 2, "--dst-pictures", 120]
    status = run(
        *("inspectd-train", "update", demo_bundle(), "--from", "site", "--out", "update", "--data", "known"),
        *("--golden", "masters.zip", "--test", "unseen", "--method", args.method),
        *("--count", args.count, "--steps", args.steps, *more),
        may_refuse=True,
    )
    if status:
        sys.exit(
            f"the walk ends here: update does not let this bundle onto a line, and says above why; the page about it "
            f"is {Path('update', 'report.html').resolve()}"
        )
    shutil.copytree("update/bundle", "models/walk-2", dirs_exist_ok=True)
    with station("tuesday"):
        run("inspectd", "ctl", "load_model", "bundle=walk-2", "--timeout", 120, "--at", "line.toml")
        run("inspectd", "ctl", "activate", "--at", "line.toml")
        after = judged("tuesday")
    tell(before, after, time.monotonic() - begun)


def render_parts() -> None:
    """The parts that pass the camera, and those that only the measurement sees."""
    for block, (folder, (good, defective)) in enumerate(FOLDERS.items()):
        rows: list[Row] = []
        for number in range(good + defective):
            kind = None if number < good else DEFECT
            part = render(LINE, kind, 900_000 + 1000 * block + number)
            image, mask = f"{kind or 'good'}-{number:03}.png", f"labels/{number:03}.png"
            write_png(Path(folder, image), part.image)
            if kind:
                write_png(Path(folder, mask), part.mask * 255)
            rows.append((image, mask if kind else "", kind or "", "test" if kind else "ok_test", ""))
        if folder == "unseen":
            write_split(Path(folder), rows)


def run(command: str, *arguments: object, may_refuse: bool = False) -> int:
    """A command, as one would type it; its exit status, where that may be 1."""
    words = [str(each) for each in arguments]
    print(f"$ {shlex.join([command, *words])}", flush=True)
    done = subprocess.run([sys.executable, "-m", MODULES[command], *words], check=False)
    if not (may_refuse and done.returncode == 1):
        done.check_returncode()
    return done.returncode


@contextmanager
def station(day: str) -> Iterator[None]:
    """The line, running."""
    Path("line.toml").write_text(CONFIG.format(day=day))
    print(f"$ inspectd run line.toml &      # {day}", flush=True)
    with (
        Path("station.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", MODULES["inspectd"], "run", "line.toml"], stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def judged(day: str) -> dict[str, tuple[str, str]]:
    """Verdict and id of each part of a day, from now on: {picture: (verdict, epoch-stream-seq)}."""
    since = time.time_ns()
    found: dict[str, tuple[str, str]] = {}
    until = time.monotonic() + 180
    while len(found) < sum(FOLDERS[day]):
        if time.monotonic() > until:
            sys.exit(f"only {len(found)} parts were judged within 3 minutes; see {Path('station.log').resolve()}")
        time.sleep(1)
        for part in Archive(Path("archive")).parts() if Path("archive").is_dir() else ():
            sidecar = part.sidecar
            if sidecar.archived_ns > since:
                found[sidecar.frame.source] = sidecar.verdict, f"{sidecar.epoch}-{sidecar.stream}-{sidecar.seq}"
    return found


def mark_one(found: dict[str, tuple[str, str]]) -> None:
    """Mark the first defective part that the line let pass, as somebody would who has seen it."""
    missed = [name for name, (verdict, _) in sorted(found.items()) if verdict == "OK" and name.startswith(DEFECT)]
    if not missed:
        sys.exit(f"the line has found every {DEFECT}; there is nothing to mark")
    label = Path("monday", "labels", missed[0].rpartition("-")[2])
    run(
        *("inspectd", "ctl", "mark", found[missed[0]][1], "--mask", label),
        *("--defect", DEFECT, "--yes", "--at", "line.toml"),
    )


def tell(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]], took_s: float) -> None:
    """What the line said of the same parts, and of those that were never marked, before and after."""

    def rejected(found: dict[str, tuple[str, str]], kind: str) -> str:
        verdicts = [verdict for name, (verdict, _) in found.items() if name.startswith(kind)]
        return f"{verdicts.count('NG')} of {len(verdicts)}"

    rows = [
        ("Tuesday's parts, on the line:", "before", "after"),
        (f"{DEFECT} found", rejected(before, DEFECT), rejected(after, DEFECT)),
        ("good parts rejected", rejected(before, "good"), rejected(after, "good")),
    ]
    report = json.loads(Path("update", "report.json").read_text())
    unseen = next(each for each in report["comparisons"] if each["name"].startswith("test pictures"))
    (found,), good = unseen["types"], unseen["good"]
    rows += [
        ("parts that nothing was learnt from:", "before", "after"),
        (f"recall of {found['parts']}", *(f"{found[when] / found['parts']:.3f}" for when in ("before", "after"))),
        (f"good parts rejected of {good['parts']}", str(good["before"]), str(good["after"])),
        ("pixel F1", *(f"{f1:.3f}" for f1 in unseen["f1"])),
    ]
    print()
    for what, was, became in rows:
        print(f"{what:40} {was:>10} {became:>10}")
    print(f"\n{took_s / 60:.0f} minutes; the page about it is {Path('update', 'report.html').resolve()}")


if __name__ == "__main__":
    main()
