"""What runs a bundle that paints defects, wherever an engine that segments runs.

The coarse defect is painted before, in NumPy; a painter takes windows of the bundle's size and gives them painted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import Bundle, decode_png
from inspectd.errors import BundleError, ConfigError, InferenceError

from .engine import Opened, open_certified

__all__ = ["Painter", "check_paintings", "open_painter"]

_WHITE = 255


class Painter:
    """A bundle's graph that paints, with what goes in and comes out checked. One thread at a time; a context manager.

    Attributes:
        name: what people and the certificate call it.
        side: of its windows, px.
    """

    def __init__(self, bundle: Bundle, opened: Opened) -> None:
        """Wrap a graph that is ready to run; `open_painter` makes one."""
        self._graph, self.name = opened.graph, opened.name
        self.side = bundle.card.preprocess.height

    def paint(
        self, beneath: NDArray[np.uint8], coarse: NDArray[np.uint8], mask: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Paint defects.

        Args:
            beneath: what the paintings are fused with: S, the good surface, or y again where its defects have edges of
                their own; uint8 [N, side, side, 3].
            coarse: y, the surface with the coarse defect: uint8 [N, side, side, 3].
            mask: L, 1 where the defect goes and 0 elsewhere: uint8 [N, side, side].

        Returns:
            The windows with their defects, uint8 [N, side, side, 3]; away from the mask they are what was beneath.

        Raises:
            InferenceError: the input does not fit, the engine failed, or it wrote nothing.
        """
        count, side = len(beneath), self.side
        for name, array, shape in (
            ("beneath", beneath, (count, side, side, 3)),
            ("coarse", coarse, (count, side, side, 3)),
            ("mask", mask, (count, side, side)),
        ):
            if array.dtype != np.uint8 or array.shape != shape or not count:
                raise InferenceError(f"expected {name} of uint8 {list(shape)}, got {array.dtype} {list(array.shape)}")
        if mask.max() > 1:
            raise InferenceError(f"expected a mask of 0 and 1, got one up to {int(mask.max())}")
        try:
            (painted,) = self._graph.run({"beneath": beneath, "coarse": coarse, "mask": mask})
        except InferenceError:
            raise
        except Exception as error:
            # Whatever the library raises, nothing was painted.
            raise InferenceError(f"{self.name} failed: {error}") from error
        if painted.shape != beneath.shape or painted.dtype != np.uint8:
            raise InferenceError(
                f"the engine gave {painted.dtype} {list(painted.shape)}, expected {list(beneath.shape)}"
            )
        # What a GPU has not written is white, and the coarse defect would show in what it has.
        blank = (painted == _WHITE).all(axis=(1, 2, 3)) & ~(coarse == _WHITE).all(axis=(1, 2, 3))
        if blank.any():
            raise InferenceError(f"the engine gave {int(blank.sum())} windows with nothing in them")
        return painted

    def close(self) -> None:
        """Let go of device memory. May be called twice."""
        self._graph.close()

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_painter(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    precision: str | None = None,
    threads: int = 0,
    allow_uncertified: bool = False,
) -> Painter:
    """The painter of a bundle, by a name of `engine.BACKENDS`; arguments and errors as for `engine.open_engine`."""
    if bundle.card.kind != "dst":
        raise ConfigError(f"{bundle.path}: is a bundle of kind {bundle.card.kind!r}; defects are painted by kind 'dst'")
    opened = open_certified(bundle, backend, precision, threads=threads, allow_uncertified=allow_uncertified)
    return Painter(bundle, opened)


def check_paintings(painter: Painter, bundle: Bundle) -> None:
    """Run the golden paintings: the painter must still paint what it painted at export.

    Raises:
        BundleError: it does not; the message names the sample.
        InferenceError: the engine failed.
    """
    golden = bundle.paintings()
    for sample in golden.samples:
        under, coarse, mask, expected = (
            decode_png(bundle.read(name), name) for name in (sample.beneath, sample.coarse, sample.mask, sample.painted)
        )
        painted = painter.paint(under[None], coarse[None], (mask[None] > 0).astype(np.uint8))[0]
        off = int(np.abs(painted.astype(np.int16) - expected).max())
        if off > golden.level_tolerance:
            raise BundleError(
                f"{bundle.path}: self-test failed: {sample.painted} is off by {off} grey levels "
                f"(at most {golden.level_tolerance})"
            )
