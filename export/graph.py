"""The exported graph: pre-processing, network and post-processing in one, so that what was measured is what runs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from inspectd.bundle import CARD_KEY, ModelCard
from inspectd.cpu import OUTPUTS
from inspectd.errors import BundleError
from inspectd.optional import require

__all__ = ["OPSET", "Inspector", "exported", "to_onnx"]

OPSET = 18


class Inspector(nn.Module):
    """A segmentation network between uint8 pictures and uint8 masks."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self.scale = card.preprocess.scale
        self.register_buffer("mean", torch.tensor(card.preprocess.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.preprocess.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Segment pictures.

        Args:
            images: uint8 [N, H, W, C], as `Preprocess.image` gives them.
            thresholds: float32 [classes].

        Returns:
            labels uint8 [N, H, W]: the class that exceeds its threshold by most, 0 where none reaches it;
            confidence uint8 [N, H, W]: probability of the likeliest defect class times 255, rounded up;
            scores float32 [N, classes]: highest probability of each class, the margins of the letterbox included; no
            probability, but NaN or below 0, where a logit or a threshold is not finite, whatever the labels say then.
        """
        x = images.float().permute(0, 3, 1, 2)  # [N, C, H, W]
        x = (x * self.scale - self.mean) / self.std
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        logits = self.network(x)  # [N, 1 + classes, H, W]
        probabilities = torch.softmax(logits, dim=1)[:, 1:]  # [N, classes, H, W]
        excess = probabilities - thresholds.view(1, -1, 1, 1)
        # By float: an integer cast to uint8 is refused by TensorRT.
        winner = (excess.argmax(dim=1) + 1).float()  # [N, H, W]
        labels = (winner * (excess.amax(dim=1) >= 0).float()).to(torch.uint8)
        # Rounded up: a pixel that reaches a threshold must not seem to miss it.
        confidence = (probabilities.amax(dim=1) * 255).ceil().to(torch.uint8)
        return labels, confidence, probabilities.amax(dim=(2, 3)) - 2 * _fault(logits, excess)


def _fault(logits: Tensor, excess: Tensor) -> Tensor:
    """What keeps a picture from passing as good surface where the network overflowed.

    Where a number is NaN no threshold is reached, and engines lose it on the way: ONNX Runtime in maxima
    (microsoft/onnxruntime#10514), OpenVINO in the softmax too, where NaN or infinity in the first logit becomes
    probabilities of 0. No sum loses it. So the logits are summed before the softmax, and what comes of it after; from
    there on it is arithmetic alone, since what a comparison with NaN gives is up to the engine as well.

    Args:
        logits: float32 [N, 1 + classes, H, W].
        excess: probabilities less thresholds, float32 [N, classes, H, W].

    Returns:
        Float32 [N, 1]: 0 where all of them are finite, 1 or NaN where one is not.
    """
    total = logits.mean(dim=(1, 2, 3)) + excess.mean(dim=(1, 2, 3))  # [N]
    # 1/2, so that no rounding brings what is rounded up above 1; divided by infinity it is 0.
    return 1 - torch.ceil(0.5 / (1 + total * total)).unsqueeze(1)


def to_onnx(inspector: Inspector, card: ModelCard) -> bytes:
    """The graph as ONNX, with any number of pictures; the card travels in its metadata.

    Raises:
        BundleError: the exporter gave nothing.
        MissingDependencyError: onnx or onnxscript is missing.
    """
    height, width = card.preprocess.size
    images = torch.zeros(2, height, width, card.preprocess.channels, dtype=torch.uint8)
    return exported(inspector, {"images": images, "thresholds": torch.tensor(card.thresholds)}, tuple(OUTPUTS), card)


def exported(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], card: ModelCard) -> bytes:
    """A module as ONNX, its card in the metadata.

    Args:
        module: in evaluation mode.
        inputs: an example of each, by name. uint8 ones are pictures, of which there may be any number; two here, since
            the exporter takes a batch of one for a constant.
        outputs: their names.
        card: the card.

    Raises:
        BundleError: the exporter gave nothing.
        MissingDependencyError: onnx or onnxscript is missing.
    """
    onnx = require("onnx", extra="export")
    require("onnxscript", extra="export")
    pictures = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: {0: pictures} if x.dtype == torch.uint8 else None for name, x in inputs.items()},
            verbose=False,
        )
    if program is None:
        raise BundleError(
            "torch.onnx.export gave no graph; install the versions of the extra: pip install 'inspectd[export]'"
        )
    model = program.model_proto
    # Names of source files and their lines would make two exports of one network differ.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its stages on stdout and warns of its own deprecations; neither is for our users."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
