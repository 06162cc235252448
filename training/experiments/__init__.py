"""Experiments: many trainings that differ in one thing, and tables of what came out."""
