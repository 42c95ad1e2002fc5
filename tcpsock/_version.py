"""The version, in the one place that both the package and its build read."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"  # a literal: the build reads it without importing the package
