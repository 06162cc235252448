"""The losses of the transfer against plain loops, under masks that differ from picture to picture."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import ValidationError

from inspectd.errors import DatasetError
from inspectd.simulation.histmatch import match_values
from inspectd.training.style.features import LAYERS, STRIDES, VGG19
from inspectd.training.style.histmatch import SortedReference
from inspectd.training.style.losses import (
    Targets,
    calibrate,
    content_loss,
    gram,
    hist_loss,
    histogram_references,
    pool_mask,
    pool_masks,
    style_loss,
    transfer_loss,
    transfer_terms,
    tv_loss,
)
from inspectd.training.style.settings import PRESETS, TERMS, LossSettings, TermWeights

# The first call of a kernel of PyTorch takes longer than hypothesis allows an example.
unhurried = settings(deadline=None, max_examples=40)
masks = npst.arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
seeds = st.integers(0, 10_000)


def normal(shape, seed, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def features_under(mask, seed, channels=3):
    return normal((len(mask), channels, *mask.shape[1:]), seed)


def reference_of(seed, channels=3, cells=7):
    return SortedReference.of(normal((channels, cells), seed))


def some_cells(count=2, height=4, width=4, seed=0):
    """Bool [count, height, width], between 2 cells and all but one, differing between pictures."""
    rng = np.random.default_rng(seed)
    cells = np.zeros((count, height * width), np.bool_)
    for picture in cells:
        picture[rng.permutation(height * width)[: rng.integers(2, height * width)]] = True
    return torch.from_numpy(cells.reshape(count, height, width))


def places(mask):
    return [(y, x) for y, x in itertools.product(*map(range, mask.shape)) if mask[y, x]]


def plain_content(output, target, mask):
    total = 0.0
    for picture, wanted, inside in zip(output, target, mask, strict=True):
        squares = sum((picture[c, y, x] - wanted[c, y, x]) ** 2 for c in range(len(picture)) for y, x in places(inside))
        total += squares / (len(picture) * max(len(places(inside)), 1))
    return total / len(output)


def plain_gram(picture, inside):
    channels = len(picture)
    matrix = np.zeros((channels, channels))
    for a, b in itertools.product(range(channels), repeat=2):
        matrix[a, b] = sum(picture[a, y, x] * picture[b, y, x] for y, x in places(inside))
    return matrix / (channels * max(len(places(inside)), 1))


def plain_style(output, mask, target, target_mask, *, summed=False):
    total = 0.0
    for n, (picture, inside) in enumerate(zip(output, mask, strict=True)):
        there = n if len(target) > 1 else 0
        cells, target_cells = len(places(inside)), len(places(target_mask[there]))
        if cells and target_cells:
            scale = len(picture) * cells if summed else 1
            distance = plain_gram(picture, inside) - plain_gram(target[there], target_mask[there])
            total += sum((scale * entry) ** 2 for entry in distance.flat)
    return total / len(output)


def plain_hist(output, mask, reference, *, summed=False, method="quantile"):
    total = 0.0
    for picture, inside in zip(output, mask, strict=True):
        if not inside.any():
            continue
        values = np.array([[picture[c, y, x] for c in range(len(picture))] for y, x in places(inside)])
        squares = ((values - match_values(values, reference.T, method)) ** 2).sum()
        total += squares if summed else squares / values.size
    return total / len(output)


def plain_tv(images, mask, *, summed=False, white=1.0):
    total = 0.0
    for picture, inside in zip(images, mask, strict=True):
        squares = 0.0
        for y, x in places(inside):
            for beside in ((y, x + 1), (y + 1, x)):
                if beside in places(inside):
                    squares += sum((white * (channel[beside] - channel[y, x])) ** 2 for channel in picture)
        total += squares if summed else squares / (len(picture) * max(len(places(inside)), 1))
    return total / len(images)


@unhurried
@given(masks, seeds)
def test_content_is_equation_1_over_the_cells(mask, seed):
    output, target = features_under(mask, seed), features_under(mask, seed + 1)
    found = content_loss(output, target, torch.from_numpy(mask))
    assert found.item() == pytest.approx(plain_content(output.numpy(), target.numpy(), mask))


@unhurried
@given(masks, seeds, st.booleans(), st.booleans(), st.floats(0, 1))
def test_style_is_equation_2_over_the_cells_of_each_mask(mask, seed, summed, one, share):
    rng = np.random.default_rng(seed)
    target_mask = rng.random((1 if one else len(mask), 4, 3)) < share
    output, target = features_under(mask, seed), features_under(target_mask, seed + 1)
    found = style_loss(output, torch.from_numpy(mask), target, torch.from_numpy(target_mask), summed=summed)
    expected = plain_style(output.numpy(), mask, target.numpy(), target_mask, summed=summed)
    assert found.item() == pytest.approx(expected)


@unhurried
@given(masks, seeds, st.booleans(), st.sampled_from(["quantile", "rank"]))
def test_hist_is_equation_4_over_the_cells(mask, seed, summed, method):
    output = features_under(mask, seed).round(decimals=1).relu()  # ties, as after a ReLU
    reference = normal((3, 7), seed + 1).relu()
    found = hist_loss(output, torch.from_numpy(mask), SortedReference.of(reference), summed=summed, method=method)
    expected = plain_hist(output.numpy(), mask, reference.numpy(), summed=summed, method=method)
    assert found.item() == pytest.approx(expected)


@unhurried
@given(masks, seeds, st.booleans(), st.sampled_from([1.0, 255.0]))
def test_tv_is_equation_5_over_pairs_inside_the_mask(mask, seed, summed, white):
    images = features_under(mask, seed)
    found = tv_loss(images, torch.from_numpy(mask), summed=summed, white=white)
    assert found.item() == pytest.approx(plain_tv(images.numpy(), mask, summed=summed, white=white))


def each_loss(every_cell, seed=0, pictures=slice(None)):
    """Every loss as a function of the output's features alone, in each of its forms; for some of the pictures."""
    every_target, reference = features_under(every_cell, seed + 1), reference_of(seed + 2)
    every_target_cell = torch.from_numpy(np.random.default_rng(seed).random(every_cell.shape) < 0.5)
    cells, target, target_cells = every_cell[pictures], every_target[pictures], every_target_cell[pictures]
    return {
        "content": lambda x: content_loss(x, target, cells),
        "style": lambda x: style_loss(x, cells, target, target_cells),
        "style, summed": lambda x: style_loss(x, cells, target, target_cells, summed=True),
        "style of one": lambda x: style_loss(x, cells, every_target[:1], every_target_cell[:1]),
        "hist": lambda x: hist_loss(x, cells, reference),
        "hist, summed": lambda x: hist_loss(x, cells, reference, summed=True),
        "tv": lambda x: tv_loss(x, cells),
        "tv, summed": lambda x: tv_loss(x, cells, summed=True, white=255.0),
    }


FORMS = tuple(each_loss(some_cells()))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    # Distinct values: the ranks, and with them the matched target, hold still under a small step.
    cells = some_cells(seed=4)
    loss, output = each_loss(cells)[form], features_under(cells, 5).requires_grad_()
    assert torch.autograd.gradcheck(loss, output)
    (gradient,) = torch.autograd.grad(loss(output), output)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
@given(masks, seeds)
@unhurried
def test_nothing_outside_the_mask_has_any_influence(form, mask, seed):
    cells = torch.from_numpy(mask)
    loss, output = each_loss(cells, seed)[form], features_under(mask, seed)
    elsewhere = torch.where(cells[:, None], output, torch.nan).requires_grad_()
    assert torch.equal(loss(elsewhere), loss(output))
    (gradient,) = torch.autograd.grad(loss(elsewhere), elsewhere)
    assert not gradient.masked_select(~cells[:, None]).any()


def test_what_a_target_has_outside_its_mask_has_no_influence():
    cells = some_cells()
    output, target = features_under(cells, 0), features_under(cells, 1)
    elsewhere = torch.where(cells[:, None], target, torch.inf)
    assert torch.equal(content_loss(output, elsewhere, cells), content_loss(output, target, cells))
    assert torch.equal(style_loss(output, cells, elsewhere, cells), style_loss(output, cells, target, cells))


def test_targets_are_held_constant():
    cells = some_cells()
    output, target = features_under(cells, 0).requires_grad_(), features_under(cells, 1).requires_grad_()
    total = content_loss(output, target, cells) + style_loss(output, cells, target, cells)
    total = total + hist_loss(output, cells, SortedReference.of(target[0][:, cells[0]]))
    total.backward()
    assert output.grad.any()
    assert target.grad is None


def test_equal_features_cost_nothing():
    cells = some_cells()
    output = features_under(cells, 0)
    assert content_loss(output, output, cells) == 0
    assert style_loss(output, cells, output, cells) == 0
    own = SortedReference.of(output[0][:, cells[0]])
    assert hist_loss(output[:1], cells[:1], own) == 0
    assert tv_loss(torch.ones(2, 3, 4, 4), cells) == 0


def test_where_a_cell_stands_matters_to_content_alone():
    cells = some_cells(seed=6)
    output = features_under(cells, 0)
    moved = output.clone()
    for picture, inside in zip(moved, cells, strict=True):
        picture[:, inside] = picture[:, inside].flip(1)
    losses = each_loss(cells)
    torch.testing.assert_close(gram(moved, cells), gram(output, cells))
    torch.testing.assert_close(losses["hist"](moved), losses["hist"](output))
    assert not torch.isclose(losses["content"](moved), losses["content"](output))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_the_mean_of_its_pictures(form):
    cells = some_cells(3, seed=7)
    output = features_under(cells, 0)
    alone = [each_loss(cells, pictures=slice(n, n + 1))[form](output[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(each_loss(cells)[form](output), torch.stack(alone).mean())


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_mask_costs_nothing_and_pulls_nowhere(form):
    cells = torch.zeros(2, 4, 4, dtype=torch.bool)
    output = normal((2, 3, 4, 4), 0).requires_grad_()
    loss = each_loss(cells)[form](output)
    assert loss == 0
    assert not torch.autograd.grad(loss, output)[0].any()


def test_a_style_target_without_a_cell_pulls_nowhere():
    cells = some_cells()
    output = features_under(cells, 0)
    assert style_loss(output, cells, output, torch.zeros_like(cells)) == 0


def test_a_copied_mask_twice_as_large_changes_no_mean_and_doubles_the_sums():
    cells, output = some_cells(), features_under(some_cells(), 0)
    wide_cells, wide = torch.cat((cells, cells), dim=2), torch.cat((output, output), dim=3)
    target, target_cells = features_under(cells, 1), some_cells(seed=3)
    torch.testing.assert_close(gram(wide, wide_cells), gram(output, cells))
    once = style_loss(output, cells, target, target_cells, summed=True)
    torch.testing.assert_close(style_loss(wide, wide_cells, target, target_cells, summed=True), 4 * once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_losses_are_still_those_of_fp32(form, dtype):
    cells = some_cells(2, 16, 16)
    output = (100 * features_under(cells, 0)).to(dtype)
    loss = each_loss(cells)[form]
    expected = loss(output.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(output)
    assert found.dtype == expected.dtype
    assert found.item() == expected.item()


def test_sums_that_leave_half_precision_are_finite():
    cells = torch.ones(1, 64, 64, dtype=torch.bool)
    output = torch.full((1, 8, 64, 64), 400.0, dtype=torch.float16)
    loss = style_loss(output, cells, torch.zeros_like(output), cells, summed=True)
    assert loss.item() == pytest.approx(64 * (400.0**2 * 64 * 64) ** 2)


def mask_of(height, width, *pixels):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    for y, x in pixels:
        mask[0, y, x] = True
    return mask


def test_a_cell_counts_from_a_quarter_of_its_area():
    quarter = [(0, x) for x in range(4)]
    mask = mask_of(8, 8, *quarter, (4, 4), (4, 5), (4, 6))
    assert pool_mask(mask, 4).tolist() == [[[True, False], [False, False]]]
    assert pool_mask(mask, 2).tolist() == [[[True, True, False, False], [False] * 4, [False, False, True, True],
                                            [False] * 4]]  # fmt: skip
    assert torch.equal(pool_mask(mask, 1), mask)


def test_where_no_cell_has_a_quarter_the_best_covered_one_counts():
    assert pool_mask(mask_of(16, 16, (9, 15)), 8).tolist() == [[[False, False], [False, True]]]
    mask = mask_of(16, 16, (0, 0), (9, 2), (10, 2), (0, 12), (1, 12))
    assert pool_mask(mask, 8).tolist() == [[[False, True], [False, False]]]  # the first of two equals
    several = torch.cat((mask_of(8, 16, *itertools.product(range(8), range(8))), mask_of(8, 16, (3, 9))))
    assert pool_mask(several, 8).tolist() == [[[True, False]], [[False, True]]]


@unhurried
@given(npst.arrays(np.bool_, st.tuples(st.integers(1, 3), st.just(16), st.just(24))), st.sampled_from([1, 2, 4, 8]))
def test_pooled_masks_are_those_of_plain_counting(mask, stride):
    pooled = pool_mask(torch.from_numpy(mask), stride).numpy()
    for picture, cells in zip(mask, pooled, strict=True):
        tiles = picture.reshape(16 // stride, stride, 24 // stride, stride)
        covered = tiles.sum(axis=(1, 3))
        expected = 4 * covered >= stride**2
        if not expected.any() and picture.any():
            expected[np.unravel_index(covered.argmax(), covered.shape)] = True
        assert (cells == expected).all()


def test_masks_of_several_layers_are_pooled_by_their_strides():
    mask = torch.from_numpy(np.random.default_rng(0).random((2, 16, 32)) < 0.3)
    pooled = pool_masks(mask, iter(LAYERS))
    assert list(pooled) == list(LAYERS)
    assert all(torch.equal(cells, pool_mask(mask, STRIDES[layer])) for layer, cells in pooled.items())


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        pool_mask(torch.ones(1, 12, 16, dtype=torch.bool), 8)
    with pytest.raises(ValueError, match=r"expected bool \[N, H, W\]"):
        pool_mask(torch.ones(1, 16, 16), 8)
    with pytest.raises(ValueError, match=r"expected bool \[N, H, W\]"):
        pool_mask(torch.ones(1, 1, 16, 16, dtype=torch.bool), 8)


def small_vgg(layers):
    """VGG-19 up to conv2_1 with random weights that keep the activations' scale."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64)}
    tensors = {}
    for index, (channels, channels_in) in shapes.items():
        spread = (2 / (9 * channels_in)) ** 0.5
        tensors[f"features.{index}.weight"] = spread * torch.randn(channels, channels_in, 3, 3, generator=generator)
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(channels, generator=generator)
    return VGG19(layers, tensors, "random")


class Scene:
    """A batch as the training has it: output, coarse picture, background, reference, and masks of different size."""

    def __init__(self, chosen):
        network = small_vgg(chosen.layers)
        self.network, self.settings = network, chosen.replacing(network.used)
        self.output, coarse, background = (normal((2, 3, 16, 16), seed, torch.float32).sigmoid() for seed in range(3))
        defect = normal((1, 3, 16, 16), 3, torch.float32).sigmoid()
        self.mask = torch.zeros(2, 16, 16, dtype=torch.bool)
        self.mask[0, 4:12, 4:10] = True
        self.mask[1, 0:3, 13:16] = True
        defect_mask = mask_of(16, 16, *itertools.product(range(5, 11), range(4, 9)))
        self.targets = Targets(
            content=network(coarse),
            style=network(background),
            style_mask=self.mask,
            hist=histogram_references(network(defect), defect_mask, self.settings.hist_layers),
        )

    def terms(self, images):
        return transfer_terms(self.settings, images, self.network(images), self.mask, self.targets)

    def loss(self, images):
        return transfer_loss(self.settings, images, self.network(images), self.mask, self.targets)


SHALLOW = {
    "content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu2_1"), "hist_layers": ("relu1_1",)
}  # fmt: skip


def preset(name, **changes):
    return LossSettings(**(PRESETS[name].model_dump() | SHALLOW | changes))


@pytest.mark.parametrize("name", ["literal", "paper_sum"])
def test_the_whole_is_the_weighted_sum_of_its_terms(name):
    scene = Scene(preset(name))
    value = scene.loss(scene.output.requires_grad_())
    assert tuple(value.terms) == TERMS
    expected = 1e5 * value.terms["content"] + 2.5e-4 * value.terms["style"] + 10 * value.terms["hist"]
    torch.testing.assert_close(value.total, expected + value.terms["tv"])
    assert not any(term.requires_grad for term in value.terms.values())
    assert torch.autograd.grad(value.total, scene.output)[0].isfinite().all()


def test_presets_take_the_terms_as_they_say():
    for name, summed, white in (("literal", False, 1.0), ("paper_sum", True, 255.0)):
        scene = Scene(preset(name))
        features, cells, targets = scene.network(scene.output), pool_masks(scene.mask, LAYERS), scene.targets
        terms = scene.terms(scene.output)
        style = [
            style_loss(features[layer], cells[layer], targets.style[layer], cells[layer], summed=summed)
            for layer in ("relu1_1", "relu2_1")
        ]
        hist = hist_loss(features["relu1_1"], cells["relu1_1"], targets.hist["relu1_1"], summed=summed)
        content = content_loss(features["relu2_1"], targets.content["relu2_1"], cells["relu2_1"])
        tv = tv_loss(scene.output, scene.mask, summed=True, white=white)
        for term, expected in (("content", content), ("style", sum(style)), ("hist", hist), ("tv", tv)):
            torch.testing.assert_close(terms[term], expected)


def test_presets_are_what_the_paper_prints_and_auto_is_the_default():
    assert PRESETS["auto"] == LossSettings()
    assert PRESETS["auto"].weights == TermWeights(content=1, style=1, hist=1, tv=0.1)
    for name in ("literal", "paper_sum"):
        assert PRESETS[name].weights == TermWeights(content=1e5, style=2.5e-4, hist=10, tv=1)
        assert PRESETS[name].balance == "fixed"
    for chosen in PRESETS.values():
        assert LossSettings.model_validate_json(chosen.model_dump_json()) == chosen
        assert chosen.layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


@pytest.mark.parametrize("term", TERMS)
def test_a_term_without_weight_is_left_out_and_needs_no_layers(term):
    weights = PRESETS["literal"].weights.model_dump() | {term: 0.0}
    scene = Scene(preset("literal", weights=weights))
    assert tuple(scene.loss(scene.output).terms) == tuple(name for name in TERMS if name != term)
    only = LossSettings(weights=dict.fromkeys(TERMS, 0.0) | {term: 1.0})
    assert only.layers == {"tv": ()}.get(term, getattr(only, f"{term}_layers", None))


def test_layers_that_stand_in_for_others_are_taken_once():
    replaced = LossSettings().replacing({"relu4_1": "relu3_1", "relu1_1": "relu1_1"})
    assert replaced.content_layers == ("relu3_1",)
    assert replaced.style_layers == ("relu1_1", "relu2_1", "relu3_1")
    assert replaced.hist_layers == ("relu1_1", "relu3_1")
    assert replaced.layers == ("relu1_1", "relu2_1", "relu3_1")
    assert LossSettings().replacing({}) == LossSettings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content_layers": ("conv1_1",)}, "not one of VGG-19's"),
        ({"style_layers": ("relu1_1", "relu1_1")}, "named twice"),
        ({"hist_layers": ()}, "hist has no layer"),
        ({"weights": dict.fromkeys(TERMS, 0.0)}, "all terms have weight 0"),
        ({"weights": {"content": -1.0}}, "greater than or equal to 0"),
        ({"weights": {"content": math.inf}}, "finite"),
        ({"white": 0.0}, "greater than 0"),
        ({"balance": "by eye"}, "gradients"),
        ({"layers": ()}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        LossSettings(**changes)


def gradient_norms(scene, weights):
    norms = {}
    for name in scene.terms(scene.output):
        leaf = scene.output.detach().requires_grad_()
        value = getattr(weights, name) * scene.terms(leaf)[name]
        norms[name] = torch.autograd.grad(value, leaf)[0].norm().item()
    return norms


@pytest.mark.parametrize("name", ["auto", "paper_sum"])
def test_calibration_brings_the_gradients_to_their_shares(name):
    shares = {"content": 1.0, "style": 1.0, "hist": 1.0, "tv": 0.1}
    scene = Scene(preset(name, balance="gradients", weights=shares))
    weights = calibrate(scene.output, scene.terms, scene.settings.weights)
    assert gradient_norms(scene, weights) == pytest.approx(shares, rel=1e-4)
    scene.settings = scene.settings.calibrated(weights)
    value = scene.loss(scene.output)
    assert value.total.item() == pytest.approx(
        sum(getattr(weights, term) * value.terms[term].item() for term in TERMS), rel=1e-5
    )


def test_calibration_leaves_out_what_has_no_share():
    scene = Scene(preset("auto", weights={"style": 0.0}))
    weights = calibrate(scene.output, scene.terms, scene.settings.weights)
    assert weights.style == 0
    assert gradient_norms(scene, weights) == pytest.approx({"content": 1.0, "hist": 1.0, "tv": 0.1}, rel=1e-4)


def test_calibration_works_where_gradients_are_off_and_leaves_the_images_alone():
    scene = Scene(preset("auto"))
    before = scene.output.clone()
    with torch.no_grad():
        weights = calibrate(scene.output, scene.terms, scene.settings.weights)
    assert weights == calibrate(scene.output, scene.terms, scene.settings.weights)
    assert torch.equal(scene.output, before)
    assert scene.output.grad is None


def test_a_term_without_gradient_gets_no_weight():
    shares = TermWeights()
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    cells = torch.ones(1, 4, 4, dtype=torch.bool)

    def terms(x):
        return {
            "content": content_loss(x, images, cells),  # at its minimum
            "style": x.sum() * 1e-42,  # a weight that fp32 does not hold
            "hist": torch.tensor(3.0),
            "tv": tv_loss(x, cells),
        }

    weights = calibrate(images, terms, shares)
    assert (weights.content, weights.style, weights.hist) == (0, 0, 0)
    assert weights.tv > 0
    with pytest.raises(DatasetError, match="no loss has a gradient"):
        calibrate(torch.zeros_like(images), lambda x: dict.fromkeys(TERMS, (x * 0).sum()), shares)


def not_finite_root(x):
    return x.sum().sqrt()  # 0, with an infinite slope


@pytest.mark.parametrize("broken", [lambda x: x.sum() / 0, lambda x: x.sum() * math.nan, not_finite_root])
def test_a_term_that_is_not_finite_is_named(broken):
    images = torch.zeros(1, 3, 4, 4)
    terms = {name: (lambda x: x.sum()) for name in TERMS} | {"style": broken}
    with pytest.raises(DatasetError, match="style loss of the first output"):
        calibrate(images, lambda x: {name: term(x) for name, term in terms.items()}, TermWeights())


def test_shares_of_gradients_are_not_taken_for_weights():
    scene = Scene(preset("auto"))
    with pytest.raises(ValueError, match="calibrate"):
        scene.loss(scene.output)


def test_references_hold_all_counting_cells_of_the_defect():
    mask = some_cells(2, 4, 4)
    features = {"relu1_1": features_under(mask, 0)}
    reference = histogram_references(features, mask, ["relu1_1"])["relu1_1"]
    expected = torch.cat([picture[:, inside] for picture, inside in zip(features["relu1_1"], mask, strict=True)], 1)
    assert torch.equal(reference.values, expected.sort(dim=1).values)
    with pytest.raises(DatasetError, match="mask is empty"):
        histogram_references(features, torch.zeros_like(mask), ["relu1_1"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for it")
def test_a_gpu_gives_the_same_losses_under_autocast():
    scene = Scene(preset("literal"))
    expected = scene.terms(scene.output)
    features = {layer: x.cuda() for layer, x in scene.network(scene.output).items()}
    targets = Targets(
        content={layer: x.cuda() for layer, x in scene.targets.content.items()},
        style={layer: x.cuda() for layer, x in scene.targets.style.items()},
        style_mask=scene.mask.cuda(),
        hist={layer: reference.to("cuda") for layer, reference in scene.targets.hist.items()},
    )
    with torch.autocast("cuda", torch.bfloat16):
        found = transfer_terms(scene.settings, scene.output.cuda(), features, scene.mask.cuda(), targets)
    for term, value in expected.items():
        torch.testing.assert_close(found[term].cpu(), value, rtol=1e-4, atol=0)
