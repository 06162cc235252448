"""The rendered button: the built-in product for demo, tests, training and benchmarks.

A height map gives normals, occlusion, shadows and highlights; a defect changes colour, height, gloss and outline
together; lens blur and sensor noise come last. A picture is a function of (line, defect, seed, size) alone, to the
byte, on one machine and one version of NumPy and OpenCV; another processor may round a level differently.

    >>> part = render("horn", "scratch", seed=7)
    >>> part.image.shape, part.mask.max()
    ((256, 256, 3), 1)
"""

from __future__ import annotations

from .defects import DEFECTS, UNSEEN
from .render import LINES, Rendered, line_part, render

__all__ = ["DEFECTS", "LINES", "UNSEEN", "Rendered", "line_part", "render"]
