"""What sites have kept, as datasets to train and to measure on, a part of it held out."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inspectd.dataset import SPLIT_FILE, Dataset, Sample, open_dataset
from inspectd.dataset_writing import Row, take, write_png, write_split
from inspectd.errors import DatasetError
from inspectd.masters import Masters
from inspectd.resumable import PROVENANCE, claim

__all__ = ["Pick", "Site", "gather", "lay_out_masters", "merge", "sites"]

_GOOD_PARTS = 4
"""The least that a site must have: some to paint on, and one to measure on."""
_HELD_GOOD = 4
"""One good part of so many is held out."""
_HELD_MARKED = 3
"""So is one marked part of so many of a type, where there are so many."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A picture for another dataset: the sample, the folder that it is in, a prefix for its name, and its role."""

    sample: Sample
    root: Path
    prefix: str
    role: str


@dataclass(frozen=True, slots=True)
class Site:
    """What is taken of the sites.

    Attributes:
        references: marked parts to learn from, role ref.
        examined: marked parts that are held out, role test.
        good: good parts to paint on and to learn from, role free.
        unseen: good parts that are held out, role free.
        more: what stations have painted already, roles simulated and extra.
        skipped: folders that are no whole dataset.
    """

    references: tuple[Pick, ...]
    examined: tuple[Pick, ...]
    good: tuple[Pick, ...]
    unseen: tuple[Pick, ...]
    more: tuple[Pick, ...]
    skipped: tuple[Path, ...]

    @property
    def defects(self) -> tuple[str, ...]:
        """Types that were marked, sorted."""
        return tuple(sorted({name for pick in self.references for name, _ in pick.sample.masks}))


def sites(folders: Sequence[Path]) -> Site:
    """What there is to learn from, in folders of `inspectd ctl mark` and `augment`.

    A third of the marked parts of a type, where there are three, and a quarter of the good parts are held out; which
    ones follows from their pixels alone, so that a later update with more of them holds out the same.

    Args:
        folders: a station's folder `augment.out`, with datasets in it, or a dataset.

    Raises:
        DatasetError: no dataset, no marked part, or too few good ones.
    """
    roots, skipped = _datasets(folders)
    marked: dict[str, list[tuple[str, Pick]]] = defaultdict(list)
    good: dict[str, Pick] = {}
    more: list[Pick] = []
    defective: set[str] = set()
    for number, root in enumerate(roots):
        dataset = open_dataset(root)
        painted = bool(dataset.select("simulated"))
        for sample in dataset.samples:
            pick = Pick(sample, root, f"site{number}", sample.role)
            digest = hashlib.sha256(sample.image.read_bytes()).hexdigest()
            if sample.role == "free":
                good.setdefault(digest, pick)
                continue
            if sample.masks:
                defective.add(digest)
            if sample.role == "ref" and not painted:
                marked[sample.defect].append((digest, pick))
            elif sample.role in {"ref", "extra", "simulated"}:
                # The references of a dataset that a station has painted need not be painted again.
                role = "simulated" if sample.role == "simulated" else "extra"
                more.append(Pick(sample, root, pick.prefix, role))
    listed = ", ".join(map(str, folders))
    if not marked:
        raise DatasetError(
            f"{listed}: no part was marked there; mark what was missed by `inspectd ctl mark RESULT_ID --defect NAME`"
        )
    # Somebody may have marked what another station took for good.
    clean = [good[digest] for digest in sorted(good) if digest not in defective]
    if len(clean) < _GOOD_PARTS:
        raise DatasetError(
            f"{listed}: {len(clean)} good parts, expected at least {_GOOD_PARTS} to paint on and to measure on; "
            "archive more of them on the station (archive.ok_every), and mark a part again"
        )
    references, examined = [], []
    for _, parts in sorted(marked.items()):
        ordered = [pick for _, pick in sorted(dict(parts).items())]
        held = len(ordered) // _HELD_MARKED
        examined += ordered[:held]
        references += ordered[held:]
    held = max(1, len(clean) // _HELD_GOOD)
    return Site(tuple(references), tuple(examined), tuple(clean[held:]), tuple(clean[:held]), tuple(more), skipped)


def _datasets(folders: Sequence[Path]) -> tuple[list[Path], tuple[Path, ...]]:
    """Folders of datasets, and those without a split.csv, which were not written to their end."""
    roots: list[Path] = []
    skipped: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; copy the station's folder augment.out here")
        if (folder / SPLIT_FILE).is_file():
            roots.append(folder)
            continue
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        roots += [path for path in inner if (path / SPLIT_FILE).is_file()]
        skipped += [path for path in inner if not (path / SPLIT_FILE).is_file()]
    if not roots:
        raise DatasetError(
            f"{', '.join(map(str, folders))}: no dataset there (no {SPLIT_FILE}, neither in it nor in its folders); "
            "copy the station's folder augment.out here"
        )
    return roots, tuple(skipped)


def gather(site: Site, out: Path) -> None:
    """Write what is painted on: `out`/site to learn from, `out`/unseen to measure on."""
    as_test = [Pick(pick.sample, pick.root, pick.prefix, "test") for pick in site.examined]
    merge(out / "site", [*site.references, *site.good], "the parts of sites to learn from")
    merge(out / "unseen", [*site.references, *site.unseen, *as_test], "the parts of sites to measure on")


def merge(out: Path, picks: Iterable[Pick], what: str) -> Dataset:
    """Write a dataset of pictures of others, as links where possible; one that is there already is left as it is.

    Raises:
        DatasetError: the folder holds something else.
    """
    chosen = list(picks)
    digest = hashlib.sha256()
    for pick in chosen:
        digest.update(f"{pick.prefix}/{pick.sample.name}\0{pick.role}\0".encode())
        for path in (pick.sample.image, *(path for _, path in pick.sample.masks)):
            digest.update(path.read_bytes())
    provenance = {"made_by": "inspectd-train update", "content_sha256": digest.hexdigest()}

    def fill(staging: Path) -> list[Row]:
        rows: list[Row] = []
        for pick in chosen:
            image = f"{pick.prefix}/{pick.sample.name}"
            take(pick.sample.image, staging / image, link=True)
            # The same picture may show parts of two sites.
            tile = f"{pick.prefix}/{pick.sample.tile}" if pick.sample.tile else ""
            if not pick.sample.masks:
                rows.append((image, "", "", pick.role, tile))
            for defect, path in pick.sample.masks:
                mask = f"{pick.prefix}/{path.relative_to(pick.root).as_posix()}"
                if not (staging / mask).exists():
                    take(path, staging / mask, link=True)
                rows.append((image, mask, defect, pick.role, tile))
        return rows

    return _written(out, provenance, what, fill)


def lay_out_masters(masters: Masters, out: Path) -> Dataset:
    """Write a set of master parts as a dataset: roles test and ok_test.

    Raises:
        ConfigError: a picture is damaged.
        DatasetError: the folder holds something else.
    """
    provenance = {
        "made_by": "inspectd-train update",
        "content_sha256": hashlib.sha256(masters.path.read_bytes()).hexdigest(),
    }

    def fill(staging: Path) -> list[Row]:
        rows: list[Row] = []
        for number, part in enumerate(masters.record.parts):
            image = f"images/{number:03}.png"
            write_png(staging / image, masters.frame(part, number, camera="golden").pixels)
            labels = masters.labels(part)
            if labels is None:
                rows.append((image, "", "", "ok_test", ""))
                continue
            mask = f"masks/{number:03}.png"
            write_png(staging / mask, labels.astype(np.uint8) * 255)
            rows.append((image, mask, part.defect, "test", ""))
        return rows

    return _written(out, provenance, "master parts", fill)


def _written(out: Path, provenance: Mapping[str, Any], what: str, fill: Callable[[Path], list[Row]]) -> Dataset:
    """Whole or not at all; as it is where it has been written before."""
    if out.exists():
        claim(out, dict(provenance), what)
        return open_dataset(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        staging = Path(folder) / "dataset"
        staging.mkdir()
        rows = fill(staging)
        (staging / PROVENANCE).write_text(json.dumps(dict(provenance), indent=1) + "\n", encoding="utf-8")
        write_split(staging, rows)
        staging.replace(out)
    return open_dataset(out)
