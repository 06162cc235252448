"""From one labelled photograph per defect type to a running line inspector.

This package holds the core types and contracts. The folders `training`, `export`, `runtime` and
`calibration` beside it are installed as its sub-packages.
"""

__version__ = "0.1.0"
