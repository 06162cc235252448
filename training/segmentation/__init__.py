"""Segmentation networks: Buttonlab, its training and its evaluation."""
