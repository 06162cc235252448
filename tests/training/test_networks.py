"""The networks that Buttonlab is compared with, behind its interface."""

from __future__ import annotations

import sys

import pytest
import torch
from rich.console import Console

from inspectd.errors import ConfigError, DatasetError, MissingDependencyError
from inspectd.export.bundler import export_bundle
from inspectd.training.segmentation.backbones import load_weights
from inspectd.training.segmentation.buttonlab import Buttonlab, Crop
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.networks import ARCHITECTURES, build_network
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import Hardware, train

QUIET = Console(quiet=True)
BASELINES = [name for name in ARCHITECTURES if name != "buttonlab"]


@pytest.mark.parametrize("architecture", BASELINES)
def test_a_crop_is_cut_from_what_the_whole_picture_gives(architecture):
    network = build_network(architecture, "resnet18", classes=2).eval()
    images = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(images)
        part = network(images, Crop((32, 40), ((0, 0), (28, 36))))
    assert whole.shape == (2, 3, 64, 80)
    assert torch.equal(part, torch.stack([whole[0, :, :32, :40], whole[1, :, 28:60, 36:76]]))
    with pytest.raises(ConfigError, match="multiples of 16"):
        network(images[..., :70])


@pytest.mark.parametrize("backbone", ["resnet18", "slim"])
@pytest.mark.parametrize("architecture", BASELINES)
def test_the_encoder_takes_the_same_weights_as_buttonlab_s(architecture, backbone, tmp_path):
    parts = {"backbone": build_network("buttonlab", backbone).backbone}
    path = tmp_path / "weights.pth"
    torch.save(parts["backbone"].state_dict(), path)
    network = build_network(architecture, backbone)
    taken = load_weights(network.pretrained_parts(), backbone, str(path))
    assert taken == {"backbone": len(parts["backbone"].state_dict())}
    encoder = network.pretrained_parts()["backbone"].state_dict()
    assert all(torch.equal(encoder[name], value) for name, value in parts["backbone"].state_dict().items())


def test_what_cannot_be_built_is_answered(monkeypatch):
    assert isinstance(build_network("buttonlab", "slim"), Buttonlab)
    with pytest.raises(ConfigError, match="'vgg' is not one of buttonlab, deeplabv3plus, unet"):
        build_network("vgg", "resnet18")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'inspectd\[baselines\]'"):
        build_network("unet", "resnet18")


def test_a_baseline_is_trained_and_read_but_not_exported(buttons, tmp_path):
    settings = SegmentSettings(
        network="unet", backbone="resnet18", height=32, width=32, batch=4, steps=2, roles=("ref", "extra"), crop=0.5
    )
    checkpoint = train(buttons, tmp_path / "net", settings, hardware=Hardware(accelerator="cpu"), console=QUIET)
    found = load_checkpoint(checkpoint)
    assert found.card.network == {"architecture": "unet", "backbone": "resnet18"}
    assert found.network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(DatasetError, match=r"holds a unet, .* only a buttonlab is exported"):
        export_bundle(checkpoint, tmp_path / "bundle")
    other = settings.model_copy(update={"network": "buttonlab", "start": str(checkpoint)})
    with pytest.raises(ConfigError, match=r"is a unet resnet18 .*; this training is of a buttonlab resnet18"):
        train(buttons, tmp_path / "other", other, hardware=Hardware(accelerator="cpu"), console=QUIET)


def test_a_network_of_the_user_s_own_is_built_by_name_but_never_for_a_file_s_sake(buttons, tmp_path, monkeypatch):
    module = tmp_path / "mynet.py"
    module.write_text(
        "from torch import nn\n\n\ndef build(logits):\n    return nn.Conv2d(3, logits, 3, padding=1)\n\n\n"
        "def nothing(logits):\n    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build_network("mynet:build", "slim", classes=2)(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    for name, message in (
        ("mynet:missing", "has no attribute 'missing'"),
        ("nowhere.at_all:build", "No module named 'nowhere'.*PYTHONPATH"),
        ("mynet:nothing", "gives a NoneType, expected a torch.nn.Module"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_network(name, "slim")
    settings = SegmentSettings(
        network="mynet:build", height=32, width=32, batch=4, steps=1, roles=("extra",), precision="32-true"
    )
    checkpoint = train(buttons, tmp_path / "net", settings, hardware=Hardware(accelerator="cpu"), console=QUIET)
    assert load_checkpoint(checkpoint, own="mynet:build").network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(DatasetError, match=r"a network of the user's own, mynet:build, whose code is not run"):
        load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="leave weights out"):
        SegmentSettings(network="mynet:build", weights="imagenet")
    with pytest.raises(ValueError, match="network"):
        SegmentSettings(network="my net:build")
