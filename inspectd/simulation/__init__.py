"""Simulated defects, as far as they need no training: where they go, how they are painted, and the dataset of them."""
