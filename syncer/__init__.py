"""Keeps Amberflo's customers in step with Segment Engage."""

__version__ = "0.3.0"
