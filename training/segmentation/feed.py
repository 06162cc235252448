"""Pictures on their way to the network: order, augmentation and crops, each a function of (seed, update, place).

Nothing depends on how many processes read or on what was read before, so that a training that was
killed goes on exactly where it was, and two devices see what one would have seen.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision import tv_tensors

from inspectd.dataset import Dataset as Photographs
from inspectd.dataset import Sample, read_image, read_labels
from inspectd.errors import DatasetError
from inspectd.mask import ClassMap
from inspectd.preprocess import Preprocess

from .augment import augmentation
from .buttonlab import CROP_STEP, Crop
from .hard import HardExample, read_hard
from .settings import SegmentSettings

__all__ = ["Batch", "Picture", "Pictures", "loader", "normalise", "one_opencv_thread", "training_samples"]

# Letterboxed pictures are kept in memory up to here, for each device; larger sets are read anew each time.
CACHE_BYTES = 4 << 30
# Of the draws that are made once, apart from those of the updates.
_REAL_STREAM = 1
# Behind those of the hard examples: 2 and on, one for each of up to three kinds of pictures.
_REPLACEMENT_STREAM = 8


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B pictures: images uint8 [B, C, H, W], labels int64 [B, h, w] inside the crop, offsets of the crops."""

    images: Tensor
    labels: Tensor
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Which picture, and the seed of all that is drawn for it."""

    index: int
    seed: int
    hard: bool = False
    """Its window and crop are laid over the place where `SegmentSettings.hard` says that it is hardest."""


def training_samples(dataset: Photographs, settings: SegmentSettings) -> tuple[Sample, ...]:
    """The pictures that a training is of: those of its roles, with `settings.real` of the real defective ones.

    Raises:
        DatasetError: a role that nobody has, or fewer real defective pictures than asked for.
    """
    samples = dataset.select(*settings.roles)
    if settings.real is None:
        return samples
    real = [sample for sample in samples if sample.masks and sample.role != "simulated"]
    if len(real) < settings.real:
        raise DatasetError(
            f"{dataset.root}: roles {', '.join(settings.roles)} hold {len(real)} real defective pictures, "
            f"{settings.real} are asked for"
        )
    references = [sample for sample in real if sample.role == "ref"]
    others = [sample for sample in real if sample.role != "ref"]
    drawn = np.random.default_rng([settings.seed, _REAL_STREAM]).permutation(len(others))
    kept = {sample.name for sample in [*references, *(others[int(index)] for index in drawn)][: settings.real]}
    dropped = {sample.name for sample in real} - kept
    return tuple(sample for sample in samples if sample.name not in dropped)


_Item = tuple[Tensor, Tensor, tuple[int, int]]


class Pictures(Dataset[_Item]):
    """The training pictures, letterboxed, augmented and cropped."""

    def __init__(
        self, samples: Sequence[Sample], classes: ClassMap | None, preprocess: Preprocess, settings: SegmentSettings
    ) -> None:
        """Take the samples over; `classes` is None for a binary network.

        Raises:
            DatasetError: there is no picture, or none with a defect, or the file of hard examples does not fit.
        """
        if not any(sample.masks for sample in samples):
            raise DatasetError(
                f"roles {', '.join(settings.roles)} hold {len(samples)} pictures and no labelled defect; "
                "training needs at least one"
            )
        self.samples = tuple(samples)
        self.settings = settings
        self._classes, self._preprocess = classes, preprocess
        self._augment = augmentation(settings)
        self._bytes = preprocess.height * preprocess.width * (preprocess.channels + 1) * len(samples)
        self._cache: list[tuple[NDArray[np.uint8], NDArray[np.uint8]] | None] = [None] * len(samples)
        self.hard: tuple[HardExample, ...] = ()
        self.hard_source: dict[str, str] = {}
        if settings.hard is not None:
            names = [sample.name for sample in samples]
            self.hard, self.hard_source = read_hard(Path(settings.hard), names, (preprocess.height, preprocess.width))

    def __len__(self) -> int:
        return len(self.samples)

    def plain(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """What `read` gives, kept in memory where there is room."""
        if (kept := self._cache[index]) is not None:
            return kept
        pair = self.read(index)
        # Every worker has a memory of its own.
        worker = get_worker_info()
        if self._bytes * (worker.num_workers if worker else 1) <= CACHE_BYTES:
            self._cache[index] = pair
        return pair

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A picture uint8 [H, W, C] and its labels uint8 [H, W] at the network's size, as they are.

        Raises:
            DatasetError: a file that cannot be used.
        """
        pixels, labels = self.photograph(index)
        return self._preprocess.image(pixels), self._preprocess.letterbox(labels.shape).apply_mask(labels)

    def photograph(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A picture uint8 [h, w, C] and its labels uint8 [h, w] as they were taken.

        Raises:
            DatasetError: a file that cannot be used.
        """
        sample = self.samples[index]
        pixels = read_image(sample.image, bits=self.settings.bits)
        return pixels, read_labels(sample, self._classes, pixels.shape[:2])

    def __getitem__(self, picture: Picture) -> _Item:
        pixels, labels = self.plain(picture.index)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        # What a window may be laid over: a pixel of the last. It is moved with the picture, and each plane costs time.
        planes = [image, mask]
        if picture.hard:
            planes.append(tv_tensors.Mask(torch.from_numpy(self._around_hardest(picture.index))))
        if self._augment is not None:
            # torchvision draws from the global generator of the CPU; it is put back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(picture.seed)
                planes = self._augment(*planes)
        seen, truth, aim = (plane.as_subclass(Tensor) for plane in (planes[0], planes[1], planes[-1]))
        rng = np.random.default_rng(picture.seed)
        bias = 1.0 if picture.hard else self.settings.crop_bias
        if self.settings.window < 1:
            window = _place(aim.numpy(), self.settings.window_size, bias, rng)
            seen, truth, aim = _cut(seen, window), _cut(truth, window), _cut(aim, window)
        crop = _place(aim.numpy(), self.settings.crop_size, bias, rng)
        return seen, _cut(truth, crop), crop.offsets[0]

    def __getitems__(self, pictures: Sequence[Picture]) -> list[_Item] | DatasetError:
        """The pictures of a batch, or what is wrong with one: raised in a worker, it would arrive as a traceback."""
        try:
            return [self[picture] for picture in pictures]
        except DatasetError as error:
            return error

    def spread(self, count: int) -> NDArray[np.uint8]:
        """Up to `count` pictures uint8 [n, H, W, C] as they are, half of them defective, evenly over the set."""
        chosen: list[int] = []
        for members in self.by_state():
            places = np.linspace(0, len(members) - 1, min(len(members), count // 2)).astype(int)
            chosen += [members[place] for place in places]
        return np.stack([self.plain(index)[0] for index in chosen])

    def by_state(self) -> tuple[list[int], list[int]]:
        """Indices of the defective pictures, and of the good ones."""
        defective = [index for index, sample in enumerate(self.samples) if sample.masks]
        return defective, [index for index, sample in enumerate(self.samples) if not sample.masks]

    def _around_hardest(self, index: int) -> NDArray[np.uint8]:
        """1 on a few pixels, so that some of them outlast a rotation, 0 elsewhere: [H, W]."""
        aim = np.zeros((self._preprocess.height, self._preprocess.width), np.uint8)
        row, column = self.hard[index].row, self.hard[index].column
        aim[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 1
        return aim


def _place(aim: NDArray[np.uint8], size: tuple[int, int], bias: float, rng: np.random.Generator) -> Crop:
    """Where a window of this size is cut out of a picture: with probability `bias` over a marked pixel of `aim`."""
    biased = rng.random() < bias
    spot: tuple[int, int] | None = None
    if biased and (pixels := np.flatnonzero(aim)).size:
        row, column = divmod(int(rng.choice(pixels)), aim.shape[1])
        spot = row, column
    corner = []
    for axis, (side, window) in enumerate(zip(aim.shape, size, strict=True)):
        low, high = 0, (side - window) // CROP_STEP
        if spot is not None:
            low = max(low, -(-(spot[axis] - window + 1) // CROP_STEP))
            high = min(high, spot[axis] // CROP_STEP)
        corner.append(CROP_STEP * int(rng.integers(low, high + 1)))
    return Crop(size, ((corner[0], corner[1]),))


def _cut(plane: Tensor, crop: Crop) -> Tensor:
    (height, width), ((top, left),) = crop
    return plane[..., top : top + height, left : left + width]


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """The arithmetic half of `Preprocess`: uint8 [N, C, H, W] -> float32 [N, C, H, W], `(v * scale - mean) / std`."""
    mean = torch.tensor(preprocess.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocess.std, device=images.device).view(1, -1, 1, 1)
    # In place of a copy of its own: three more tensors of a batch would be as much memory to write as the work itself.
    return images.to(torch.float32, copy=True).mul_(preprocess.scale).sub_(mean).div_(std)


def _permutation(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


class _Order:
    """Which pictures make up each update."""

    def __init__(self, pictures: Pictures, rank: int, world: int, steps: range) -> None:
        settings = pictures.settings
        defective, good = pictures.by_state()
        self._global = settings.batch * world
        self._streams: list[tuple[list[int], int]] = [(list(range(len(pictures))), self._global)]
        if settings.defect_share is not None and good:
            quota = min(max(1, round(settings.defect_share * self._global)), self._global - 1)
            self._streams = [(defective, quota), (good, self._global - quota)]
            simulated = [index for index in defective if pictures.samples[index].role == "simulated"]
            real = [index for index in defective if pictures.samples[index].role != "simulated"]
            if settings.simulated_share is not None and simulated and real and quota > 1:
                part = min(max(1, round(settings.simulated_share * quota)), quota - 1)
                self._streams[:1] = [(simulated, part), (real, quota - part)]
        self._hard = [_Hardest(pictures, members, quota) for members, quota in self._streams]
        self._seed, self._rank, self._world, self._steps = settings.seed, rank, world, steps
        self._replacement = settings.replacement
        self._shuffled = functools.lru_cache(maxsize=8)(_permutation)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Picture]]:
        for step in self._steps:
            batch: list[tuple[int, bool]] = []
            for number, ((members, quota), hardest) in enumerate(zip(self._streams, self._hard, strict=True)):
                batch += [(index, True) for index in hardest.drawn(self._seed, number, step)]
                in_turn = quota - hardest.quota
                if self._replacement and in_turn:
                    drawn = np.random.default_rng([self._seed, _REPLACEMENT_STREAM + number, step])
                    batch += [(members[int(index)], False) for index in drawn.integers(len(members), size=in_turn)]
                    continue
                for place in range(in_turn):
                    epoch, position = divmod(step * in_turn + place, len(members))
                    order = self._shuffled(self._seed, number, epoch, len(members))
                    batch.append((members[int(order[position])], False))
            mine = range(self._rank, self._global, self._world)
            yield [Picture(batch[place][0], _seed(self._seed, step, place), batch[place][1]) for place in mine]


class _Hardest:
    """The pictures of one stream that are drawn by their hardness: `quota` of each update."""

    def __init__(self, pictures: Pictures, members: list[int], quota: int) -> None:
        self._members = members
        weights = np.array([pictures.hard[index].hardness for index in members]) if pictures.hard else np.zeros(0)
        total = float(weights.sum())
        # Where nothing is hard, all come in turn.
        self.quota = round(pictures.settings.hard_share * quota) if total > 0 else 0
        self._chances = weights / total if total > 0 else None

    def drawn(self, seed: int, stream: int, step: int) -> list[int]:
        """The members of an update."""
        if not self.quota:
            return []
        rng = np.random.default_rng([seed, 2 + stream, step])
        return [self._members[place] for place in rng.choice(len(self._members), self.quota, p=self._chances)]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _collate(items: Sequence[_Item] | DatasetError) -> Batch | DatasetError:
    if isinstance(items, DatasetError):
        return items
    return Batch(
        # As OpenCV left them, rows of pixels of channels: the layout that the network is trained in.
        torch.stack([item[0].permute(1, 2, 0) for item in items]).permute(0, 3, 1, 2),
        torch.stack([item[1] for item in items]).long(),
        tuple(item[2] for item in items),
    )


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV's threads and PyTorch's would take the cores from each other in every update."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _one_thread(_worker: int) -> None:
    """As PyTorch does for its own threads: the workers share the cores."""
    cv2.setNumThreads(0)


def loader(
    pictures: Pictures, *, rank: int, world: int, steps: range, workers: int
) -> DataLoader[Batch | DatasetError]:
    """The batches of the updates `steps` for one of `world` devices; a DatasetError where a picture is unusable.

    Args:
        pictures: the training set.
        rank: this device.
        world: number of devices.
        steps: which updates.
        workers: processes that read; 0 reads in this one.
    """
    return DataLoader(
        pictures,  # type: ignore[arg-type]  # yields what _collate makes Batch of
        batch_sampler=_Order(pictures, rank, world, steps),
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_one_thread,
    )
