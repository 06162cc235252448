"""Defect style transfer: one labelled defect painted onto good parts."""
