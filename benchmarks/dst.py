"""How fast DST trains and simulates: the paper's schedule for one defect type, and pictures generated a second.

On rendered buttons, through the commands' own functions: pictures from files, placements, losses, logs, datasets
written. VGG-19 has random weights, which take as long as trained ones.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torchvision
from rich.console import Console
from safetensors.torch import save_file

from inspectd.dataset import open_dataset
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.parts import Backgrounds, as_reference, read_exemplars
from inspectd.simulation.planning import plan
from inspectd.training.data.buttons import write_buttons
from inspectd.training.devices import Hardware
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.simulate import SimulateSettings, Work, simulate
from inspectd.training.style.train import train_dst

from .measure import Report, table

__all__ = ["LEAST_PER_S", "MOST_S", "run"]

WINDOWS = 2380
"""Of one defect type in the paper's schedule: 238 pictures, 10 passes."""
MOST_S = 300.0
"""Of a defect type's training on 2 cores; the paper's 5 minutes on a GTX 1070 Ti."""
LEAST_PER_S = 20.0
"""Pictures generated and written a second on 2 cores; the paper's "up to 20" on that GPU."""
_PICTURES = 288
_PLACED = 8


def run(*, repeats: int, size: int, updates: int = 12, accelerator: str = "auto") -> Report:
    """Train for a few updates and simulate some pictures, `repeats` times each.

    Args:
        repeats: rounds.
        size: side of the pictures, px.
        updates: of each round's training; the first two of them, which load and calibrate, do not count.
        accelerator: auto, cpu or gpu.
    """
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="inspectd-dst-") as folder:
        root = Path(folder)
        data = write_buttons(root / "data", protocol="paper", size=size).root
        weights = root / "vgg19.safetensors"
        _random_vgg(weights)
        dataset = open_dataset(data)
        exemplars = read_exemplars(dataset)
        settings = DstSettings(vgg=str(weights), epochs=1, pictures=4 * updates)
        rates: list[float] = []
        for round_number in range(repeats):
            out = root / f"network-{round_number}"
            exemplar = exemplars[round_number % len(exemplars)]
            hardware = Hardware(accelerator=accelerator)
            quiet = Console(quiet=True)
            train_dst(exemplar, Backgrounds(dataset), out, settings, hardware=hardware, preview_every=0, console=quiet)
            rows = (out / "log.csv").read_text().splitlines()[3:]
            seconds = [settings.batch / float(row.rpartition(",")[2]) for row in rows]
            rates.append(settings.batch * len(seconds) / sum(seconds))
        networks = []
        for exemplar in exemplars:
            out = root / "networks" / exemplar.defect
            short = settings.model_copy(update={"pictures": 2, "batch": 2})
            train_dst(exemplar, Backgrounds(dataset), out, short, preview_every=0, console=Console(quiet=True))
            networks.append(out)
        placing_s = _placing_s(Backgrounds(dataset), exemplars)
        generated = [_generated(root, data, tuple(networks), device, number) for number in range(min(repeats, 3))]
    training_s = WINDOWS * (1.0 / median(rates) + placing_s)
    passed = training_s <= MOST_S and median(generated) >= LEAST_PER_S
    text = f"{size} px, {device}, {torch.get_num_threads()} threads: {'pass' if passed else 'FAIL'}\n" + table(
        ("figure", "median", "lowest", "highest", "bound"),
        (
            ("windows trained a second", f"{median(rates):.1f}", f"{min(rates):.1f}", f"{max(rates):.1f}", ""),
            ("milliseconds to place one", f"{1e3 * placing_s:.1f}", "", "", ""),
            (f"seconds for {WINDOWS} of them", f"{training_s:.0f}", "", "", f"{MOST_S:g}"),
            (
                "pictures generated and written a second",
                f"{median(generated):.1f}",
                f"{min(generated):.1f}",
                f"{max(generated):.1f}",
                f"{LEAST_PER_S:g}",
            ),
        ),
    )
    values = {
        "size_px": size,
        "device": device,
        "windows_per_s": rates,
        "placing_s": placing_s,
        "training_s": training_s,
        "generated_per_s": generated,
        "passed": passed,
    }
    return Report(text, values, passed)


def _placing_s(backgrounds: Backgrounds, exemplars: tuple[Exemplar, ...]) -> float:
    """Seconds for a placement, the mean over all types and as many passes as a training makes.

    What is worked out for a background once is shared by the passes, as it is in a training.
    """
    references = [as_reference(exemplar) for exemplar in exemplars]
    begun = time.monotonic()
    few = backgrounds[:_PLACED]
    for passing in range(DstSettings().epochs):
        for reference in references:
            plan([reference], few, _PLACED, DstSettings().placement, passing)
    return (time.monotonic() - begun) / (DstSettings().epochs * len(references) * _PLACED)


def _generated(root: Path, data: Path, networks: tuple[Path, ...], device: str, number: int) -> float:
    """Pictures painted and written a second, without placing them and without starting the processes."""
    count = _PICTURES
    times: list[tuple[float, int]] = []

    def note(what: str, done: int, _total: int) -> None:
        if what == "painting":
            times.append((time.monotonic(), done))

    settings = SimulateSettings(count=count, roles=(), seed=number)
    simulate(Work(data, root / f"simulated-{number}", networks, device=device), settings, progress=note)
    # The first pictures wait for the processes that paint them.
    (begun, first), (ended, last) = times[1 + count // 4], times[-1]
    return (last - first) / (ended - begun)


def _random_vgg(path: Path) -> None:
    """VGG-19 up to relu4_1 with random weights that keep the activations' scale."""
    with torch.device("meta"):
        shapes = torchvision.models.vgg19(weights=None).features[:20].state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in shapes.items():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
        tensors[f"features.{name}"] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
    save_file(tensors, path)
