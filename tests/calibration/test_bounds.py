"""Exact bounds on rates: against SciPy, against each other, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.calibration.bounds import allowed_events, at_most, interval, needed_trials, upper_bound

stats = pytest.importorskip("scipy.stats", reason="needs SciPy: pip install 'inspectd[train]'")

counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
rates = st.floats(1e-5, 1 - 1e-5)
confidences = st.floats(0.5, 0.9999)


@given(counts, rates)
def test_the_distribution_is_scipys(count, rate):
    events, trials = count
    assert at_most(events, trials, rate) == pytest.approx(stats.binom.cdf(events, trials, rate), rel=1e-8, abs=1e-12)


@given(counts, confidences)
def test_bound_and_interval_are_scipys(count, confidence):
    events, trials = count
    exact = stats.binomtest(events, trials, alternative="less").proportion_ci(confidence, method="exact")
    assert upper_bound(events, trials, confidence) == pytest.approx(exact.high, rel=1e-6, abs=1e-9)
    both = stats.binomtest(events, trials).proportion_ci(confidence, method="exact")
    assert interval(events / trials, trials, confidence) == pytest.approx((both.low, both.high), rel=1e-6, abs=1e-9)


def test_figures_that_everyone_knows():
    assert needed_trials(0.005, 0.95) == 598 == math.ceil(math.log(0.05) / math.log(0.995))
    assert needed_trials(0.01, 0.95) == 299
    assert needed_trials(0.1, 0.9) == 22
    assert upper_bound(0, 598, 0.95) <= 0.005 < upper_bound(0, 597, 0.95)
    # The rule of three.
    assert upper_bound(0, 1000, 0.95) == pytest.approx(3 / 1000, rel=0.01)
    assert upper_bound(5, 5, 0.95) == 1.0
    assert upper_bound(0, 0, 0.95) == 1.0


@given(st.integers(1, 5000), st.floats(1e-3, 0.5), confidences)
def test_allowed_events_are_the_most_that_bound_the_rate(trials, rate, confidence):
    allowed = allowed_events(trials, rate, confidence)
    if allowed is None:
        assert at_most(0, trials, rate) > 1 - confidence
        assert needed_trials(rate, confidence) > trials
        return
    assert at_most(allowed, trials, rate) <= 1 - confidence
    assert allowed + 1 == trials or at_most(allowed + 1, trials, rate) > 1 - confidence
    assert needed_trials(rate, confidence, allowed) <= trials
    assert upper_bound(allowed, trials, confidence) <= rate * (1 + 1e-9)


@given(st.integers(0, 20), st.floats(1e-3, 0.5), confidences)
def test_needed_trials_are_the_fewest(events, rate, confidence):
    needed = needed_trials(rate, confidence, events)
    assert at_most(events, needed, rate) <= 1 - confidence
    assert needed == events + 1 or at_most(events, needed - 1, rate) > 1 - confidence


def test_the_bound_holds_as_often_as_it_says():
    rng = np.random.default_rng(5)
    for trials, rate in ((50, 0.03), (600, 0.004), (17, 0.4)):
        drawn = rng.binomial(trials, rate, 4000)
        bounds = {events: upper_bound(int(events), trials, 0.9) for events in set(drawn)}
        violated = sum(bounds[events] < rate for events in drawn)
        assert violated <= 400 + 3.1 * math.sqrt(400 * 0.9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: upper_bound(-1, 5, 0.9),
        lambda: upper_bound(6, 5, 0.9),
        lambda: upper_bound(1, 5, 1.0),
        lambda: upper_bound(1, 5, float("nan")),
        lambda: needed_trials(0.0, 0.9),
        lambda: needed_trials(1.0, 0.9),
        lambda: interval(1.1, 5, 0.9),
        lambda: interval(0.5, 0, 0.9),
        lambda: allowed_events(5, 0.1, 0.0),
    ],
)
def test_what_is_out_of_range_is_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
