"""How many random examples a property is tried on.

A run of all tests tries each on a few, other ones every time; `EXAMPLES=20 pytest tests/unit` tries
twenty times as many.
"""

from __future__ import annotations

import os

from hypothesis import settings

_TIMES = int(os.environ.get("EXAMPLES", "1"))
#: So many where a property does not say how many.
USUAL = 40


def examples(number: int, **options: object) -> settings:
    """The settings of a property for so many examples; `options` are more of hypothesis."""
    return settings(max_examples=number * _TIMES, **options)  # type: ignore[arg-type]
