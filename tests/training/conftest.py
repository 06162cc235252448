"""Training tests need torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_dataset

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'inspectd[train]'")
torch.set_num_threads(1)

import torchvision  # noqa: E402 - needs torch
from safetensors.torch import save_file  # noqa: E402 - needs torch


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered buttons at 96 px with three references (stain, scratch, hole) and six good parts; read only."""
    return write_dataset(tmp_path_factory.mktemp("parts") / "parts", size=96, defective=3, good=6, role="ref")


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG-19 with random weights up to relu3_1, as a truncated file."""
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
