"""What Buttonlab learns from: cross-entropy inside the crop, and by option the windows' peaks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .hard import NEAR_PX

__all__ = ["PEAK_PX", "peak_loss", "segmentation_loss"]

PEAK_PX = 16
"""Pixels of a peak. One pixel decides on a part, but the next ones would take its place as soon as it gave way."""


def segmentation_loss(logits: Tensor, labels: Tensor, defect_weight: float = 1.0, peak_weight: float = 0.0) -> Tensor:
    """Cross-entropy inside the crop, the paper's equation (7), plus `peak_weight` times the peaks'; a scalar.

    Args:
        logits: [B, 1 + classes, H, W], the first of the good surface.
        labels: [B, H, W], int64, 0 where the surface is good.
        defect_weight: weight of a defect's pixel; a good one has 1.
        peak_weight: weight of `peak_loss`; 0 leaves it out.
    """
    logits = logits.float()
    weights = torch.full((logits.shape[1],), defect_weight, device=logits.device)
    weights[0] = 1.0
    loss = F.cross_entropy(logits, labels, weight=weights)
    if peak_weight > 0:
        # Where the threshold of the card lies, see `docs/decisions/0003-thresholds-follow-the-loss.md`.
        loss = loss + peak_weight * peak_loss(logits - weights.log()[:, None, None], labels)
    return loss


def peak_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the pixels that decide whether a window is judged good; a scalar.

    A part is rejected for its likeliest pixels. In the mean over all pixels a false mark of twenty px
    counts for a thousandth, less than the rims of well-found defects. So two peaks of each window count by
    themselves: the `PEAK_PX` likeliest pixels away from every label, which should be good, and the
    `PEAK_PX` likeliest of the labelled ones, which should be defects; the latter where there are as many, for of what a
    window cuts off nothing may be seen. Hard pixels after Shrivastava, Gupta, Girshick, "Training Region-based
    Object Detectors with Online Hard Example Mining" (2016), chosen within each window.

    Args:
        logits: [B, 1 + classes, H, W], float32, the first of the good surface; even chances at the threshold.
        labels: [B, H, W], int64, 0 where the surface is good.
    """
    odds = (logits[:, 1:].logsumexp(1) - logits[:, 0]).flatten(1)
    defect = labels > 0
    near = F.max_pool2d(defect.float()[:, None], 2 * NEAR_PX + 1, stride=1, padding=NEAR_PX)[:, 0] > 0
    count = min(PEAK_PX, odds.shape[1])
    # Where fewer pixels are left than a peak has, minus infinity stands for the others and costs nothing.
    good = odds.masked_fill(near.flatten(1), -torch.inf).topk(count).values
    loss = F.softplus(good).mean()
    shown = defect.flatten(1).sum(1) >= PEAK_PX
    if shown.any():
        found = odds[shown].masked_fill(~defect.flatten(1)[shown], -torch.inf).topk(count).values
        loss = loss + F.softplus(-found).mean()
    return loss
