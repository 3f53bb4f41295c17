"""Amberflo: its API, how fast it may be asked, and the delivery of what is due."""
