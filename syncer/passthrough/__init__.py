"""Realtime Segment calls, passed on to Amberflo."""
