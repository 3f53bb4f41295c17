"""Keeps Amberflo's customers in step with Segment Engage."""

__version__ = "0.2.0"
