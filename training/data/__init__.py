"""Datasets: formats, checks, importers and the rendered-button protocol."""
