"""What several folders of tests share."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import cv2
import pytest
from hypothesis import settings

# A shell script that starts the tests in the background makes them deaf to SIGINT, and all programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch and OpenBLAS are loaded: tests that run side by side must not fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("inspectd", settings.default, deadline=None)
settings.load_profile("inspectd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests for a GPU are skipped where NVIDIA's driver is not loaded."""
    if not Path("/dev/nvidiactl").exists():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


def write_dataset(root: Path, *, size: int = 64, defective: int = 6, good: int = 6, role: str = "extra") -> Path:
    """A small dataset of rendered buttons with the roles extra (or another), free, test and ok_test."""
    from inspectd.buttons import DEFECTS, LINES, render

    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = [("image", "mask", "defect", "role", "tile")]
    plan = [(role, True, defective), ("free", False, good), ("test", True, 3), ("ok_test", False, 3)]
    seed = 0
    for part_role, with_defect, count in plan:
        for index in range(count):
            defect = DEFECTS[index % len(DEFECTS)] if with_defect else None
            part = render(LINES[0], defect, seed, size)
            name = f"{part_role}-{index}.png"
            cv2.imwrite(str(root / "images" / name), part.image[..., ::-1])
            if defect:
                cv2.imwrite(str(root / "masks" / name), part.mask * 255)
            rows.append((f"images/{name}", f"masks/{name}" if defect else "", defect or "", part_role, f"t{seed}"))
            seed += 1
    with (root / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="session")
def buttons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of rendered buttons at 64 px; read only."""
    return write_dataset(tmp_path_factory.mktemp("data") / "buttons")


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered buttons at 96 px with three references (stain, scratch, hole) and six good parts; read only."""
    return write_dataset(tmp_path_factory.mktemp("parts") / "parts", size=96, defective=3, good=6, role="ref")


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG-19 with random weights up to relu3_1, as a truncated file."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    with torch.device("meta"):
        shapes = torchvision.models.vgg19(weights=None).features[:11].state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in shapes.items():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
        tensors[f"features.{name}"] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(tensors, path)
    return path
