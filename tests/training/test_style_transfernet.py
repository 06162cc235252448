"""The transfer network and the fusion: shapes, the identity at the start, arithmetic, export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from inspectd.errors import ConfigError
from inspectd.training.style.transfernet import (
    DefectTransfer,
    GaussianFusion,
    InstanceNorm,
    TransferNet,
    blur_reach,
    fuse,
    gaussian_mask,
    gaussian_taps,
)


def seeded(**options):
    torch.manual_seed(0)
    return TransferNet(**options)


def trained(**options):
    """A network whose output differs from its input, as after some updates."""
    network = seeded(**options)
    torch.nn.init.normal_(network.out[1].weight, std=0.3)
    return network


def pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def levels(images):
    """The 8-bit picture that values in -1..1 stand for."""
    return torch.round((images + 1.0) * 127.5).to(torch.uint8)


def test_the_residual_head_starts_as_the_identity_on_every_level():
    grey = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16).expand(1, 3, 16, 16) / 127.5 - 1.0
    out = seeded(width=4)(grey)
    assert torch.equal(levels(out), levels(grey))
    assert (out - grey).abs().max() <= 0.5 / 255.0 + 1e-6
    middle = grey.abs() < 0.99
    assert (out - grey)[middle].abs().max() < 1e-6


def test_the_plain_head_is_the_tanh_of_the_last_convolution():
    network, seen = seeded(width=4, head="plain"), []
    network.out.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    out = network(pictures(1, 3, 16, 16))
    assert torch.equal(out, torch.tanh(seen[0]))
    assert out.std() > 0.01


def test_the_residual_head_adds_a_tenth_before_the_tanh():
    network, x = seeded(width=4), pictures(1, 3, 8, 8) * 0.9
    network.out[1].bias.data.fill_(2.0)
    torch.testing.assert_close(network(x), torch.tanh(torch.atanh(x) + 0.2), atol=1e-6, rtol=1e-5)


def test_shapes_at_every_stage():
    network, shapes = seeded().eval(), {}
    for name, module in network.named_children():
        module.register_forward_hook(
            lambda _module, inputs, output, name=name: shapes.__setitem__(
                name, (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
            )
        )
    assert tuple(network(pictures(2, 3, 32, 48)).shape) == (2, 3, 32, 48)
    assert shapes == {
        "full": ((3, 32, 48), (32, 32, 48)),
        "down_half": ((32, 32, 48), (64, 16, 24)),
        "down_quarter": ((64, 16, 24), (128, 8, 12)),
        "residuals": ((128, 8, 12), (128, 8, 12)),
        "up_half": ((128, 16, 24), (64, 16, 24)),
        "up_full": ((128, 32, 48), (32, 32, 48)),
        "merge": ((64, 32, 48), (32, 32, 48)),
        "out": ((32, 32, 48), (3, 32, 48)),
    }


def test_kernels_and_parameters_are_the_papers():
    network = seeded()
    kernels = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in kernels] == [
        (3, 32, 9, 1),
        (32, 64, 3, 2),
        (64, 128, 3, 2),
        *[(128, 128, 3, 1)] * 8,
        (128, 64, 3, 1),
        (128, 32, 3, 1),
        (64, 32, 3, 1),
        (32, 3, 3, 1),
    ]
    # Convolutions, scale and shift of the norms, and the last convolution's bias.
    weights = 3 * 32 * 81 + 9 * (32 * 64 + 64 * 128 + 8 * 128 * 128 + 128 * 64 + 128 * 32 + 64 * 32 + 32 * 3)
    norms = 2 * (32 + 64 + 128 + 8 * 128 + 64 + 32 + 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights + norms + 3 == 1_412_227
    assert sum(parameter.numel() for parameter in seeded(width=8, blocks=2).parameters()) < 100_000


def test_gradients_reach_every_parameter_after_the_first_step():
    network = seeded(width=4)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    coarse, target = pictures(2, 3, 16, 16), pictures(2, 3, 16, 16, seed=1)
    for step in range(2):
        optimiser.zero_grad()
        F.mse_loss(network(coarse), target).backward()
        silent = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
        # At first the last convolution is zero: nothing passes through it.
        assert (set(silent) == {name for name, _ in network.named_parameters() if not name.startswith("out.")}) is (
            step == 0
        )
        optimiser.step()
    assert silent == []


def test_the_features_see_no_frame():
    """Reflection padding: a constant picture gives constant features, zero padding would mark the frame."""
    network, seen = seeded(width=4), []
    network.full[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network(torch.full((1, 3, 16, 16), 0.5))
    assert (seen[0] - seen[0][..., :1, :1]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("size", "nearest"), [((62, 96), "64x96"), ((64, 97), "64x96"), ((4, 4), "8x8"), ((0, 8), "8x8")]
)
def test_wrong_sizes_are_answered_with_the_nearest_right_one(size, nearest):
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]}.*nearest that are: {nearest}"):
        seeded(width=2)(torch.zeros(1, 3, *size))


def test_the_smallest_size_works():
    assert seeded(width=2)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="residual, plain"):
        TransferNet(head="tanh")
    with pytest.raises(ConfigError, match="width of at least 1"):
        TransferNet(width=0)
    for sigma in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="from 0"):
            GaussianFusion(sigma)


def test_instance_norm_is_that_of_its_definition():
    x = pictures(2, 3, 5, 7).double() * 4 + 3
    norm = InstanceNorm(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 0.5, 3.0])
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x.float()).double(), expected, atol=1e-5, rtol=1e-5)


def test_instance_norm_keeps_its_statistics_in_fp32():
    """A small texture on a large offset: in bf16 arithmetic nothing of it would be left."""
    wave = torch.linspace(0, 6, 64).sin().reshape(1, 1, 8, 8)
    x = (256.0 + 4 * torch.round(wave * 4)).to(torch.bfloat16)
    norm = InstanceNorm(1)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    exact = torch.equal(out, norm(x.float()).to(torch.bfloat16))
    assert exact
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x), out)
        assert norm(x.float()).dtype == torch.float32


@pytest.mark.parametrize("head", ["residual", "plain"])
@pytest.mark.parametrize("value", [-1.0, 1.0, 0.0, 1e4])
def test_bf16_stays_finite_on_extreme_pictures(head, value):
    network = trained(width=8, blocks=2, head=head)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.full((1, 3, 16, 16), value))
    out.square().sum().backward()
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.abs().max() <= 1.0
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_bf16_gives_the_same_picture_to_a_few_levels():
    network, x = trained(width=8, blocks=2).eval(), pictures(1, 3, 32, 32)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x)
    assert (exact - x).abs().mean() > 0.02
    assert (rough - exact).abs().mean() < 0.1 * (exact - x).abs().mean()


def test_channels_last_changes_nothing_and_is_kept():
    network, x = trained(width=8, blocks=2).eval(), pictures(2, 3, 16, 24)
    expected = network(x)
    network = network.to(memory_format=torch.channels_last)
    kept = []
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.register_forward_hook(
                lambda _m, _i, output: kept.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    out = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    assert len(kept) == 10
    assert all(kept)


@given(sigma=st.floats(0.0, 6.0))
def test_taps_are_an_even_share_of_one(sigma):
    taps = gaussian_taps(sigma)
    assert len(taps) == 2 * blur_reach(sigma) + 1
    assert taps == taps[::-1]
    assert sum(taps) == pytest.approx(1.0, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), sigma=st.floats(0.0, 3.0), height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_the_fusion_is_exactly_the_good_part_beyond_the_reach(seed, sigma, height, width):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random((1, 1, height, width)) < 0.1)
    share = gaussian_mask(mask, sigma)
    reach = blur_reach(sigma)
    near = F.max_pool2d(mask.float(), 2 * reach + 1, stride=1, padding=reach) > 0
    assert not share[~near].any()
    assert share.min() >= 0.0
    assert share.max() <= 1.0
    good, painted = pictures(1, 3, height, width, seed=1), pictures(1, 3, height, width, seed=2)
    out = fuse(painted, good, share)
    outside = ~near.expand_as(out)
    assert torch.equal(out[outside], good[outside])
    torch.testing.assert_close(out, good + share * (painted - good), atol=1e-6, rtol=0)


def test_without_blur_the_fusion_is_a_cut():
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:5, 3:6] = True
    good, painted = pictures(1, 3, 8, 8), pictures(1, 3, 8, 8, seed=1)
    assert torch.equal(GaussianFusion(0.0)(painted, good, mask), torch.where(mask, painted, good))


def test_a_straight_edge_blurs_as_the_gaussian_does():
    mask = torch.zeros(1, 1, 4, 40, dtype=torch.bool)
    mask[..., 20:] = True
    share = gaussian_mask(mask, 2.0)[0, 0, 0]
    assert share[19] + share[20] == pytest.approx(1.0, abs=1e-6)
    assert share[18:22].tolist() == pytest.approx([0.2242, 0.4002, 0.5998, 0.7758], abs=1e-3)
    assert share[13] == 0.0
    assert share[14] > 0.0
    # Beyond the frame the mask goes on.
    assert share[39] == pytest.approx(1.0, abs=1e-6)


def test_the_blur_stays_in_fp32_under_autocast():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1.0
    expected = gaussian_mask(mask, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_mask(mask, 1.0), expected)
        assert torch.equal(GaussianFusion(1.0)(torch.ones(1, 3, 9, 9), torch.zeros(1, 3, 9, 9), mask)[:, :1], expected)


def test_the_filter_is_no_part_of_the_weights():
    assert not GaussianFusion(2.0).state_dict()
    assert set(DefectTransfer(seeded(width=2)).state_dict()) == {
        f"network.{name}" for name in seeded(width=2).state_dict()
    }


def test_onnx_gives_what_torch_gives_at_any_batch():
    pytest.importorskip("onnx", reason="the export needs onnx: pip install 'inspectd[export]'")
    pytest.importorskip("onnxscript", reason="the export needs onnxscript: pip install 'inspectd[export]'")
    runtime = pytest.importorskip("onnxruntime", reason="pip install inspectd")
    model = DefectTransfer(trained(width=8, blocks=2), sigma_px=1.5).eval()
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:30, 25:50] = 1.0
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            model,
            (pictures(2, 3, 64, 64), pictures(2, 3, 64, 64, seed=1), mask),
            dynamo=True,
            opset_version=18,
            input_names=["coarse", "good", "mask"],
            output_names=["painted"],
            dynamic_shapes={name: {0: batch} for name in ("coarse", "good", "mask")},
            verbose=False,
        )
    graph = program.model_proto.graph
    names = [node.op_type for node in graph.node]
    assert not program.model_proto.functions
    assert names.count("InstanceNormalization") == 10
    assert not {"Shape", "Cast", "ReduceMean", "If", "Loop"} & set(names)
    assert [(entry.domain, entry.version) for entry in program.model_proto.opset_import] == [("", 18)]

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), options, ["CPUExecutionProvider"])
    for count in (1, 3):
        inputs = [
            pictures(count, 3, 64, 64, seed=5),
            pictures(count, 3, 64, 64, seed=6),
            mask[:1].repeat(count, 1, 1, 1),
        ]
        with torch.no_grad():
            expected = model(*inputs)
        given_ = dict(zip(("coarse", "good", "mask"), (value.numpy() for value in inputs), strict=True))
        (out,) = session.run(None, given_)
        assert (expected - inputs[1]).abs().max() > 0.1
        # fp32 sums in another order: far below the 1/255 of an 8-bit level.
        np.testing.assert_allclose(out, expected.numpy(), atol=2e-4)
        beyond = np.ones((64, 64), bool)
        beyond[15:35, 20:55] = False
        assert np.array_equal(out[..., beyond], inputs[1].numpy()[..., beyond])
