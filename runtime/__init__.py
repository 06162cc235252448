"""Runtime: frame sources, engines, the line and its messages. Needs no torch."""
