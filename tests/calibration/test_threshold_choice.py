"""The rule that is chosen rejects as few good parts as it promises: over thousands of draws, whatever the scores."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.calibration.bounds import at_most
from inspectd.calibration.threshold_choice import Path, cut, cuts_allowed, even_path, recall_path

LEVELS = 400
SPLITS = 2500
PARTS, RATE, CONFIDENCE = 260, 0.04, 0.9
POPULATION = 8000
SIGNIFICANCE = 1e-4


def in_levels(values, low, high):
    """Real scores as levels 0..LEVELS."""
    return np.clip((values - low) / (high - low) * LEVELS, 0, LEVELS).astype(np.int64)


def _heavy_tails(rng):
    return in_levels(np.abs(rng.standard_cauchy((POPULATION, 1))) ** 0.25, 0, 6)


def _uniform(rng):
    return rng.permutation(POPULATION)[:, None].astype(np.int64) * LEVELS // POPULATION


def _ties(rng):
    return rng.choice([0, 3, 200, 390], size=(POPULATION, 1), p=[0.9, 0.05, 0.03, 0.02]).astype(np.int64)


def _three_classes_one_silent(rng):
    common = rng.normal(size=(POPULATION, 1))
    own = rng.standard_t(2, size=(POPULATION, 2))
    noisy = in_levels(0.8 * common + own, -2, 12)
    return np.concatenate([noisy, np.zeros((POPULATION, 1), np.int64)], axis=1)


def _four_correlated(rng):
    common = rng.standard_exponential((POPULATION, 1)) ** 2
    return in_levels(common + rng.standard_exponential((POPULATION, 4)) * [0.2, 1, 3, 0.01], 0, 30)


def _mostly_zero(rng):
    return (rng.random((POPULATION, 2)) < 0.03) * rng.integers(1, LEVELS, (POPULATION, 2))


def _some_reach_everything(rng):
    scores = in_levels(rng.standard_exponential((POPULATION, 2)), 0, 12)
    scores[rng.random(POPULATION) < 0.01] = LEVELS
    return scores


DISTRIBUTIONS = [
    _heavy_tails,
    _uniform,
    _ties,
    _three_classes_one_silent,
    _four_correlated,
    _mostly_zero,
    _some_reach_everything,
]


def in_turn(levels, taken):
    """Evenly: the class that was lowered least often and can be."""
    able = np.flatnonzero(levels)
    return int(able[taken[able].argmin()]) if able.size else None


def path_for(classes):
    thresholds = np.arange(1, LEVELS + 1) / LEVELS
    return even_path(thresholds, np.linspace(0.5, 0.8, classes))


def certified(scores, cuts):
    return cut(scores, path_for(scores.shape[1]), cuts, in_turn).levels


def naive(scores, _):
    """What one would do without a bound: the most sensitive rule that rejects no more than the rate of these parts."""
    path = path_for(scores.shape[1])
    first = np.sort(path.first_rejecting(scores))
    rule = first[math.floor(RATE * len(scores))] - 1
    return path.rules[rule] if rule >= 0 else None


def violations(population, choose):
    """In how many of the draws the chosen rule rejects more of the population than the rate."""
    rng = np.random.default_rng(7)
    cuts = cuts_allowed(PARTS, RATE, CONFIDENCE)
    count = 0
    for _ in range(SPLITS):
        levels = choose(population[rng.integers(0, len(population), PARTS)], cuts)
        count += levels is not None and float((population > levels).any(axis=1).mean()) > RATE
    return count


def holds(count):
    """One-sided binomial test: so many violations are no sign that they are more frequent than promised."""
    return 1 - (at_most(count - 1, SPLITS, 1 - CONFIDENCE) if count else 0.0) > SIGNIFICANCE


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_bound_holds_as_often_as_it_promises(distribution):
    assert holds(violations(distribution(np.random.default_rng(3)), certified))


@pytest.mark.parametrize("distribution", [_heavy_tails, _uniform, _four_correlated])
def test_a_rule_without_a_bound_fails_the_same_test(distribution):
    assert not holds(violations(distribution(np.random.default_rng(3)), naive))


def test_two_more_cuts_than_allowed_fail_the_same_test():
    population = np.arange(POPULATION)[:, None]
    assert not holds(violations(population, lambda scores, cuts: order_statistic(scores, cuts + 2)))


def test_the_bound_is_not_wider_than_it_has_to_be():
    # Where scores are continuous, the probability is known exactly.
    count = violations(np.arange(POPULATION)[:, None], order_statistic)
    exact = at_most(cuts_allowed(PARTS, RATE, CONFIDENCE) - 1, PARTS, RATE)
    assert abs(count - SPLITS * exact) < 4 * math.sqrt(SPLITS * exact * (1 - exact))


def order_statistic(scores, cuts):
    path = Path(np.arange(POPULATION, -1, -1)[:, None])
    return cut(scores, path, cuts, in_turn).levels


@pytest.mark.parametrize("distribution", [_three_classes_one_silent, _four_correlated])
def test_classes_that_are_chosen_by_what_was_cut_off_keep_the_bound(distribution):
    def towards_the_highest(levels, _taken):
        return int(levels.argmax()) if levels.any() else None

    def choose(scores, cuts):
        return cut(scores, path_for(scores.shape[1]), cuts, towards_the_highest).levels

    assert holds(violations(distribution(np.random.default_rng(3)), choose))


def test_the_rule_after_m_cuts_rejects_fewer_than_m_of_its_own_parts():
    rng = np.random.default_rng(1)
    for distribution in DISTRIBUTIONS:
        scores = distribution(rng)[:300]
        for cuts in (1, 2, 5, 12):
            result = cut(scores, path_for(scores.shape[1]), cuts, in_turn)
            assert len(set(result.cut)) == len(result.cut) <= cuts
            if result.levels is not None:
                assert int((scores > result.levels).any(axis=1).sum()) <= len(result.cut) - 1


def test_a_quiet_class_is_lowered_on_its_own():
    scores = np.zeros((500, 2), np.int64)
    scores[:, 0] = np.arange(500) % 350
    scores[:, 1] = np.arange(500) % 7
    together = cut(scores, path_for(2), 2, in_turn).levels
    apart = cut(scores, path_for(2), 3, in_turn).levels
    assert together[1] > 300
    assert apart[1] == 6


def test_more_cuts_are_never_less_sensitive():
    scores = _four_correlated(np.random.default_rng(2))[:400]
    found = [cut(scores[:, :1], path_for(1), cuts, in_turn).levels for cuts in range(1, 20)]
    assert all((after <= before).all() for before, after in pairwise(found))


def test_parts_that_every_rule_rejects_use_up_cuts():
    scores = np.zeros((100, 1), np.int64)
    scores[:3] = LEVELS
    assert cut(scores, path_for(1), 3, in_turn).levels is None
    assert cut(scores, path_for(1), 4, in_turn).levels.tolist() == [0]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5), st.integers(2, 60))
def test_the_even_path_is_nested_and_keeps_distances_in_log_odds(start, count):
    thresholds = np.linspace(0.02, 1.0, count)
    path = even_path(thresholds, np.array(start))
    assert (path.rules[0] == count - 1).all()
    assert (path.rules[-1] == 0).all()
    assert (np.diff(path.rules, axis=0) <= 0).all()
    equal = even_path(thresholds, np.full(len(start), start[0]))
    assert (equal.rules == equal.rules[:, :1]).all()
    assert set(equal.rules[:, 0]) == set(range(count))


def test_the_recall_path_finds_the_same_share_of_every_class():
    rng = np.random.default_rng(4)
    defects = {0: rng.integers(200, LEVELS, 40), 2: rng.integers(10, 300, 200)}
    path = recall_path(LEVELS, defects, 3)
    assert (path.rules[0] == LEVELS - 1).all()
    assert (path.rules[-1] == 0).all()
    for rule in path.rules:
        first, second = ((own > rule[index]).mean() for index, own in defects.items())
        if rule.any():
            assert abs(first - second) < 0.06 or min(first, second) == 1
    with pytest.raises(ValueError, match="no defect"):
        recall_path(LEVELS, {0: np.zeros(4, np.int64)}, 1)


@given(st.data())
def test_first_rejecting_is_what_the_rules_say(data):
    classes = data.draw(st.integers(1, 3))
    steps = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=classes, max_size=classes), min_size=1, max_size=8))
    rules = 20 - np.cumsum(np.array(steps), axis=0)
    scores = np.array(data.draw(st.lists(st.lists(st.integers(0, 22), min_size=classes, max_size=classes), min_size=1)))
    first = Path(rules).first_rejecting(scores)
    for own, index in zip(scores, first, strict=True):
        rejecting = np.flatnonzero((own > rules).any(axis=1))
        assert index == (rejecting[0] if rejecting.size else len(rules))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="never rise"):
        Path(np.array([[1], [2]]))
    with pytest.raises(ValueError, match="at least one cut"):
        cut(np.zeros((3, 1), np.int64), path_for(1), 0, in_turn)
    assert cuts_allowed(597, 0.005, 0.95) == 0
    assert cuts_allowed(598, 0.005, 0.95) == 1
