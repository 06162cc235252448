"""VGG-19: torchvision's activations, stand-ins for truncated weights, and refusals without a download."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.style.features import LAYERS, STRIDES, VGG19, load_vgg19

SHARED = Path(__file__).resolve().parents[3] / "shared/weights/vgg19_conv1_1_to_conv3_4.safetensors"
CONV2_1, CONV3_1, CONV3_4 = 6, 10, 16  # number of torchvision's module


def random_tensors(last=CONV3_1, seed=0):
    """VGG-19 up to a module of torchvision's, He-initialised so that activations keep their scale."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in torchvision_features().state_dict().items():
        if int(name.partition(".")[0]) <= last:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensors[f"features.{name}"] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
    return tensors


def torchvision_features(network="vgg19"):
    with torch.device("meta"):
        return getattr(torchvision.models, network)(weights=None).features


def shapes_of(network):
    """Tensors of a network of torchvision's that take no memory."""
    return {
        f"features.{name}": torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in torchvision_features(network).state_dict().items()
    }


def images(height=32, width=48, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache and no name that resolves; counts the attempts."""
    attempts = []

    def unresolved(*arguments, **_):
        attempts.append(arguments[0])
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    return attempts


def test_every_activation_is_torchvisions():
    tensors = random_tensors(last=36)
    reference = torchvision_features().to_empty(device="cpu")
    reference.load_state_dict({name.removeprefix("features."): tensor for name, tensor in tensors.items()})
    activations, channels = [], []
    with torch.no_grad():
        x = torchvision.transforms.functional.normalize(images(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        for module in reference:
            x = module(x.clone())
            if isinstance(module, torch.nn.ReLU):
                activations.append(x)
                channels.append(x.shape[1])
        found = VGG19(reversed(LAYERS), tensors, "random")(images())
    assert tuple(found) == LAYERS
    for layer, expected in zip(LAYERS, activations, strict=True):
        torch.testing.assert_close(found[layer], expected, rtol=1e-5, atol=1e-5)
        assert found[layer].shape[2:] == (32 // STRIDES[layer], 48 // STRIDES[layer])
        assert found[layer].abs().max() > 0.1
    assert channels == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8


def test_strides_are_those_of_the_blocks():
    blocks = {"relu1": 1, "relu2": 2, "relu3": 4, "relu4": 8, "relu5": 16}
    assert {layer: blocks[layer[:5]] for layer in LAYERS} == STRIDES


def test_only_what_is_asked_for_is_given_and_nothing_deeper_is_held():
    network = VGG19(["relu2_1", "relu1_1"], random_tensors(), "random")
    assert list(network(images())) == ["relu1_1", "relu2_1"]
    assert list(network.convolutions) == ["relu1_1", "relu1_2", "relu2_1"]
    assert network.replaced == {}


def test_gradients_go_to_the_image_and_never_to_the_weights():
    network = VGG19(["relu2_1"], random_tensors(CONV2_1), "random").train()
    leaf = images().requires_grad_()
    network(leaf)["relu2_1"].square().sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_the_gradient_of_the_image_is_that_of_finite_differences():
    network = VGG19(["relu1_2"], random_tensors(CONV2_1), "random").double()
    leaf = images(4, 4, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x)["relu1_2"].sum(dim=1), leaf)


def test_building_it_leaves_the_global_random_state_alone():
    tensors = random_tensors(CONV2_1)
    before = torch.get_rng_state()
    VGG19(["relu2_1"], tensors, "random")
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_autocast_and_channels_last_give_the_same_features_more_coarsely():
    network = VGG19(["relu1_1", "relu3_1"], random_tensors(), "random")
    exact = network(images())
    network = network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(images().to(memory_format=torch.channels_last))
    for layer, features in coarse.items():
        assert features.dtype == torch.bfloat16
        assert features.is_contiguous(memory_format=torch.channels_last)
        error = (features.float() - exact[layer]).norm() / exact[layer].norm()
        assert error < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for it")
def test_a_gpu_gives_the_same_features():
    network = VGG19(["relu1_1", "relu3_1"], random_tensors(), "random")
    exact = network(images())
    network = network.to("cuda", memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        coarse = network(images().to("cuda", memory_format=torch.channels_last))
    for layer, features in coarse.items():
        assert (features.float().cpu() - exact[layer]).norm() / exact[layer].norm() < 0.02


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_files_of_both_kinds_are_read_in_half_precision_too(tmp_path, ending):
    tensors = {name: tensor.half() for name, tensor in random_tensors(CONV2_1).items()}
    tensors["classifier.0.weight"] = torch.zeros(1)
    path = tmp_path / f"vgg.{ending}"
    (save_file if ending == "safetensors" else torch.save)(tensors, path)
    network = load_vgg19(["relu2_1"], str(path))
    expected = VGG19(["relu2_1"], {name: tensor.float() for name, tensor in tensors.items()}, "random")
    assert torch.equal(network(images())["relu2_1"], expected(images())["relu2_1"])


def test_missing_layers_are_replaced_by_the_deepest_first_of_a_block():
    asked = ("relu1_1", "relu3_4", "relu4_1", "relu5_2")
    network = VGG19(asked, random_tensors(CONV3_4), "random")
    assert network.used == {
        "relu1_1": "relu1_1", "relu3_4": "relu3_4", "relu4_1": "relu3_1", "relu5_2": "relu3_1"
    }  # fmt: skip
    assert network.replaced == {"relu4_1": "relu3_1", "relu5_2": "relu3_1"}
    assert list(network(images())) == ["relu1_1", "relu3_1", "relu3_4"]
    short = VGG19(["relu3_3", "relu2_2"], random_tensors(CONV3_1), "random")
    assert short.replaced == {"relu3_3": "relu3_1"}


@pytest.mark.skipif(not SHARED.is_file(), reason=f"the truncated ImageNet weights are not in {SHARED.parent}")
def test_the_truncated_imagenet_weights_end_at_conv3_4():
    network = load_vgg19(["relu1_1", "relu3_4", "relu4_1"], str(SHARED))
    assert network.replaced == {"relu4_1": "relu3_1"}
    means = {layer: float(features.mean()) for layer, features in network(images(64, 64)).items()}
    assert list(means) == ["relu1_1", "relu3_1", "relu3_4"]
    assert all(5 < mean < 1000 for mean in means.values())


def damaged(**changes):
    tensors = random_tensors(CONV2_1) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"holds no VGG-19; expected .* features.0.weight \[64, 3, 3, 3\]"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "holds no VGG-19"),
        (shapes_of("vgg19_bn"), "is no tensor of VGG-19|VGG-19 has float"),
        (shapes_of("vgg16"), "is no tensor of VGG-19|VGG-19 has float"),
        (damaged(features__0__weight=torch.zeros(16, 3, 3, 3)), r"\[16, 3, 3, 3\], VGG-19 has float \[64, 3, 3, 3\]"),
        (damaged(features__2__weight=None), "lacks features.2.weight"),
        (damaged(features__5__bias=None), "lacks features.5.bias"),
        (damaged(features__2__bias=torch.zeros(64, dtype=torch.int8)), "features.2.bias is torch.int8"),
        (damaged(features__2__bias=torch.full((64,), torch.nan)), "features.2.bias is not finite"),
    ],
    ids=["empty", "resnet", "batch norm", "vgg16", "slim", "gap", "half a layer", "integers", "nan"],
)
def test_other_weights_are_refused(tensors, message):
    with pytest.raises(DatasetError, match=message):
        VGG19(["relu1_1"], tensors, "other.pth")


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors", "absent.pth", "absent.safetensors"):
        with pytest.raises(DatasetError, match="cannot be read as weights") as caught:
            load_vgg19(["relu1_1"], str(tmp_path / name))
        assert "None" not in str(caught.value)
    with pytest.raises(DatasetError, match="expected a dictionary of tensors"):
        load_vgg19(["relu1_1"], str(tmp_path / "list.pth"))


def test_unknown_layers_are_refused():
    with pytest.raises(ConfigError, match=r"'conv1_1' is not one of VGG-19's: relu1_1, .*relu5_4"):
        VGG19(["conv1_1"], random_tensors(CONV2_1), "random")
    with pytest.raises(ConfigError, match="expected at least one"):
        VGG19([], random_tensors(CONV2_1), "random")


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 16, 16), torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 3), torch.zeros(1, 3, 16, 16).byte()],
    ids=["no batch", "grey", "too small", "8 bits"],
)
def test_other_images_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected float \[N, 3, H, W\]"):
        VGG19(["relu3_1"], random_tensors(), "random")(wrong)


def test_without_a_network_the_remedy_is_named(no_network):
    with pytest.raises(DatasetError, match=r"could not be downloaded.*--vgg-weights FILE"):
        load_vgg19(["relu1_1"])
    assert no_network


def test_the_cache_is_used_without_a_network(no_network, tmp_path, capsys):
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    torch.save(random_tensors(CONV2_1), cache / "vgg19-dcbb9e9d.pth")
    network = load_vgg19(["relu2_1"])
    assert torch.equal(network.convolutions["relu1_1"].bias, random_tensors(CONV2_1)["features.0.bias"])
    (cache / "vgg19-dcbb9e9d.pth").write_bytes(b"cut off")
    with pytest.raises(DatasetError, match=r"copy in .*hub/checkpoints is damaged"):
        load_vgg19(["relu2_1"])
    assert not no_network
