"""Augmentation on the site: labelled defects, painted on the station's own good parts by a process of its own.

    the line's thread                          a socket pair                     the process of an order
    Augmenting (keeper.py)   ── share of time, cancel (order.py) ──▶   gather frames, paint, write (process.py)
                             ◀── how far it is (order.py) ──────────

What paints is a bundle of kind dst (painting.py); what is written, `inspectd.simulation` writes for trainings too.
docs/augmentation.md tells what comes out, and what is promised.
"""

from .keeper import Augmenting

__all__ = ["Augmenting"]
