"""The baseline CycleGAN: its parts, what it learns, and that a stop loses nothing."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from inspectd.dataset import open_dataset
from inspectd.errors import DatasetError
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import Backgrounds, as_reference, located, read_exemplars
from inspectd.training.devices import Hardware, launch
from inspectd.training.style.checkpoint import load_dst
from inspectd.training.style.cyclegan import (
    CycleGanLearner,
    CycleGanSettings,
    Discriminator,
    Generator,
    ImagePool,
    defect_windows,
)
from inspectd.training.style.train import train_dst
from inspectd.training.style.windows import Windows

CPU = Hardware(accelerator="cpu")
SMALL = CycleGanSettings(channels=4, blocks=1, epochs=2, pictures=8, batch=2, precision="32-true")


def spot(side=64, radius=5, channels=3):
    """A bright surface with a dark disc away from the middle."""
    rows, columns = np.mgrid[:side, :side]
    mask = (rows - 40) ** 2 + (columns - 24) ** 2 <= radius**2
    image = np.full((side, side, channels), 200, np.uint8)
    image[mask] = 40
    return Exemplar("spot", "stain", image, mask)


def test_a_generator_keeps_size_and_range():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 48, 64) * 2 - 1
    painted = Generator(4, 2)(images)
    assert painted.shape == images.shape
    assert painted.dtype == torch.float32
    assert painted.abs().max() <= 1


def test_a_score_of_a_discriminator_is_of_a_patch_of_34_px():
    network = Discriminator(4)
    for name, module in list(network.body.named_children()):
        if type(module).__name__ == "InstanceNorm":  # it sees the whole picture
            setattr(network.body, name, nn.Identity())
    images = torch.rand(1, 3, 96, 96, requires_grad=True)
    scores = network(images)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    assert (int(seen.any(1).sum()), int(seen.any(0).sum())) == (34, 34)


def test_the_pool_shows_old_pictures_half_of_the_time():
    pool, rng = ImagePool(size=20), np.random.default_rng(0)
    first = torch.arange(20.0).view(20, 1, 1, 1)
    assert torch.equal(pool(first, rng), first), "all of them are new while it fills"
    shown = pool(torch.full((200, 1, 1, 1), 99.0), rng)
    old = int((shown != 99.0).sum())
    assert 10 <= old <= 20, "each is shown once at most: a new one takes its place"
    kept = sum(float(image) == 99.0 for image in pool.kept)
    assert kept == old
    assert len(pool.kept) == 20


def test_windows_have_the_defect_in_their_middle():
    exemplar = spot()
    windows = defect_windows(exemplar, SMALL, range(12))
    assert windows.shape == (12, 64, 64, 3)
    assert windows.dtype == np.uint8
    assert (windows[:, 32, 32] < 60).all()
    assert (windows[:, 4, 4] > 180).all()
    areas = {int((window[..., 0] < 120).sum()) for window in windows}
    assert len(areas) > 6, "of other sizes"
    assert np.array_equal(windows[3:5], defect_windows(exemplar, SMALL, [3, 4])), "each a function of its seed"
    grey = defect_windows(spot(channels=1), SMALL, range(12))
    assert np.array_equal(grey, windows)


def test_a_large_defect_is_brought_into_the_window():
    exemplar = spot(side=256)
    large = replace(exemplar, mask=np.pad(np.ones((200, 200), bool), 28))
    assert defect_windows(exemplar, SMALL, [1])[0].min() < 60
    fitted = defect_windows(replace(large, image=np.where(large.mask[..., None], 40, 200).astype(np.uint8)), SMALL, [1])
    assert (fitted > 180).mean() > 0.05, "good surface around it, of 8 px"


@pytest.fixture
def world(parts):
    """A reference, and its windows on a dataset of small parts."""
    dataset = open_dataset(parts)
    exemplar = located(read_exemplars(dataset)[0], None)
    return exemplar, Backgrounds(dataset)


def test_a_saved_state_goes_on_as_if_there_had_been_no_stop(world):
    exemplar, backgrounds = world
    fabric = launch(CPU, "32-true")
    batches = [batch for _, batch in Windows(exemplar, as_reference(exemplar), backgrounds, SMALL).batches(0)]
    through, before = (CycleGanLearner(fabric, SMALL, exemplar) for _ in range(2))
    for number, batch in enumerate(batches):
        through.update(batch, number, 8)
    for number, batch in enumerate(batches[:5]):
        before.update(batch, number, 8)
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after = CycleGanLearner(fabric, SMALL, exemplar)
    after.load(torch.load(file, weights_only=True))
    for number, batch in list(enumerate(batches))[5:]:
        after.update(batch, number, 8)
    first, second = through.network.state_dict(), after.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_way_there_and_back_is_learnt_and_the_surface_away_from_the_label_stays(world):
    _, backgrounds = world
    exemplar = located(spot(), None)
    settings = SMALL.model_copy(update={"channels": 8, "rate": 2e-3, "epochs": 30, "pictures": 8})
    fabric = launch(CPU, "32-true")
    learner = CycleGanLearner(fabric, settings, exemplar)
    good = torch.full((2, 3, 64, 64), 200 / 127.5 - 1)
    good += 0.05 * torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(2, 64, 64, dtype=torch.bool)
    label[:, 28:36, 28:36] = True
    batch = next(iter(Windows(exemplar, as_reference(exemplar), backgrounds, settings).batches(0)))[1]
    batch = replace(batch, good=good, coarse=good, label=label)
    cycles = []
    for number in range(120):
        figures, painted = learner.update(batch, number, 120)
        cycles.append(figures["cycle"])
    assert np.mean(cycles[-10:]) < 0.5 * np.mean(cycles[:10])
    assert torch.equal(painted[:, :, 4, 4], good[:, :, 4, 4]), "S away from L"


def test_a_loss_that_is_not_finite_stops_with_its_terms(world):
    exemplar, backgrounds = world
    learner = CycleGanLearner(launch(CPU, "32-true"), SMALL, exemplar)
    batch = next(iter(Windows(exemplar, as_reference(exemplar), backgrounds, SMALL).batches(0)))[1]
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    with pytest.raises(DatasetError, match=r"not finite at update 3 \(loss nan, adversarial nan"):
        learner.update(replace(batch, good=batch.good * float("nan")), 2, 8)
    assert all(torch.equal(value, before[name]) for name, value in learner.network.state_dict().items())


def test_a_training_writes_a_checkpoint_of_its_own_kind(world, tmp_path):
    exemplar, backgrounds = world
    path = train_dst(
        exemplar, backgrounds, tmp_path / "out", SMALL, hardware=CPU, console=Console(quiet=True), preview_every=8
    )
    found = load_dst(path)
    assert found.card.network == {"architecture": "cyclegan", "channels": 4, "blocks": 1, "sigma_px": 1.0}
    assert found.settings == SMALL
    assert found.card.provenance["updates"] == 8
    header = (tmp_path / "out" / "log.csv").read_text().splitlines()[0]
    assert header == "step,loss,adversarial,cycle,identity,judges,windows_per_s"
    assert (tmp_path / "out" / "previews" / "update-000008.png").is_file()
