"""Batch normalisation folded into the convolutions before it, in fp32: in half precision the sums would lose digits."""

from __future__ import annotations

import copy
import itertools

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inspectd.errors import BundleError

__all__ = ["Half", "fold_batch_norms"]


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, without batch normalisation.

    Args:
        network: each of its batch normalisations stands behind its convolution among the children of a module, as in
            Buttonlab and in torchvision's ResNets.

    Raises:
        BundleError: one of them does not.
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        children = list(module.named_children())
        for (name, layer), (behind, norm) in itertools.pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, behind, nn.Identity())
    if left := [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]:
        raise BundleError(f"{left[0]}: a batch normalisation that stands behind no convolution cannot be folded")
    return folded


class Half(nn.Module):
    """A folded network in half precision between fp32: what comes in and what goes out is float."""

    def __init__(self, folded: nn.Module) -> None:
        super().__init__()
        self.folded = folded.half()

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W], normalised -> logits float [N, 1 + classes, H, W]."""
        logits: Tensor = self.folded(x.half())
        return logits.float()
