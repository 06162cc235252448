"""Calibration: optics, decision thresholds and golden samples of one station."""
