"""Packaging that pyproject.toml cannot express: the folders behind the links of `inspectd/`."""

from setuptools import find_packages, setup

setup(packages=find_packages(include=["inspectd", "inspectd.*"]))
