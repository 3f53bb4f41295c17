"""Faults in any combination, drawn from a seed, and what must hold after all of them.

`python -m tests.faults --seed 7` plays one scenario; docs/faults.md says what is in them.
"""
