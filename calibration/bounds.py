"""Exact bounds on a rate from counts: how rare false rejects are, and how many good parts it takes to say so.

C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934), 404-413. With x events in n trials the upper bound is the rate p at which so few events have the
probability 1 - confidence: P(Bin(n, p) <= x) = 1 - confidence.

By S. S. Wilks, "Determination of sample sizes for setting tolerance limits", Annals of Mathematical Statistics 12
(1941), 91-96, the same formula bounds the share of all parts beyond the x + 1-st highest of n scores, whatever their
distribution.
"""

from __future__ import annotations

import math

__all__ = ["allowed_events", "at_most", "interval", "needed_trials", "upper_bound"]

_PRECISION = 1e-15
_TINY = 1e-300


def at_most(events: int, trials: int, rate: float) -> float:
    """P(Bin(trials, rate) <= events), 0..1."""
    _check(events, trials)
    if events == trials or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    return _beta(1 - rate, trials - events, events + 1)


def upper_bound(events: int, trials: int, confidence: float) -> float:
    """The rate that is not exceeded, with this confidence (Clopper and Pearson, one-sided), 0..1.

    Args:
        events: how often it happened.
        trials: independent trials; with none of them nothing is excluded, and the bound is 1.
        confidence: above 0 and below 1.

    Raises:
        ValueError: counts or a confidence out of range.
    """
    _check(events, trials)
    _check_confidence(confidence)
    return 1.0 if events == trials else _beta_quantile(confidence, events + 1, trials - events)


def interval(share: float, trials: float, confidence: float) -> tuple[float, float]:
    """The two-sided interval of a rate that was measured as `share` in `trials`, 0..1 (Clopper and Pearson).

    `trials` and `share * trials` need not be whole: where photographs of one part were counted, the number of parts
    stands for the trials, which is the least that they can be worth (E. L. Korn and B. I. Graubard, "Confidence
    intervals for proportions with small expected number of positive counts", Survey Methodology 24 (1998), 193-201).

    Raises:
        ValueError: a share or a confidence out of range, or no trials.
    """
    _check_confidence(confidence)
    if not 0 <= share <= 1 or not trials > 0:
        raise ValueError(f"expected a share of 0..1 and trials above 0, got {share} and {trials}")
    events, tail = share * trials, (1 - confidence) / 2
    low = 0.0 if share == 0 else _beta_quantile(tail, events, trials - events + 1)
    high = 1.0 if share == 1 else _beta_quantile(1 - tail, events + 1, trials - events)
    return low, high


def allowed_events(trials: int, rate: float, confidence: float) -> int | None:
    """The most events in so many trials that still bound the rate; None where not even none of them does."""
    _check_confidence(confidence)
    if at_most(0, trials, rate) > 1 - confidence:
        return None
    low, high = 0, trials  # at `low` the bound holds, at `high` it does not
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, trials, rate) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def needed_trials(rate: float, confidence: float, events: int = 0) -> int:
    """Trials that it takes to bound a rate where so many events occur; with none ln(1 - confidence) / ln(1 - rate).

    Raises:
        ValueError: a rate or a confidence that is not above 0 and below 1.
    """
    _check_confidence(confidence)
    if not 0 < rate < 1:
        raise ValueError(f"expected a rate above 0 and below 1, got {rate}")
    high = max(events + 1, math.ceil(math.log(1 - confidence) / math.log1p(-rate)))
    while at_most(events, high, rate) > 1 - confidence:
        high *= 2
    low = events  # too few; `high` are enough
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(events, middle, rate) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def _check(events: int, trials: int) -> None:
    if not 0 <= events <= trials:
        raise ValueError(f"expected 0 to {trials} events, got {events}")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence above 0 and below 1, got {confidence}")


def _beta_quantile(share: float, a: float, b: float) -> float:
    """Where the distribution Beta(a, b) reaches `share`; by halving, so that it is right wherever `_beta` is."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        if _beta(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return high


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b): the distribution function of Beta(a, b).

    By its continued fraction (NIST Digital Library of Mathematical Functions, 8.17.22) in Lentz's way. SciPy has it
    too, but a station does not have SciPy.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # On the other side of the mean the fraction converges slowly.
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + term * d)
            c = _off_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return min(1.0, math.exp(log_front) * fraction / a)


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
