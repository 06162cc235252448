"""Bundles that paint defects, with the references that they paint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import Bundle, decode_png, is_bundle, load_bundle
from inspectd.errors import BundleError, DatasetError
from inspectd.runtime.painter import Painter, check_paintings, open_painter
from inspectd.signature import TrustList
from inspectd.simulation.coarse import Exemplar, Scene, soft
from inspectd.simulation.painting import Brush, beneath, coarse_scene, needed_region
from inspectd.simulation.parts import Backgrounds
from inspectd.simulation.placement import Placement
from inspectd.simulation.simulate import PaintPatch
from inspectd.simulation.window import fit, put_back

__all__ = ["Brushes", "PaintingBundle", "find_bundles", "reference_of"]


def reference_of(bundle: Bundle, name: str) -> Exemplar:
    """The labelled picture that a bundle of kind dst paints from, under a name.

    Raises:
        BundleError: it holds none, or one that cannot be used.
    """
    images = [decode_png(bundle.read(f"reference/{kind}.png"), f"{bundle.path}: {kind}.png") for kind in _KINDS]
    image, mask, region = images
    try:
        return Exemplar(name, bundle.card.classes[0], np.atleast_3d(image), mask > 0, name, region > 0)
    except DatasetError as error:
        raise BundleError(f"{bundle.path}: {error}") from error


_KINDS = ("image", "mask", "region")


@dataclass(frozen=True, slots=True, eq=False)
class PaintingBundle:
    """A bundle that paints one type of defect, and its reference."""

    bundle: Bundle
    reference: Exemplar


def find_bundles(
    folder: Path, defects: Sequence[str], trusted: TrustList | None
) -> tuple[list[PaintingBundle], tuple[str, ...], list[str]]:
    """The bundles of a folder that paint these types.

    Returns:
        The bundles by name; all types that the folder has; what is wrong with other bundles in it.

    Raises:
        OSError: the folder cannot be read.
    """
    found: list[PaintingBundle] = []
    types: set[str] = set()
    faults: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not is_bundle(path):
            continue
        try:
            bundle = load_bundle(path, trusted=trusted)
            if bundle.card.kind != "dst":
                continue
            types.add(bundle.card.classes[0])
            if bundle.card.classes[0] in defects:
                found.append(PaintingBundle(bundle, reference_of(bundle, path.name)))
        except BundleError as error:
            faults.append(str(error))
    return found, tuple(sorted(types)), faults


class Brushes:
    """Paints by bundles, whose graphs run on this machine. A context manager; one thread's.

    Args:
        bundles: what paints, by different names.
        backend: of `runtime.engine.BACKENDS`.
        precision: its arithmetic.
        allow_uncertified: also what the certificate does not vouch for.

    Raises:
        InspectdError: one cannot be opened, or does not paint what it painted at export.
    """

    def __init__(
        self,
        bundles: Sequence[PaintingBundle],
        *,
        backend: str = "onnxruntime",
        precision: str | None = None,
        allow_uncertified: bool = False,
    ) -> None:
        self._painters: dict[str, Painter] = {}
        self._brushes: dict[str, Brush] = {}
        try:
            for each in bundles:
                painter = open_painter(
                    each.bundle,
                    backend=backend,
                    precision=precision,
                    threads=1,
                    allow_uncertified=allow_uncertified,
                )
                self._painters[each.reference.name] = painter
                self._brushes[each.reference.name] = Brush.of(each.bundle.card)
                check_paintings(painter, each.bundle)
        except BaseException:
            self.close()
            raise

    @property
    def engines(self) -> Mapping[str, str]:
        """What runs each, for people."""
        return {name: painter.name for name, painter in self._painters.items()}

    def on(self, backgrounds: Backgrounds) -> PaintPatch:
        """What paints one defect onto one of these pictures."""

        def patch(
            picture: NDArray[np.uint8], exemplar: Exemplar, placement: Placement
        ) -> tuple[Scene, NDArray[np.uint8]]:
            painter, brush = self._painters[exemplar.name], self._brushes[exemplar.name]
            region = needed_region(brush.coarse, exemplar, backgrounds, placement)
            scene, coarse = coarse_scene(picture, exemplar, placement, brush, region)
            fitted = fit(scene, coarse, brush.window)
            # A mask of all the window leaves T(y) as it is: it is fused at the picture's own scale, as in training.
            everywhere = np.ones((1, brush.window, brush.window), np.uint8)
            (painted,) = painter.paint(fitted.coarse[None], fitted.coarse[None], everywhere)
            under = beneath(brush.coarse, scene.good, coarse)
            return scene, put_back(under, coarse, fitted, painted, soft(scene.label, brush.sigma_px))

        return patch

    def close(self) -> None:
        """Let go of all. May be called twice."""
        for painter in self._painters.values():
            painter.close()

    def __enter__(self) -> Brushes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
