"""From the scores of good parts to a rule that rejects few of them, whatever their distribution.

The score of a part in a class is how many of the levels (thresholds, rising) its worst region of that class reaches. A
rule is a level for each class: it rejects a part whose score in any class is above the level. So a lower level is a
more sensitive rule, and rules that lie below one another class by class are nested.

Why nothing here may simply count: a rule that was picked because it rejects few of these parts will reject more of
others. What is done instead are Tukey's cuts. One part is cut off at a time: the one with the highest value of some
function of its scores; the rule is lowered until it just lets pass what is left. After m cuts the share of all parts
that the rule rejects is at most a Beta(m, n + 1 - m) variable, for every distribution, with equality where it is
continuous. Which function comes next may be chosen by what was cut off before and by anything that does not look at the
parts left. So

    P(more than the rate are rejected) <= P(Bin(n, rate) <= m - 1),

the Clopper-Pearson bound at m - 1 rejected parts. With one class, this is the order statistic of Wilks (1941).

Sources:
    J. W. Tukey, "Non-parametric estimation II: statistically equivalent blocks and tolerance regions - the continuous
    case", Annals of Mathematical Statistics 18 (1947), 529-539; III, "the discontinuous case", 19 (1948), 30-39.
    V. Vovk, "Conditional validity of inductive conformal predictors", PMLR 25 (2012), 475-490: the same for one score.
    A. N. Angelopoulos, S. Bates, E. J. Candes, M. I. Jordan, L. Lei, "Learn then Test: calibrating predictive
    algorithms to achieve risk control", arXiv:2110.01052 (2021): several rules side by side, each with its share of
    the risk, and nested ones in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bounds import allowed_events, upper_bound

__all__ = ["Cuts", "Path", "cut", "cuts_allowed", "even_path", "recall_path"]

Levels = NDArray[np.int64]
"""[C]: the level of each class."""


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Nested rules from the least sensitive one down, decided on before the good parts are looked at.

    Attributes:
        rules: int64 [J, C], levels; no class ever rises.

    Raises:
        ValueError: no rule, or a class that rises.
    """

    rules: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.rules.ndim != 2 or 0 in self.rules.shape or (np.diff(self.rules, axis=0) > 0).any():
            raise ValueError("expected rules [J, C] whose levels never rise")

    def first_rejecting(self, scores: NDArray[np.int64]) -> NDArray[np.int64]:
        """For parts with scores [n, C] the first rule that rejects each, [n]; J where none does."""
        first = np.full(len(scores), len(self.rules), np.int64)
        for own, levels in zip(scores.T, self.rules.T, strict=True):
            # Levels fall along the path: count those that are at or above the score.
            np.minimum(first, np.searchsorted(-levels, -own, side="right"), out=first)
        return first


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """A rule, and what was cut off to get there.

    Attributes:
        levels: int64 [C] of the rule; None where even the least sensitive rule of the path rejects what was left.
        cut: indices of the parts that were cut off, in order; fewer than planned where no level can go lower.
        planned: cuts that were planned, which the bound goes by: when to stop was seen from the parts.
        trials: good parts.
    """

    levels: NDArray[np.int64] | None
    cut: tuple[int, ...]
    planned: int
    trials: int

    def bound(self, confidence: float) -> float:
        """The share of all good parts that the rule rejects is not above this, with this confidence."""
        return upper_bound(min(self.planned - 1, self.trials), self.trials, confidence)


def cuts_allowed(parts: int, rate: float, confidence: float) -> int:
    """How many cuts so many parts allow; 0 where they are too few for any."""
    allowed = allowed_events(parts, rate, confidence)
    return 0 if allowed is None else allowed + 1


def cut(
    scores: NDArray[np.int64], path: Path, cuts: int, next_class: Callable[[Levels, NDArray[np.int64]], int | None]
) -> Cuts:
    """Cut parts off until the cuts are used up, or the rule cannot be made more sensitive.

    First along the path, all classes together. Then, where there are cuts enough for it, as many for each class as
    there are whole rounds: one class at a time is lowered to its highest score among the parts left, so that a class
    that is quiet on good parts does not stay as insensitive as the noisiest one.

    Args:
        scores: int64 [n, C] of good parts, in an order that says nothing of them (which of several tied ones is cut
            off is decided by it).
        path: decided on without these parts.
        cuts: at least 1.
        next_class: given the levels and how many cuts each class has had, [C] each, the class to lower next; None to
            stop. It must not know these parts.

    Raises:
        ValueError: no cuts, or no parts.
    """
    count, classes = scores.shape
    if cuts < 1 or count < 1:
        raise ValueError(f"expected at least one cut and one part, got {cuts} and {count}")
    rounds = (cuts - 1) // classes if classes > 1 else 0
    first = path.first_rejecting(scores)
    left, gone = np.ones(count, np.bool_), list[int]()
    levels: NDArray[np.int64] | None = None
    taken = np.zeros(classes, np.int64)
    while len(gone) < min(cuts, count):
        if levels is None or len(gone) < cuts - rounds * classes:
            worst = int(np.where(left, first, np.iinfo(np.int64).max).argmin())
            # The rule before the one that rejects it: closed, so that the part cut off is let pass too.
            if first[worst]:
                levels = path.rules[first[worst] - 1].copy()
        else:
            chosen = next_class(levels, taken)
            if chosen is None:
                break
            worst = int(np.where(left, scores[:, chosen], -1).argmax())
            levels[chosen] = min(levels[chosen], scores[worst, chosen])
            taken[chosen] += 1
        left[worst] = False
        gone.append(worst)
        if levels is not None and not levels.any():
            break
    return Cuts(levels, tuple(gone), cuts, count)


def even_path(levels: NDArray[np.float64], start: NDArray[np.float64]) -> Path:
    """Where nothing is known of defects: all classes move together in log odds, from where the network is undecided.

    Args:
        levels: [L] thresholds, rising.
        start: [C] the threshold of each class in the bundle's card.
    """
    with np.errstate(divide="ignore"):
        odds, origin = (np.log(values) - np.log1p(-values) for values in (levels, start))
    # A card may say 1: as far up as the highest level that has odds.
    origin = np.minimum(origin, odds[np.isfinite(odds)].max())
    # Each step lets one class come down by one level.
    shifts = np.unique((odds[None, :] - origin[:, None])[:, np.isfinite(odds)])[::-1]
    wanted = origin[None, :] + shifts[:, None]  # [J, C]
    rules = np.searchsorted(odds, wanted - 1e-12)
    top = np.full((1, len(start)), len(levels) - 1)
    return Path(np.minimum.accumulate(np.concatenate([top, np.minimum(rules, len(levels) - 1), top * 0]), axis=0))


def recall_path(levels: int, defects: dict[int, NDArray[np.int64]], classes: int) -> Path:
    """Where defects are known: all classes come down so that they find the same share of their defects.

    Between two defects of a class its level goes down evenly; once every defect is found, all classes go on down
    together. A class without a defect that the network sees in it follows the mean of the others.

    Args:
        levels: number of levels.
        defects: of each class that has some, the scores [m] of its defects in it.
        classes: C.

    Raises:
        ValueError: no class has a defect that reaches a level.
    """
    seen = {index: np.sort(own[own > 0])[::-1] for index, own in defects.items() if (own > 0).any()}
    if not seen:
        raise ValueError("no defect reaches any level")
    top = levels - 1
    recall = np.linspace(0, 1, 8 * levels + 1)
    rules = np.zeros((len(recall), classes))
    for index, own in seen.items():
        # To find the k-th best defect, its score has to be above the level.
        at = np.arange(len(own) + 1) / len(own)
        rules[:, index] = np.interp(recall, at, np.concatenate([[top], own - 1]))
    others = [index for index in range(classes) if index not in seen]
    rules[:, others] = rules[:, list(seen)].mean(axis=1, keepdims=True)
    rest = np.maximum(0, rules[-1] - np.arange(1, levels + 1)[:, None])
    # Downwards, so that a level that has to find a defect does.
    return Path(np.floor(np.concatenate([rules, rest]) + 1e-9).astype(np.int64))
