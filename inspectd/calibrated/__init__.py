"""What calibration finds out, as a line reads it: the records, and the arithmetic that applies them.

`inspectd-calibrate` makes them (`inspectd.calibration`); the core holds what is needed to use them, so that a line, a
training and the tools that made them calculate by the same lines of code. `inspectd.calibrated.threshold` is
imported by its own name.
"""

from .flat import FlatField, FlatFieldRecord, load_flat_field
from .image import NUMBERS, ImageCheck, ImageLimit, ImageNumbers, ImageRecord, encode_reference, thumbnail
from .lens import LENS_PARAMETERS, Lens, LensRecord, LensView
from .plane import EvenScale, Plane, Scale, ScaleBudget, ScaleRecord
from .record import InputFile, Record, Software, load_record

__all__ = [
    "LENS_PARAMETERS",
    "NUMBERS",
    "EvenScale",
    "FlatField",
    "FlatFieldRecord",
    "ImageCheck",
    "ImageLimit",
    "ImageNumbers",
    "ImageRecord",
    "InputFile",
    "Lens",
    "LensRecord",
    "LensView",
    "Plane",
    "Record",
    "Scale",
    "ScaleBudget",
    "ScaleRecord",
    "Software",
    "encode_reference",
    "load_flat_field",
    "load_record",
    "thumbnail",
]
