"""Checks of derivatives, for tests of functions that gradwire differentiates."""

from gradwire_core.testing import check_derivatives

__all__ = ["check_derivatives"]
