"""Histogram matching against NumPy's quantiles, SciPy's ranks, scikit-image, and bounds that follow from the counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import rankdata, wasserstein_distance
from skimage.color import rgb2lab
from skimage.exposure import match_histograms

from inspectd.buttons import DEFECTS, render
from inspectd.errors import ConfigError, DatasetError
from inspectd.simulation.histmatch import match_pixels, match_values
from inspectd.training.style.histmatch import SortedReference, _sort, match_features

METHODS = ("quantile", "rank", "cdf256")
SPACES = ("rgb", "lab", "pca")

unhurried = settings(deadline=None, max_examples=50)

counts = st.integers(1, 40)
levels = st.integers(0, 255)
# Few distinct numbers beside the arbitrary ones: ties are what the methods differ in.
numbers = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1e6, 1e6))


def column(elements):
    return counts.flatmap(lambda count: npst.arrays(np.float64, (count, 1), elements=elements))


def picture(seed, height=20, width=30, channels=3):
    """A smooth random picture with noise, uint8 [H, W, C]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width][..., None]
    waves = np.sin(rows / rng.uniform(2, 9, channels) + columns / rng.uniform(2, 9, channels))
    values = rng.uniform(80, 170, channels) + 40 * waves + rng.normal(0, 8, (height, width, channels))
    return values.clip(0, 255).astype(np.uint8)


def disc(height, width, radius):
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - height // 2, columns - width // 2) <= radius


def whole(image):
    return np.ones(image.shape[:2], np.bool_)


def greatest_cdf_difference(first, second):
    """Kolmogorov's distance of two samples."""
    points = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), points, "right") / sample.size for sample in (first, second)]
    return np.abs(shares[0] - shares[1]).max()


# Values


@pytest.mark.parametrize("method", METHODS)
@unhurried
@given(source=column(levels), seed=st.integers(0, 9))
def test_values_matched_to_themselves_in_any_order_stay(method, source, seed):
    shuffled = np.random.default_rng(seed).permutation(source)
    assert np.array_equal(match_values(source, shuffled, method), source)


@pytest.mark.parametrize("method", METHODS)
@unhurried
@given(source=column(levels), reference=column(levels))
def test_matching_again_changes_nothing(method, source, reference):
    once = match_values(source, reference, method)
    # Only quantiles fall between the levels, where cdf256 has no bins.
    assert np.array_equal(match_values(once, reference, method), once)


@unhurried
@given(column(numbers), column(numbers))
def test_matching_real_numbers_by_quantiles_again_changes_nothing(source, reference):
    once = match_values(source, reference)
    assert np.array_equal(match_values(once, reference), once)


@unhurried
@given(source=column(numbers), reference=column(numbers))
def test_quantiles_are_those_of_numpy_at_the_ranks_of_scipy(source, reference):
    shares = (rankdata(source[:, 0], method="average") - 0.5) / len(source)
    expected = np.quantile(reference[:, 0], shares, method="hazen")
    assert match_values(source, reference)[:, 0] == pytest.approx(expected, rel=1e-9, abs=1e-6)
    shares = (rankdata(source[:, 0], method="ordinal") - 0.5) / len(source)
    expected = np.quantile(reference[:, 0], shares, method="hazen")
    assert match_values(source, reference, "rank")[:, 0] == pytest.approx(expected, rel=1e-9, abs=1e-6)


@unhurried
@given(st.data(), st.lists(numbers, min_size=1, max_size=40, unique=True))
def test_equal_counts_without_ties_take_the_sorted_reference_exactly(data, values):
    source = np.array(values)[:, None]
    reference = data.draw(npst.arrays(np.float64, source.shape, elements=numbers))
    matched = match_values(source, reference)
    assert np.array_equal(matched[np.argsort(source[:, 0])], np.sort(reference, axis=0))


@unhurried
@given(st.data(), column(numbers))
def test_equal_counts_by_rank_give_a_permutation_of_the_reference(data, source):
    reference = data.draw(npst.arrays(np.float64, source.shape, elements=numbers))
    matched = match_values(source, reference, "rank")
    order = np.argsort(source[:, 0], kind="stable")
    assert np.array_equal(matched[order], np.sort(reference, axis=0))


@pytest.mark.parametrize("method", ["quantile", "rank"])
@unhurried
@given(source=column(numbers), reference=column(numbers))
def test_the_distance_to_the_reference_is_bounded_by_the_counts(method, source, reference):
    matched = match_values(source, reference, method)
    ties = np.unique(source, return_counts=True)[1].max() if method == "quantile" else 1
    bound = ties / (2 * len(source)) + 1 / (2 * len(reference))
    assert greatest_cdf_difference(matched[:, 0], reference[:, 0]) <= bound + 1e-12
    # The area between the two cumulative distributions, neither of which leaves the reference's range.
    distance = wasserstein_distance(matched[:, 0], reference[:, 0])
    assert distance <= np.ptp(reference) * bound * (1 + 1e-9) + 1e-9
    assert reference.min() <= matched.min()
    assert matched.max() <= reference.max()


@pytest.mark.parametrize("elements", [levels, numbers])
@unhurried
@given(data=st.data())
def test_order_is_kept_to_the_last_bit_and_equal_values_stay_equal(elements, data):
    source, reference = data.draw(column(elements)), data.draw(column(elements))
    order = np.argsort(source[:, 0], kind="stable")
    for method in METHODS if elements is levels else ("quantile", "rank"):
        matched = match_values(source, reference, method)
        assert (np.diff(matched[order, 0]) >= 0).all()
        if method != "rank":
            assert len(np.unique(np.hstack([source, matched]), axis=0)) == len(np.unique(source))


@pytest.mark.parametrize("method", METHODS)
def test_one_reference_value_becomes_everything(method):
    assert match_values(np.array([[3], [9], [9]]), np.array([[7]]), method).tolist() == [[7.0]] * 3


def test_one_source_value_becomes_the_reference_median_or_with_256_bins_its_maximum():
    even, odd = np.array([[1], [2], [8], [9]]), np.array([[1], [2], [9]])
    for method in ("quantile", "rank"):
        assert match_values(np.array([[100]]), even, method).tolist() == [[5.0]]
        assert match_values(np.array([[100]]), odd, method).tolist() == [[2.0]]
    assert match_values(np.array([[100]]), even, "cdf256").tolist() == [[9.0]]


def test_equal_values_go_where_their_mean_rank_belongs_by_hand():
    # Ranks 1, 3, 3, 3, 5 of 5: places 0, 2, 2, 2, 4 of five reference values, of three: -0.2, 1, 1, 1, 2.2.
    source = np.array([[4.0], [7.0], [7.0], [7.0], [9.0]])
    assert match_values(source, np.array([[10.0], [20.0], [30.0], [40.0], [50.0]])).T.tolist() == [[10, 30, 30, 30, 50]]
    assert match_values(source, np.array([[10.0], [20.0], [60.0]])).T.tolist() == [[10, 20, 20, 20, 60]]
    # p = 1/4 and 3/4 of four values lie half way between two of them.
    assert match_values(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0], [5.0], [9.0]])).T.tolist() == [[1.5, 7]]


def test_channels_are_matched_apart():
    rng = np.random.default_rng(0)
    source, reference = rng.normal(size=(50, 4)), rng.normal(size=(31, 4))
    together = match_values(source, reference)
    for channel in range(4):
        alone = match_values(source[:, [channel]], reference[:, [channel]])
        assert np.array_equal(together[:, [channel]], alone)


@pytest.mark.parametrize("shape", [(0, 3), (4,), (4, 0)])
def test_values_without_count_or_channels_are_refused(shape):
    with pytest.raises(DatasetError, match="expected \\[count, channels\\]"):
        match_values(np.zeros(shape), np.zeros((2, 3)))
    with pytest.raises(DatasetError, match="reference values"):
        match_values(np.zeros((2, 3)), np.zeros(shape))


def test_values_that_cannot_be_matched_are_refused():
    good = np.zeros((2, 3))
    with pytest.raises(DatasetError, match="1 of them are not finite"):
        match_values(np.array([[0, 0, np.nan]]), good)
    with pytest.raises(DatasetError, match="source of 3 channels, reference of 1"):
        match_values(good, np.zeros((2, 1)))
    with pytest.raises(ConfigError, match="'mean' is not one of quantile, rank, cdf256"):
        match_values(good, good, "mean")


@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0])
def test_256_bins_refuse_values_that_are_not_of_8_bits(value):
    good, bad = np.array([[1.0], [2.0]]), np.array([[1.0], [value]])
    for source, reference in ((good, bad), (bad, good)):
        with pytest.raises(ConfigError, match="expected the whole numbers 0 to 255"):
            match_values(source, reference, "cdf256")


# Against scikit-image, on whole images


@pytest.fixture(scope="module")
def parts():
    """Two rendered buttons of different lines and size, uint8 [H, W, 3]."""
    return render("horn", None, 1, 96).image, render("shell", None, 2, 80).image


def test_256_bins_are_scikit_image_rounded_up_to_the_next_level_of_the_reference(parts):
    image, reference = parts
    matched = match_pixels(image, whole(image), reference, whole(reference), method="cdf256")
    for channel in range(3):
        interpolated = match_histograms(image[..., channel], reference[..., channel])
        there = np.unique(reference[..., channel])
        assert np.array_equal(matched[..., channel], there[np.searchsorted(there, interpolated - 1e-9)])


def test_quantiles_without_ties_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    image, reference = rng.normal(size=(24, 30)), rng.gamma(2, size=(20, 36))
    expected = match_histograms(image, reference)
    assert match_values(image.reshape(-1, 1), reference.reshape(-1, 1)).reshape(24, 30) == pytest.approx(expected)


def test_quantiles_of_8_bit_images_lie_within_a_tie_of_scikit_image_and_nearer_to_the_reference(parts):
    image, reference = parts
    for channel in range(3):
        source, target = image[..., channel].ravel(), reference[..., channel].ravel()
        matched = match_values(source[:, None], target[:, None])[:, 0]
        expected = match_histograms(source, target)
        # scikit-image takes a level of either image at the upper end of its tie, not in its midst.
        step = np.bincount(source)[source] / (2 * source.size) + np.bincount(target).max() / target.size
        assert step.max() < 0.1
        shares = np.searchsorted(np.sort(target), expected, "right") / target.size
        assert (np.quantile(target, (shares - 2 * step).clip(0, 1)) - 1 <= matched).all()
        assert (matched <= np.quantile(target, (shares + step).clip(0, 1)) + 1).all()
        assert wasserstein_distance(matched, target) < 0.7 * wasserstein_distance(expected, target)


def test_quantiles_halve_the_error_of_256_bins_on_the_pixels_of_defects():
    image = render("shell", None, 2, 160).image
    errors = dict.fromkeys(METHODS, 0.0)
    for defect in DEFECTS:
        part = render("horn", defect, 3, 160)
        labelled = part.mask > 0
        for method in METHODS:
            matched = match_pixels(image, labelled, part.image, labelled, method=method)
            for got, wanted in zip(matched[labelled].T, part.image[labelled].T, strict=True):
                errors[method] += wasserstein_distance(got, wanted)
    assert 0.4 * errors["cdf256"] < errors["quantile"] < 0.6 * errors["cdf256"]
    assert errors["rank"] == 0


# Pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("method", "space"), [("cdf256", "rgb"), *itertools.product(("quantile", "rank"), SPACES)])
def test_pixels_outside_the_mask_and_the_arguments_stay_as_they_are(method, space, channels):
    image, reference = picture(1, channels=channels), picture(2, 17, 13, channels) // 2
    mask, reference_mask = disc(20, 30, 6), disc(17, 13, 5)
    given_image, given_reference = image.copy(), reference.copy()
    matched = match_pixels(image, mask, reference, reference_mask, method=method, space=space)
    assert matched.dtype == np.uint8
    assert np.array_equal(matched[~mask], image[~mask])
    assert not np.array_equal(matched[mask], image[mask])
    assert np.array_equal(image, given_image)
    assert np.array_equal(reference, given_reference)
    assert not np.shares_memory(matched, image)


def test_pixels_outside_the_reference_mask_do_not_matter():
    image, reference = picture(1), picture(2, 17, 13)
    mask, reference_mask = disc(20, 30, 6), disc(17, 13, 5)
    other = np.where(reference_mask[..., None], reference, 255 - reference)
    for space in SPACES:
        matched = match_pixels(image, mask, reference, reference_mask, space=space)
        assert np.array_equal(match_pixels(image, mask, other, reference_mask, space=space), matched)


@pytest.mark.parametrize("space", SPACES)
def test_an_image_matched_to_itself_stays_in_every_space(space):
    colours = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for image in (colours, picture(3), np.full((4, 4, 3), 77, np.uint8)):
        for method in ("quantile", "rank"):
            matched = match_pixels(image, whole(image), image, whole(image), method=method, space=space)
            assert np.array_equal(matched, image)


@pytest.mark.parametrize("method", METHODS)
def test_rounded_pixels_matched_again_stay(method):
    image, reference = picture(1), picture(2, 17, 13)
    once = match_pixels(image, disc(20, 30, 6), reference, disc(17, 13, 5), method=method)
    assert np.array_equal(match_pixels(once, disc(20, 30, 6), reference, disc(17, 13, 5), method=method), once)


@pytest.mark.parametrize("space", SPACES)
def test_one_channel_is_the_same_in_every_space(space):
    image, reference = picture(1, channels=1), picture(2, 17, 13, channels=1)
    expected = match_values(image.reshape(-1, 1), reference.reshape(-1, 1)).round().reshape(image.shape)
    assert np.array_equal(match_pixels(image, whole(image), reference, whole(reference), space=space), expected)


@pytest.mark.parametrize("space", SPACES)
def test_one_reference_pixel_colours_everything(space):
    image, reference = picture(1), picture(2)
    dot = np.zeros((20, 30), np.bool_)
    dot[4, 5] = True
    matched = match_pixels(image, disc(20, 30, 6), reference, dot, space=space)
    assert (matched[disc(20, 30, 6)] == reference[4, 5]).all()


def test_one_source_pixel_becomes_the_reference_median():
    dot = np.zeros((20, 30), np.bool_)
    dot[4, 5] = True
    reference = picture(2, 17, 13)
    matched = match_pixels(picture(1), dot, reference, whole(reference))
    assert np.array_equal(matched[4, 5], np.median(reference.reshape(-1, 3), axis=0))


@pytest.mark.parametrize("space", ["lab", "pca"])
def test_equal_colours_stay_equal(space):
    palette = np.random.default_rng(0).integers(0, 256, (7, 3), np.uint8)
    image = palette[np.random.default_rng(1).integers(0, 7, (23, 29))]
    matched = match_pixels(image, whole(image), picture(2), whole(picture(2)), space=space)
    assert len(np.unique(matched.reshape(-1, 3), axis=0)) <= 7


def test_lab_gives_the_distribution_of_the_reference_in_lab():
    rng = np.random.default_rng(0)
    # Few counts and mild colours: no colour leaves the gamut, and few are tied.
    image = rng.normal((150, 140, 120), (20, 18, 22), (30, 30, 3)).round().clip(0, 255).astype(np.uint8)
    reference = rng.normal((110, 90, 80), (15, 12, 10), (25, 36, 3)).round().clip(0, 255).astype(np.uint8)
    matched = match_pixels(image, whole(image), reference, whole(reference), space="lab")
    got, wanted = (np.sort(rgb2lab(part).reshape(-1, 3), axis=0) for part in (matched, reference))
    assert np.abs(got - wanted).mean(axis=0).max() < 0.2
    by_rgb = match_pixels(image, whole(image), reference, whole(reference))
    assert np.abs(np.sort(rgb2lab(by_rgb).reshape(-1, 3), axis=0) - wanted).mean() > np.abs(got - wanted).mean()


def test_pca_carries_the_correlation_of_the_reference_channels_and_rgb_does_not():
    rng = np.random.default_rng(0)
    image = rng.normal(128, 15, (60, 60, 3)).round().astype(np.uint8)
    common = rng.normal(0, 25, (50, 50, 1))
    reference = (120 + common * (1, 0.8, -0.5) + rng.normal(0, 4, (50, 50, 3))).round().clip(0, 255).astype(np.uint8)
    expected = np.cov(reference.reshape(-1, 3).T)
    errors = {}
    for space in ("rgb", "pca"):
        matched = match_pixels(image, whole(image), reference, whole(reference), space=space)
        errors[space] = np.abs(np.cov(matched.reshape(-1, 3).T) - expected).max() / np.abs(expected).max()
    assert errors["pca"] < 0.05
    assert errors["rgb"] > 0.5


def test_colours_that_leave_the_8_bit_range_are_clipped():
    rng = np.random.default_rng(0)
    brightness = np.linspace(0, 255, 40)[:, None, None]
    image = (brightness + rng.normal(0, 5, (40, 40, 3))).clip(0, 255).astype(np.uint8)
    # The cube of all colours: far along two of its axes at once lies outside it.
    reference = rng.integers(0, 256, (50, 50, 3), np.uint8)
    for space in ("lab", "pca"):
        matched = match_pixels(image, whole(image), reference, whole(reference), space=space).astype(float)
        # 260 taken for 4 would tear a channel away from the neighbouring rows.
        rows = matched.mean(axis=1)
        assert np.abs(np.diff(rows, axis=0)).max() < 60
        assert matched.min() == 0
        assert matched.max() == 255


@pytest.mark.parametrize("space", ["lab", "pca"])
def test_a_grey_image_gets_one_chroma_and_no_coloured_speckle(space):
    image = np.repeat(picture(1, channels=1), 3, axis=2)
    rng = np.random.default_rng(0)
    # Each colour beside its six permutations, so that grey is one of the principal axes.
    colours = rng.normal((120, 120, 120), 12, (200, 3)).round()
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    reference = np.stack([colours[:, order] for order in orders]).astype(np.uint8)
    matched = match_pixels(image, whole(image), reference, whole(reference), space=space).astype(int)
    chroma = matched - matched.mean(axis=2, keepdims=True)
    assert np.ptp(chroma, axis=(0, 1)).max() < 3
    assert np.ptp(matched) > 30


@pytest.mark.parametrize("space", SPACES)
def test_a_grey_reference_makes_every_image_grey(space):
    reference = np.repeat(picture(2, channels=1), 3, axis=2)
    matched = match_pixels(picture(1), whole(picture(1)), reference, whole(reference), space=space)
    # In rgb each channel is ranked by itself.
    allowed = 255 if space == "rgb" else 0
    assert np.ptp(matched.astype(int), axis=2).max() <= allowed
    assert greatest_cdf_difference(matched[..., 0].ravel(), reference[..., 0].ravel()) < 0.1


def test_a_reference_of_two_colours_gives_colours_on_the_line_between_them():
    ends = np.array([[30, 60, 200], [90, 40, 100]], np.uint8)
    reference = ends[np.random.default_rng(0).integers(0, 2, (9, 9))]
    matched = match_pixels(picture(1), whole(picture(1)), reference, whole(reference), space="pca")
    along = (matched[..., 0].astype(float) - 30) / 60
    expected = ends[0] + along[..., None] * (ends[1].astype(float) - ends[0])
    assert np.abs(matched - expected).max() <= 1.5
    assert np.isin(matched[..., 0], (30, 90)).mean() > 0.95


@pytest.mark.parametrize("space", ["lab", "pca"])
def test_256_bins_are_refused_where_a_channel_has_no_levels(space):
    image = picture(1)
    with pytest.raises(ConfigError, match=f"cdf256 in space {space}.*use the space rgb"):
        match_pixels(image, whole(image), image, whole(image), method="cdf256", space=space)


def test_unknown_choices_are_refused():
    image = picture(1)
    with pytest.raises(ConfigError, match="space 'hsv' is not one of rgb, lab, pca"):
        match_pixels(image, whole(image), image, whole(image), space="hsv")
    with pytest.raises(ConfigError, match="method 'ecdf' is not one of quantile, rank, cdf256"):
        match_pixels(image, whole(image), image, whole(image), method="ecdf")


def test_images_that_cannot_be_matched_are_refused():
    image = picture(1)
    full, empty = whole(image), np.zeros(image.shape[:2], np.bool_)
    with pytest.raises(DatasetError, match=r"mask of the image \(20, 30\) is empty"):
        match_pixels(image, empty, image, full)
    with pytest.raises(DatasetError, match=r"mask of the reference \(20, 30\) is empty"):
        match_pixels(image, full, image, empty)
    with pytest.raises(DatasetError, match=r"mask of the image bool \(19, 30\): expected bool \(20, 30\)"):
        match_pixels(image, full[1:], image, full)
    with pytest.raises(DatasetError, match="mask of the image uint8"):
        match_pixels(image, full.astype(np.uint8), image, full)
    with pytest.raises(DatasetError, match="image of 3 channels, reference of 1"):
        match_pixels(image, full, image[..., :1], full)
    with pytest.raises(DatasetError, match="image float32"):
        match_pixels(image.astype(np.float32), full, image, full)
    with pytest.raises(DatasetError, match="1 or 3"):
        match_pixels(image[..., :2], full, image, full)


# Features


def expected_features(features, mask, reference, method):
    """The same by `match_values`, picture by picture."""
    expected = features.double().numpy().copy()
    for index, marked in enumerate(mask.numpy()):
        if marked.any():
            source = expected[index][:, marked].T
            expected[index][:, marked] = match_values(source, reference.double().numpy().T, method).T
    return expected


def batch(seed, *, pictures=4, channels=5, height=9, width=7, dtype=torch.float32):
    """Features with many exact zeros and repeated values, masks of different counts (one empty), a reference."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((pictures, channels, height, width), generator=generator, dtype=dtype).relu()
    features[:, 1] = features[:, 1].mul(2).round() - 1
    features[:, 2] = 0
    shares = torch.linspace(0, 0.9, pictures)[:, None, None]
    mask = torch.rand((pictures, height, width), generator=generator) < shares
    reference = torch.randn((channels, 23 + seed), generator=generator, dtype=dtype).relu()
    return features, mask, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["quantile", "rank"])
@unhurried
@given(seed=st.integers(0, 40))
def test_features_agree_with_the_values_of_numpy(method, dtype, seed):
    features, mask, reference = batch(seed, dtype=dtype)
    matched = match_features(features, mask, SortedReference.of(reference), method)
    expected = expected_features(features, mask, reference, method)
    assert matched.dtype == dtype
    assert matched.numpy() == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-14)


@unhurried
@given(st.data())
def test_features_of_any_numbers_agree_with_the_values_of_numpy(data):
    elements = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(-1e4, 1e4, width=32))
    pictures, channels, size, count = (data.draw(st.integers(1, most)) for most in (3, 2, 5, 9))
    features = torch.from_numpy(data.draw(npst.arrays(np.float32, (pictures, channels, size, 2), elements=elements)))
    mask = torch.from_numpy(data.draw(npst.arrays(np.bool_, (pictures, size, 2))))
    reference = torch.from_numpy(data.draw(npst.arrays(np.float32, (channels, count), elements=elements)))
    for method in ("quantile", "rank"):
        matched = match_features(features, mask, SortedReference.of(reference), method)
        expected = expected_features(features, mask, reference, method)
        assert matched.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-2)


def test_half_of_the_features_being_zero_share_one_target():
    features = torch.zeros(1, 1, 4, 5)
    features[0, 0, 0] = torch.arange(1.0, 6.0)
    reference = SortedReference.of(torch.arange(20.0)[None])
    matched = match_features(features, torch.ones(1, 4, 5, dtype=torch.bool), reference)
    # 15 zeros have the mean rank 8 of 20, the place 7 counted from 0.
    assert (matched[0, 0, 1:] == 7).all()
    assert matched[0, 0, 0].tolist() == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("method", ["quantile", "rank"])
def test_features_matched_to_themselves_stay_exactly(method):
    features, mask, _ = batch(1)
    reference = SortedReference.of(features[3][:, mask[3]].flip(1))
    assert torch.equal(match_features(features[3:], mask[3:], reference, method), features[3:])


@pytest.mark.parametrize("method", ["quantile", "rank"])
def test_a_picture_does_not_depend_on_the_others_of_its_batch(method):
    features, mask, values = batch(2)
    reference = SortedReference.of(values)
    matched = match_features(features, mask, reference, method)
    for index in range(len(features)):
        alone = match_features(features[index : index + 1], mask[index : index + 1], reference, method)
        assert torch.equal(matched[index : index + 1], alone)


def test_cells_outside_the_mask_and_pictures_without_one_are_unchanged():
    features, mask, values = batch(3)
    given_features = features.clone()
    reference = SortedReference.of(values + 100)
    matched = match_features(features, mask, reference)
    inside = mask[:, None].expand_as(features)
    assert not mask[0].any()
    assert torch.equal(matched[~inside], features[~inside])
    assert (matched[inside] >= 100).all()
    assert torch.equal(features, given_features)
    nowhere = match_features(features, torch.zeros_like(mask), reference)
    assert torch.equal(nowhere, features)
    assert nowhere.data_ptr() != features.data_ptr()
    assert match_features(features[:0], mask[:0], reference).shape == (0, *features.shape[1:])


def test_one_reference_cell_fills_the_mask_and_one_masked_cell_becomes_the_median():
    features, mask, _ = batch(4)
    inside = mask[:, None].expand_as(features)
    assert (match_features(features, mask, SortedReference.of(torch.full((5, 1), 7.0)))[inside] == 7).all()
    single = torch.zeros_like(mask)
    single[:, 3, 3] = True
    reference = SortedReference.of(torch.tensor([[1.0, 2.0, 8.0, 9.0]] * 5))
    assert (match_features(features, single, reference)[:, :, 3, 3] == 5).all()


def test_the_target_is_constant_for_the_gradient():
    features, mask, values = batch(5)
    features.requires_grad_()
    reference = SortedReference.of(values.requires_grad_())
    target = match_features(features, mask, reference)
    assert not reference.values.requires_grad
    assert not target.requires_grad
    loss = (features - target).square().sum()
    loss.backward()
    assert torch.equal(features.grad, 2 * (features - target).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_features_are_matched_in_float32_and_come_back_narrow(dtype):
    features, mask, values = batch(6)
    narrow, reference = features.to(dtype), SortedReference.of(values)
    with torch.autocast("cpu", torch.bfloat16):
        matched = match_features(narrow, mask, reference)
    assert matched.dtype == dtype
    assert torch.equal(matched, match_features(narrow.float(), mask, reference).to(dtype))
    assert SortedReference.of(values.to(dtype)).values.dtype == torch.float32


def test_memory_format_and_mask_with_a_channel_change_nothing():
    features, mask, values = batch(7)
    reference = SortedReference.of(values)
    expected = match_features(features, mask, reference)
    last = match_features(features.to(memory_format=torch.channels_last), mask, reference)
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(match_features(features, mask[:, None], reference), expected)
    wide = torch.zeros(4, 5, 9, 20)
    wide[..., ::3] = features
    assert torch.equal(match_features(wide[..., ::3], mask, reference), expected)


def test_values_that_are_not_finite_stay_in_their_channel():
    features, mask, values = batch(8)
    expected = match_features(features, mask, SortedReference.of(values))
    place = mask[3].nonzero()[0]
    for bad in (torch.nan, -torch.nan, torch.inf):
        broken = features.clone()
        broken[3, 0, place[0], place[1]] = bad
        matched = match_features(broken, mask, SortedReference.of(values))
        assert torch.equal(matched[:3], expected[:3])
        assert torch.equal(matched[3, 1:], expected[3, 1:])


@unhurried
@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.floats(width=32)))
def test_the_packed_sort_is_a_stable_sort(values):
    tensor = torch.from_numpy(np.where(np.isnan(values), np.float32(0), values))
    keys, order = _sort(tensor)
    ranked, expected = torch.sort(tensor, dim=-1, stable=True)
    assert torch.equal(order, expected)
    assert torch.equal(keys[:, 1:] == keys[:, :-1], ranked[:, 1:] == ranked[:, :-1])


def test_features_that_do_not_fit_are_refused():
    features, mask, values = batch(9)
    reference = SortedReference.of(values)
    with pytest.raises(ConfigError, match="'cdf256' is not one of quantile, rank"):
        match_features(features, mask, reference, "cdf256")
    with pytest.raises(ValueError, match=r"mask torch\.float32"):
        match_features(features, mask.float(), reference)
    with pytest.raises(ValueError, match=r"\(3, 9, 7\): expected bool \(4, 9, 7\)"):
        match_features(features, mask[:3], reference)
    with pytest.raises(ValueError, match="reference of 5 channels: expected the features' 2"):
        match_features(features[:, :2], mask, reference)
    with pytest.raises(ValueError, match="expected floating point"):
        match_features(features.int(), mask, reference)
    for bad in (values[:, :0], values[0]):
        with pytest.raises(DatasetError, match=r"expected \[channels, cells\]"):
            SortedReference.of(bad)
    with pytest.raises(DatasetError, match="not finite"):
        SortedReference.of(values / 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch built for CUDA")
@pytest.mark.parametrize("method", ["quantile", "rank"])
def test_a_gpu_gives_what_the_cpu_gives(method):
    for seed, dtype in ((0, torch.float32), (1, torch.float64), (2, torch.bfloat16)):
        features, mask, values = batch(seed, pictures=6, channels=40, height=32, width=32)
        features, reference = features.to(dtype), SortedReference.of(values.to(dtype))
        expected = match_features(features, mask, reference, method)
        matched = match_features(features.cuda(), mask.cuda(), reference.to("cuda"), method)
        assert matched.device.type == "cuda"
        assert torch.allclose(matched.cpu(), expected, rtol=1e-5, atol=1e-6)
