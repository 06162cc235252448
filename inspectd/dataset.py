"""Datasets: what a sample is, and the two formats they come in (docs/datasets.md).

split.csv     one row an image and defect: `image,mask,defect,role,tile`, paths relative to the file
mvtec         the folder tree of MVTec AD: train/good, test/good, test/<defect>, ground_truth/<defect>

Nothing here decodes a picture to find its role: a data set of 100 000 images opens in seconds.
"""

from __future__ import annotations

import csv
import io
import os.path
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DatasetError
from inspectd.mask import ClassMap
from inspectd.picture import IMAGE_SUFFIXES, read_image, read_mask

__all__ = [
    "COLUMNS",
    "DEFECT_FREE_ROLES",
    "ROLES",
    "SPLIT_FILE",
    "TRAINING_ROLES",
    "Dataset",
    "Sample",
    "open_dataset",
    "read_image",
    "read_labels",
    "scan",
]

ROLES = ("ref", "free", "extra", "simulated", "test", "ok_test", "ok_calibration")
DEFECT_FREE_ROLES = ("free", "ok_test", "ok_calibration")
TRAINING_ROLES = ("ref", "free", "extra", "simulated")
COLUMNS = ("image", "mask", "defect", "role", "tile")
SPLIT_FILE = "split.csv"

# Folders of the MVTec tree: role of `good`, role of the defects, folder of their masks. `validation` is that of
# MVTec LOCO and AD 2; `ground_truth_train` is this project's extension for labelled training defects.
_MVTEC = {
    "train": ("free", "ref", "ground_truth_train"),
    "validation": ("ok_calibration", None, None),
    "test": ("ok_test", "test", "ground_truth"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset, and what is wrong with the part on it.

    Attributes:
        image: the image file.
        masks: (defect, mask file) for each defect; empty for a good part.
        role: one of `ROLES`.
        tile: name of the physical part, where several images show the same one; empty if unknown.
        name: path of the image relative to the dataset, with forward slashes.
    """

    image: Path
    masks: tuple[tuple[str, Path], ...]
    role: str
    tile: str
    name: str

    @property
    def defect(self) -> str:
        """The defect's name; empty for a good part, names joined by "+" for several."""
        return "+".join(name for name, _ in self.masks)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of a folder, in the order of `split.csv` or of their names."""

    root: Path
    layout: Literal["split.csv", "mvtec"]
    samples: tuple[Sample, ...]

    @property
    def defects(self) -> tuple[str, ...]:
        """The defect types that occur, sorted."""
        return tuple(sorted({name for sample in self.samples for name, _ in sample.masks}))

    @property
    def summary(self) -> str:
        """How many images there are of each role that occurs."""
        counts = Counter(sample.role for sample in self.samples)
        return ", ".join(f"{counts[role]} {role}" for role in ROLES if role in counts)

    def select(self, *roles: str) -> tuple[Sample, ...]:
        """The samples of these roles, in their order.

        Raises:
            DatasetError: a role that does not exist.
        """
        if unknown := [role for role in roles if role not in ROLES]:
            raise DatasetError(f"unknown role {unknown[0]!r}; the roles are {', '.join(ROLES)}")
        return tuple(sample for sample in self.samples if sample.role in roles)


def open_dataset(root: Path) -> Dataset:
    """The dataset in a folder, its format found by what is there; files are listed, not decoded.

    Raises:
        DatasetError: no dataset there, or one with faults that show without decoding its images.
    """
    dataset, faults = scan(root)
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DatasetError(f"{root}: {'; '.join(faults[:3])}{more} (`inspectd-train check {root}` lists every fault)")
    return dataset


def scan(root: Path) -> tuple[Dataset, list[str]]:
    """Every sample of a folder whose image is there, sound or not, and every fault that shows without decoding.

    Raises:
        DatasetError: neither format is there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}; expected a dataset")
    faults: list[str] = []
    layout: Literal["split.csv", "mvtec"]
    if (root / SPLIT_FILE).is_file():
        layout, samples = "split.csv", _read_split(root, faults)
    elif any((root / top / "good").is_dir() for top in _MVTEC) or (root / "ground_truth").is_dir():
        layout, samples = "mvtec", _read_mvtec(root, faults)
    else:
        raise DatasetError(
            f"{root}: not a dataset: found neither {SPLIT_FILE} nor an MVTec-style tree "
            f"(train/good, test/good or ground_truth); see docs/datasets.md"
        )
    if not samples and not faults:
        faults.append("no images")
    return Dataset(root, layout, tuple(samples)), faults


def read_labels(sample: Sample, classes: ClassMap | None, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The labels of a sample's pixels: uint8 [H, W].

    Args:
        sample: the sample; without masks, the result is all 0.
        classes: None labels every defect 1; otherwise a defect gets the label of its class. Where masks
            overlap, the later one of `sample.masks` wins.
        shape: (height, width) of the sample's image, px.

    Raises:
        DatasetError: an unusable mask, one of another size than `shape`, or a defect that is not a class.
    """
    labels = np.zeros(shape, np.uint8)
    for defect, path in sample.masks:
        mask = read_mask(path)
        if mask.shape != tuple(shape):
            raise DatasetError(
                f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} px, "
                f"but its image {sample.name} is {shape[1]} x {shape[0]} px (width x height)"
            )
        if classes is not None and defect not in classes.names:
            raise DatasetError(f"{sample.name}: its defect {defect!r} is not one of the classes {list(classes.names)}")
        labels[mask > 0] = 1 if classes is None else classes.label(defect)
    return labels


def _read_split(root: Path, faults: list[str]) -> list[Sample]:
    samples: dict[str, Sample] = {}
    first_line: dict[str, int] = {}
    for line, row in _rows(root / SPLIT_FILE, faults):
        where = f"{SPLIT_FILE} line {line}"
        sample, problems = _sample(root, row)
        faults.extend(f"{where}: {problem}" for problem in problems)
        if sample is None:
            continue
        known = samples.get(sample.name)
        if known is None:
            samples[sample.name], first_line[sample.name] = sample, line
            continue
        if problem := _clash(known, sample):
            faults.append(f"{where}: {sample.name} {problem} (first in line {first_line[sample.name]})")
        new = tuple(mask for mask in sample.masks if mask not in known.masks)
        samples[sample.name] = replace(known, masks=known.masks + new)
    return list(samples.values())


def _rows(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a split.csv with their line numbers; what is no row becomes a fault."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(f"{path.name}: not UTF-8 text (byte {error.start})")
        return
    except OSError as error:
        faults.append(f"{path.name}: cannot be read: {error.strerror}")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if header is None:
                header = cells
                if problem := _header_problem(header):
                    faults.append(f"{path.name} line {reader.line_num}: {problem}; expected {','.join(COLUMNS)}")
                    return
            elif len(cells) != len(header):
                faults.append(f"{path.name} line {reader.line_num}: {len(cells)} columns, expected {len(header)}")
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        faults.append(f"{path.name} line {reader.line_num}: not CSV: {error}")
    if header is None:
        faults.append(f"{path.name}: empty; expected the header {','.join(COLUMNS)}")


def _header_problem(header: list[str]) -> str:
    if missing := [name for name in COLUMNS[:4] if name not in header]:
        return f"the header lacks {', '.join(missing)}"
    if unknown := [name for name in header if name not in COLUMNS]:
        return f"unknown column {unknown[0]!r}"
    if len(set(header)) != len(header):
        return "a column occurs twice"
    return ""


def _sample(root: Path, row: dict[str, str]) -> tuple[Sample | None, list[str]]:
    """The sample of one row, None without an image, and what is wrong with it."""
    role, defect = row["role"], row["defect"]
    problems = []
    if not row["image"]:
        return None, ["no image is named"]
    if role not in ROLES:
        problems.append(f"unknown role {role!r} of {row['image']}; the roles are {', '.join(ROLES)}")
    if defect and not row["mask"]:
        problems.append(f"{row['image']} has the defect {defect!r} without a mask")
    if row["mask"] and not defect:
        problems.append(f"{row['image']} has the mask {row['mask']} without a defect")
    if role in DEFECT_FREE_ROLES and (defect or row["mask"]):
        problems.append(f"{row['image']} is of the defect-free role {role} but has a defect or a mask")
    if role in ROLES and role not in DEFECT_FREE_ROLES and not (defect or row["mask"]):
        problems.append(f"{row['image']} is of the role {role} but has neither defect nor mask")
    if "+" in defect:
        problems.append(f"the defect {defect!r} of {row['image']} has a '+' in its name; give each defect its own row")
    paths = {}
    for column in ("image", "mask"):
        if not (text := row[column]):
            continue
        path = Path(os.path.normpath(text))
        if path.is_absolute() or path.parts[:1] == (os.pardir,):
            problems.append(f"the {column} {text} lies outside the dataset; paths are relative to {SPLIT_FILE}")
        elif not (root / path).is_file():
            problems.append(f"the {column} {text} is missing")
        else:
            paths[column] = path
    if "image" not in paths:
        return None, problems
    masks = ((defect, root / paths["mask"]),) if defect and "mask" in paths else ()
    return Sample(root / paths["image"], masks, role, row.get("tile", ""), paths["image"].as_posix()), problems


def _clash(known: Sample, new: Sample) -> str:
    """Why two rows of one image do not go together; empty if they are two defects of it."""
    if known.role != new.role:
        return f"is in two roles, {known.role} and {new.role}"
    if known.tile != new.tile:
        return f"is of two tiles, {known.tile!r} and {new.tile!r}"
    if not new.masks or not known.masks:
        return "occurs twice"
    defect, path = new.masks[0]
    if (defect, path) in known.masks:
        return f"occurs twice with the same mask of {defect!r}"
    if defect in {name for name, _ in known.masks}:
        return f"has two masks of {defect!r}; merge them into one"
    return ""


def _read_mvtec(root: Path, faults: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    for top, (good_role, defect_role, truth) in _MVTEC.items():
        for folder in _folders(root / top):
            if folder.name == "good":
                samples.extend(_tree_sample(root, image, (), good_role) for image in _images(folder))
            elif defect_role is None or truth is None:
                faults.append(f"{top}/{folder.name}: only {top}/good is expected there")
            else:
                samples.extend(_labelled(root, folder, root / truth / folder.name, defect_role, faults))
        if truth is not None:
            for folder in _folders(root / truth):
                faults.extend(_orphans(root, folder, root / top / folder.name))
    return samples


def _labelled(root: Path, folder: Path, truth: Path, role: str, faults: list[str]) -> Iterator[Sample]:
    """The images of one defect's folder; those without a mask become faults too."""
    if "+" in folder.name:
        faults.append(f"{folder.relative_to(root).as_posix()}: a defect's name may not hold a '+'")
    masks = {path.stem: path for path in _images(truth)}
    for image in _images(folder):
        mask = masks.get(f"{image.stem}_mask") or masks.get(image.stem)
        if mask is None:
            expected = (truth / f"{image.stem}_mask.png").relative_to(root).as_posix()
            faults.append(f"{image.relative_to(root).as_posix()} has no mask; expected {expected}")
        yield _tree_sample(root, image, ((folder.name, mask),) if mask else (), role)


def _orphans(root: Path, truth: Path, folder: Path) -> Iterator[str]:
    """Masks without an image."""
    stems = {path.stem for path in _images(folder)}
    for mask in _images(truth):
        if not stems & {mask.stem, mask.stem.removesuffix("_mask")}:
            wanted = folder.relative_to(root).as_posix()
            yield f"{mask.relative_to(root).as_posix()} is the mask of no image in {wanted}"


def _tree_sample(root: Path, image: Path, masks: tuple[tuple[str, Path], ...], role: str) -> Sample:
    return Sample(image, masks, role, "", image.relative_to(root).as_posix())


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in _entries(top) if path.is_dir())


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in _entries(folder) if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)


def _entries(folder: Path) -> Iterable[Path]:
    """What is in a folder, without the hidden files that systems leave there; nothing if there is no folder."""
    return (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else ()
