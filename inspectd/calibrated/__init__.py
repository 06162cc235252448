"""What calibration finds out, as a line reads it: the records, and the arithmetic that applies them.

`inspectd-calibrate` makes them (`inspectd.calibration`); the core holds what is needed to use them, so that a line, a
training and the tools that made them calculate by the same lines of code.
"""

from .image import NUMBERS, ImageCheck, ImageLimit, ImageNumbers, ImageRecord, encode_reference, thumbnail
from .record import InputFile, Record, Software, load_record

__all__ = [
    "NUMBERS",
    "ImageCheck",
    "ImageLimit",
    "ImageNumbers",
    "ImageRecord",
    "InputFile",
    "Record",
    "Software",
    "encode_reference",
    "load_record",
    "thumbnail",
]
