"""The network: shapes, the partial-image strategy, backbones and their weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.segmentation.backbones import BACKBONES, build, load_weights
from inspectd.training.segmentation.buttonlab import Buttonlab, Crop, cut


def seeded(backbone="slim", classes=1):
    torch.manual_seed(0)
    return Buttonlab(backbone, classes=classes)


@pytest.mark.parametrize("training", [True, False])
def test_a_full_crop_equals_no_crop_exactly(training):
    images = torch.randn(2, 3, 64, 96)
    whole = seeded().train(training)(images)
    cropped = seeded().train(training)(images, Crop((64, 96), ((0, 0), (0, 0))))
    assert torch.equal(whole, cropped)


def test_the_backbone_sees_beyond_the_crop_and_the_branch_does_not():
    network = seeded().eval()
    images = torch.randn(1, 3, 64, 64)
    crop = Crop((32, 32), ((0, 0),))
    elsewhere = images.clone()
    elsewhere[..., 40:, 40:] += 1.0
    assert not torch.equal(network(images, crop), network(elsewhere, crop))
    seen = []
    network.branch.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    network(images, crop)
    assert torch.equal(seen[0], images[..., :32, :32])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_shapes_at_every_stage(backbone):
    spec, images = BACKBONES[backbone], torch.randn(1, 3, 64, 96)
    network = seeded(backbone, classes=3).eval()
    shapes = {}
    for name in ("high", "merge_quarter", "fine", "merge_half"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.__setitem__(name, tuple(output.shape[1:]))
        )
    low, high = network.backbone(images)
    assert tuple(low.shape[1:]) == (spec.low, 16, 24)
    assert tuple(high.shape[1:]) == (spec.high, 4, 6)
    assert tuple(network.branch(images).shape[1:]) == (spec.branch, 32, 48)
    assert tuple(network(images).shape) == (1, 4, 64, 96)
    assert shapes == {
        "high": (spec.decoder[0], 4, 6),
        "merge_quarter": (spec.decoder[0], 16, 24),
        "fine": (spec.skips[1], 32, 48),
        "merge_half": (spec.decoder[1], 32, 48),
    }


def test_the_slim_network_is_small():
    assert sum(parameter.numel() for parameter in seeded().parameters()) <= 4_000_000


def test_wrong_sizes_are_answered_with_the_nearest_right_one():
    with pytest.raises(ConfigError, match="nearest that are: 64x96"):
        seeded()(torch.zeros(1, 3, 60, 100))


def test_wrong_names_are_refused():
    with pytest.raises(ConfigError, match="resnet50, resnet34, resnet18, slim"):
        Buttonlab("vgg")
    with pytest.raises(ConfigError, match="at least 1"):
        Buttonlab("slim", classes=0)


def test_crops_off_the_grid_or_outside_are_refused():
    x = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="multiples of 4"):
        cut(x, Crop((32, 32), ((2, 0),)), 1)
    with pytest.raises(ValueError, match="leaves its picture"):
        cut(x, Crop((32, 32), ((36, 0),)), 1)


def test_output_stride_16_is_torchvisions():
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    backbone, _ = build("resnet50")
    backbone.load_state_dict(
        {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    )
    x = torch.randn(1, 3, 64, 64)
    expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        expected = layer(expected)
    assert torch.equal(backbone.eval()(x)[1], expected)


def test_local_weights_fill_what_they_hold(tmp_path):
    torch.manual_seed(1)
    reference = torchvision.models.resnet18().state_dict()
    stem = {name: value for name, value in reference.items() if name.startswith(("conv1", "bn1", "layer1"))}
    save_file(stem, tmp_path / "stem.safetensors")
    network = seeded("resnet18")
    before = network.backbone.layer4[0].conv1.weight.clone()
    taken = load_weights(network.pretrained_parts(), "resnet18", str(tmp_path / "stem.safetensors"))
    assert taken == {"backbone": len(stem), "branch": len(stem)}
    assert torch.equal(network.backbone.layer1[0].conv1.weight, reference["layer1.0.conv1.weight"])
    assert torch.equal(network.branch.conv1.weight, reference["conv1.weight"])
    assert torch.equal(network.backbone.layer4[0].conv1.weight, before)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    network = seeded("resnet18")
    save_file({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(DatasetError, match=r"conv1.weight is \[64, 3, 3, 3\]"):
        load_weights(network.pretrained_parts(), "resnet18", str(tmp_path / "other.safetensors"))
    save_file({"stem": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(DatasetError, match="holds no tensor of resnet18"):
        load_weights(network.pretrained_parts(), "resnet18", str(tmp_path / "none.safetensors"))
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("text.pth", "absent.safetensors"):
        with pytest.raises(DatasetError, match="cannot be read as weights"):
            load_weights(network.pretrained_parts(), "resnet18", str(tmp_path / name))
    with pytest.raises(ConfigError, match="no ImageNet weights for the slim"):
        load_weights(network.pretrained_parts(), "slim", "imagenet")
